"""The array of box means: its recipe for compiled engines, and sums over it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import stn_jax as stn
from stn_jax.sampling.box_means import BoxLayout, runs_of
from stn_jax.sampling.interpolate import sample_box_means
from stn_jax.sampling.options import SampleOptions

NATIVE = stn.implementations()[0]
PADDINGS = ("constant", "border", "reflection", "wrap")

needs_native = pytest.mark.skipif(not NATIVE.available, reason=NATIVE.reason)


def by_runs(layout, image, fill):
    """The array of box means, by the recipe."""
    runs, counts = runs_of(layout)
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
        for margin in (2, 5):
            layout = BoxLayout(shape, padding, align_corners, margin)
            expected = layout.expand(jnp.asarray(image), jnp.asarray(fill))
            np.testing.assert_array_equal(by_runs(layout, image, fill), expected)


def test_a_level_holds_the_means_of_its_boxes(rng):
    image = rng.normal(size=(12, 1))
    layout = BoxLayout((12,), "constant", False, 2)
    found = layout.expand(jnp.asarray(image, np.float32), None)[:, 0]
    padded = np.pad(image[:, 0], 8)
    for level, (start, last) in enumerate(zip(layout.starts(0), layout.last_boxes(0), strict=True)):
        width = 2**level
        # The first box of a level is centred on the outer edge, that of level 0 on the first pixel.
        first = 8 - width // 2
        spacing = max(width // 2, 1)
        means = [padded[first + k * spacing :][:width].mean() for k in range(last + 1)]
        np.testing.assert_allclose(found[start : start + last + 1], means, atol=1e-6)


def sampler(layout, implementation):
    """Of an image, a fill value and coordinates ``[n, boxes, *out]``."""
    options = ("linear", layout.padding, False, "exact", False, implementation)
    options = SampleOptions.create(*options)

    def sample(image, fill, pixels):
        fill = fill if layout.rule.filled else None
        return sample_box_means(image, layout, list(pixels), fill, options)

    return sample


@needs_native
@pytest.mark.parametrize(
    ("shape", "padding", "in_axes"),
    [
        ((9, 6), "constant", (0, None, 0)),
        ((9, 6), "border", (None, None, 0)),
        ((9, 6), "reflection", None),
        ((9, 6), "constant", (0, 0, None)),
        ((9, 6), "reflection", (0, 0, 0)),
        ((3, 4, 5), "wrap", (0, 0, None)),
    ],
)
def test_in_one_call_and_step_by_step(shape, padding, in_axes, rng, x64):
    layout = BoxLayout(shape, padding, False, 2)
    sizes = [layout.expand(jnp.zeros((*shape, 2)), None).shape[k] for k in range(len(shape))]
    batch = () if in_axes is None else (3,)
    image, fill = rng.normal(size=(*batch, *shape, 2)), rng.normal(size=(*batch, 2))
    pixels = [rng.uniform(0.5, size - 1.5, (*batch, 4, 7, 5)) for size in sizes[::-1]]
    operands = [jnp.asarray(each) for each in (image, fill, np.stack(pixels, axis=len(batch)))]
    whole, by_steps = sampler(layout, None), sampler(layout, "xla")
    if in_axes is not None:
        operands = [
            each if axis == 0 else each[0] for each, axis in zip(operands, in_axes, strict=True)
        ]
        whole, by_steps = (jax.vmap(each, in_axes=in_axes) for each in (whole, by_steps))
    assert "stn_jax_boxes" in jax.jit(whole).lower(*operands).as_text()
    assert "custom_call" not in jax.jit(by_steps).lower(*operands).as_text()

    def every(function):
        """The value, its cotangents, and the derivative of both."""

        def pulled(*primals):
            value, pull = jax.vjp(function, *primals)
            return (
                value,
                pull(jnp.cos(value)),
                jax.vjp(lambda pixels: function(*primals[:2], pixels), primals[2])[1](
                    jnp.sin(value)
                ),
            )

        tangents = tuple(jnp.sin(3 * each) for each in operands)
        return jax.jit(lambda *primals: jax.jvp(pulled, primals, tangents))(*operands)

    for one, other in zip(*map(jax.tree.leaves, map(every, (whole, by_steps))), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-11)


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
    image = jax.ShapeDtypeStruct((16000, 16000, 1), np.float32)
    layout = BoxLayout((16000, 16000), "border", False, 2)
    pixels = jax.ShapeDtypeStruct((2, 4, 3), np.float32)
    text = jax.jit(sampler(layout, None)).lower(image, jnp.zeros(1), pixels).as_text()
    assert "stn_jax_boxes" not in text


@pytest.mark.parametrize("padding", PADDINGS)
def test_nothing_is_transferred_for_a_layout(padding, rng):
    image = jnp.asarray(rng.normal(size=(7, 9, 1)), np.float32)
    theta = jnp.array([2.0, 0.0, 0.0, 0.0, 2.0, 0.0])

    @jax.jit
    def warp(image, theta):
        return stn.warp(image, stn.affine(), theta, antialias=True, padding=padding)

    with jax.transfer_guard("disallow"):
        warp(image, theta).block_until_ready()
