"""The table of backbones."""

from collections.abc import Callable
from typing import Literal

from experiments.models.backbones.base import Backbone
from experiments.models.backbones.googlenet import GoogLeNet
from experiments.models.backbones.inception_bn import InceptionBN
from experiments.models.backbones.resnet import ResNet50
from experiments.models.backbones.small import Small

BackboneName = Literal["small", "resnet50", "inception-bn", "googlenet"]

# Each is called as ``BACKBONES[name](rngs, dtype=dtype)``.
BACKBONES: dict[str, Callable[..., Backbone]] = {
    "small": Small,
    "resnet50": ResNet50,
    "inception-bn": InceptionBN,
    "googlenet": GoogLeNet,
}
