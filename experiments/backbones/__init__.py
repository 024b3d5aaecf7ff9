"""Networks from photographs to features, and their published weights."""

from experiments.backbones.base import Backbone
from experiments.backbones.table import BACKBONES, BackboneName

__all__ = ["BACKBONES", "Backbone", "BackboneName"]
