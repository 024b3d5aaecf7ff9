"""Draws a small set of birds, in the folder layout of CUB-200-2011; it needs no download.

Each picture shows one long-necked bird of random colour, place, size and pose, among other shapes.
A small sign on its head and one on its body, each a few pixels wide, determine the class: each
place has one of two signs, so there are four classes, and one sign alone leaves two of them. The
head is nearly always above the body, so far away that a crop of half the picture's side hardly ever
contains both signs. All signs are symmetric under mirroring. The set is one fixed draw.
"""

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

SIDE = 96
# Width of a sign in pixels.
SIGN = 10
TRAIN, TEST = 4000, 1000
PARTS = ("crown", "belly")
# Pictures are drawn this many times larger and averaged, so that edges are smooth.
_FINE = 3
_SEED = 2011
_CLUTTER = 10
_Point = tuple[float, float]
_Color = tuple[int, int, int]


class Drawn(NamedTuple):
    """A picture, the box around its bird (x, y, width, height), and the places of its parts."""

    picture: Image.Image
    box: tuple[float, float, float, float]
    parts: tuple[_Point, _Point]


def draw(rng: np.random.Generator, signs: tuple[str, str]) -> Drawn:
    """Draws one bird.

    Args:
      rng: The source of all random numbers.
      signs: The sign on the head and the sign on the body, from :data:`SIGNS`.
    """
    picture = _ground(rng)
    pen, unit = ImageDraw.Draw(picture), float(_FINE)
    for _ in range(_CLUTTER):
        _draw_clutter(pen, rng)
    # Pillow draws ellipses only upright, so the body is a polygon.
    length, girth = unit * rng.uniform(12, 14), unit * rng.uniform(8, 9.5)
    head, reach = unit * rng.uniform(7, 8), unit * rng.uniform(34, 42)
    facing, tilt = rng.choice([-1, 1]), rng.uniform(-0.4, 0.4)
    neck = rng.uniform(math.pi / 9, math.pi / 2.5)

    def turned(x: float, y: float) -> _Point:
        """Rotates an offset from the body's axes, x to the front, y up, to the picture's."""
        cos, sin = math.cos(tilt), math.sin(tilt)
        return facing * (x * cos - y * sin), -(x * sin + y * cos)

    crown = turned(reach * math.cos(neck), reach * math.sin(neck))
    tail = [turned(-0.8 * length, 3 * unit), turned(-1.3 * length, 6 * unit)]
    tail += [turned(-1.4 * length, -unit), turned(-0.8 * length, -3 * unit)]
    beak = [
        (crown[0] + facing * ahead, crown[1] + down)
        for ahead, down in ((0.9 * head, -2 * unit), (head + 5 * unit, 0), (0.9 * head, 2 * unit))
    ]
    body = [
        turned(length * math.cos(angle), girth * math.sin(angle))
        for angle in np.linspace(0, 2 * math.pi, 48)
    ]
    skull = [
        (crown[0] + head * math.cos(angle), crown[1] + head * math.sin(angle))
        for angle in np.linspace(0, 2 * math.pi, 36)
    ]
    outline = np.array([*body, *skull, *tail, *beak])
    low, high = outline.min(axis=0), outline.max(axis=0)
    # A place with the whole bird inside, and with a margin for the random crops.
    margin = 9 * unit
    place = rng.uniform(margin - low, unit * SIDE - margin - high)
    plumage = rng.integers(40, 150, 3)
    color, darker = _color(plumage), _color(plumage * 0.8)

    def polygon(points: list[_Point], fill: _Color) -> None:
        pen.polygon([(x + place[0], y + place[1]) for x, y in points], fill=fill)

    throat = [(float(place[0] + x), float(place[1] + y)) for x, y in (crown, turned(0.0, 0.0))]
    pen.line(throat, fill=darker, width=round(4 * unit))
    polygon(tail, darker)
    polygon(beak, (222, 160, 40))
    polygon(body, color)
    polygon(skull, darker)
    belly = turned(-0.1 * length, 0.0)
    parts = [(float(place[0] + x), float(place[1] + y)) for x, y in (crown, belly)]
    for name, centre in zip(signs, parts, strict=True):
        SIGNS[name](pen, centre, SIGN * unit / 2, _color(rng.integers(225, 256, 3)))
    noise = rng.normal(0, 6, (SIDE, SIDE, 3))
    small = picture.resize((SIDE, SIDE), Image.Resampling.BOX)
    pixels = np.clip(np.asarray(small) + noise, 0, 255).astype(np.uint8)
    (left, top), (right, bottom) = (place + low) / _FINE, (place + high) / _FINE
    first, second = ((x / _FINE, y / _FINE) for x, y in parts)
    box = (float(left), float(top), float(right - left), float(bottom - top))
    return Drawn(Image.fromarray(pixels), box, (first, second))


