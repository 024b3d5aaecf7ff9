"""The models of the experiments in PyTorch: the same layers with the same parameters."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from benchmarks.peers.in_torch import grid_sample
from experiments.models import ConvolutionalClassifier, Model
from stn_jax import nn as stnn


def layers_of(model: Model) -> list[nnx.Conv | nnx.Linear]:
    """The layers that hold parameters, in the order in which the images pass them."""
    localization, classifier = _parts(model)
    return [*_body(localization), localization.head.linear, *_body(classifier), classifier.logits]


def biases(model: Model) -> np.ndarray:
    """All biases in one vector; of a tree of gradients, the biases' gradients."""
    return np.concatenate([np.ravel(_bias(layer)) for layer in layers_of(model)])


def from_flax(model: Model, in_shape: Sequence[int]) -> Any:
    """A PyTorch module from images ``[batch, channels, height, width]`` to logits.

    Args:
      model: A model with a spatial transformer of affine maps.
      in_shape: Height, width and channels.
    """
    import torch

    class SpatialTransformerClassifier(torch.nn.Module):
        """A localization network, the affine warp, and a classifier."""

        def __init__(self) -> None:
            super().__init__()
            localization, classifier = _parts(model)
            self.localize = _sequential(
                [*_body(localization), localization.head.linear],
                in_shape,
                pools=getattr(localization, "pools", ()),
                downsample=getattr(localization, "downsample", 1),
            )
            pools = (True, True) if isinstance(classifier, ConvolutionalClassifier) else ()
            self.classify = _sequential([*_body(classifier), classifier.logits], in_shape, pools)

        def forward(self, images: Any) -> Any:
            return self.classify(grid_sample(images, self.localize(images).reshape(-1, 2, 3)))

    return SpatialTransformerClassifier()


def biases_of_torch(module: Any) -> np.ndarray:
    """The gradients of all biases of :func:`from_flax`'s module, ordered as by :func:`biases`."""
    gradients = [
        parameter.grad.cpu().numpy()
        for name, parameter in module.named_parameters()
        if name.endswith("bias")
    ]
    return np.concatenate(gradients)


def _parts(model: Any) -> tuple[Any, Any]:
    """The localization network and the classifier of a model."""
    return model.transformer.localization, model.classifier


def _body(part: Any) -> list[nnx.Conv | nnx.Linear]:
    """The layers before the last."""
    if isinstance(part, ConvolutionalClassifier):
        return list(part.convolutions)
    if isinstance(part, stnn.ConvolutionalLocalization):
        return [*part.convolutions, part.hidden]
    return list(part.layers)


def _sequential(
    layers: Sequence[nnx.Conv | nnx.Linear],
    in_shape: Sequence[int],
    pools: Sequence[bool],
    downsample: int = 1,
) -> Any:
    """Convolutions with max-pooling, then fully connected layers; relu after all but the last."""
    import torch

    height, width, channels = in_shape
    modules = [torch.nn.AvgPool2d(downsample)] if downsample > 1 else []
    convolutions = [layer for layer in layers if isinstance(layer, nnx.Conv)]
    for convolution, pool in zip(convolutions, pools, strict=True):
        modules += [_convolution(convolution), torch.nn.ReLU()]
        modules += [torch.nn.MaxPool2d(2)] if pool else []
    with torch.no_grad():
        maps = torch.nn.Sequential(*modules)(torch.zeros(1, channels, height, width))
    modules.append(torch.nn.Flatten())
    for index, layer in enumerate(layers[len(convolutions) :]):
        modules += [torch.nn.ReLU()] if index else []
        modules.append(_linear(layer, tuple(maps.shape[1:]) if index == 0 else None))
    return torch.nn.Sequential(*modules)


def _convolution(layer: nnx.Conv) -> Any:
    import torch

    kernel = np.array(layer.kernel[...])
    convolution = torch.nn.Conv2d(*kernel.shape[2:], kernel.shape[:2])
    _set(convolution, kernel.transpose(3, 2, 0, 1), _bias(layer))
    return convolution


def _linear(layer: Any, maps_shape: tuple[int, ...] | None) -> Any:
    """A fully connected layer; after maps its rows are in the order channels, height, width."""
    import torch

    kernel = np.array(layer.kernel[...])
    linear = torch.nn.Linear(*kernel.shape)
    if maps_shape is not None:
        channels, height, width = maps_shape
        in_flax = kernel.reshape(height, width, channels, -1)
        kernel = in_flax.transpose(2, 0, 1, 3).reshape(kernel.shape)
    _set(linear, kernel.T, _bias(layer))
    return linear


def _bias(layer: Any) -> jax.Array:
    return layer.bias[...]


def _set(module: Any, weight: np.ndarray, bias: jax.Array) -> None:
    import torch

    with torch.no_grad():
        module.weight.copy_(torch.tensor(np.ascontiguousarray(weight)))
        module.bias.copy_(torch.tensor(np.array(bias)))
