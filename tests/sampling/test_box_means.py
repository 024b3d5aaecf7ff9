"""The array of box means: its recipe for compiled engines, and sums over it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import stn_jax as stn
from stn_jax.sampling.box_means import BoxLayout, recipe_of
from stn_jax.sampling.interpolate import sample_box_means
from stn_jax.sampling.options import SampleOptions

NATIVE = stn.implementations()[0]
PADDINGS = ("constant", "border", "reflection", "wrap")

needs_native = pytest.mark.skipif(not NATIVE.available, reason=NATIVE.reason)


def by_runs(layout, image, fill):
    """The array of box means, by the recipe."""
    recipe = recipe_of(layout)
    runs, counts = recipe["runs"], recipe["run_counts"]
    ends = np.cumsum(counts)
    for axis in reversed(range(image.ndim - 1)):
        pixels = np.moveaxis(image, axis, 0)
        own = runs[ends[axis] - counts[axis] : ends[axis]].tolist()
        last = max(to + count for to, count, *_ in own)
        entries = np.full((last, *pixels.shape[1:]), np.nan, image.dtype)
        entries[layout.margin : layout.margin + len(pixels)] = pixels
        for to, count, first, second, step in own:
            for k in range(count):
                mean = (entries[first + k * step] + entries[second + k * step]) / 2
                entries[to + k] = fill if first < 0 else mean
        image = np.moveaxis(entries, 0, axis)
    return image


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("shape", [(1,), (9,), (2, 3), (33, 7), (4, 5, 6)])
def test_the_recipe_gives_the_array(shape, padding, rng):
    image, fill = rng.normal(size=(*shape, 2)).astype(np.float32), np.float32([0.5, -2])
    for align_corners in (False, True):
        for reach in (1, 3):
            layout = BoxLayout(shape, padding, align_corners, reach)
            expected = layout.expand(jnp.asarray(image), jnp.asarray(fill))
            np.testing.assert_array_equal(by_runs(layout, image, fill), expected)


def test_a_level_holds_the_means_of_its_boxes(rng):
    image = rng.normal(size=(12, 1))
    layout = BoxLayout((12,), "constant", False, 1)
    found = layout.expand(jnp.asarray(image, np.float32), None)[:, 0]
    padded = np.pad(image[:, 0], 8)
    for level, (start, last) in enumerate(zip(layout.starts(0), layout.last_boxes(0), strict=True)):
        width = 2**level
        # The first box of a level is centred on the outer edge, that of level 0 on the first pixel.
        first = 8 - width // 2
        spacing = max(width // 2, 1)
        means = [padded[first + k * spacing :][:width].mean() for k in range(last + 1)]
        np.testing.assert_allclose(found[start : start + last + 1], means, atol=1e-6)


def sampler(layout, implementation, reads_image=True):
    """Of an image, a fill value, points ``[n, *out]``, their levels and edges."""
    options = ("linear", layout.padding, False, "exact", False, implementation)
    options = SampleOptions.create(*options)

    def sample(image, fill, pixels, levels, edges):
        fill = fill if layout.rule.filled else None
        points = (list(pixels), levels, edges)
        return sample_box_means(image, layout, *points, fill, options, reads_image)

    return sample


def operands(layout, batch, each_point, rng):
    """An image and points around it; some have no boxes, some lie far outside."""
    n, out = len(layout.shape), (7, 5)
    own = out if each_point else ()
    sizes = np.array(layout.shape[::-1]).reshape(n, 1, 1)
    image, fill = rng.normal(size=(*batch, *layout.shape, 2)), rng.normal(size=(*batch, 2))
    pixels = rng.uniform(-0.7, 1.7, (*batch, n, *out)) * sizes
    levels = rng.integers(0, 4, (*batch, n, *own))
    none = rng.uniform(size=(*batch, 1, *own)) < 0.3
    levels = np.minimum(levels, sizes[:, 0, 0].reshape(n, *[1] * len(own)).astype(int) // 3)
    levels = np.where(none, -1, levels).astype(np.int32)
    edges = rng.normal(size=(*batch, n, n, *own))
    return [jnp.asarray(each) for each in (image, fill, pixels, levels, edges)]


@needs_native
@pytest.mark.parametrize(
    ("shape", "padding", "each_point", "in_axes"),
    [
        ((9, 6), "constant", True, (0, None, 0, 0, 0)),
        ((9, 6), "border", False, (None, None, 0, 0, None)),
        ((9, 6), "reflection", True, None),
        ((9, 6), "constant", False, (0, 0, None, None, None)),
        ((9, 6), "wrap", True, (0, 0, 0, None, 0)),
        ((3, 4, 5), "reflection", False, (0, 0, None, 0, 0)),
    ],
)
def test_in_one_call_and_step_by_step(shape, padding, in_axes, each_point, rng, x64):
    layout = BoxLayout(shape, padding, False, 1)
    batch = () if in_axes is None else (3,)
    image, fill, pixels, levels, edges = operands(layout, batch, each_point, rng)
    whole, by_steps = sampler(layout, None), sampler(layout, "xla")
    every = [image, fill, pixels, edges]
    if in_axes is not None:
        if in_axes[3] is None:
            levels = levels[0]
        axes = (*in_axes[:3], in_axes[4])
        every = [each if k == 0 else each[0] for each, k in zip(every, axes, strict=True)]
        whole, by_steps = (jax.vmap(each, in_axes=in_axes) for each in (whole, by_steps))

    def of_floats(function):
        return lambda image, fill, pixels, edges: function(image, fill, pixels, levels, edges)

    assert "stn_jax_box_means" in jax.jit(of_floats(whole)).lower(*every).as_text()
    assert "custom_call" not in jax.jit(of_floats(by_steps)).lower(*every).as_text()

    def derivatives(function):
        """The value, its cotangents, and the derivative of both."""
        function = of_floats(function)

        def pulled(image, fill, pixels, edges):
            value, pull = jax.vjp(function, image, fill, pixels, edges)
            of_points = jax.vjp(lambda *points: function(image, fill, *points), pixels, edges)[1]
            return value, pull(jnp.cos(value)), of_points(jnp.sin(value))

        tangents = tuple(jnp.sin(3 * each) for each in every)
        return jax.jit(lambda *primals: jax.jvp(pulled, primals, tangents))(*every)

    for one, other in zip(*map(jax.tree.leaves, map(derivatives, (whole, by_steps))), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("implementation", ["xla", pytest.param(None, marks=needs_native)])
@pytest.mark.parametrize("each_point", [False, True])
def test_values_of_boxes_are_means_of_pixels(each_point, implementation, rng, x64):
    """At centres of boxes; a point of level −1 reads the image."""
    layout = BoxLayout((16, 12), "border", False, 1)
    image = rng.normal(size=(16, 12, 1))
    padded = np.pad(image[..., 0], 8, mode="edge")
    out = (3, 4)
    pixels = np.array(np.meshgrid([1.5, 3.5, 5.5, 7.5], [3.5, 7.5, 11.5]))
    levels = np.array([2, 1], np.int32)
    edges = np.zeros((2, 2))
    edges[0, 0], edges[1, 1] = 2, 1  # Boxes of 4×2 pixels, side by side.
    expected = np.empty((*out, 1))
    for i, j in np.ndindex(out):
        x, y = (int(each[i, j] + 0.5) + 8 for each in pixels)
        expected[i, j] = padded[y - 2 : y + 2, x - 4 : x + 4].mean()
    if each_point:
        levels = np.array(np.broadcast_to(levels[:, None, None], (2, *out)))
        levels[:, 0, 1] = -1
        edges = np.broadcast_to(edges[..., None, None], (2, 2, *out))
        x, y = (int(each[0, 1] - 0.5) + 8 for each in pixels)
        expected[0, 1] = padded[y : y + 2, x : x + 2].mean()
    points = [jnp.asarray(each) for each in (pixels, levels, edges)]
    found = sampler(layout, implementation)(jnp.asarray(image), jnp.zeros(1), *points)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("padding", ["constant", "border", "reflection"])
def test_fill_values_of_a_batch_with_one_image(padding, rng):
    image = jnp.asarray(rng.normal(size=(12, 12, 2)), np.float32)
    theta, fills = jnp.array([2.5, 0.6, 0.1, -0.5, 2.7, 0.2]), jnp.arange(3.0)

    def warp(image, fill, theta):
        options = {"fill_value": fill, "antialias": True, "padding": padding}
        return stn.warp(image, stn.affine(), theta, **options)

    def loss(image, fills, theta):
        each = jax.vmap(warp, in_axes=(None, 0, None))(image, fills, theta)
        return jnp.sum(jnp.sin(each)), each

    gradients = jax.grad(loss, argnums=(0, 1, 2), has_aux=True)
    (found, every), expected = gradients(image, fills, theta), None
    for fill, one in zip(fills, every, strict=True):
        np.testing.assert_allclose(one, warp(image, fill, theta), atol=1e-5)
        alone = jax.grad(lambda *both: jnp.sum(jnp.sin(warp(*both))), (0, 1, 2))(image, fill, theta)
        alone = (alone[0], alone[1][None], alone[2])
        if expected is None:
            expected = alone
        else:
            joined = jnp.concatenate([expected[1], alone[1]])
            expected = (expected[0] + alone[0], joined, expected[2] + alone[2])
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)


def test_an_array_of_too_many_means_goes_step_by_step():
    layout = BoxLayout((16000, 16000), "border", False, 1)
    shapes = [((16000, 16000, 1), "f4"), ((1,), "f4"), ((2, 3), "f4"), ((2,), "i4"), ((2, 2), "f4")]
    every = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in shapes]
    text = jax.jit(sampler(layout, None)).lower(*every).as_text()
    assert "stn_jax_box_means" not in text


@pytest.mark.parametrize("padding", PADDINGS)
def test_nothing_is_transferred_for_a_layout(padding, rng):
    image = jnp.asarray(rng.normal(size=(7, 9, 1)), np.float32)
    theta = jnp.array([2.0, 0.0, 0.0, 0.0, 2.0, 0.0])

    @jax.jit
    def warp(image, theta):
        return stn.warp(image, stn.affine(), theta, antialias=True, padding=padding)

    with jax.transfer_guard("disallow"):
        warp(image, theta).block_until_ready()
