"""Boxes, points and displacement fields in pixels: their laws, and their peers."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

import stn_jax as stn
from stn_jax import conversions

both_alignments = pytest.mark.parametrize("align_corners", [False, True])


@both_alignments
@pytest.mark.parametrize(
    ("box", "shape"),
    [((2, 1, 7, 4), (9, 8)), ((0, 0, 8, 9), (9, 8)), ((1, 2, 0, 5, 6, 3), (5, 7, 6))],
)
def test_a_crop_is_the_slice_and_its_box_comes_back(box, shape, align_corners, rng):
    image = jnp.asarray(rng.normal(size=(*shape, 2)), jnp.float32)
    near, far = np.reshape(box, (2, -1))[:, ::-1]
    expected = image[tuple(slice(a, b) for a, b in zip(near, far, strict=True))]
    matrix = conversions.matrix_from_box(box, shape, align_corners=align_corners)
    theta = jnp.asarray(matrix.ravel(), jnp.float32)
    options = {"output_shape": tuple((far - near).tolist()), "align_corners": align_corners}
    t = stn.affine(ndim=len(shape))
    for kernel in ("nearest", "linear"):
        found = stn.warp(image, t, theta, kernel=kernel, **options)
        np.testing.assert_allclose(found, expected, atol=1e-5)
    back = conversions.box_from_matrix(
        jnp.asarray(matrix, jnp.float32), shape, align_corners=align_corners
    )
    np.testing.assert_allclose(back, box, atol=1e-5)


@both_alignments
@pytest.mark.parametrize("shape", [(6, 9), (4, 5, 6)])
def test_voxel_displacements_read_what_scipy_reads(shape, align_corners, rng):
    image = rng.normal(size=shape).astype(np.float32)
    voxels = rng.normal(size=(*shape, len(shape))).astype(np.float32)
    places = np.indices(shape) + np.moveaxis(voxels, -1, 0)
    expected = scipy.ndimage.map_coordinates(image, places, order=1, mode="nearest")
    offsets = conversions.offsets_from_voxels(jnp.asarray(voxels), align_corners=align_corners)
    found = stn.warp(
        jnp.asarray(image)[..., None],
        stn.flow(shape, align_corners=align_corners),
        offsets.ravel(),
        padding="border",
        align_corners=align_corners,
    )
    np.testing.assert_allclose(found[..., 0], expected, atol=1e-4)
    back = conversions.voxels_from_offsets(offsets, align_corners=align_corners)
    np.testing.assert_allclose(back, voxels, atol=1e-5)


def test_voxel_displacements_are_monai_s(rng):
    blocks = pytest.importorskip("monai.networks.blocks", reason="MONAI is not installed")
    torch = pytest.importorskip("torch")
    image, voxels = (rng.normal(size=size).astype(np.float32) for size in ((7, 8), (2, 7, 8)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MONAI says which of its two samplers it takes.
        warp = blocks.Warp("bilinear", "border")
    expected = warp(torch.tensor(image)[None, None], torch.tensor(voxels)[None]).numpy()[0, 0]
    offsets = conversions.offsets_from_voxels(jnp.moveaxis(jnp.asarray(voxels), 0, -1))
    found = stn.warp(
        jnp.asarray(image)[..., None], stn.flow((7, 8)), offsets.ravel(), padding="border"
    )
    np.testing.assert_allclose(found[..., 0], expected, atol=1e-4)


SHAPE = (24, 30)
# Of the output, and the affine theta from it to the input.
MOVES = {
    "flip": (SHAPE, [-1, 0, 0, 0, 1, 0]),
    "half turn": (SHAPE, [-1, 0, 0, 0, -1, 0]),
    "quarter turn": ((30, 24), [0, 1, 0, -1, 0, 0]),
    "half the size": ((12, 15), [1, 0, 0, 0, 1, 0]),
    "twice the size": ((48, 60), [1, 0, 0, 0, 1, 0]),
}


@pytest.mark.parametrize("name", MOVES)
def test_a_blob_its_point_and_its_box_stay_together(name):
    """Points are centres of pixels; a box's corners are edges, half a pixel outside of centres."""
    output_shape, theta = MOVES[name]
    theta, point = jnp.asarray(theta, jnp.float32), np.array([11.0, 8.0])
    y, x = np.indices(SHAPE)
    blob = np.exp(-((x - point[0]) ** 2 + (y - point[1]) ** 2) / 8).astype(np.float32)
    box = np.array([point - 4, point + 5]).astype(np.float32)  # Nine pixels around the middle one.
    shapes = {"image_shape": SHAPE, "output_shape": output_shape}

    moved = stn.warp(
        jnp.asarray(blob)[..., None], stn.affine(), theta, output_shape=output_shape, antialias=True
    )[..., 0]
    y, x = np.indices(output_shape)
    centre = np.array([(x * moved).sum(), (y * moved).sum()]) / moved.sum()

    moved_point = stn.warp_points(jnp.asarray(point, jnp.float32), stn.affine(), theta, **shapes)
    np.testing.assert_allclose(moved_point, centre, atol=0.02)
    # Edges have the first pixel's centre at one half.
    moved_box = stn.warp_boxes(
        jnp.asarray(box.ravel()), stn.affine(), theta, pixel_centers=0.5, **shapes
    )
    corners = np.reshape(moved_box, (2, 2))
    np.testing.assert_allclose(corners.mean(axis=0) - 0.5, centre, atol=0.02)
    areas = np.prod(output_shape) / np.prod(SHAPE)
    np.testing.assert_allclose(np.prod(corners[1] - corners[0]), 81 * areas, rtol=1e-4)


