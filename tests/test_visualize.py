"""The outline of the region that a warp reads, and its drawing."""

import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import stn_jax as stn
from stn_jax.visualize import draw_region, region_outline

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
