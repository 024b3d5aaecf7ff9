"""Networks from photographs to features, and their published weights."""

from experiments.backbones.base import Backbone
from experiments.backbones.layers import FrozenBatchNorm
from experiments.backbones.table import BACKBONES, BackboneName
from experiments.backbones.weights import load_weights

__all__ = ["BACKBONES", "Backbone", "BackboneName", "FrozenBatchNorm", "load_weights"]
