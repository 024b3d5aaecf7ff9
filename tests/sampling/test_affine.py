"""A warp under an affine map: the same as sampling at the map's coordinates, on every engine."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import stn_jax as stn
from stn_jax._affine import affine_pixels

pytestmark = pytest.mark.cross_section(8)

ENGINES = [each.name for each in stn.implementations() if each.available]
SPACES = {2: (6, 7), 3: (4, 5, 3)}
OUTS = {2: (5, 9), 3: (3, 4, 2)}


@pytest.fixture(autouse=True)
def double(x64):
    """Float64, so that derivatives agree to many digits."""


def operands(ndim, channels=2, batch=()):
    """An image, and theta near the identity; no coordinate is near a whole pixel by chance."""
    rng = np.random.default_rng(ndim)
    image = rng.normal(size=(*batch, *SPACES[ndim], channels))
    theta = stn.affine(ndim=ndim).identity + rng.normal(size=(*batch, ndim * (ndim + 1)), scale=0.3)
    return jnp.asarray(image), jnp.asarray(theta)


def by_matrix(ndim, engine, **options):
    """The function under test: ``(image, theta)`` to the warped image."""
    return functools.partial(
        stn.warp,
        transform=stn.affine(ndim=ndim),
        output_shape=OUTS[ndim],
        implementation=engine,
        **options,
    )


def by_coordinates(ndim, **options):
    """The same through an array of coordinates, by the engine of JAX operations."""

    def warp(image, *, theta):
        change = theta.reshape(ndim, ndim + 1) - jnp.eye(ndim, ndim + 1)
        aligned = options.get("align_corners", False)
        pixels = affine_pixels(change, OUTS[ndim], image.shape[:-1], align_corners=aligned)
        pixels = jnp.stack(pixels, axis=-1)
        return stn.sample_pixels(image, pixels, implementation="xla", **options)

    return warp


def assert_equal(found, expected):
    """All arrays agree to rounding in float64."""
    jax.tree.map(
        lambda f, e: np.testing.assert_allclose(f, e, rtol=1e-9, atol=1e-9), found, expected
    )


OPTIONS = {
    "fill": {"fill_value": jnp.array([2.0, -1.0])},
    "aligned": {"align_corners": True, "padding": "reflection"},
    "border": {"padding": "border"},
    "wrap": {"padding": "wrap"},
    "cubic": {"kernel": "cubic", "padding": "border"},
    "nearest": {"kernel": "nearest"},
    "clip": {"kernel": "cubic", "clip": True},
    # Those below need coordinates.
    "spline": {"kernel": "bspline3", "padding": "border"},
    "lanczos": {"kernel": "lanczos3"},
    "signed": {"padding": "dst2"},
    "linearized": {"gradient": "linearized"},
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("ndim", SPACES)
@pytest.mark.parametrize("options", OPTIONS)
def test_value_and_gradients(options, ndim, engine):
    image, theta = operands(ndim)
    results = []
    for warp in (
        by_matrix(ndim, engine, **OPTIONS[options]),
        by_coordinates(ndim, **OPTIONS[options]),
    ):
        value, pull_back = jax.vjp(lambda i, t, warp=warp: warp(i, theta=t), image, theta)
        results.append((value, pull_back(jnp.cos(value))))
    assert_equal(*results)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("ndim", SPACES)
def test_forward_mode_and_second_derivatives(ndim, engine):
    image, theta = operands(ndim)
    results = []
    for warp in (by_matrix(ndim, engine, kernel="cubic"), by_coordinates(ndim, kernel="cubic")):

        def energy(image, theta, warp=warp):
            return jnp.sum(jnp.sin(warp(image, theta=theta)))

        tangents = (jnp.cos(image), jnp.sin(theta))
        gradient = jax.grad(energy, argnums=(0, 1))
        results.append(
            (
                jax.jvp(lambda i, t, warp=warp: warp(i, theta=t), (image, theta), tangents),
                jax.jvp(gradient, (image, theta), tangents),
                jax.grad(lambda i, t, g=gradient: jnp.sum(g(i, t)[1] ** 2), argnums=(0, 1))(
                    image, theta
                ),
            )
        )
    assert_equal(*results)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("in_axes", [(0, 0), (0, None), (None, 0), (1, 1)])
def test_batches(in_axes, engine):
    """Images or theta shared, batched along any axis; gradients summed over the batch or not."""
    image, theta = operands(2, batch=(3,))
    if in_axes == (1, 1):
        image, theta = jnp.moveaxis(image, 0, 1), theta.T
    image, theta = (
        each[0] if axis is None else each
        for each, axis in zip((image, theta), in_axes, strict=True)
    )
    results = []
    for warp in (by_matrix(2, engine), by_coordinates(2)):

        def batched(image, theta, warp=warp):
            return jax.vmap(lambda i, t: warp(i, theta=t), in_axes)(image, theta)

        def of_each(image, theta, warp=warp):
            gradient = jax.grad(lambda i, t: jnp.sum(warp(i, theta=t) ** 2), argnums=(0, 1))
            return jax.vmap(gradient, in_axes)(image, theta)

        value, pull_back = jax.vjp(batched, image, theta)
        results.append((value, pull_back(jnp.cos(value)), of_each(image, theta)))
    assert_equal(*results)


@pytest.mark.parametrize(
    "make", [stn.translation, stn.rigid, stn.similarity, stn.attention, stn.affine]
)
def test_the_families_whose_displacement_is_their_matrix(make):
    family = make()
    # In NumPy: JAX may hold a float32 copy of the identity.
    theta = jnp.asarray(family.identity + 0.1)
    points = stn.regular_grid((4, 5), dtype=theta.dtype)
    change = family.affine_change(theta)
    expected = family.displacement(theta, points)
    np.testing.assert_allclose(points @ change[:, :2].T + change[:, 2], expected, atol=1e-12)
    fixed = stn.fixed(family, {0: 0.25})
    held = jnp.asarray(fixed.identity + 0.1)
    expected = fixed.displacement(held, points)
    change = fixed.affine_change(held)
    np.testing.assert_allclose(points @ change[:, :2].T + change[:, 2], expected, atol=1e-12)


@pytest.mark.parametrize("engine", [each for each in ENGINES if each != "dense"])
@pytest.mark.parametrize("dtype", ["uint8", "int32", "bool"])
def test_integer_images(dtype, engine):
    image = jnp.asarray(np.random.default_rng(0).integers(0, 2, (6, 7, 1)), dtype)
    _, theta = operands(2)
    found = by_matrix(2, engine, kernel="nearest")(image, theta=theta)
    np.testing.assert_array_equal(found, by_coordinates(2, kernel="nearest")(image, theta=theta))
    assert found.dtype == image.dtype


def test_half_precision_images_keep_float32_coordinates():
    image, theta = operands(2)
    half = image.astype(jnp.bfloat16)
    found = by_matrix(2, None)(half, theta=theta.astype(jnp.float32))
    expected = by_matrix(2, None)(half.astype(float), theta=theta)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(float), expected, atol=2e-2)


def test_a_matrix_of_another_shape_is_named():
    family = stn.Transform(
        name="shift",
        ndim=2,
        identity=np.zeros(2),
        displacement=lambda theta, points: theta * jnp.ones_like(points),
        inverse=lambda theta, points: points - theta,
        affine_change=lambda theta: jnp.zeros((3, 3)),
    )
    with pytest.raises(ValueError, match=r"affine_change of shift must .* \(2, 3\); got \(3, 3\)"):
        stn.warp(jnp.ones((4, 4, 1)), family, jnp.zeros(2))
