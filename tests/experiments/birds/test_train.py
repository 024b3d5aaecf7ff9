"""Training on birds: the draw of crops, the recipes, the step on devices, and the measures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.birds.measure import (
    Predicted,
    content_of,
    crop_rates,
    inside,
    mean_of_group,
    on_view,
    share_of_visible,
)
from experiments.birds.records import PartRates
from experiments.birds.train import cut_and_flip, make_optimizer, middle, stored_side


def test_cuts_are_whole_pixels_of_the_image(rng):
    """Every crop is one of the windows, mirrored or not, and all of these occur."""
    image = rng.uniform(size=(7, 6, 3)).astype(np.float32)
    windows = {}
    for y in range(3):
        for x in range(2):
            window = image[y : y + 5, x : x + 5]
            windows[window.tobytes()] = (y, x, False)
            windows[window[:, ::-1].tobytes()] = (y, x, True)
    keys = jax.random.split(jax.random.key(0), 200)
    cuts = np.asarray(jax.vmap(cut_and_flip, in_axes=(0, None, None))(keys, jnp.asarray(image), 5))
    names, pixels = (
        list(windows.values()),
        np.stack([np.frombuffer(w, np.float32) for w in windows]),
    )
    apart = np.abs(cuts.reshape(200, 1, -1) - pixels[None]).max(axis=-1)
    assert apart.min(axis=1).max() < 1e-5
    found = [names[k] for k in apart.argmin(axis=1)]
    assert set(found) == set(names)
    mirrored = np.mean([flip for _, _, flip in found])
    assert 0.4 < mirrored < 0.6


def test_what_is_measured_is_the_middle(rng):
    images = rng.integers(0, 256, (2, 9, 9, 3), np.uint8)
    np.testing.assert_array_equal(middle(images, 5), images[:, 2:7, 2:7])
    np.testing.assert_array_equal(middle(images, 9), images)
    assert [stored_side(side) for side in (48, 64, 80, 224, 448)] == [56, 72, 88, 256, 512]


@pytest.mark.parametrize("side", [4, 5, 9])
def test_points_go_with_the_middle(side):
    """A pixel's centre is found at its place in the middle, also where the margin is odd."""
    stored, pixel = 9, 4
    images = np.zeros((1, stored, stored, 1))
    images[0, pixel, pixel] = 1
    at = (2 * np.array([[pixel, pixel]]) + 1) / stored - 1
    ((y, x),) = np.argwhere(middle(images, side)[0, :, :, 0])
    np.testing.assert_allclose(
        on_view(at, stored, side), [[(2 * x + 1) / side - 1] * 2], atol=1e-12
    )
    assert x == y


def rates(optimizer, steps, name):
    """The change by each step of a parameter with gradient 1, without the growth by momentum."""
    params = {"localization": jnp.ones(()), "logits": jnp.ones(())}
    state = optimizer.init(params)
    moved = []
    update = jax.jit(optimizer.update)
    for _ in range(steps):
        updates, state = update(jax.tree.map(jnp.ones_like, params), state, params)
        moved.append(-float(updates[name]))
    return np.array(moved)


def test_the_recipe_of_the_paper():
    """The rate falls tenfold at 10,000, 20,000 and 25,000 of 30,000 steps, here of 60."""
    optimizer = make_optimizer("paper", 0.1, 60, localization_rate=1e-4)
    moved = rates(optimizer, 60, "logits")
    velocity, expected = 0.0, []
    for step in range(60):
        rate = 0.1 * 0.1 ** sum(step >= boundary for boundary in (20, 40, 50))
        velocity = 1 + 1e-5 + 0.9 * velocity
        expected.append(rate * velocity)
    np.testing.assert_allclose(moved, expected, rtol=1e-4)
    np.testing.assert_allclose(rates(optimizer, 60, "localization"), 1e-4 * moved, rtol=1e-4)


def test_the_recipe_by_adam():
    frozen = make_optimizer("adam", 1e-3, 20, localization_rate=0.5, frozen_steps=4)
    moved = rates(frozen, 20, "logits")
    np.testing.assert_allclose(moved, 5e-4 * (1 + np.cos(np.pi * np.arange(20) / 20)), rtol=1e-3)
    expected = 0.5 * moved * (np.arange(20) >= 4)
    np.testing.assert_allclose(rates(frozen, 20, "localization"), expected, rtol=1e-3)


def grid_measures(centre, scale, box):
    """Overlap and containment by counting the cells of a fine grid over the image."""
    at = (np.arange(2000) + 0.5) / 1000 - 1
    spans = [
        (np.maximum(low, -1), np.minimum(high, 1))
        for low, high in ((box[0], box[2]), (box[1], box[3]))
    ]
    bird = [(at > low) & (at < high) for low, high in spans]
    crop = [np.abs(at - middle) < scale for middle in centre]
    both = (bird[0] & crop[0]).sum() * (bird[1] & crop[1]).sum()
    areas = bird[0].sum() * bird[1].sum(), crop[0].sum() * crop[1].sum()
    return both / (sum(areas) - both), both / areas[0]


def test_what_crops_hold():
    centres = np.array([[0.0, 0.0], [0.8, -0.3], [-0.5, 0.5]], np.float32)
    boxes = np.array([[-0.2, -0.3, 0.9, 0.1], [-1.4, -0.4, 0.6, 0.6], [0.1, -0.9, 0.9, -0.1]])
    nan = [np.nan, np.nan]
    parts = np.array(
        [[[0.4, -0.4], [0.6, 0]], [[0.9, -0.1], nan], [[-0.9, 0.9], [1.2, 0.3]]], np.float32
    )
    held = content_of(centres, 0.5, boxes.astype(np.float32), parts)
    expected = np.array(
        [grid_measures(c, 0.5, b) for c, b in zip(centres, boxes, strict=True)]
    ).mean(axis=0)
    np.testing.assert_allclose([held.overlap, held.contained], expected, atol=2e-3)
    # Of the second part, one is seen, and it is outside; the others are hidden or off the image.
    np.testing.assert_allclose(held.parts, [1.0, 0.0])
    never = parts.copy()
    never[:, 1] = np.nan
    assert np.isnan(share_of_visible(inside(centres[:, None], 0.5, never), never)[1])
    assert (
        mean_of_group(np.array([0.5, np.nan, 0.25]), ("tail", "back", "beak"), ("tail", "back"))
        == 0.5
    )
    assert mean_of_group(np.array([np.nan]), ("back",), ("back",)) is None


def test_transformers_are_put_in_order_and_any_of_them_counts():
    parts = np.array([[[-0.5, 0.0], [0.5, 0.0]]] * 4, np.float32)
    parts[3] = parts[3][::-1]
    boxes = np.tile(np.array([-0.8, -0.5, 0.8, 0.5], np.float32), (4, 1))
    found = Predicted(np.zeros(4, int), None, boxes, parts)
    # The first looks to the right, where the belly mostly is.
    theta = np.tile(np.array([[0.5, 0.0], [-0.5, 0.0]], np.float32), (4, 1, 1))
    held = crop_rates(found, theta, ("crown", "belly"))
    head, body = held.transformers
    assert (head.head, head.body, head.parts) == (
        0.75,
        0.25,
        {"crown": 0.75, "belly": 0.25},
    )
    assert (body.head, body.body) == (0.25, 0.75)
    assert (held.any.head, held.any.body) == (1.0, 1.0)
    assert head.overlap == pytest.approx(body.overlap)
    without = crop_rates(found._replace(parts=parts[:, :0]), theta, ())
    assert without.any == PartRates(head=None, body=None, parts={})
