"""The array of box means of an image, which antialiasing samples in the image's place.

Means are taken over boxes whose side along each axis is a power of 2 pixels. A level l has boxes 2ˡ
pixels wide, whose centres are 2ˡ⁻¹ pixels apart; a box may have another level along each axis.
Along an axis all levels lie one behind the other in one array, so that one linear sample can read
any of them. Level 0 is the image itself. The first box of a higher level is centred on the image's
outer edge. Each level has a margin on either side. The array is about three times as long as the
image along each axis.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from stn_jax.sampling.padding import PADDINGS, Padding

# Consecutive entries along an axis: the first of them, their number, two earlier entries whose mean
# the first one is (the same twice for a copy, −1 for the fill value), and the step from these to
# the sources of the next.
EntryRun = tuple[int, int, int, int, int]


@dataclasses.dataclass(frozen=True)
class BoxLayout:
    """Where the box means of each level lie in the array.

    Attributes:
      shape: Spatial shape of the image.
      padding: Name of the padding.
      align_corners: As in :func:`stn_jax.grid_sample`.
      reach: How far outside a level a point may lie and still depend on the image, in entries.
    """

    shape: tuple[int, ...]
    padding: str
    align_corners: bool
    reach: int

    @property
    def margin(self) -> int:
        """Entries on either side of a level, with the means of boxes outside the image."""
        # Coordinates are clamped to `reach` entries outside; their taps lie up to `reach` farther.
        return 2 * self.reach

    @property
    def rule(self) -> Padding:
        """The padding."""
        return PADDINGS[self.padding]

    @functools.cached_property
    def highest(self) -> list[int]:
        """The highest level along each axis; two of its boxes are as wide as the image."""
        return [max(0, math.ceil(math.log2(size)) - 1) for size in self.shape]

    def last_boxes(self, axis: int) -> list[int]:
        """The number of the last box of each level along an axis, counted from 0."""
        last = [self.shape[axis] - 1]
        for level in range(1, self.highest[axis] + 1):
            last.append(last[0] + 1 if level == 1 else -(-last[-1] // 2))
        return last

    def starts(self, axis: int) -> np.ndarray:
        """The entry of the first box of each level along an axis."""
        lengths = [last + 1 + 2 * self.margin for last in self.last_boxes(axis)]
        return np.cumsum([0, *lengths[:-1]]) + self.margin

    def expand(self, image: Array, fill: Array | None) -> Array:
        """The array of box means ``[*entries, channels]``.

        Args:
          image: ``[*space, channels]`` in float32 at least.
          fill: Value of constant padding, scalar or ``[channels]``; ``None`` for 0.
        """
        # Begin with the last axis, the slowest to copy along, while the array is still small.
        for axis in reversed(range(len(self.shape))):
            image = self._expand_axis(image, axis, fill)
        return image

    def _expand_axis(self, values: Array, axis: int, fill: Array | None) -> Array:
        """Puts the levels along an axis behind one another, each with a margin on either side."""
        extended = self._with_edges(values, axis, fill)
        blocks = [extended(values)]
        for level, last in enumerate(self.last_boxes(axis)[1:], start=1):
            left, right = (
                jax.lax.slice_in_dim(blocks[-1], start, start + step * last + 1, step, axis)
                for start, step in self._sources(level)
            )
            means = (left + right) / 2
            if self.rule.means == "edge":
                # All further boxes lie outside, where constant and border padding do not vary.
                block = extended(means)
            else:
                # Means outside a mirrored or repeated image are copies of those inside.
                inside, sides, mode = self._repetition(last)
                means = jax.lax.slice_in_dim(means, 0, inside, axis=axis)
                widths = [sides if k == axis else (0, 0) for k in range(means.ndim)]
                block = jnp.pad(means, widths, mode=mode)
            blocks.append(block)
        return jnp.concatenate(blocks, axis)

    def _sources(self, level: int) -> list[tuple[int, int]]:
        """The two boxes that touch and make the first box of a level, and the step to the next.

        Above level 0 every second box touches, since neighbours overlap by half.
        """
        step = 1 if level == 1 else 2
        return [(self.margin - 1, step), (self.margin - 1 + step, step)]

    def _repetition(self, last: int) -> tuple[int, tuple[int, int], str]:
        """How many boxes of a level are kept, and how ``pad`` makes the others of them."""
        if self.rule.means == "mirror":
            return last + 1, (self.margin, self.margin), "reflect"
        # Where the image repeats, the last box equals the first of the next period.
        return last, (self.margin, self.margin + 1), "wrap"

    def _with_edges(self, values: Array, axis: int, fill: Array | None) -> Callable[[Array], Array]:
        """Returns a function that adds the padded pixels of the image on both sides of an axis."""
        margin = self.margin
        if self.rule.filled:
            value = jnp.zeros((), values.dtype) if fill is None else fill
            if value.ndim == 0:
                # Compiles faster than joining arrays.
                widths = [
                    (margin * (k == axis), margin * (k == axis), 0) for k in range(values.ndim)
                ]
                return lambda means: jax.lax.pad(means, value, widths)
            shape = (*values.shape[:axis], margin, *values.shape[axis + 1 :])
            sides = 2 * [jnp.broadcast_to(value, shape)]
        else:
            sides = [
                self.rule.pixels(values, jnp.asarray(index), axis, self.align_corners)
                for index in self._outside(axis)
            ]
        return lambda means: jnp.concatenate([sides[0], means, sides[1]], axis)

    def _outside(self, axis: int) -> list[np.ndarray]:
        """The indices of the pixels outside the image that level 0 has, before it and behind."""
        index = np.arange(self.margin, dtype=np.int32)
        return [index - self.margin, index + self.shape[axis]]

    def places(self, pixels: Sequence[Array], levels: Array, edges: Array) -> list[Array]:
        """The coordinates, in the array, of the boxes around points.

        There are two boxes along each edge of a footprint, one on either side.

        Args:
          pixels: The points' coordinates in pixels of the image, ``[*out]`` for each, x first.
          levels: The level to read along each coordinate, x first: int32
            ``[coordinates, *out]``, or ``[coordinates]`` for all points. Where it is −1, the
            returned coordinates must not be used.
          edges: How far along each coordinate the boxes of an edge lie from the point:
            ``[edges, coordinates, *out]``, or ``[edges, coordinates]``.

        Returns:
          One array ``[boxes, *out]`` for each coordinate, x first.
        """
        dtype, out = pixels[0].dtype, pixels[0].shape
        own = (*levels.shape[1:], *[1] * (len(out) + 1 - levels.ndim))
        known = levels.reshape(-1, *own) >= 0
        levels = jnp.maximum(levels, 0).reshape(-1, *own)
        signs = np.array(list(itertools.product((-1, 1), repeat=len(pixels))), dtype)
        offsets = jnp.tensordot(
            signs, edges.reshape(*edges.shape[:2], *own), 1, precision=jax.lax.Precision.HIGHEST
        )
        halvings, above = jnp.maximum(levels - 1, 0), jnp.minimum(levels, 1)
        # 1 / 2ʰ exactly, without a division.
        densities = jnp.right_shift(2**30, halvings).astype(dtype) * 2.0**-30
        firsts = -above.astype(dtype) / 2
        lasts = jnp.right_shift(_column(self.shape[::-1], levels) - 1, halvings) + above
        # The start of each level, x first, without a gather.
        axes = reversed(range(len(self.shape)))
        table = list(itertools.zip_longest(*map(self.starts, axes), fillvalue=0))
        starts = functools.reduce(
            jnp.add,
            (jnp.where(levels == k, _column(each, levels), 0) for k, each in enumerate(table)),
        )
        found = []
        for k, pixel in enumerate(pixels):
            pixel = jnp.where(known[k], pixel, 0)[None] + offsets[:, k]
            if self.rule.period is not None:
                pixel = self.rule.inside(pixel, self.shape[-1 - k], self.align_corners)
            place = (pixel - firsts[k][None]) * densities[k][None]
            high = jnp.broadcast_to((lasts[k] + self.reach).astype(dtype)[None], place.shape)
            place = jax.lax.clamp(np.asarray(-self.reach, dtype), place, high)
            found.append(place + starts[k][None].astype(dtype))
        return found

    @functools.cached_property
    def entries(self) -> tuple[int, ...]:
        """Spatial shape of the array."""
        axes = range(len(self.shape))
        return tuple(
            int(self.starts(axis)[-1]) + self.last_boxes(axis)[-1] + 1 + self.margin
            for axis in axes
        )

    def runs(self, axis: int) -> list[EntryRun]:
        """How the entries along an axis that are not pixels are computed, one after the other."""
        margin, size = self.margin, self.shape[axis]
        runs: list[EntryRun] = []
        for indices, start in zip(self._outside(axis), (0, margin + size), strict=True):
            if self.rule.filled:
                runs.append((start, margin, -1, -1, 0))
                continue
            inside = self.rule.inside(indices, size, self.align_corners) + margin
            runs += _copies(range(start, start + margin), inside.tolist())
        lasts, starts = self.last_boxes(axis), self.starts(axis).tolist()
        for level in range(1, len(lasts)):
            last, start, before = lasts[level], starts[level], starts[level - 1] - margin
            (left, step), (right, _) = self._sources(level)
            if self.rule.means == "edge":
                boxes = last + 1
                # The margins of level 0 again.
                sources = [*range(margin), *range(margin + size, size + 2 * margin)]
            else:
                boxes, widths, mode = self._repetition(last)
                padded = np.pad(np.arange(start, start + boxes), widths, mode=mode)  # type: ignore[call-overload]
                sources = [*padded[:margin].tolist(), *padded[margin + boxes :].tolist()]
            runs.append((start, boxes, before + left, before + right, step))
            end = start - margin + last + 1 + 2 * margin
            margins = [*range(start - margin, start), *range(start + boxes, end)]
            runs += _copies(margins, sources)
        return runs


@functools.lru_cache(maxsize=256)
def recipe_of(layout: BoxLayout) -> dict[str, np.ndarray]:
    """How entries are computed one after the other, as a compiled engine takes it.

    Returns:
      ``runs``: those of all axes, ``[runs, 5]``, axis by axis; ``run_counts``: their
      number for each axis. ``starts`` and ``level_counts``: the same for the starts of levels.
    """
    axes = range(len(layout.shape))
    runs = [np.array(layout.runs(axis)) for axis in axes]
    starts = [layout.starts(axis) for axis in axes]
    return {
        "runs": np.concatenate(runs),
        "run_counts": np.array([len(each) for each in runs]),
        "starts": np.concatenate(starts),
        "level_counts": np.array([len(each) for each in starts]),
    }


def _column(numbers: Any, array: Array) -> np.ndarray:
    """One int32 for each coordinate, as many axes as an array ``[coordinates, *out]``."""
    return np.asarray(numbers, np.int32).reshape(-1, *[1] * (array.ndim - 1))


def _copies(entries: Sequence[int], sources: Sequence[int]) -> list[EntryRun]:
    """Copies of entries, joined where both follow one another."""
    runs: list[EntryRun] = []
    for to, source in zip(entries, sources, strict=True):
        if runs:
            start, count, first, _, step = runs[-1]
            if count == 1:
                step = source - first
            if (to, source) == (start + count, first + count * step):
                runs[-1] = (start, count + 1, first, first, step)
                continue
        runs.append((to, 1, source, source, 0))
    return runs
