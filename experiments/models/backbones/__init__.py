"""Networks that map photographs to features, and their published weights."""

from experiments.models.backbones.base import Backbone
from experiments.models.backbones.layers import FrozenBatchNorm
from experiments.models.backbones.table import BACKBONES, BackboneName
from experiments.models.backbones.weights import load_weights

__all__ = ["BACKBONES", "Backbone", "BackboneName", "FrozenBatchNorm", "load_weights"]
