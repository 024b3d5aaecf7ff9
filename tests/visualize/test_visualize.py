"""Regions that a warp reads, their drawings, and the display of images."""

import jax.numpy as jnp
import numpy as np
import pytest
import reference
from families import MEMBERS
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

import stn_jax as stn
from stn_jax.visualize import (
    COLORS,
    draw_grid,
    draw_region,
    draw_regions,
    grid_lines,
    region_outline,
    show_image,
    strip,
)

pytestmark = pytest.mark.cross_section(3)

SHAPE = (10, 20)
FAMILIES = [
    stn.translation(),
    stn.rigid(),
    stn.similarity(),
    stn.attention(),
    stn.affine(),
    stn.projective(),
]


@pytest.fixture
def axes() -> Axes:
    figure = Figure()
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.imshow(np.zeros(SHAPE))
    return axes


@pytest.mark.parametrize("transform", FAMILIES, ids=lambda transform: transform.name)
@pytest.mark.parametrize("align_corners", [False, True])
def test_identity_is_outlined_by_the_edges_of_the_image(
    transform: stn.Transform, align_corners: bool
) -> None:
    outline = region_outline(transform, transform.identity, SHAPE, align_corners=align_corners)
    edge = 0.0 if align_corners else -0.5
    np.testing.assert_array_equal(outline.min(axis=0), [edge, edge])
    np.testing.assert_array_equal(outline.max(axis=0), [19 - edge, 9 - edge])
    x, y = outline.T
    on_vertical = (x == edge) | (x == 19 - edge)
    on_horizontal = (y == edge) | (y == 9 - edge)
    assert np.all(on_vertical | on_horizontal)


def test_outline_is_closed_and_runs_clockwise_from_the_top_left() -> None:
    transform = stn.affine()
    outline = region_outline(transform, transform.identity, SHAPE, points_per_side=7)
    assert outline.shape == (4 * 7 + 1, 2)
    corners = [[-0.5, -0.5], [19.5, -0.5], [19.5, 9.5], [-0.5, 9.5], [-0.5, -0.5]]
    np.testing.assert_array_equal(outline[::7], corners)


@pytest.mark.parametrize(("align_corners", "pixels"), [(False, [5, -2.5]), (True, [4.75, -2.25])])
def test_translation_moves_the_outline_by_its_pixels(
    align_corners: bool, pixels: list[float]
) -> None:
    transform = stn.translation()
    identity, moved = (
        region_outline(transform, theta, SHAPE, align_corners=align_corners)
        for theta in (jnp.zeros(2), jnp.array([0.5, -0.5]))
    )
    np.testing.assert_allclose(moved - identity, np.tile(pixels, (len(moved), 1)), atol=1e-5)


def test_quarter_turn_reads_the_top_of_the_output_from_the_right() -> None:
    outline = region_outline(stn.rigid(), np.array([np.pi / 2, 0, 0]), (8, 8), points_per_side=4)
    np.testing.assert_allclose(outline[:5, 0], 7.5, atol=1e-5)
    np.testing.assert_allclose(outline[0], [7.5, -0.5], atol=1e-5)


def test_outline_holds_what_the_warp_reads() -> None:
    """Pixels well inside the outline touch the output, and those well outside do not."""
    transform, theta = stn.attention(), jnp.array([0.5, 0.25, 0.25])
    (left, top), (right, bottom) = (
        bound(region_outline(transform, theta, (16, 16)), axis=0) for bound in (np.min, np.max)
    )
    y, x = np.mgrid[:16, :16]
    inside = (x > left + 1) & (x < right - 1) & (y > top + 1) & (y < bottom - 1)
    outside = (x < left - 1) | (x > right + 1) | (y < top - 1) | (y > bottom + 1)
    assert inside.any()
    assert outside.any()

    def total(mask: np.ndarray) -> float:
        return float(stn.warp(jnp.asarray(mask[..., None], jnp.float32), transform, theta).sum())

    assert total(outside) == 0
    assert total(inside) > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"transform": stn.affine(ndim=3)}, "transform must be 2-D"),
        ({"theta": jnp.zeros(5)}, "theta"),
        ({"image_shape": (10, 20, 1)}, "image_shape"),
        ({"points_per_side": 0}, "points_per_side"),
    ],
)
def test_errors_name_the_argument(change: dict[str, object], message: str) -> None:
    arguments = {"transform": stn.affine(), "theta": jnp.ones(6), "image_shape": SHAPE, **change}
    with pytest.raises(ValueError, match=message):
        region_outline(**arguments)


