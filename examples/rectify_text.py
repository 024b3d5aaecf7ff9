"""Straightens curved lines of text by a thin plate spline that a small network predicts.

``python -m examples.rectify_text`` renders lines of random letters, bends them with stn_jax, and
trains a spatial transformer to undo it. The spline's control points lie on the top and the bottom
edge, ``thin_plate_spline((2, 6))``: theta is the two curves above and below the text. The network
learns from images alone: the loss compares a straightened line with the line before it was bent, at
three resolutions. The coarse ones have a gradient also if the images are far apart.

It prints how far the baselines of test lines are from straight. This is exact, since maps compose:
the output at p reads the bent line at T(p), which reads the straight line at B(T(p)); a perfect T
has B(T(p)) = p.
"""

import dataclasses
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from flax import nnx
from jaxtyping import Array
from PIL import Image, ImageDraw, ImageFont

import stn_jax as stn
from stn_jax import nn as stnn
from stn_jax import visualize

SHAPE = (48, 144)
BASELINE = 29  # The row of pixels of the letters' baseline.
POINTS = 6  # Number of control points on each edge.
SPLINE = stn.thin_plate_spline((2, POINTS))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """The options.

    Attributes:
      steps: Training steps.
      batch_size: Lines in a step, each with a fresh bend.
      lines: Number of different lines to train on.
      seed: Seed of all random numbers.
      out: The picture.
    """

    steps: int = 300
    batch_size: int = 32
    lines: int = 512
    seed: int = 0
    out: Path = Path("runs/examples/rectify_text.png")


def render(rng: np.random.Generator, count: int) -> Array:
    """Straight lines of random letters, ``[count, *SHAPE, 1]``, bright on dark."""
    font = ImageFont.load_default(16)
    letters = list(string.ascii_letters + 5 * " ")
    lines = []
    for _ in range(count):
        line, text = Image.new("L", SHAPE[::-1]), "".join(rng.choice(letters, 40))
        while font.getlength(text) > SHAPE[1] - 16:
            text = text[:-1]
        ImageDraw.Draw(line).text((8, BASELINE), text, fill=255, font=font, anchor="ls")
        lines.append(np.asarray(line))
    return jnp.asarray(np.stack(lines)[..., None] / 255, jnp.float32)


def bend(key: Array, line: Array) -> tuple[Array, Array]:
    """A line bent so that both its edges follow one random curve, and the theta that bent it."""
    x = jnp.linspace(-1, 1, POINTS)
    waves = jnp.stack([x, x**2 - 0.4, jnp.sin(3 * x), jnp.cos(4 * x) - 0.2])
    curve = jax.random.normal(key, (4,)) * jnp.array([0.25, 0.25, 0.15, 0.1]) @ waves
    straight = jnp.asarray(SPLINE.identity, jnp.float32).reshape(2, POINTS, 2)
    theta = straight.at[..., 1].add(curve).ravel()
    return stn.warp(line, SPLINE, theta), theta


def unlikeness(a: Array, b: Array) -> Array:
    """Squared difference of two batches of images, summed over three resolutions."""
    total = jnp.zeros(())
    for _ in range(3):
        total += jnp.mean((a - b) ** 2) / jnp.mean(b**2)
        a, b = (nnx.avg_pool(each, (2, 2), (2, 2)) for each in (a, b))
    return total


def deviation(theta: Array, bent_by: Array) -> Array:
    """Mean distance, in pixels, between the straightened baseline and the straight one."""
    pixels = jnp.stack(
        jnp.meshgrid(jnp.arange(8.0, SHAPE[1] - 8), jnp.array([BASELINE * 1.0])), axis=-1
    )
    points = stn.normalized_from_pixels(pixels, SHAPE)
    read = SPLINE.apply(bent_by, SPLINE.apply(theta, points))
    return jnp.abs(stn.pixels_from_normalized(read, SHAPE) - pixels)[..., 1].mean()


def main(command_line: Sequence[str] | None = None) -> tuple[float, float]:
    """Runs the command line; returns the mean deviation in pixels, before and after training."""
    arguments = tyro.cli(Arguments, args=command_line, description=__doc__)
    rng = np.random.default_rng(arguments.seed)
    train, test = render(rng, arguments.lines), render(rng, 64)
    train_key, test_key = jax.random.split(jax.random.key(arguments.seed))
    bend_all = jax.jit(jax.vmap(bend))
    test_bent, test_bent_by = bend_all(jax.random.split(test_key, len(test)), test)

    localization = stnn.ConvolutionalLocalization(
        (*SHAPE, 1),
        SPLINE,
        features=(8, 16, 16),
        kernel_size=3,
        hidden=64,
        downsample=2,
        rngs=nnx.Rngs(arguments.seed),
    )
    graph, params = nnx.split(stnn.SpatialTransformer(localization, SPLINE))
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, arguments.steps))

    @jax.jit
    def step(params: Any, state: Any, key: Array) -> tuple[Any, Any, Array]:
        line_key, bend_key = jax.random.split(key)
        lines = jax.random.choice(line_key, train, (arguments.batch_size,))
        bent, _ = bend_all(jax.random.split(bend_key, len(lines)), lines)

        def loss(params: Any) -> Array:
            return unlikeness(nnx.merge(graph, params)(bent), lines)

        value, slope = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(slope, state)
        return optax.apply_updates(params, updates), state, value

    @jax.jit
    def rectify(params: Any, bent: Array) -> tuple[Array, Array]:
        transformer = nnx.merge(graph, params)
        theta = transformer.localize(bent)
        return theta, transformer.warp(bent, theta)

    def test_deviation() -> float:
        theta, _ = rectify(params, test_bent)
        return float(jax.vmap(deviation)(theta, test_bent_by).mean())

    before, state = test_deviation(), optimizer.init(params)
    print(f"baselines of {len(test)} bent lines: {before:.2f} pixels from straight")
    for k in range(1, arguments.steps + 1):
        params, state, value = step(params, state, jax.random.fold_in(train_key, k))
        if k % 50 == 0 or k == arguments.steps:
            print(f"step {k:4}: loss {value:.3f}, {test_deviation():.2f} pixels", flush=True)

    theta, straight = rectify(params, test_bent)
    figure = visualize.strip(test_bent[:4], SPLINE, theta[:4], straight[:4], column_width=3)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.out)
    print(f"picture: {arguments.out}")
    return before, test_deviation()


if __name__ == "__main__":
    main()
