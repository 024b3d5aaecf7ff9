"""With converted matrices the other libraries give the same pictures."""

import functools

import chex
import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import sklearn.datasets

import stn_jax as stn
from stn_jax import conversions

SHAPE, OUTPUT_SHAPE = (53, 80), (47, 61)
SIZES = (SHAPE, OUTPUT_SHAPE)
LINEAR_INVERSE = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
alignments = pytest.mark.parametrize("align_corners", [False, True])
families = pytest.mark.parametrize("name", ["affine", "projective"])


@pytest.fixture(scope="module")
def photograph():
    """A real photograph made small and smooth, ``[53, 80, 3]``, values from 0 to 1."""
    large = sklearn.datasets.load_sample_image("china.jpg").astype(np.float32) / 255
    small = cv2.resize(large, SHAPE[::-1], interpolation=cv2.INTER_AREA)
    return scipy.ndimage.gaussian_filter(small, (2, 2, 0))


def random_theta(name, seed, spread=0.2):
    t = getattr(stn, name)()
    spread = spread if name == "affine" else spread / 3
    return t.identity + spread * np.random.default_rng(seed).uniform(-1, 1, t.num_params)


def matrix_of(name, theta):
    """``[2, 3]`` for an affine map, ``[3, 3]`` for a homography, in float64."""
    return np.append(theta, 1).reshape(3, 3) if name == "projective" else theta.reshape(2, 3)


def ours(image, name, theta, **options):
    t, theta = getattr(stn, name)(), jnp.asarray(theta, jnp.float32)
    return stn.warp(jnp.asarray(image), t, theta, output_shape=OUTPUT_SHAPE, **options)


def opencv(image, m, inverse_map, border=cv2.BORDER_CONSTANT):
    warp = cv2.warpPerspective if len(m) == 3 else cv2.warpAffine
    flags = LINEAR_INVERSE if inverse_map else cv2.INTER_LINEAR
    return warp(image, np.asarray(m), OUTPUT_SHAPE[::-1], flags=flags, borderMode=border)


def homogeneous(matrix):
    return np.vstack([matrix, np.eye(matrix.shape[1])[len(matrix) :]])


def oracle_pixels(size, align_corners):
    """Normalised coordinates to pixels, as a matrix, written out."""
    rows = np.eye(len(size) + 1)
    for k, n in enumerate(reversed(size)):
        rows[k, k] = (n - 1) / 2 if align_corners else n / 2
        rows[k, -1] = (n - 1) / 2
    return rows


@alignments
@pytest.mark.parametrize("size", [((6, 9), (4, 11)), ((3, 4, 5), (6, 2, 7))])
@pytest.mark.parametrize("extra_row", [False, True])
def test_pixel_matrix_matches_the_oracle_and_back(align_corners, size, extra_row, rng, x64):
    ndim = len(size[0])
    matrix = rng.normal(size=(ndim + extra_row, ndim + 1))
    to_source, to_target = (oracle_pixels(s, align_corners) for s in size)
    expected = to_source @ homogeneous(matrix) @ np.linalg.inv(to_target)

    @jax.jit
    def there_and_back(matrix):
        pixels = conversions.pixel_matrix(matrix, *size, align_corners=align_corners)
        return pixels, conversions.matrix_from_pixels(pixels, *size, align_corners=align_corners)

    pixels, back = there_and_back(matrix)
    np.testing.assert_allclose(pixels, expected[: len(matrix)], atol=1e-12)
    np.testing.assert_allclose(back, matrix, atol=1e-12)


@alignments
def test_the_identity_stays_exactly_one(align_corners):
    shape = (3, 10, 49)
    for convert in (conversions.pixel_matrix, conversions.matrix_from_pixels):
        options = {"image_shape": shape, "output_shape": shape, "align_corners": align_corners}
        compiled = jax.jit(functools.partial(convert, **options))
        for rows in (len(shape), len(shape) + 1):
            eye = jnp.eye(rows, len(shape) + 1)
            np.testing.assert_array_equal(compiled(eye), eye)


