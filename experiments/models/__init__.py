"""The networks of the experiments."""

from experiments.models.classifiers import (
    IN_3D,
    PARAMETERS,
    TRANSFORMS,
    ConvolutionalClassifier,
    Model,
    ModelName,
    PrecisionName,
    TransformName,
    build,
    compute_in,
    count_parameters,
    crop_of,
    has_transformer,
    width_for,
)

__all__ = [
    "IN_3D",
    "PARAMETERS",
    "TRANSFORMS",
    "ConvolutionalClassifier",
    "Model",
    "ModelName",
    "PrecisionName",
    "TransformName",
    "build",
    "compute_in",
    "count_parameters",
    "crop_of",
    "has_transformer",
    "width_for",
]