def test_integer_theta_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="theta"):
        region_outline(stn.translation(), np.array([0, 1]), SHAPE)


def test_drawing_adds_the_outline_and_its_top_and_keeps_the_limits(axes: Axes) -> None:
    limits = axes.get_xlim(), axes.get_ylim()
    theta = jnp.array([1.5, 0.3, 0.0, 0.0])
    lines = draw_region(axes, stn.similarity(), theta, SHAPE, color="red")
    assert list(axes.get_lines()) == lines
    assert (axes.get_xlim(), axes.get_ylim()) == limits
    outline, top = lines
    expected = region_outline(stn.similarity(), theta, SHAPE)
    np.testing.assert_array_equal(outline.get_xydata(), expected)
    np.testing.assert_array_equal(top.get_xydata(), expected[:33])
    assert outline.get_markevery() == [0]
    assert outline.get_color() == top.get_color() == "red"


def test_drawing_is_seen_and_bears_points_behind_the_plane(axes: Axes) -> None:
    canvas = axes.figure.canvas
    theta = jnp.array([1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 2.0, 0.0])
    draw_region(axes, stn.projective(), theta, SHAPE, color="#ff0000")
    canvas.draw()
    pixels = np.array(canvas.buffer_rgba())[..., :3]
    assert np.all(pixels == [255, 0, 0], axis=-1).any()


def lattice_lines(out_shape, rows, columns, align_corners, points):
    """The lines of an output's grid, one by one."""
    height, width = (reference.regular_axis(size, align_corners) for size in out_shape)
    along = np.linspace(-1, 1, points)
    return np.array(
        [[(x, height[row]) for x in along] for row in rows]
        + [[(width[column], y) for y in along] for column in columns]
    )


def pixels_by_oracle(points, align_corners):
    return np.stack(
        [reference.pixel(points[..., k], SHAPE[1 - k], align_corners) for k in (0, 1)], axis=-1
    )


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(
    "name", ["affine", "projective", "thin plate spline", "displacement", "diffeomorphic"]
)
def test_grid_lines_are_the_rows_and_columns_mapped_by_an_oracle(
    name: str, align_corners: bool
) -> None:
    member = MEMBERS[name]
    theta = member.theta(seed=1)
    found = grid_lines(
        member.transform,
        np.asarray(theta, np.float32),
        SHAPE,
        output_shape=(7, 9),
        every=3,
        align_corners=align_corners,
        points_per_line=5,
    )
    # The middle ones: 0, 3 and 6 of seven rows; 1, 4 and 7 of nine columns.
    lattice = lattice_lines((7, 9), [0, 3, 6], [1, 4, 7], align_corners, points=5)
    expected = pixels_by_oracle(member.oracle(theta, lattice), align_corners)
    np.testing.assert_allclose(found, expected, atol=2e-4)


@pytest.mark.parametrize(
    ("size", "every", "lines"), [(1, 4, 1), (3, 3, 1), (8, 1, 8), (8, 9, 1), (28, None, 10)]
)
def test_every_so_many_lines_are_drawn_about_the_middle(
    size: int, every: int | None, lines: int
) -> None:
    t = stn.translation()
    found = grid_lines(t, t.identity, (size, size), every=every, points_per_line=2)
    assert found.shape == (2 * lines, 2, 2)
    left, right = found[lines, 0, 0], size - 1 - found[-1, 0, 0]
    assert abs(left - right) <= 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"transform": stn.affine(ndim=3)}, "transform must be 2-D"),
        ({"every": 0}, "every"),
        ({"points_per_line": 1}, "points_per_line"),
        ({"output_shape": (3,)}, "output_shape"),
        ({"theta": jnp.zeros(5)}, "theta"),
    ],
)
def test_grid_errors_name_the_argument(change: dict[str, object], message: str) -> None:
    arguments = {"transform": stn.affine(), "theta": jnp.ones(6), "image_shape": SHAPE, **change}
    with pytest.raises(ValueError, match=message):
        grid_lines(**arguments)


def test_drawn_grid_is_its_lines_and_keeps_the_limits(axes: Axes) -> None:
    limits = axes.get_xlim(), axes.get_ylim()
    spline = stn.thin_plate_spline((2, 3))
    theta = spline.identity + np.linspace(-0.8, 0.8, 12)
    drawn = draw_grid(axes, spline, theta, SHAPE, output_shape=(5, 5), every=2, color="#0000ff")
    expected = grid_lines(spline, theta, SHAPE, output_shape=(5, 5), every=2)
    np.testing.assert_array_equal(drawn.get_segments(), expected)
    assert list(axes.collections) == [drawn]
    assert (axes.get_xlim(), axes.get_ylim()) == limits
    assert to_hex(drawn.get_colors()[0]) == "#0000ff"