@pytest.mark.parametrize(
    "options",
    [
        {"inverse_map": inverse_map, "align_corners": align_corners}
        for inverse_map in (False, True)
        for align_corners in (False, True)
    ],
)
@families
def test_opencv_round_trip(name, options, x64):
    @jax.jit
    def there_and_back(matrix):
        m = conversions.to_opencv(matrix, *SIZES, **options)
        return conversions.from_opencv(m, *SIZES, **options)

    for seed in range(10):
        matrix = matrix_of(name, random_theta(name, seed))
        back = np.asarray(there_and_back(matrix))
        scale = 1 if name == "affine" else back[2, 2]
        np.testing.assert_allclose(back / scale, matrix, atol=1e-12)


@alignments
@families
def test_alignment_round_trip(name, align_corners, x64):
    @functools.partial(jax.jit, static_argnums=1)
    def change(matrix, align_corners):
        return conversions.change_alignment(
            matrix, *SIZES, align_corners=align_corners, to_align_corners=not align_corners
        )

    for seed in range(10):
        matrix = matrix_of(name, random_theta(name, seed))
        back = change(change(matrix, align_corners), not align_corners)
        np.testing.assert_allclose(back, matrix, atol=1e-12)


@alignments
@pytest.mark.parametrize("inverse_map", [False, True])
@families
@pytest.mark.parametrize("seed", [1, 2])
def test_opencv_makes_the_same_picture(photograph, name, inverse_map, align_corners, seed):
    """OpenCV may round coordinates to 1/32 pixel, an error of half a step along each axis."""
    theta = random_theta(name, seed)
    m = conversions.to_opencv(
        matrix_of(name, theta), *SIZES, inverse_map=inverse_map, align_corners=align_corners
    )
    theirs = opencv(photograph, m, inverse_map, cv2.BORDER_REPLICATE)
    steepest = sum(np.abs(np.diff(photograph, axis=axis)).max() for axis in (0, 1))
    difference = np.abs(
        theirs - ours(photograph, name, theta, padding="border", align_corners=align_corners)
    )
    assert difference.max() < steepest / 64 + 1e-4
    assert difference.mean() < 1e-3


@pytest.mark.parametrize("inverse_map", [False, True])
def test_a_rotation_matrix_of_opencv(photograph, inverse_map):
    m = cv2.getRotationMatrix2D((40.0, 20.0), 25.0, 0.8)
    theirs = opencv(photograph, m, inverse_map)
    matrix = conversions.from_opencv(m, *SIZES, inverse_map=inverse_map)
    picture = ours(photograph, "affine", matrix.ravel())
    # The edge of the photograph is a step of height 1 to the zeros around it.
    assert np.abs(theirs - picture).max() < 1.5 / 32
    assert np.abs(theirs - picture).mean() < 1e-3


@pytest.mark.parametrize("inverse_map", [False, True])
def test_a_homography_of_opencv_through_four_points(photograph, inverse_map):
    corners = np.array([[0, 0], [60, 0], [60, 46], [0, 46]], np.float32)
    quadrilateral = np.array([[12, 5], [70, 9], [76, 50], [3, 44]], np.float32)
    ends = (corners, quadrilateral) if inverse_map else (quadrilateral, corners)
    m = cv2.getPerspectiveTransform(*ends)
    theirs = opencv(photograph, m, inverse_map)
    matrix = conversions.from_opencv(3 * m, *SIZES, inverse_map=inverse_map)
    theta = conversions.projective_theta(matrix)
    assert np.abs(theirs - ours(photograph, "projective", theta)).max() < 1e-2
    source = stn.projective().apply(theta, stn.normalized_from_pixels(corners, OUTPUT_SHAPE))
    np.testing.assert_allclose(stn.pixels_from_normalized(source, SHAPE), quadrilateral, atol=1e-4)


