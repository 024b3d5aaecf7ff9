"""The largest differences from SciPy's ``ndimage.map_coordinates``, orders 0 and 1.

SciPy computes in float64 on operands rounded to our dtype. Random points lie up to an image's size
beyond every side. The nearest kernel's rows leave out points within 1e-3 pixel of a tie between two
pixels.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy

import stn_jax as stn
from benchmarks.accuracy.geometry import is_clear, pixels_of_points
from benchmarks.accuracy.tables import (
    Row,
    Table,
    combinations,
    largest_by_dtype,
    largest_difference,
)

ORDER = {"nearest": 0, "linear": 1}
# Our padding for each mode of SciPy, and the alignments under which they agree. SciPy's "constant"
# does not interpolate beyond the edge; "grid-constant" does.
MODES = {
    "grid-constant": ("constant", (False, True)),
    "nearest": ("border", (False, True)),
    "reflect": ("reflection", (False,)),
    "mirror": ("reflection", (True,)),
    "grid-wrap": ("wrap", (False, True)),
}
SHAPES = {"2-D": ((9, 12), (7, 5)), "3-D": ((5, 4, 6), (3, 4, 5))}
FILL = 0.5


def differences_in(shapes: str, dtype: str, kernel: str, mode: str, trials: int) -> float:
    """The largest difference over random images and grids of some shapes."""
    shape, out_shape = SHAPES[shapes]
    padding, alignments = MODES[mode]
    rng = np.random.default_rng(2)
    found = []
    for align_corners in alignments:
        for _ in range(trials):
            image = rng.normal(size=shape).astype(dtype)
            grid = rng.uniform(-3, 3, (*out_shape, len(shape))).astype(dtype)
            options: dict[str, Any] = {
                "kernel": kernel,
                "padding": padding,
                "align_corners": align_corners,
            }
            with jax.enable_x64(dtype == "float64"):
                ours = stn.grid_sample(
                    jnp.asarray(image)[..., None], jnp.asarray(grid), fill_value=FILL, **options
                )
            pixels = pixels_of_points(grid, shape, align_corners)
            theirs = scipy.ndimage.map_coordinates(
                image.astype(np.float64),
                np.moveaxis(pixels[..., ::-1], -1, 0),
                order=ORDER[kernel],
                mode=mode,
                cval=FILL,
            )
            compared = is_clear(pixels, kernel) if kernel == "nearest" else ...
            found.append(largest_difference(ours[..., 0][compared], theirs[compared]))
    return float(np.max(found))


def differences(dtype: str, kernel: str, mode: str, padding: str, trials: int) -> Row:
    """The largest differences, separately for images and volumes."""
    assert padding == MODES[mode][0]
    return {shapes: differences_in(shapes, dtype, kernel, mode, trials) for shapes in SHAPES}


def table(trials: int) -> Table:
    """Both kernels in every mode that the two libraries share."""
    cases = combinations(dtype=("float32", "float64"), kernel=list(ORDER), mode=list(MODES))
    return Table(
        title=f"Largest differences from SciPy {scipy.__version__} map_coordinates, {trials} "
        "random grids for each alignment",
        cases=[case | {"padding": MODES[case["mode"]][0]} for case in cases],
        columns=list(SHAPES),
        measure=functools.partial(differences, trials=trials),
        verdict=lambda rows: f"largest difference: {largest_by_dtype(rows, list(SHAPES))}",
    )
