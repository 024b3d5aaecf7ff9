"""Maps between physical points, and optical flow: by definition, and by SimpleITK and OpenCV."""

import jax.numpy as jnp
import numpy as np
import pytest

import stn_jax as stn
from stn_jax import conversions

SHAPES = {2: ((6, 7), (5, 8)), 3: ((4, 6, 5), (3, 5, 7))}
both_alignments = pytest.mark.parametrize("align_corners", [False, True])


def turned(ndim, angle):
    turn = np.eye(ndim)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return turn


def worlds(ndim):
    """Of an input and an output that lie askew in space."""
    spacing, origin = np.array([0.8, 1.3, 2.1])[:ndim], np.array([-3.0, 4.0, 1.0])[:ndim]
    return (
        conversions.world_from_itk(spacing, origin, turned(ndim, 0.3).ravel()),
        conversions.world_from_itk(spacing[::-1], origin + 0.4, turned(ndim, -0.1).ravel()),
    )


def a_map(ndim, seed=0):
    matrix = np.eye(ndim + 1)
    matrix[:ndim] += 0.1 * np.random.default_rng(seed).normal(size=(ndim, ndim + 1))
    return matrix


@both_alignments
@pytest.mark.parametrize("ndim", [2, 3])
def test_matrices_between_physical_points(ndim, align_corners, x64):
    """Pixel by pixel: to space, by the map, to the pixels of the input."""
    image_shape, shape = SHAPES[ndim]
    image_world, output_world = worlds(ndim)
    given = image_world, output_world, image_shape, shape
    matrix = a_map(ndim)
    found = conversions.matrix_from_world(matrix, *given, align_corners=align_corners)
    pixels = np.moveaxis(np.indices(shape)[::-1], 0, -1).astype(float)
    ones = np.ones((*shape, 1))
    points = np.concatenate([pixels, ones], -1) @ output_world.T @ matrix.T
    read = (points @ np.linalg.inv(image_world).T)[..., :ndim]
    grid = stn.affine_grid(found[:ndim], shape, align_corners=align_corners)
    ours = stn.pixels_from_normalized(grid, image_shape, align_corners=align_corners)
    np.testing.assert_allclose(ours, read, atol=1e-12)
    back = conversions.world_matrix(found[:ndim], *given, align_corners=align_corners)
    np.testing.assert_allclose(back, matrix[:ndim], atol=1e-12)
    # The same map as a field.
    vectors = (points - np.concatenate([pixels, ones], -1) @ output_world.T)[..., :ndim]
    options = {"align_corners": align_corners}
    offsets = conversions.offsets_from_world(vectors, *given[:3], **options)
    lattice = stn.regular_grid(shape, align_corners=align_corners)
    np.testing.assert_allclose(lattice + offsets, grid, atol=1e-12)
    again = conversions.world_displacement(offsets, *given[:3], **options)
    np.testing.assert_allclose(again, vectors, atol=1e-12)


def test_the_identity_between_equal_worlds_is_exact(rng):
    world, _ = worlds(2)
    image = np.float32(rng.normal(size=(6, 7, 2)))
    matrix = conversions.matrix_from_world(np.eye(3)[:2], world, world, (6, 7), (6, 7))
    np.testing.assert_array_equal(stn.warp(image, stn.affine(), matrix.ravel()), image)
    still = conversions.offsets_from_world(np.zeros((6, 7, 2), np.float32), world, world)
    np.testing.assert_array_equal(stn.warp(image, stn.flow((6, 7)), still.ravel()), image)


def test_nibabels_affine_names_indices_and_points_in_reverse():
    affine = a_map(3, seed=1) * 2
    affine[3] = [0, 0, 0, 1]
    i, j, k = 2.0, 5.0, 1.0
    right, anterior, superior, _ = affine @ [i, j, k, 1]
    found = conversions.world_from_nibabel(affine) @ [k, j, i, 1]
    np.testing.assert_allclose(found, [-right, -anterior, superior, 1])


def test_simpleitk_resamples_alike(x64):
    sitk = pytest.importorskip("SimpleITK", reason="SimpleITK is not installed")
    image_shape, shape = SHAPES[3]
    rng = np.random.default_rng(0)
    volume = rng.normal(size=image_shape)
    image = sitk.GetImageFromArray(volume)
    image.SetSpacing((0.8, 1.3, 1.1))
    image.SetOrigin((-1.0, 2.0, 0.5))
    image.SetDirection(turned(3, 0.3).ravel())
    output = sitk.Image(*shape[::-1], sitk.sitkFloat64)
    output.SetSpacing((0.6, 1.2, 1.4))
    output.SetOrigin((-0.8, 2.3, 0.6))
    output.SetDirection(turned(3, 0.2).ravel())
    ours_of = lambda each: conversions.world_from_itk(  # noqa: E731
        each.GetSpacing(), each.GetOrigin(), each.GetDirection()
    )
    given = ours_of(image), ours_of(output), image_shape, shape
    for point in ((0, 0, 0), (3, 1, 2)):
        expected = image.TransformContinuousIndexToPhysicalPoint([float(p) for p in point])
        np.testing.assert_allclose((given[0] @ [*point, 1])[:3], expected, atol=1e-12)

    def zero_outside(transform, theta):
        warped, seen = stn.warp(
            volume[..., None], transform, theta, output_shape=shape, padding="border",
            return_coverage=True,
        )  # fmt: skip
        return np.where(seen.mask, warped[..., 0], 0)

    affine = sitk.AffineTransform(3)
    affine.SetMatrix((np.eye(3) + 0.1 * rng.normal(size=(3, 3))).ravel())
    affine.SetTranslation((0.2, -0.1, 0.3))
    affine.SetCenter((1.0, 4.0, 2.0))
    parts = affine.GetMatrix(), affine.GetTranslation(), affine.GetCenter()
    linear, shift, center = map(np.array, parts)
    matrix = conversions.matrix_about_center(linear.reshape(3, 3), shift, center)
    theta = conversions.matrix_from_world(matrix, *given).ravel()
    theirs = sitk.GetArrayFromImage(sitk.Resample(image, output, affine, sitk.sitkLinear, 0.0))
    np.testing.assert_allclose(zero_outside(stn.affine(ndim=3), theta), theirs, atol=1e-6)
    assert (theirs != 0).mean() > 0.5

    vectors = 0.4 * rng.normal(size=(*shape, 3))
    field = sitk.GetImageFromArray(vectors, isVector=True)
    field.CopyInformation(output)
    moved = sitk.DisplacementFieldTransform(sitk.Cast(field, sitk.sitkVectorFloat64))
    theirs = sitk.GetArrayFromImage(sitk.Resample(image, output, moved, sitk.sitkLinear, 0.0))
    theta = conversions.offsets_from_world(vectors, *given[:3]).ravel()
    np.testing.assert_allclose(zero_outside(stn.flow(shape), theta), theirs, atol=1e-6)