def write(folder: Path, *, train: int = TRAIN, test: int = TEST, seed: int = _SEED) -> None:
    """Draws a set into a new folder, the classes in turn."""
    classes = [(head, body) for head in SIGNS for body in SIGNS]
    names = [f"{k:03d}.{'_on_'.join(each).title()}" for k, each in enumerate(classes, start=1)]
    columns: dict[str, list[str]] = {
        name: []
        for name in (
            "images.txt",
            "image_class_labels.txt",
            "train_test_split.txt",
            "bounding_boxes.txt",
            "parts/part_locs.txt",
        )
    }
    (folder / "parts").mkdir(parents=True)
    for name in names:
        (folder / "images" / name).mkdir(parents=True)
    for number in range(1, train + test + 1):
        label = (number - 1) % len(classes)
        # Seeded by the picture's number, so that a larger set begins with a smaller one's pictures.
        drawn = draw(np.random.default_rng((seed, number)), classes[label])
        file = f"{names[label]}/{number:05d}.png"
        drawn.picture.save(folder / "images" / file)
        rows: list[object] = [file, label + 1, int(number <= train)]
        rows.append(" ".join(f"{value:.2f}" for value in drawn.box))
        for column, row in zip(columns.values(), rows, strict=False):
            column.append(f"{number} {row}")
        for part, (x, y) in enumerate(drawn.parts, start=1):
            columns["parts/part_locs.txt"].append(f"{number} {part} {x:.2f} {y:.2f} 1")
    columns["classes.txt"] = [f"{k} {name}" for k, name in enumerate(names, start=1)]
    columns["parts/parts.txt"] = [f"{k} {name}" for k, name in enumerate(PARTS, start=1)]
    for name, lines in columns.items():
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_once(folder: Path) -> None:
    """Draws the set into a folder, unless the folder exists; a kill leaves a whole set or none."""
    if folder.exists():
        return
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    write(partial)
    partial.rename(folder)


def _ground(rng: np.random.Generator) -> Image.Image:
    """Soft blots of colour."""
    coarse = rng.integers(60, 200, (5, 5, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize((_FINE * SIDE,) * 2, Image.Resampling.BICUBIC)


def _draw_clutter(pen: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    """Draws a twig, a stone, or a scribble as large as a sign."""
    unit = _FINE
    x, y = rng.uniform(0, unit * SIDE, 2)
    color = _color(rng.integers(30, 200, 3))
    kind = rng.integers(3)
    if kind == 0:
        far = rng.normal(0, 16 * unit, 2)
        pen.line([(x, y), (x + far[0], y + far[1])], fill=color, width=round(1.5 * unit))
    elif kind == 1:
        width, height = unit * rng.uniform(2, 9, 2)
        pen.ellipse([x - width, y - height, x + width, y + height], fill=color)
    else:
        points = np.array([x, y]) + rng.normal(0, SIGN / 2 * unit, (4, 2))
        pen.line([(float(a), float(b)) for a, b in points], fill=color, width=round(1.5 * unit))


def _plus(pen: ImageDraw.ImageDraw, centre: _Point, half: float, color: _Color) -> None:
    (x, y), width = centre, round(half / 2)
    pen.line([(x - half, y), (x + half, y)], fill=color, width=width)
    pen.line([(x, y - half), (x, y + half)], fill=color, width=width)


def _cross(pen: ImageDraw.ImageDraw, centre: _Point, half: float, color: _Color) -> None:
    (x, y), width, reach = centre, round(half / 2), half / math.sqrt(2)
    pen.line([(x - reach, y - reach), (x + reach, y + reach)], fill=color, width=width)
    pen.line([(x - reach, y + reach), (x + reach, y - reach)], fill=color, width=width)


SIGNS: dict[str, Callable[[ImageDraw.ImageDraw, _Point, float, _Color], None]] = {
    "plus": _plus,
    "cross": _cross,
}


def _color(values: np.ndarray) -> _Color:
    red, green, blue = (int(value) for value in values)
    return red, green, blue