BEHIND = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 2.0, 0.0]  # The plane's horizon is at x = −1/2.


def test_what_lies_behind_the_plane_is_not_drawn(axes: Axes) -> None:
    lines = draw_grid(axes, stn.projective(), jnp.array(BEHIND), SHAPE, output_shape=(1, 4))
    row, *columns = (np.asarray(path.vertices) for path in lines.get_paths())
    along = np.linspace(-1, 1, len(row))
    np.testing.assert_array_equal(np.isnan(row[:, 0]), 2 * along + 1 <= 0)
    # Columns at −3/4, −1/4, 1/4 and 3/4.
    assert [bool(np.isnan(column).all()) for column in columns] == [True, False, False, False]
    outline, top = draw_region(axes, stn.projective(), jnp.array(BEHIND), SHAPE)
    drawn = np.asarray(outline.get_xydata())
    assert np.nanmax(np.abs(drawn)) < 1e4
    assert np.isnan(np.asarray(top.get_xydata())[0]).all()
    axes.figure.canvas.draw()


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_parameters_gone_wild_draw_nothing_and_do_not_crash(axes: Axes, value: float) -> None:
    theta = jnp.full(18, value)
    spline = stn.thin_plate_spline((3, 3))
    draw_grid(axes, spline, theta, SHAPE)
    draw_regions(axes, spline, theta[None], SHAPE, labels=["a"])
    axes.figure.canvas.draw()
    assert not axes.texts
    images = np.zeros((1, *SHAPE, 1))
    strip(images, spline, theta[None], images).canvas.draw()


def test_regions_have_the_colours_in_turn_and_their_labels_stay_in_view(axes: Axes) -> None:
    theta = np.array([[0.5, 0.0, 0.0], [0.5, -0.5, 0.5], [1.2, 0.0, 0.0]])
    drawn = draw_regions(
        axes, stn.attention(), theta, SHAPE, colors=("red", "blue"), labels=("a", "b", "c")
    )
    assert [outline.get_color() for outline, _ in drawn] == ["red", "blue", "red"]
    # The centre of the image is at (9.5, 4.5), and its half size 10 by 5.
    corners = [(4.5, 2), (-0.5, 4.5), (-2.5, -1.5)]
    for (outline, _), corner in zip(drawn, corners, strict=True):
        np.testing.assert_allclose(np.asarray(outline.get_xydata())[0], corner, atol=1e-5)
    assert [text.get_text() for text in axes.texts] == ["a", "b", "c"]
    np.testing.assert_allclose(axes.texts[0].get_position(), corners[0], atol=1e-5)
    for text in axes.texts:
        x, y = text.get_position()
        assert -0.5 < x < 19.5
        assert -0.5 < y < 9.5


def test_colours_of_regions_differ() -> None:
    assert len(set(COLORS)) == len(COLORS) >= 7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"theta": np.ones(3)}, "theta must be"),
        ({"labels": ["a"]}, "labels must be 2"),
        ({"colors": ()}, "colors"),
    ],
)
def test_errors_of_regions(axes: Axes, change: dict[str, object], message: str) -> None:
    options = {"theta": np.ones((2, 3)), **change}
    with pytest.raises(ValueError, match=message):
        draw_regions(axes, stn.attention(), options.pop("theta"), SHAPE, **options)


@pytest.mark.parametrize(
    ("image", "shown"),
    [
        (np.array([0, 51, 255], np.uint8), [0, 0.2, 1]),
        (np.array([False, True, True]), [0, 1, 1]),
        (np.array([0.25, 0.5, 0.75]), [0.25, 0.5, 0.75]),
        (np.array([0.0, 0.5, 1.0000001]), [0, 0.5, 1]),
        (np.array([-2.0, 0.0, 2.0]), [0, 0.5, 1]),
        (np.array([0, 100, 400], np.int32), [0, 0.25, 1]),
        (jnp.array([0.0, 64.0, 128.0], jnp.bfloat16), [0, 0.5, 1]),
        (np.array([7.0, 7.0, 7.0]), [1, 1, 1]),
    ],
)
def test_values_of_any_range_and_dtype_are_shown(axes: Axes, image, shown: list[float]) -> None:
    drawn = show_image(axes, image.reshape(1, 3, 1))
    pixels = np.asarray(drawn.get_array())
    np.testing.assert_allclose(pixels[0, :, 0], shown, atol=1e-6)
    np.testing.assert_array_equal(pixels[0, :, 3], 1)