@pytest.mark.parametrize("theirs_align", [False, True])
@pytest.mark.parametrize("ours_align", [False, True])
def test_pytorch_makes_the_same_picture(photograph, theirs_align, ours_align):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    theta = matrix_of("affine", random_theta("affine", 4))
    grid = torch.nn.functional.affine_grid(
        torch.tensor(theta[None], dtype=torch.float32),
        (1, 3, *OUTPUT_SHAPE),
        align_corners=theirs_align,
    )
    theirs = torch.nn.functional.grid_sample(
        torch.tensor(np.moveaxis(photograph, -1, 0)[None].copy()), grid, align_corners=theirs_align
    )[0]
    matrix = conversions.change_alignment(
        theta, *SIZES, align_corners=theirs_align, to_align_corners=ours_align
    )
    picture = ours(photograph, "affine", matrix.ravel(), align_corners=ours_align)
    np.testing.assert_allclose(picture, np.moveaxis(theirs.numpy(), 0, -1), atol=5e-5)


@pytest.mark.parametrize("extra_row", [False, True])
def test_scipy_makes_the_same_volume(extra_row, rng, x64):
    """SciPy counts axes as the array does, the reverse of (x, y, z)."""
    shape, output_shape = (6, 7, 8), (5, 9, 4)
    image = rng.normal(size=shape)
    theta = np.eye(3, 4) + 0.2 * rng.uniform(-1, 1, (3, 4))
    matrix = np.asarray(conversions.pixel_matrix(theta, shape, output_shape))
    matrix = np.hstack([matrix[::-1, 2::-1], matrix[::-1, 3:]])
    theirs = scipy.ndimage.affine_transform(
        image,
        homogeneous(matrix) if extra_row else matrix,
        output_shape=output_shape,
        order=1,
        mode="grid-constant",
    )
    picture = stn.warp(
        image[..., None], stn.affine(ndim=3), theta.ravel(), output_shape=output_shape
    )
    np.testing.assert_allclose(picture[..., 0], theirs, atol=1e-12)


@alignments
@families
def test_scikit_image_makes_the_same_picture(photograph, name, align_corners):
    from skimage import transform

    theta = random_theta(name, 5)
    matrix = getattr(stn, name)().matrix(theta)
    m = conversions.pixel_matrix(matrix, *SIZES, align_corners=align_corners)
    theirs = transform.warp(photograph, np.asarray(m), output_shape=OUTPUT_SHAPE, mode="edge")
    picture = ours(photograph, name, theta, padding="border", align_corners=align_corners)
    np.testing.assert_allclose(picture, theirs, atol=5e-5)


@alignments
@families
def test_kornia_makes_the_same_picture(photograph, name, align_corners):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    transform = pytest.importorskip("kornia.geometry.transform", reason="Kornia is not installed")
    theta = random_theta(name, 6)
    m = conversions.to_opencv(
        matrix_of(name, theta), *SIZES, inverse_map=False, align_corners=align_corners
    )
    warp = transform.warp_perspective if name == "projective" else transform.warp_affine
    theirs = warp(
        torch.tensor(np.moveaxis(photograph, -1, 0)[None].copy()),
        torch.tensor(np.asarray(m)[None]),
        OUTPUT_SHAPE,
    )[0]
    picture = ours(photograph, name, theta, align_corners=align_corners)
    np.testing.assert_allclose(picture, np.moveaxis(theirs.numpy(), 0, -1), atol=5e-5)