@both_alignments
def test_coordinates_from_the_edge_are_half_a_pixel_more(align_corners, rng, x64):
    """Points, and the matrix of Pillow, which maps an output's distances from its edge."""
    aligned = {"align_corners": align_corners}
    points = jnp.asarray(rng.uniform(-1, 1, (5, 2)))
    from_centre = stn.pixels_from_normalized(points, SHAPE, **aligned)
    from_edge = stn.pixels_from_normalized(points, SHAPE, pixel_centers=0.5, **aligned)
    np.testing.assert_allclose(from_edge, from_centre + 0.5, atol=1e-12)
    back = stn.normalized_from_pixels(from_edge, SHAPE, pixel_centers=0.5, **aligned)
    np.testing.assert_allclose(back, points, atol=1e-12)
    matrix = np.array([[0.9, 0.2, 1.3], [-0.1, 1.1, -0.7], [0.001, 0.002, 1.0]])
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    shapes = SHAPE, (20, 26)
    found = conversions.matrix_from_pixels(
        jnp.asarray(matrix), *shapes, pixel_centers=0.5, **aligned
    )
    expected = conversions.matrix_from_pixels(
        jnp.asarray(np.linalg.inv(half) @ matrix @ half), *shapes, **aligned
    )
    np.testing.assert_allclose(found, expected, atol=1e-12)
    again = conversions.pixel_matrix(found, *shapes, pixel_centers=0.5, **aligned)
    np.testing.assert_allclose(again, matrix, atol=1e-12)
    identity = conversions.pixel_matrix(jnp.eye(3), SHAPE, SHAPE, pixel_centers=0.5, **aligned)
    assert identity.tolist() == np.eye(3).tolist()


def test_two_flips_are_a_half_turn():
    flip_x, flip_y = ([-1, 0, 0, 0, 1, 0], [1, 0, 0, 0, -1, 0])
    both = stn.chain(stn.affine(), stn.affine())
    theta = jnp.asarray(flip_x + flip_y, jnp.float32)
    turn = jnp.array([jnp.pi, 0, 0])
    for points in (
        jnp.array([[0.3, -0.2]]),
        stn.normalized_from_pixels(jnp.array([[3.0, 4.0]]), SHAPE),
    ):
        np.testing.assert_allclose(
            stn.warp_points(points, both, theta),
            stn.warp_points(points, stn.rigid(), turn),
            atol=1e-6,
        )
    image = jax.random.uniform(jax.random.key(0), (5, 6, 2))
    np.testing.assert_allclose(
        stn.warp(image, both, theta),
        stn.warp(image, stn.rigid(), turn, padding="border"),
        atol=1e-5,
    )


@pytest.mark.usefixtures("no_runtime_types")
def test_bad_input():
    with pytest.raises(ValueError, match="box must have 4 numbers"):
        conversions.matrix_from_box((1, 2, 3), (8, 8))
    with pytest.raises(ValueError, match="at least 1 pixels along each axis"):
        conversions.matrix_from_box((1, 2, 1, 4), (8, 8))
    with pytest.raises(ValueError, match=r"matrix must have shape \(2, 3\)"):
        conversions.box_from_matrix(jnp.ones((3, 3)), (8, 8))
    with pytest.raises(ValueError, match=r"displacement must be .* Move the components"):
        conversions.offsets_from_voxels(jnp.ones((2, 8, 8)))
    with pytest.raises(ValueError, match=r"pixel_centers must be 0.*or 0.5.*got 1"):
        stn.pixels_from_normalized(jnp.zeros(2), (8, 8), pixel_centers=1)
    with pytest.raises(ValueError, match="pixel_centers must be 0"):
        conversions.pixel_matrix(jnp.eye(3), (8, 8), (8, 8), pixel_centers=-0.5)
    with pytest.raises(ValueError, match="pixel_centers is for pixel coordinates"):
        stn.warp_points(jnp.zeros(2), stn.affine(), jnp.zeros(6), pixel_centers=0.5)
    with pytest.raises(ValueError, match="Use align_corners=False"):
        conversions.voxels_from_offsets(jnp.ones((1, 8, 2)), align_corners=True)
    with pytest.raises(TypeError, match="displacement"):
        conversions.offsets_from_voxels(jnp.ones((8, 8, 2), int))
