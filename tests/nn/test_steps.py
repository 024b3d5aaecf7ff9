"""A spatial transformer of several steps, and theta beside its output."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from flax import nnx

import stn_jax as stn
from stn_jax import nn as stnn


def moments(images):
    """Stands for a localization network: six numbers that depend on all of an image."""
    _, height, width, _ = images.shape
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    weights = np.stack([x, y, x * y, x * x, y * y, x - y]) / (height * width)
    features = np.einsum("bhwc,khw->bk", np.asarray(images, np.float64), weights)
    return stn.affine().identity + features


def moments_jax(images):
    weights = np.stack(
        [
            moments(np.eye(images[0].size)[i].reshape(1, *images.shape[1:]))[0]
            for i in range(images[0].size)
        ]
    )
    start = stn.affine().identity
    features = images.reshape(images.shape[0], -1) @ jnp.asarray(weights - start, images.dtype)
    return jnp.asarray(start, images.dtype) + features


@pytest.fixture
def images(rng):
    return jnp.asarray(rng.normal(size=(3, 6, 7, 1)), jnp.float32)


def bilinear(image, matrix, shape):
    """The image by one matrix, in float64, read pixel by pixel."""
    points = reference.act(matrix, reference.regular_grid(shape, False))
    height, width, channels = image.shape
    out = np.zeros((*shape, channels))
    for index in np.ndindex(*shape):
        x = reference.pixel(points[index][0], width, False)
        y = reference.pixel(points[index][1], height, False)
        for m in range(height):
            for n in range(width):
                out[index] += image[m, n] * max(0, 1 - abs(x - n)) * max(0, 1 - abs(y - m))
    return out


@pytest.mark.parametrize("num_steps", [1, 2, 3])
def test_steps_are_composed_and_the_image_read_once(num_steps, images):
    """Against products of 3×3 matrices in float64: each step acts on the previous step's output."""
    st = stnn.SpatialTransformer(
        moments_jax, stn.affine(), output_shape=(4, 5), num_steps=num_steps
    )
    out, theta = st(images, return_theta=True)
    assert theta.shape == (3, 6 * num_steps)
    assert st.composition.num_params == 6 * num_steps
    for image, single, given in zip(np.asarray(images, np.float64), out, theta, strict=True):
        whole, steps = np.eye(3), []
        for _ in range(num_steps):
            seen = bilinear(image, whole, image.shape[:2])
            steps.append(moments(seen[None])[0])
            whole = whole @ reference.matrix("affine", steps[-1], 2)
        np.testing.assert_allclose(single, bilinear(image, whole, (4, 5)), atol=1e-5)
        np.testing.assert_allclose(given, np.concatenate(steps[::-1]), atol=1e-5)
        np.testing.assert_allclose(st.composition.matrix(given), whole, atol=1e-5)


def test_parallel_steps_go_on_from_their_own_output(images):
    """Two transforms of two steps equal two separate transformers."""
    both = lambda x: jnp.stack([moments_jax(x), 0.5 + moments_jax(x[:, ::-1])], axis=1)  # noqa: E731
    options = {"num_steps": 2, "padding": "border"}
    two = stnn.SpatialTransformer(both, stn.affine(), num_transforms=2, **options)
    out, theta = two(images, return_theta=True)
    assert theta.shape == (3, 2, 12)
    for n in range(2):
        one = stnn.SpatialTransformer(lambda x, n=n: both(x)[:, n], stn.affine(), **options)
        alone, alone_theta = one(images, return_theta=True)
        np.testing.assert_allclose(theta[:, n], alone_theta, atol=1e-5)
        np.testing.assert_allclose(out[:, n], alone, atol=1e-5)


def test_untrained_steps_are_the_identity_and_share_their_network(images):
    t = stn.similarity()
    network = stnn.FullyConnectedLocalization((6, 7, 1), t, hidden=(4,), rngs=nnx.Rngs(0))
    st = stnn.SpatialTransformer(network, t, num_steps=3)
    np.testing.assert_array_equal(st(images), images)
    single = stnn.SpatialTransformer(network, t)
    assert single.composition is t
    sizes = [sum(p.size for p in jax.tree.leaves(nnx.state(m, nnx.Param))) for m in (st, single)]
    assert sizes[0] == sizes[1]


@pytest.mark.usefixtures("x64")
def test_the_gradient_passes_through_the_images_between_steps(images):
    """Along a direction of the localization network's bias, against a difference quotient."""
    t, images = stn.translation(), images.astype(jnp.float64)

    @jax.jit
    @jax.value_and_grad
    def loss(shift):
        network = lambda x: 0.3 * moments_jax(x)[:, :2] + shift  # noqa: E731
        st = stnn.SpatialTransformer(network, t, num_steps=2, kernel="cubic", padding="border")
        return jnp.mean((st(images) - images[::-1]) ** 2)

    at, step = jnp.array([-0.2, 0.1]), 1e-5 * jnp.array([0.6, 0.8])
    quotient = (loss(at + step)[0] - loss(at - step)[0]) / 2
    np.testing.assert_allclose(loss(at)[1] @ step, quotient, rtol=1e-6)


@pytest.mark.parametrize("graph", [True, False])
def test_theta_comes_out_of_a_whole_model(graph, images):
    """In one forward pass, by the place of each transformer, jitted by Flax and by JAX."""
    t = stn.attention()
    start = jnp.array([0.5, 0.1, 0.2])
    with nnx.set_graph_mode(graph):
        network = stnn.FullyConnectedLocalization(
            (6, 7, 1), t, hidden=(), initial_theta=start, rngs=nnx.Rngs(0)
        )
        model = nnx.Sequential(stnn.SpatialTransformer(network, t), jnp.sin)
        expected = model(images)

        def forward(model, images):
            run = lambda model, images: model(images)  # noqa: E731
            options = {"method_outputs": nnx.Intermediate}
            return nnx.capture(run, nnx.Intermediate, **options)(model, images)

        graphdef, state = nnx.split(model)
        pure = jax.jit(lambda state, images: forward(nnx.merge(graphdef, state), images))
        for out, captured in (nnx.jit(forward)(model, images), pure(state, images)):
            np.testing.assert_allclose(out, expected, atol=1e-6)
            (theta,) = captured["layers"][0]["localize"].get_value()
            np.testing.assert_allclose(theta, jnp.broadcast_to(start, (3, 3)), atol=1e-6)


def test_train_and_eval_leave_the_gradients_determinism_alone(images):
    st = stnn.SpatialTransformer(moments_jax, stn.affine(), deterministic=True)
    st.train()
    assert st.deterministic_gradient