def test_the_front_of_a_homography_is_where_w_is_positive(x64):
    """Of w = 1 − x on 4 × 4 pixels column 0 is in front, where w is 1; the others are behind."""
    board = np.indices((4, 4)).sum(axis=0)[..., None] % 2 * 1.0
    matrix = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 1.0]])
    y, x = np.indices((4, 4))
    points = np.stack([x, y, np.ones_like(x)], axis=-1) @ matrix.T
    front = points[..., 2:] > 0
    pixels = np.where(front, points[..., :2] / np.where(front, points[..., 2:], 1), np.inf)
    grid = stn.normalized_from_pixels(jnp.asarray(pixels), (4, 4))
    expected = stn.grid_sample(jnp.asarray(board), grid, kernel="nearest")[..., 0]
    np.testing.assert_array_equal(expected[:, 0], [0, 1, 0, 1])
    np.testing.assert_array_equal(expected[:, 1:], 0)
    # The centre of the output is behind, which no theta of 8 entries says: its sign goes with the
    # scale. All nine keep it.
    normalized = conversions.matrix_from_pixels(matrix, (4, 4), (4, 4))
    assert normalized[2, 2] < 0
    theta = conversions.projective_theta(normalized)
    source = stn.projective().apply(theta, stn.regular_grid((4, 4)))
    np.testing.assert_array_equal((jnp.abs(source) < 1e5).all(axis=(0, 2)), [0, 0, 1, 1])
    whole = stn.projective(full_matrix=True)
    for theta in (
        conversions.projective_theta(normalized, full_matrix=True),
        conversions.projective_theta(3 * normalized, full_matrix=True),
        normalized.ravel(),
    ):
        warped = stn.warp(board, whole, theta, kernel="nearest")
        np.testing.assert_array_equal(warped[..., 0], expected)
        np.testing.assert_array_equal(
            stn.warp(board, stn.inverted(stn.inverted(whole)), theta, kernel="nearest"), warped
        )
    # The other side of the same plane, where w is positive on the right alone.
    other = stn.warp(board, whole, -theta, kernel="nearest")
    np.testing.assert_array_equal(other[:, 0], 0)
    # A board whose column 0 begins with 1, in float32.
    warped = stn.warp(jnp.float32(1 - board), whole, jnp.float32(theta), kernel="nearest")
    np.testing.assert_array_equal(warped[:, 0, 0], [1, 0, 1, 0])


def test_projective_theta_drops_the_scale(x64):
    theta = random_theta("projective", 7)
    matrix = -2.5 * matrix_of("projective", theta)
    np.testing.assert_allclose(conversions.projective_theta(matrix), theta, atol=1e-15)


@families
def test_batched_is_one_by_one_with_finite_gradients(name):
    matrices = jnp.asarray(
        [matrix_of(name, random_theta(name, seed)) for seed in range(3)], jnp.float32
    )
    convert = lambda m: conversions.to_opencv(m, *SIZES, inverse_map=False)  # noqa: E731
    each = jnp.stack([convert(m) for m in matrices])
    batched = jax.jit(jax.vmap(convert))(matrices)
    chex.assert_trees_all_close(each, batched, rtol=1e-4, atol=1e-5)
    gradient = jax.jit(jax.grad(lambda m: jnp.sum(convert(m))))(matrices[0])
    assert bool(jnp.all(jnp.isfinite(gradient)))


def test_everything_is_float32_at_least():
    eye = jnp.eye(3, dtype=jnp.bfloat16)
    assert conversions.pixel_matrix(eye, *SIZES).dtype == jnp.float32
    assert conversions.from_opencv(eye, *SIZES, inverse_map=False).dtype == jnp.float32
    assert conversions.projective_theta(eye).dtype == jnp.float32


def test_errors_name_the_argument():
    eye = jnp.eye(3)
    message = r"matrix must have shape \(2, 3\) or \(3, 3\).*got \(4, 4\).*\(depth, height, width\)"
    with pytest.raises(ValueError, match=message):
        conversions.pixel_matrix(jnp.eye(4), *SIZES)
    with pytest.raises(ValueError, match=r"output_shape must hold .*align_corners=False"):
        conversions.matrix_from_pixels(eye, (4, 4), (4, 1), align_corners=True)
    with pytest.raises(ValueError, match=r"shape must hold .* got \(1, 4\)"):
        conversions.change_alignment(
            eye, (1, 4), (4, 4), align_corners=False, to_align_corners=True
        )
    with pytest.raises(ValueError, match="output_shape must have 2 entries"):
        conversions.pixel_matrix(eye, (4, 4), (4, 4, 4))
    with pytest.raises(ValueError, match="shape must have 2 entries"):
        conversions.to_opencv(jnp.eye(4), (4, 4, 4), (4, 4, 4))
    with pytest.raises(ValueError, match=r"matrix must have shape \(3, 3\)"):
        conversions.projective_theta(jnp.eye(2, 3))


def test_wrong_types_are_refused(no_runtime_types):
    with pytest.raises(TypeError, match="matrix must have a floating dtype"):
        conversions.from_opencv(np.eye(3, dtype=int), *SIZES, inverse_map=False)
    with pytest.raises(ValueError, match="shape must be a sequence of integers"):
        conversions.pixel_matrix(jnp.eye(3), 4, (4, 4))
