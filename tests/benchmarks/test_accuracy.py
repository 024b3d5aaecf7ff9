"""The accuracy report in a small form, with bounds on its numbers."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import stn_jax as stn
from benchmarks.accuracy import (
    against_opencv,
    against_pytorch,
    against_scipy,
    half_precision,
    identity,
    positions,
    tables,
)
from benchmarks.accuracy.__main__ import main

pytestmark = pytest.mark.slow

SOME_FAMILIES = (stn.similarity(), stn.affine(ndim=3), stn.projective(), stn.thin_plate_spline())
EDGES, CORNERS = ((4, 5), (3, 4), False), ((5, 3), (4, 2), True)


@pytest.fixture
def torch():
    """PyTorch, which the library itself does not need."""
    return pytest.importorskip("torch", reason="PyTorch is not installed")


@pytest.mark.parametrize(
    ("dtype", "kernel", "displacement"),
    [
        ("float32", "linear", "given"),
        ("bfloat16", "nearest", "fused"),
        ("float16", "cubic", "fused"),
        ("float64", "linear", "fused"),
    ],
)
def test_identity_changes_nothing(dtype, kernel, displacement):
    row = identity.changes(dtype, kernel, displacement, SOME_FAMILIES)
    assert row["warps"] == len(SOME_FAMILIES) * (8 if displacement == "given" else 1)
    assert row["bit for bit"] == row["warps"]
    assert row["change"] == 0


def test_identity_meets_every_combination():
    cases = identity.table().cases
    given = {(case["dtype"], case["kernel"]) for case in cases if case["displacement"] == "given"}
    assert len(given) == 4 * len(identity.KERNELS)


@pytest.mark.parametrize(
    ("image", "kernel", "padding", "case"),
    [
        ("2-D", "linear", "constant", CORNERS),
        ("2-D", "cubic", "reflection", EDGES),
        ("2-D", "nearest", "border", CORNERS),
        ("3-D", "linear", "border", ((3, 4, 2), (2, 3, 4), False)),
    ],
)
def test_pytorch_to_second_order(torch, image, kernel, padding, case):
    options = {"trials": 3, "cases": {image: [case]}}
    row = against_pytorch.differences(image, "float64", kernel, padding, **options)
    assert row["clear"] > 0.9
    for column in (*against_pytorch.COLUMNS, "relative"):
        assert row[column] is None or row[column] < 1e-10, column


def test_pytorch_has_second_derivatives_of_the_linear_kernel(torch):
    mode = against_pytorch.Mode("linear", "constant", (3, 4), False)
    operands, _ = against_pytorch.random_operands(np.random.default_rng(0), mode, (4, 5), "float64")
    assert np.abs(against_pytorch.their_results(operands, mode)["d² grid"]).max() > 1


@pytest.mark.parametrize(
    ("kernel", "mode"),
    [("nearest", "grid-constant"), ("linear", "mirror"), ("linear", "grid-wrap")],
)
def test_scipy(kernel, mode):
    padding = against_scipy.MODES[mode][0]
    row = against_scipy.differences("float64", kernel, mode, padding, trials=2)
    assert max(row.values()) < 1e-10


@pytest.mark.parametrize(
    ("function", "interpolation"),
    [("warpAffine", "linear"), ("remap", "linear"), ("warpPerspective", "nearest")],
)
def test_opencv_is_explained(function, interpolation):
    """OpenCV rounds coordinates or not, depending on its version; one of both must explain it."""
    row = against_opencv.differences(function, "float32", interpolation, trials=1)
    assert against_opencv.agreeing_column(row) in ("exact", "1/32 pixel")


@pytest.mark.parametrize("alignment", ["edges", "corners"])
@pytest.mark.parametrize("theta", positions.THETAS)
def test_positions_are_as_exact_as_pytorchs_or_set_to_a_pixel(torch, alignment, theta):
    row = positions.errors("512", alignment, theta)
    # A position within the rounding error of a whole or half pixel is set to that pixel, so that
    # the same point reads the same pixel everywhere. That may add the rounding error.
    rounding = 2.25 * 512 * float(np.finfo(np.float32).eps)
    for name in positions.OURS:
        assert row[name] <= max(row["PyTorch"], rounding), name
    if theta == "identity":
        assert row["warp"] == row["grid_sample"] == 0 < row["PyTorch"]


def test_positions_can_be_read(rng):
    """Recovers positions from float32 samples, far more exactly than float32 represents them."""
    pixels = rng.uniform(1, 4094, 1000)
    first, image = np.floor(pixels).astype(int), positions.waves(4096)[0]
    share = (pixels - first)[:, None].astype(np.float32)
    read = positions.read_positions(image[first] * (1 - share) + image[first + 1] * share)
    difference = (read - pixels + 2) % positions.PERIOD - 2
    assert np.abs(difference).max() < 3e-7


@pytest.mark.parametrize(("dtype", "kernel"), [("bfloat16", "cubic"), ("float16", "linear")])
def test_half_precision(torch, dtype, kernel):
    for grid in (dtype, "float32"):
        row = half_precision.errors(dtype, grid, kernel, trials=2)
        assert half_precision.is_within_a_rounding(row)
        assert row["ours"] < 1


def test_roundings_are_counted_at_the_expected_value():
    one_up = jnp.nextafter(jnp.ones((), "bfloat16"), jnp.full((), 2, "bfloat16"))
    expected = np.array([1.0])
    assert half_precision.roundings(one_up[None], expected, "bfloat16").tolist() == [1.0]


def test_a_difference_that_is_not_a_number_is_not_lost():
    assert np.isnan(tables.largest_difference([0.0, np.nan], [0.0, 0.0]))
    rows = [{"a": np.nan, "b": None}, {"a": 1.0, "b": 2.0}]
    largest = tables.largest_by_column(rows)
    assert np.isnan(largest["a"])
    assert largest["b"] is None


def test_command_prints_and_saves(tmp_path, capsys):
    file = tmp_path / "accuracy.json"
    main(["--tables", "positions", "--save", str(file)])
    printed = capsys.readouterr().out
    record = json.loads(file.read_text())
    assert record["environment"]["jax"] == jax.__version__
    table = record["tables"]["positions"]
    assert table["title"] in printed
    assert table["verdict"] in printed
    assert len(table["rows"]) == 2 * 2 * len(positions.THETAS)
    for row in table["rows"]:
        # Half the distance of float32's numbers at the width, and what setting a position to its
        # pixel may add: |pixel| + 1.25 widths of rounding.
        assert row["warp"] <= (0.5 + 1 + 1.25) * 2.0**-23 * int(row["width"]), row
