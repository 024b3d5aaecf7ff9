"""Calls that are refused, with a message that says why."""

import os
import subprocess
import sys

import calls
import jax
import numpy as np
import pytest

IMAGE = np.zeros((2, 4, 5, 3), np.float32)
FILL = np.zeros((2, 3), np.float32)
POINTS = np.zeros((2, 7), np.float32)
SAMPLE = calls.kernel("linear") | {
    "num_batch_dims": 1,
    "ndim": 2,
    "padding": 0,
    "align_corners": 0,
}


def sample(*operands, shape=(2, 7, 3), dtype=np.float32, name="stn_jax_sample", **attributes):
    """One call with attributes changed."""
    return calls.call(name, [(shape, dtype)], *operands, **(SAMPLE | attributes))


def test_the_right_call_is_taken():
    assert sample(IMAGE, FILL, POINTS, POINTS)[0].shape == (2, 7, 3)


@pytest.mark.parametrize(
    ("operands", "changes", "message"),
    [
        ((IMAGE, FILL, POINTS, POINTS), {"ndim": 4}, "ndim must be 1, 2 or 3"),
        ((IMAGE, FILL, POINTS, POINTS), {"num_batch_dims": -1}, "must not be negative"),
        ((IMAGE, FILL, POINTS, POINTS), {"num_batch_dims": 0}, "image must have batch axes"),
        ((IMAGE, FILL, POINTS, POINTS), {"taps": 0}, "taps must be 1 to 8; it is 0"),
        ((IMAGE, FILL, POINTS, POINTS), {"taps": 9}, "taps must be 1 to 8; it is 9"),
        (
            (IMAGE, FILL, POINTS, POINTS),
            {"coefficients": np.ones(3)},
            "1 to 8 numbers for each of the 2 taps; there are 3",
        ),
        ((IMAGE, FILL, POINTS, POINTS), {"padding": 4}, "padding must be"),
        ((IMAGE, FILL, POINTS, POINTS), {"align_corners": 2}, "align_corners must be"),
        ((IMAGE, FILL, POINTS), {}, "no operand for the coordinate 1"),
        ((IMAGE, FILL, POINTS, POINTS, POINTS), {}, "more operands"),
        ((IMAGE, FILL, POINTS, POINTS[:, :6]), {}, "coordinate 1 must have the shape"),
        ((IMAGE, FILL[:, :2], POINTS, POINTS), {}, "fill must have the shape"),
        ((IMAGE, np.zeros((3, 3), np.float32), POINTS, POINTS), {}, "batch axes of the fill"),
        ((IMAGE, FILL, POINTS, POINTS), {"shape": (2, 6, 3)}, "result must have the shape"),
        ((IMAGE, FILL, POINTS.astype(np.float64), POINTS), {}, "dtype of the coordinate 0"),
        ((IMAGE.astype(np.int32), FILL, POINTS, POINTS), {}, "must be float32"),
        ((IMAGE[:, :0], FILL, POINTS, POINTS), {}, "without pixels"),
        (
            (IMAGE, FILL, POINTS, POINTS),
            {"name": "stn_jax_sample_bytes"},
            "sampled by the nearest kernel",
        ),
    ],
)
def test_refused(operands, changes, message):
    with pytest.raises(jax.errors.JaxRuntimeError, match=message):
        sample(*operands, **changes)


MATRIX = np.zeros((2, 2, 3), np.float32)
OUT = np.array([3, 2], np.int64)


@pytest.mark.parametrize(
    ("operands", "out", "message"),
    [
        ((IMAGE, FILL), OUT, "no operand for the matrix"),
        ((IMAGE, FILL, MATRIX, MATRIX), OUT, "more operands"),
        ((IMAGE, FILL, MATRIX[:, :, :2]), OUT, "matrix must have the shape"),
        ((IMAGE, FILL, MATRIX.astype(np.float64)), OUT, "dtype of the matrix"),
        ((IMAGE, FILL, MATRIX), OUT[:1], "out must have a size for each of the 2 axes"),
        ((IMAGE, FILL, MATRIX), -OUT, "out must not have negative sizes"),
        ((IMAGE, FILL, MATRIX), OUT[::-1].copy(), "result must have the shape"),
    ],
)
def test_affine_refused(operands, out, message):
    with pytest.raises(jax.errors.JaxRuntimeError, match=message):
        sample(*operands, shape=(2, 3, 2, 3), name="stn_jax_affine", out=out)


def test_taps_refused():
    index, weight = np.zeros((2, 4, 7), np.int32), np.zeros((2, 4, 7), np.float32)
    attributes = {"num_batch_dims": 1, "ndim": 2}
    results = [((2, 7, 3), np.float32)]
    with pytest.raises(jax.errors.JaxRuntimeError, match="weight 1 must have the shape"):
        calls.call(
            "stn_jax_taps", results, IMAGE, FILL, index, index, weight, weight[:, :3], **attributes
        )
    with pytest.raises(jax.errors.JaxRuntimeError, match="beyond ndim"):
        calls.call(
            "stn_jax_taps_pull",
            results,
            *(IMAGE, FILL, index, index, weight, weight, np.zeros((2, 7, 3), np.float32)),
            **attributes,
            wrt_image=0,
            wrt_weights=4,
        )


def test_unknown_variant_is_refused():
    code = "import stn_jax_native; stn_jax_native.handlers()"
    found = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"STN_JAX_NATIVE_VARIANT": "fastest"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode != 0
    assert 'STN_JAX_NATIVE_VARIANT is "fastest"; this build and processor have' in found.stderr
