"""Every module, with the laws of composition's way to call it as a function of its parameters."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx

import stn_jax as stn
from stn_jax import nn as stnn

SHAPE = (8, 9, 2)
T = stn.affine()
FULLY = functools.partial(stnn.FullyConnectedLocalization, SHAPE, hidden=(4,))
CONVOLUTIONAL = functools.partial(
    stnn.ConvolutionalLocalization, SHAPE, features=(2,), kernel_size=3
)


class Features(nnx.Module):
    """Features of one's own."""

    def __init__(self, rngs):
        self.linear = nnx.Linear(SHAPE[-1], 3, rngs=rngs)

    def __call__(self, images):
        return self.linear(images).mean(axis=(1, 2))


def transformer(t=T, network=FULLY, *, num_transforms=1, **options):
    """Makes a model around a localization network."""
    return lambda rngs: stnn.SpatialTransformer(
        network(t, num_transforms=num_transforms, rngs=rngs), t, **options
    )


def wrapper(**options):
    """Makes a Linen module around a localization network; it takes no ``rngs``."""
    return lambda rngs: stnn.linen.spatial_transformer(functools.partial(FULLY, T), T, **options)


MODULES = {
    "fully connected": lambda rngs: FULLY(T, rngs=rngs),
    "convolutional": lambda rngs: CONVOLUTIONAL(T, rngs=rngs),
    "convolutional, many": lambda rngs: CONVOLUTIONAL(T, num_transforms=2, rngs=rngs),
    "features of one's own": lambda rngs: stnn.FeatureLocalization(Features(rngs), 3, T, rngs=rngs),
    "Gaussian head": lambda rngs: FULLY(T, head=stnn.GaussianHead, rngs=rngs),
    "regression head": lambda rngs: stnn.RegressionHead(SHAPE[-1], T, rngs=rngs),
    "transformer": transformer(),
    "transformer, convolutional": transformer(network=CONVOLUTIONAL),
    "transformer, parallel": transformer(num_transforms=2),
    "transformer, steps": transformer(num_steps=2),
    "transformer, bounded": transformer(stn.bounded(T, radius=0.5)),
    "transformer, spline": transformer(stn.thin_plate_spline((3, 3))),
    "transformer, flow": transformer(stn.flow((3, 3)), num_steps=2),
    "transformer, antialiased crops": transformer(
        stn.attention(), output_shape=(3, 4), antialias=True
    ),
    "Linen": wrapper(),
    "Linen, steps": wrapper(num_steps=2),
}


def an_input(module, *batch):
    shape = SHAPE[-1:] if module == "regression head" else SHAPE
    return np.float32(np.random.default_rng(0).normal(size=(*batch, *shape)))


@functools.cache
def made(module):
    """The model, with weights that let theta depend on the images; of Linen a pair with them."""
    model = MODULES[module](nnx.Rngs(0))
    rng = np.random.default_rng(1)

    def filled(value):
        noise = rng.normal(size=value.shape)
        return value + jnp.asarray(0.02 * noise, value.dtype)

    if isinstance(model, linen.Module):
        return model, jax.tree.map(
            filled, model.init(jax.random.key(0), jnp.asarray(an_input(module, 1)))
        )
    state = nnx.state(model, nnx.Param)
    nnx.update(model, jax.tree.map(filled, state))
    model.eval()  # A Gaussian head gives its mean.
    return model


def functional(module):
    """The model as a function of its parameters and a batch, and the parameters."""
    model = made(module)
    if isinstance(model, tuple):
        return model[0].apply, model[1]
    graph, parameters, rest = nnx.split(model, nnx.Param, ...)

    def apply(parameters, images):
        return nnx.merge(graph, parameters, rest, copy=True)(images)

    return apply, parameters


def look(apply, parameters, images):
    """The value, and its gradients to parameters and images."""

    def loss(parameters, images):
        out = apply(parameters, images)
        return sum(jnp.sum(jnp.sin(each)) for each in jax.tree.leaves(out)), out

    slopes, out = jax.grad(loss, (0, 1), has_aux=True)(parameters, images)
    return out, slopes
