"""The networks of the experiments."""

from experiments.models.classifiers import (
    IN_3D,
    TRANSFORMS,
    ConvolutionalClassifier,
    Model,
    ModelName,
    TransformName,
    build,
    compute_in,
    crop_of,
    has_transformer,
    num_transforms,
)
from experiments.models.sizes import PARAMETERS, count_parameters, width_for

__all__ = [
    "IN_3D",
    "PARAMETERS",
    "TRANSFORMS",
    "ConvolutionalClassifier",
    "Model",
    "ModelName",
    "TransformName",
    "build",
    "compute_in",
    "count_parameters",
    "crop_of",
    "has_transformer",
    "num_transforms",
    "width_for",
]
