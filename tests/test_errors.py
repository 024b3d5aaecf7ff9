"""Bad input gets a clear error at once: what, expected, got, remedy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import stn_jax as stn

pytestmark = pytest.mark.usefixtures("no_runtime_types")

IMAGE = jnp.ones((4, 5, 3))
GRID = jnp.zeros((2, 2, 2))
THETA = jnp.asarray(stn.affine().identity, jnp.float32)


def sample(image=IMAGE, grid=GRID, **options):
    return stn.grid_sample(image, grid, **options)


def warp(image=IMAGE, transform=None, theta=THETA, **options):
    return stn.warp(image, transform or stn.affine(), theta, **options)


CASES = {
    "image without channels": (
        lambda: sample(IMAGE[..., 0]),
        ValueError,
        r"\(4, 5\).*add a channel",
    ),
    "batched image": (lambda: sample(IMAGE[None]), ValueError, r"\(1, 4, 5, 3\).*jax\.vmap"),
    "empty image": (lambda: sample(jnp.ones((0, 5, 3))), ValueError, r"empty.*\(0, 5, 3\)"),
    "integer image": (lambda: sample(IMAGE.astype(int)), TypeError, r"int32.*nearest"),
    "complex image": (lambda: sample(IMAGE.astype(complex)), TypeError, r"real.*complex64"),
    "grid of four coordinates": (lambda: sample(grid=jnp.zeros((2, 4))), ValueError, r"\(2, 4\)"),
    "scalar grid": (lambda: sample(grid=jnp.zeros(())), ValueError, r"last axis"),
    "integer grid": (lambda: sample(grid=GRID.astype(int)), TypeError, r"grid.*floating.*int32"),
    "grid of a volume": (lambda: sample(grid=jnp.zeros((2, 3))), ValueError, r"depth.*\(4, 5, 3\)"),
    "unknown kernel": (
        lambda: sample(kernel="bilinear"),
        ValueError,
        r"kernel must be one of 'nearest', 'linear', 'cubic', .*, 'bspline5'; got 'bilinear'",
    ),
    "unknown padding": (
        lambda: sample(padding="zeros"),
        ValueError,
        r"padding must be one of 'constant', 'border', 'reflection', 'wrap', 'dst1', 'dst2', "
        r"'renormalized'; got 'zeros'",
    ),
    "padding of another type": (lambda: sample(padding=None), ValueError, r"got None"),
    "fill value of another length": (
        lambda: sample(fill_value=jnp.zeros(2)),
        ValueError,
        r"fill_value.*3 channels.*\(2,\)",
    ),
    "fill value that is None": (
        lambda: sample(fill_value=None),
        TypeError,
        r"fill_value must be a real number.*None",
    ),
    "fill value that is a word": (
        lambda: sample(fill_value="nearest"),
        TypeError,
        r"fill_value must be a real number.*nearest",
    ),
    "fill value that is complex": (
        lambda: sample(fill_value=1j),
        TypeError,
        r"fill_value must be a real number.*1j",
    ),
    "theta too short": (
        lambda: warp(theta=THETA[:5]),
        ValueError,
        r"theta.*6.*affine.*\(5,\)",
    ),
    "batched theta": (lambda: warp(theta=THETA[None]), ValueError, r"\(1, 6\).*jax\.vmap"),
    "integer theta": (lambda: warp(theta=jnp.zeros(6, int)), TypeError, r"theta.*floating.*int32"),
    "empty output": (lambda: warp(output_shape=(0, 3)), ValueError, r"output_shape.*\(0, 3\)"),
    "negative output": (lambda: warp(output_shape=(2, -3)), ValueError, r"at least 1.*\(2, -3\)"),
    "output of fractions": (lambda: warp(output_shape=(2.5, 3)), ValueError, r"integers.*2\.5"),
    "output of a volume": (lambda: warp(output_shape=(2, 3, 4)), ValueError, r"2 entries"),
    "output without axes": (lambda: warp(output_shape=()), ValueError, r"output_shape"),
    "volume for a 2-D transform": (lambda: warp(jnp.ones((2, 3, 4, 1))), ValueError, r"jax\.vmap"),
    "transform that is none": (lambda: warp(transform="affine"), TypeError, r"stn_jax\.affine\(\)"),
    "transform not called": (lambda: warp(transform=stn.affine), TypeError, r"stn_jax\.affine\(\)"),
    "points of a volume": (
        lambda: stn.affine().apply(THETA, jnp.zeros((7, 3))),
        ValueError,
        r"points.*length 2.*\(x, y\).*\(7, 3\)",
    ),
    "integer points": (
        lambda: stn.affine().invert(THETA, jnp.zeros(2, int)),
        TypeError,
        r"points.*int32",
    ),
    "dimension that does not exist": (lambda: stn.affine(ndim=4), ValueError, r"2 and 3.*4"),
    "homography of volumes": (lambda: stn.projective(ndim=3), ValueError, r"ndim = 2.*3"),
    "matrix of another size": (
        lambda: stn.affine_grid(jnp.eye(3), (4, 4)),
        ValueError,
        r"matrix.*\(2, 3\).*\(3, 3\)",
    ),
    "lattice of no size": (lambda: stn.regular_grid((4, 0)), ValueError, r"\(4, 0\).*empty"),
    "kernel of no radius": (lambda: stn.Kernel(0, jnp.ones_like), ValueError, r"radius.*1/2"),
    "kernel of a third": (lambda: stn.Kernel(1 / 3, jnp.ones_like), ValueError, r"radius.*1/2"),
    "identity that is a matrix": (
        lambda: stn.Transform(
            name="x", ndim=2, identity=np.eye(2), displacement=jnp.add, inverse=jnp.add
        ),
        ValueError,
        r"identity.*flat.*\(2, 2\)",
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("compiled", [False, True])
def test_error(case, compiled):
    call, error, message = CASES[case]
    with pytest.raises(error, match=f"(?s){message}"):
        (jax.jit(call) if compiled else call)()


def test_a_transform_without_a_matrix():
    shift = stn.Transform(
        name="shift",
        ndim=2,
        identity=np.zeros(2),
        displacement=lambda theta, p: theta + 0 * p,
        inverse=lambda theta, p: p - theta,
    )
    with pytest.raises(ValueError, match="shift transform has no matrix; use apply and invert"):
        shift.matrix(jnp.zeros(2))
    image = jnp.arange(12.0).reshape(3, 4, 1)
    moved = stn.warp(image, shift, jnp.asarray([0.5, 0.0]))
    np.testing.assert_allclose(moved[:, :3, 0], image[:, 1:, 0])
