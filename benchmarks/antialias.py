"""How close an antialiased warp comes to supersampling.

``python -m benchmarks.antialias`` prints the peak signal-to-noise ratio, in dB, against a warp
supersampled by 8×8, for reductions of a photograph by 1 to 8, upright, rotated, and in
perspective; ``--picture FILE.png`` also draws a zone plate reduced with and without antialiasing.

The photograph is scikit-learn's ``china.jpg``, cut to a square of 424 pixels, values from 0 to 1.
Beside ours stand the plain linear kernel, supersampling by 2×2 and 4×4 (ours takes 2×2 probes),
``jax.image.scale_and_translate`` and OpenCV's ``resize`` with ``INTER_AREA``; the last two know
upright reductions only.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import tyro
from sklearn.datasets import load_sample_image

import stn_jax as stn

SCALES = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
SIDE = 424


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """What to do.

    Attributes:
      picture: File to draw a zone plate to.
      scales: Reductions to look at.
    """

    picture: Path | None = None
    scales: tuple[float, ...] = SCALES


def photograph() -> jax.Array:
    """A photograph ``[424, 424, 3]``, values from 0 to 1."""
    pixels = load_sample_image("china.jpg")[:SIDE, 100 : 100 + SIDE]
    return jnp.asarray(pixels / 255, jnp.float32)


def supersampled(
    image: jax.Array, transform: stn.Transform, theta: jax.Array, size: int, probes: int
) -> jax.Array:
    """The mean over ``probes`` × ``probes`` linear samples of each output pixel."""
    points = transform.apply(theta, stn.regular_grid((size * probes, size * probes)))
    values = stn.grid_sample(image, points, padding="border")
    return values.reshape(size, probes, size, probes, -1).mean(axis=(1, 3))


def zoom_and_turn(scale: float, angle: float) -> tuple[stn.Transform, jax.Array, int]:
    """A map that reduces and turns, with the largest output that stays in the image."""
    size = int(SIDE / scale / (np.cos(angle) + np.sin(angle)))
    zoom = size * scale / SIDE
    c, s = zoom * np.cos(angle), zoom * np.sin(angle)
    return stn.affine(), jnp.asarray([c, -s, 0, s, c, 0], jnp.float32), size


def tilted(tilt: float) -> tuple[stn.Transform, jax.Array, int]:
    """A plane seen at an angle, which shrinks towards one side."""
    theta = [0.9 * (1 - tilt), 0, 0, 0, 0.9, 0.9 * tilt, 0, tilt]
    return stn.projective(), jnp.asarray(theta, jnp.float32), 100


def contenders(
    image: jax.Array, transform: stn.Transform, theta: jax.Array, size: int, upright: bool
) -> Iterator[tuple[str, Callable[[], jax.Array]]]:
    """Ways to make the same warp."""

    def warp(antialias: bool) -> jax.Array:
        return stn.warp(
            image,
            transform,
            theta,
            output_shape=(size, size),
            padding="border",
            antialias=antialias,
        )

    yield "antialias", lambda: warp(True)
    yield "linear", lambda: warp(False)
    for probes in (2, 4):
        yield (
            f"{probes}×{probes}",
            functools.partial(supersampled, image, transform, theta, size, probes),
        )
    if upright:
        zoom = float(theta[0])
        scale = jnp.full(2, size / (SIDE * zoom))
        shift = (size - SIDE * scale) / 2
        yield (
            "scale_and_translate",
            lambda: jax.image.scale_and_translate(
                image, (size, size, 3), (0, 1), scale, shift, "linear", antialias=True
            ),
        )
        if SIDE * zoom == int(SIDE * zoom) and zoom == 1:
            yield (
                "INTER_AREA",
                lambda: jnp.asarray(
                    cv2.resize(np.asarray(image), (size, size), interpolation=cv2.INTER_AREA)
                ),
            )


def noise_ratio(found: jax.Array, expected: jax.Array) -> float:
    """Peak signal-to-noise ratio in dB, for values from 0 to 1; at most 99."""
    error = float(jnp.mean((found - expected) ** 2))
    return min(99.0, -10 * float(np.log10(max(error, 1e-12))))


def table(scales: tuple[float, ...]) -> Iterator[tuple[str, dict[str, float]]]:
    """Rows of the table: a warp, and the ratio of each contender."""
    image = photograph()
    cases = [(f"{scale:g}", *zoom_and_turn(scale, 0.0), True) for scale in scales]
    cases += [(f"{scale:g}, 23° turned", *zoom_and_turn(scale, 0.4), False) for scale in scales]
    cases += [(f"perspective, tilt {tilt:g}", *tilted(tilt), False) for tilt in (0.3, 0.6)]
    for name, transform, theta, size, upright in cases:
        best = supersampled(image, transform, theta, size, 8)
        warps = contenders(image, transform, theta, size, upright)
        yield name, {each: noise_ratio(make(), best) for each, make in warps}


def zone_plate(size: int) -> jax.Array:
    """Rings whose frequency grows to the pixels' own at the middle of each side."""
    x, y = np.meshgrid(*[np.linspace(-1, 1, size)] * 2)
    return jnp.asarray(0.5 + 0.5 * np.cos(np.pi / 4 * size * (x**2 + y**2))[..., None], jnp.float32)


def draw(path: Path) -> None:
    """The zone plate reduced four times and seen in perspective, plain and antialiased."""
    from matplotlib.figure import Figure

    plate = zone_plate(512)
    views = [(stn.affine(), jnp.asarray(stn.affine().identity, jnp.float32), 128)]
    views += [(*tilted(0.6)[:2], 128)]
    figure = Figure(figsize=(8, 8.4), layout="constrained")
    panels = figure.subplots(2, 2)
    for row, (transform, theta, size) in zip(panels, views, strict=True):
        for axes, antialias in zip(row, (False, True), strict=True):
            warped = stn.warp(
                plate,
                transform,
                theta,
                output_shape=(size, size),
                padding="border",
                antialias=antialias,
            )
            axes.imshow(warped[..., 0], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axes.set_title(f"{transform.name}, antialias={antialias}")
            axes.axis("off")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def main(command_line: list[str] | None = None) -> None:
    """Prints the table, and draws the picture if asked to."""
    arguments = tyro.cli(Arguments, args=command_line, description=__doc__)
    columns = ["antialias", "linear", "2×2", "4×4", "scale_and_translate", "INTER_AREA"]
    print("PSNR in dB against 8×8 supersampling")
    print(f"{'reduction':24}" + "".join(f"{name:>{max(10, len(name) + 2)}}" for name in columns))
    for name, row in table(arguments.scales):
        cells = [f"{row[column]:.1f}" if column in row else "–" for column in columns]
        print(
            f"{name:24}"
            + "".join(
                f"{cell:>{max(10, len(column) + 2)}}"
                for cell, column in zip(cells, columns, strict=True)
            ),
            flush=True,
        )
    if arguments.picture:
        draw(arguments.picture)


if __name__ == "__main__":
    main()
