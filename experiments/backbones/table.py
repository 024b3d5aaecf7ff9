"""The table of backbones."""

from collections.abc import Callable
from typing import Literal

from experiments.backbones.base import Backbone
from experiments.backbones.small import Small

BackboneName = Literal["small"]

# Each is called as ``BACKBONES[name](rngs, dtype=dtype)``.
BACKBONES: dict[str, Callable[..., Backbone]] = {
    "small": Small,
}
