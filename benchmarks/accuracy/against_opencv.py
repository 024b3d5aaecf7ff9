"""The largest differences from OpenCV's ``warpAffine``, ``warpPerspective`` and ``remap``.

Depending on version, processor, interpolation and the image's dtype, OpenCV rounds coordinates to
1/32 pixel and takes weights from a table. On noise of order 1, as here, that changes values by some
tenths. We measure whether it does. "exact" compares with our warp of the same map. "inside" is the
same without points whose kernel reaches over the image's border, where OpenCV 5.0's cubic values of
float64 images differ even from those of float32 images. "1/32 pixel" compares with our samples at
coordinates rounded as OpenCV rounds them: ``remap`` and ``warpPerspective`` to the nearest 1/32,
``warpAffine`` in two steps by way of 1/1024. The small column shows which coordinates OpenCV
sampled.

The nearest kernel has no table; its rows leave out points within 1/256 pixel of a tie, since
``warpAffine`` counts in 1/1024 pixel. ``remap`` takes float32 coordinates, and our samples use the
same numbers. The cubic kernel has a = −0.75.
"""

import functools
import itertools
from typing import Any, NamedTuple

import cv2
import jax
import jax.numpy as jnp
import numpy as np

import stn_jax as stn
from benchmarks.accuracy.geometry import OUR_KERNEL, is_clear, points_of_pixels
from benchmarks.accuracy.tables import (
    Row,
    Table,
    combinations,
    largest_by_column,
    largest_difference,
)
from stn_jax import conversions

INTERPOLATION = {
    "nearest": cv2.INTER_NEAREST,
    "linear": cv2.INTER_LINEAR,
    "cubic": cv2.INTER_CUBIC,
}
# Our padding and alignment for each border of OpenCV.
BORDERS = {
    cv2.BORDER_CONSTANT: ("constant", False),
    cv2.BORDER_REPLICATE: ("border", False),
    cv2.BORDER_REFLECT: ("reflection", False),
    cv2.BORDER_REFLECT_101: ("reflection", True),
    cv2.BORDER_WRAP: ("wrap", False),
}
SHAPE, OUT_SHAPE = (24, 31), (20, 17)
FILL = 0.25
COLUMNS = ("exact", "1/32 pixel", "inside")
# Between the effect of rounding in float32 and that of coordinates that are off by 1/64.
AGREEMENT = 1e-4


class Map(NamedTuple):
    """A map from output to input, in OpenCV's form and in ours.

    Attributes:
      function: OpenCV's function that applies it.
      theta: Homogeneous matrix in normalised coordinates.
      matrix: The same map between pixel coordinates, for OpenCV.
      pixels: The coordinates that it samples, ``[*out, 2]``, x first.
    """

    function: str
    theta: np.ndarray
    matrix: np.ndarray
    pixels: np.ndarray

    @classmethod
    def random(
        cls, rng: np.random.Generator, function: str, dtype: str, align_corners: bool
    ) -> "Map":
        """A random map near the identity, with entries that ``dtype`` represents."""
        spread = np.full((3, 3), 0.2)
        spread[2] = (0.08, 0.08, 0) if function == "warpPerspective" else 0
        theta = (np.eye(3) + spread * rng.uniform(-1, 1, (3, 3))).astype(dtype).astype(np.float64)
        with jax.enable_x64(True):
            matrix = np.asarray(
                conversions.to_opencv(theta, SHAPE, OUT_SHAPE, align_corners=align_corners)
            )
        rows, columns = np.indices(OUT_SHAPE)
        points = np.stack([columns, rows, np.ones(OUT_SHAPE)], axis=-1) @ matrix.T
        pixels = points[..., :2] / points[..., 2:]
        # remap takes float32 coordinates.
        pixels = pixels.astype(np.float32) if function == "remap" else pixels
        return cls(function, theta, matrix, pixels)

    def rounded_pixels(self) -> np.ndarray:
        """The coordinates that OpenCV samples if it rounds."""
        if self.function != "warpAffine":
            return np.rint(self.pixels * 32) / 32
        rows, columns = np.indices(OUT_SHAPE)[..., None]
        along_x, along_y, shift = self.matrix[:2].T
        steps = np.rint(along_x * columns * 1024) + np.rint((along_y * rows + shift) * 1024)
        return np.floor((steps + 16) / 32) / 32

    def their_warp(self, image: np.ndarray, interpolation: int, border: int) -> np.ndarray:
        """The image, warped by OpenCV."""
        options: dict[str, Any] = {"borderMode": border, "borderValue": FILL}
        if self.function == "remap":
            along_x, along_y = np.moveaxis(self.pixels, -1, 0)
            return cv2.remap(image, along_x, along_y, interpolation, **options)
        rows = 2 if self.function == "warpAffine" else 3
        warp, flags = getattr(cv2, self.function), interpolation | cv2.WARP_INVERSE_MAP
        return warp(image, self.matrix[:rows], OUT_SHAPE[::-1], flags=flags, **options)

    def our_warp(self, image: jax.Array, options: Row) -> jax.Array:
        """The image, warped by ours."""
        if self.function == "remap":
            return our_samples(image, self.pixels, options)
        family = stn.affine() if self.function == "warpAffine" else stn.projective()
        theta = jnp.asarray(self.theta.ravel()[: family.num_params], image.dtype)
        return stn.warp(image, family, theta, output_shape=OUT_SHAPE, **options)