def test_channels(axes: Axes) -> None:
    channels = np.linspace(0, 1, 5)
    shown = {
        count: np.asarray(show_image(axes, channels[None, None, :count]).get_array())[0, 0]
        for count in (1, 2, 3, 4, 5)
    }
    np.testing.assert_allclose(shown[1], [0, 0, 0, 1])
    np.testing.assert_allclose(shown[2], [0.25, 0.25, 0.25, 1])
    np.testing.assert_allclose(shown[3], [0, 0.25, 0.5, 1])
    np.testing.assert_allclose(shown[4], [0, 0.25, 0.5, 0.75])
    np.testing.assert_allclose(shown[5], [1, 1, 1, 1])


def test_pixels_that_are_not_finite_are_transparent(axes: Axes) -> None:
    drawn = show_image(axes, np.array([[[np.nan], [np.inf], [0.5]]]))
    np.testing.assert_array_equal(np.asarray(drawn.get_array())[0, :, 3], [0, 0, 1])


@pytest.mark.parametrize(
    ("image", "options", "message"),
    [
        (np.zeros((2, 2)), {}, "image must be"),
        (np.zeros((2, 2, 1)), {"value_range": (1.0, 1.0)}, "value_range"),
    ],
)
@pytest.mark.usefixtures("no_runtime_types")
def test_errors_of_images(axes: Axes, image, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        show_image(axes, image, **options)


def test_strip_of_parallel_transforms_frames_each_row_like_its_region() -> None:
    images = np.random.default_rng(0).integers(0, 255, (2, 10, 20, 3), np.uint8)
    theta = np.tile([[0.5, -0.5, 0.0], [0.5, 0.5, 0.0]], (2, 1, 1)).astype(np.float32)
    outputs = np.zeros((2, 2, 4, 6, 3), np.uint8)
    outputs[0, 1] = 51
    figure = strip(images, stn.attention(), theta, outputs, titles=["first", "second"])
    rows = np.array(figure.axes).reshape(3, 2)
    assert [axes.get_title() for axes in rows[0]] == ["first", "second"]
    for n in (0, 1):
        outline = rows[0, 0].get_lines()[2 * n]
        center = np.asarray(outline.get_xydata()[:-1]).mean(axis=0)
        np.testing.assert_allclose(center, [4.5 + 10 * n, 4.5], atol=1e-5)
        frames = {to_hex(axes.spines["left"].get_edgecolor()) for axes in rows[n + 1]}
        assert frames == {outline.get_color()} == {COLORS[n]}
    assert rows[2, 0].get_images()[0].get_array()[0, 0, 0] == pytest.approx(0.2)
    assert not rows[0, 0].collections, "the grids of several transforms cover each other"
    figure.canvas.draw()


def test_strip_of_one_transform_shows_its_grid_and_all_of_its_region() -> None:
    images = np.linspace(-1, 1, 2 * 8 * 8).reshape(2, 8, 8, 1)
    theta = np.array([[0.0, 0.0], [0.5, 0.0]], np.float32)
    figure = strip(images, stn.translation(), theta, 5 * images, every=2)
    rows = np.array(figure.axes).reshape(2, 2)
    segments = rows[0, 1].collections[0].get_segments()
    expected = grid_lines(stn.translation(), theta[1], (8, 8), every=2)
    np.testing.assert_array_equal(segments, expected)
    # Half a unit is two pixels; the region ends at 9.5.
    for axes in rows[0]:
        assert 9.5 < axes.get_xlim()[1] < 10
    # The outputs are shown in the range of the inputs.
    for image, axes in zip(images, rows[1], strict=True):
        shown = np.asarray(axes.get_images()[0].get_array())[..., 0]
        np.testing.assert_allclose(shown, (5 * image[..., 0] + 1).clip(0, 2) / 2, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"theta": np.zeros((2, 3))}, "theta and outputs must be"),
        ({"outputs": np.zeros((2, 3, 8, 8, 1))}, "theta and outputs must be"),
        ({"titles": ["one"]}, "titles must be 2"),
        ({"labels": ["one", "two"]}, "labels must be 1"),
    ],
)
def test_errors_of_strips(change: dict[str, object], message: str) -> None:
    images = np.zeros((2, 8, 8, 1))
    arguments = {"theta": np.zeros((2, 2)), "outputs": images, **change}
    with pytest.raises(ValueError, match=message):
        strip(images, stn.translation(), **arguments)