def test_matrices_on_array_indices_as_scipys(rng):
    from scipy import ndimage

    image, matrix = rng.normal(size=(6, 7)), a_map(2, seed=2)
    theirs = ndimage.affine_transform(image, matrix, order=1, mode="nearest")
    pixels = conversions.reverse_axes(matrix[:2])
    theta = conversions.matrix_from_pixels(pixels, (6, 7), (6, 7)).ravel()
    ours = stn.warp(np.float32(image)[..., None], stn.affine(), theta, padding="border")
    np.testing.assert_allclose(ours[..., 0], theirs, atol=1e-5)
    np.testing.assert_array_equal(conversions.reverse_axes(pixels), np.float32(matrix[:2]))


def test_optical_flow_reads_the_second_image():
    """Beside OpenCV's remap, which adds the flow to each pixel."""
    import cv2

    rng = np.random.default_rng(0)
    second = np.float32(rng.uniform(size=(6, 7)))
    flow = np.float32(rng.uniform(-1.5, 1.5, (6, 7, 2)))
    rows, columns = np.indices((6, 7), np.float32)
    options = {"interpolation": cv2.INTER_LINEAR, "borderMode": cv2.BORDER_REPLICATE}
    theirs = cv2.remap(second, columns + flow[..., 0], rows + flow[..., 1], **options)
    theta = conversions.offsets_from_optical_flow(flow)
    ours = stn.warp(second[..., None], stn.flow((6, 7)), theta.ravel(), padding="border")
    np.testing.assert_allclose(ours[..., 0], theirs, atol=1e-5)
    np.testing.assert_allclose(conversions.optical_flow_from_offsets(theta), flow, atol=1e-5)
    unknown = conversions.offsets_from_optical_flow(np.full((2, 2, 2), 1e10, np.float32))
    assert bool(jnp.isnan(unknown).all())


def test_kittis_pictures_hold_flow_in_steps_of_a_64th():
    rng = np.random.default_rng(0)
    flow, known = rng.uniform(-600, 600, (5, 4, 2)), rng.uniform(size=(5, 4)) < 0.7
    picture = np.asarray(conversions.kitti_from_optical_flow(flow, known))
    expected = np.clip(np.rint(flow * 64) + 2**15, 0, 65535)
    np.testing.assert_array_equal(picture[..., :2], np.where(known[..., None], expected, 0))
    np.testing.assert_array_equal(picture[..., 2], known)
    again, mask = conversions.optical_flow_from_kitti(picture)
    np.testing.assert_array_equal(mask, known)
    near = known[..., None] & (np.abs(flow) < 511)
    assert np.abs(again - flow)[near].max() <= 1 / 128 + 1e-4


def test_errors(no_runtime_types):
    world = worlds(2)[0]
    with pytest.raises(ValueError, match="spacing, origin and direction must have n, n and n²"):
        conversions.world_from_itk((1.0, 2.0), (0.0,))
    with pytest.raises(ValueError, match="spacing and direction must give an invertible matrix"):
        conversions.world_from_itk((1.0, 0.0))
    with pytest.raises(ValueError, match=r"affine must give an invertible matrix \[4, 4\]"):
        conversions.world_from_nibabel(np.eye(3))
    with pytest.raises(ValueError, match="image_world must give an invertible matrix"):
        conversions.matrix_from_world(np.eye(3), np.zeros((3, 3)), world, (4, 4), (4, 4))
    given = world, world, (1, 4), (4, 4)
    with pytest.raises(ValueError, match="align_corners=True, where an axis of one pixel"):
        conversions.matrix_from_world(np.eye(3), *given, align_corners=True)
    with pytest.raises(ValueError, match=r"must be \[n, n\], \[n\] and \[n\]"):
        conversions.matrix_about_center(np.eye(2), np.zeros(3), np.zeros(2))
    with pytest.raises(TypeError, match="picture must be uint16"):
        conversions.optical_flow_from_kitti(np.zeros((2, 2, 3), np.uint8))
    with pytest.raises(ValueError, match=r"picture must be \[height, width, 3\]"):
        conversions.optical_flow_from_kitti(np.zeros((2, 2, 4), np.uint16))
    with pytest.raises(ValueError, match=r"flow must be \[height, width, 2\] and known"):
        conversions.kitti_from_optical_flow(np.zeros((2, 2, 2)), np.ones((2, 3), bool))