def is_inside(pixels: np.ndarray) -> np.ndarray:
    """Whether all pixels under a cubic kernel are inside the image."""
    return np.all((pixels >= 1) & (pixels <= np.array(SHAPE[::-1]) - 3), axis=-1)


def our_samples(image: jax.Array, pixels: np.ndarray, options: Row) -> jax.Array:
    """Our samples at pixel coordinates."""
    points = points_of_pixels(pixels, SHAPE, options["align_corners"])
    return stn.grid_sample(image, jnp.asarray(points, image.dtype), **options)


def differences_of_one(
    rng: np.random.Generator, function: str, dtype: str, interpolation: str, border: int
) -> Row:
    """The differences for a random image and a random map."""
    padding, align_corners = BORDERS[border]
    kernel = OUR_KERNEL[interpolation]
    options = {"kernel": kernel, "padding": padding, "align_corners": align_corners}
    options["fill_value"] = FILL
    image = rng.normal(size=SHAPE).astype(dtype)
    to_sample = Map.random(rng, function, dtype, align_corners)
    theirs = to_sample.their_warp(image, INTERPOLATION[interpolation], border)
    with jax.enable_x64(dtype == "float64"):
        ours = jnp.asarray(image)[..., None]
        exact = to_sample.our_warp(ours, options)[..., 0]
        rounded = our_samples(ours, to_sample.rounded_pixels(), options)[..., 0]
    if interpolation == "nearest":
        clear = is_clear(to_sample.pixels, interpolation, 1 / 256)
        exact, theirs = exact[clear], theirs[clear]
        return dict.fromkeys(COLUMNS) | {"exact": largest_difference(exact, theirs)}
    inside = is_inside(to_sample.pixels)
    return {
        "exact": largest_difference(exact, theirs),
        "1/32 pixel": largest_difference(rounded, theirs),
        "inside": largest_difference(exact[inside], theirs[inside]),
    }


def differences(function: str, dtype: str, interpolation: str, trials: int) -> Row:
    """The largest differences over random images and maps, and all borders."""
    rng = np.random.default_rng(3)
    cases = itertools.product(BORDERS, range(trials))
    return largest_by_column(
        [differences_of_one(rng, function, dtype, interpolation, border) for border, _ in cases]
    )


def agreeing_column(row: Row) -> str | None:
    """The first column in which ours and OpenCV's agree."""
    agreeing = [name for name in COLUMNS if row[name] is not None and row[name] < AGREEMENT]
    return agreeing[0] if agreeing else None


def _verdict(rows: list[Row]) -> str:
    found = [agreeing_column(row) for row in rows]
    exact, rounded, inside, nowhere = (found.count(each) for each in (*COLUMNS, None))
    largest = np.max([row[name] for row, name in zip(rows, found, strict=True) if name])
    return (
        f"of {len(rows)} rows OpenCV is alike at the coordinates it is given in {exact}, at these "
        f"but only inside the image in {inside}, at rounded ones in {rounded}, nowhere in "
        f"{nowhere}; largest difference where it is alike {largest:.1e}"
    )


def table(trials: int) -> Table:
    """Functions, dtypes and interpolations."""
    return Table(
        title=f"Largest differences from OpenCV {cv2.__version__}, {trials} random maps for each "
        f"of {len(BORDERS)} borders",
        cases=combinations(
            function=("warpAffine", "warpPerspective", "remap"),
            dtype=("float32", "float64"),
            interpolation=list(INTERPOLATION),
        ),
        columns=COLUMNS,
        measure=functools.partial(differences, trials=trials),
        verdict=_verdict,
    )
