"""The Flax modules."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import stn_jax as stn
from stn_jax import nn as stnn

pytestmark = pytest.mark.cross_section(3)

IN_SHAPE = (14, 14, 2)
LOCALIZATIONS = {
    "fully connected": lambda t, **o: stnn.FullyConnectedLocalization(IN_SHAPE, t, **o),
    "convolutional": lambda t, **o: stnn.ConvolutionalLocalization(
        IN_SHAPE, t, features=(4, 4), kernel_size=3, **o
    ),
    "one convolution": lambda t, **o: stnn.ConvolutionalLocalization(
        IN_SHAPE, t, features=(4,), downsample=1, **o
    ),
}
every_localization = pytest.mark.parametrize("localization", LOCALIZATIONS)


@pytest.fixture
def images(rng):
    return jnp.asarray(rng.normal(size=(3, *IN_SHAPE)), jnp.float32)


@every_localization
@pytest.mark.parametrize(
    ("t", "num_transforms"),
    [(stn.affine(), 1), (stn.projective(), 2), (stn.thin_plate_spline((3, 3)), 1)],
    ids=["affine", "two projective", "spline"],
)
def test_untrained_it_is_the_identity(localization, t, num_transforms, images):
    network = LOCALIZATIONS[localization](t, num_transforms=num_transforms, rngs=nnx.Rngs(0))
    transformer = stnn.SpatialTransformer(network, t, num_transforms=num_transforms)
    theta = transformer.localize(images)
    parallel = () if num_transforms == 1 else (num_transforms,)
    assert theta.shape == (3, *parallel, t.num_params)
    np.testing.assert_array_equal(theta, np.broadcast_to(t.identity, theta.shape))
    expected = images if num_transforms == 1 else jnp.stack([images, images], axis=1)
    np.testing.assert_array_equal(transformer(images), expected)


@every_localization
def test_gradients_reach_the_whole_network_after_one_step(localization, images):
    t = stn.affine()
    network = LOCALIZATIONS[localization](t, rngs=nnx.Rngs(0))
    model = stnn.SpatialTransformer(network, t)
    optimizer = nnx.Optimizer(model, optax.sgd(1e-3), wrt=nnx.Param)
    loss = lambda model: jnp.mean((model(images) - images[::-1]) ** 2)  # noqa: E731
    slopes = nnx.jit(nnx.grad(loss))
    first = slopes(model)
    assert all(float(jnp.abs(g).max()) > 0 for g in jax.tree.leaves(first["localization"]["head"]))
    optimizer.update(model, first)
    second = slopes(model)
    assert all(float(jnp.abs(g).max()) > 0 for g in jax.tree.leaves(second))


def test_it_learns_to_undo_a_translation():
    """From an image loss alone, a regression on the image finds the shift."""
    rng = np.random.default_rng(0)
    centred = np.zeros((15, 15, 1), np.float32)
    centred[5:10, 5:10] = np.hanning(7)[1:-1, None, None] * np.hanning(7)[None, 1:-1, None]
    shifts = rng.integers(-2, 3, (64, 2))
    moved = jnp.asarray([np.roll(centred, shift, axis=(0, 1)) for shift in shifts])
    t = stn.translation()
    model = stnn.SpatialTransformer(
        stnn.FullyConnectedLocalization((15, 15, 1), t, rngs=nnx.Rngs(0)), t
    )
    graph, params = nnx.split(model)
    optimizer = optax.adam(3e-3)

    @jax.jit
    def train(params):
        def step(carry, _):
            params, state = carry
            loss = lambda p: jnp.mean((nnx.merge(graph, p)(moved) - centred) ** 2)  # noqa: E731
            value, gradient = jax.value_and_grad(loss)(params)
            updates, state = optimizer.update(gradient, state)
            return (optax.apply_updates(params, updates), state), value

        (params, _), losses = jax.lax.scan(step, (params, optimizer.init(params)), length=300)
        return params, losses

    params, losses = train(params)
    assert losses[-1] < 0.05 * losses[0]
    theta = nnx.merge(graph, params).localize(moved)
    np.testing.assert_allclose(theta, shifts[:, ::-1] * 2 / 15, atol=0.05)


def test_parallel_transforms_equal_single_ones(images, rng):
    t = stn.affine()
    theta = jnp.asarray(t.identity + 0.2 * rng.normal(size=(3, 2, 6)), jnp.float32)
    options = {"output_shape": (5, 6), "padding": "border", "align_corners": True}
    two = stnn.SpatialTransformer(lambda x: theta, t, num_transforms=2, **options)
    one = stnn.SpatialTransformer(lambda x: theta[:, 1], t, **options)
    assert two(images).shape == (3, 2, 5, 6, 2)
    np.testing.assert_allclose(two(images)[:, 1], one(images), atol=1e-6)
    flat = stnn.SpatialTransformer(lambda x: theta.reshape(3, 12), t, num_transforms=2, **options)
    np.testing.assert_array_equal(flat(images), two(images))
    single = stn.warp(images[0], t, theta[0, 1], **options)
    np.testing.assert_allclose(two(images)[0, 1], single, atol=1e-6)


@every_localization
def test_jit_in_both_forms(localization, images):
    t = stn.affine()
    model = stnn.SpatialTransformer(
        LOCALIZATIONS[localization](t, rngs=nnx.Rngs(1)), t, output_shape=(7, 7)
    )
    graph, state = nnx.split(model)
    pure = jax.jit(lambda state, images: nnx.merge(graph, state)(images))
    with_nnx = nnx.jit(lambda model, images: model(images))
    np.testing.assert_allclose(pure(state, images), model(images), atol=1e-6)
    np.testing.assert_allclose(with_nnx(model, images), model(images), atol=1e-6)


def head(transform=None, **options):
    return stnn.RegressionHead(4, transform or stn.affine(), rngs=nnx.Rngs(0), **options)


BAD = {
    "localization": (lambda x: stnn.SpatialTransformer(3, stn.affine()), TypeError, "callable"),
    "transform": (lambda x: stnn.SpatialTransformer(jnp.sin, "affine"), TypeError, "Transform"),
    "kernel": (
        lambda x: stnn.SpatialTransformer(jnp.sin, stn.affine(), kernel="best"),
        ValueError,
        "kernel must be one of",
    ),
    "output shape": (
        lambda x: stnn.SpatialTransformer(jnp.sin, stn.affine(), output_shape=(0, 1)),
        ValueError,
        "output_shape",
    ),
    "no transforms": (
        lambda x: stnn.SpatialTransformer(jnp.sin, stn.affine(), num_transforms=0),
        ValueError,
        "num_transforms",
    ),
    "no steps": (
        lambda x: stnn.SpatialTransformer(jnp.sin, stn.affine(), num_steps=0),
        ValueError,
        "num_steps must be an integer of at least 1",
    ),
    "theta of one step given to two": (
        lambda x: stnn.SpatialTransformer(jnp.sin, stn.affine(), num_steps=2).warp(
            x, jnp.zeros((3, 6))
        ),
        ValueError,
        r"theta must have shape \(3, 12\)",
    ),
    "no transforms in the head": (lambda x: head(num_transforms=0), ValueError, "num_transforms"),
    "theta of another length": (
        lambda x: stnn.SpatialTransformer(lambda x: jnp.zeros((3, 5)), stn.affine())(x),
        ValueError,
        r"theta of shape \(3, 6\).*1 affine.*\(3, 5\)",
    ),
    "theta given to warp": (
        lambda x: stnn.SpatialTransformer(jnp.sin, stn.affine()).warp(x, jnp.zeros((3, 1, 6))),
        ValueError,
        r"theta must have shape \(3, 6\)",
    ),
    "images of another size": (
        lambda x: LOCALIZATIONS["fully connected"](stn.affine(), rngs=nnx.Rngs(0))(x[:, 1:]),
        ValueError,
        r"images must have shape \[batch, 14, 14, 2\]; got \(3, 13, 14, 2\)",
    ),
    "images too small": (
        lambda x: stnn.ConvolutionalLocalization((9, 9, 1), stn.affine(), rngs=nnx.Rngs(0)),
        ValueError,
        "too small for 2 convolutions of 5×5 after 2× downsampling.*number 1",
    ),
}


@pytest.mark.usefixtures("no_runtime_types")
@pytest.mark.parametrize("case", BAD)
def test_error(case, images):
    call, error, message = BAD[case]
    with pytest.raises(error, match=f"(?s){message}"):
        call(images)


@every_localization
@pytest.mark.parametrize("head", [stnn.RegressionHead, stnn.GaussianHead])
@pytest.mark.parametrize("number", [1, np.int64(3)])
def test_a_batch_of_no_images(localization, head, number):
    t = stn.affine()
    network = LOCALIZATIONS[localization](t, num_transforms=number, head=head, rngs=nnx.Rngs(0))
    parallel = () if number == 1 else (3,)
    none = jnp.zeros((0, *IN_SHAPE))
    assert network(none).shape == (0, *parallel, 6)
    steps = stnn.SpatialTransformer(network, t, num_transforms=number, num_steps=np.int64(2))
    assert steps.localize(none).shape == (0, *parallel, 12)


def test_features_of_no_images():
    network = stnn.FeatureLocalization(lambda x: x, 9, stn.affine(), rngs=nnx.Rngs(0))
    assert network(jnp.zeros((0, 3, 3, 1))).shape == (0, 6)


@pytest.mark.parametrize(
    "t",
    [stn.affine(), stn.bounded(stn.affine(), radius=0.5)],
    ids=["a family", "with numbers"],
)
def test_a_copied_model_does_not_compile_again(t):
    traces = []

    @nnx.jit
    def forward(model, images):
        traces.append(model)
        return model(images)

    network = stnn.FullyConnectedLocalization((8, 8, 1), t, rngs=nnx.Rngs(0))
    best = stnn.SpatialTransformer(network, t)
    for _ in range(3):
        best = copy.deepcopy(best)
        forward(best, jnp.ones((2, 8, 8, 1)))
    assert len(traces) == 1


def test_arrays_of_a_transform_are_constants_of_the_model():
    t = stn.bounded(stn.translation(), radius=jnp.float32(0.25))
    assert len(jax.tree.leaves(t)) == 1
    model = stnn.SpatialTransformer(lambda images: jnp.zeros((len(images), 2)), t)
    assert hash(model.transform) == hash(copy.deepcopy(model).transform)
    assert jax.tree.leaves(model.transform) == []
    assert jax.tree.leaves(nnx.state(model)) == []
