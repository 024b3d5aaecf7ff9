"""Prints digests of results that several threads share the work of; run by ``test_threads.py``."""

import hashlib
import pathlib

import calls
import numpy as np
import test_boxes

BATCH, SPACE, CHANNELS = 3, (90, 70), 3


def digest(arrays):
    """Of the bits of all arrays."""
    return hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays)).hexdigest()


def sampling(dtype, channels, d_image, d_coordinates, kernel="linear"):
    """Value and gradients of sampling; gradients may be summed over the batch."""
    rng = np.random.default_rng(0)
    dtype = calls.DTYPES[dtype]
    image = rng.normal(size=(BATCH, *SPACE, channels)).astype(dtype)
    fill = rng.normal(size=(BATCH, channels)).astype(dtype)
    cs = [
        rng.uniform(-5, n + 5, (BATCH, 11_003)).astype(calls.coordinate_dtype(dtype))
        for n in SPACE[::-1]
    ]
    cs[-1] = np.sort(cs[-1])  # Neighbours share rows; under a cubic kernel some share all pixels.
    cs[0][:, :3_000] = np.sort(cs[0][:, :3_000])
    cotangent = rng.normal(size=(BATCH, 11_003, channels)).astype(dtype)
    modes = calls.kernel(kernel) | {"padding": 0, "align_corners": 0, "num_batch_dims": 1}
    batches = (d_image, [d_coordinates] * 2)
    value = calls.sample(image, fill, cs, **modes)
    pull = calls.sample_pull(image, fill, cs, cotangent, batches, **modes)
    # One gradient alone has the same bits as together with the other.
    alone = calls.sample_pull(image, fill, cs, cotangent, (d_image, None), **modes)
    alone += calls.sample_pull(image, fill, cs, cotangent, (None, batches[1]), **modes)
    assert digest(alone) == digest(pull)
    return [value, *pull]


def affine(dtype, channels, d_image, d_matrix):
    """Value and gradients at a moved lattice; gradients may be summed over the batch."""
    rng = np.random.default_rng(0)
    dtype = calls.DTYPES[dtype]
    image = rng.normal(size=(BATCH, *SPACE, channels)).astype(dtype)
    fill = rng.normal(size=(BATCH, channels)).astype(dtype)
    matrix = rng.normal(size=(BATCH, 2, 3), scale=0.3).astype(calls.coordinate_dtype(dtype))
    cotangent = rng.normal(size=(BATCH, 101, 109, channels)).astype(dtype)
    modes = calls.kernel("linear") | {"padding": 0, "align_corners": 0, "num_batch_dims": 1}
    modes["out"] = (101, 109)
    operands = (image, fill, matrix, cotangent)
    value = calls.affine(image, fill, matrix, **modes)
    pull = calls.affine_pull(*operands, (d_image, d_matrix), **modes)
    alone = calls.affine_pull(*operands, (d_image, None), **modes)
    alone += calls.affine_pull(*operands, (None, d_matrix), **modes)
    assert digest(alone) == digest(pull)
    return [value, *pull]


def boxes(dtype):
    """Values and gradients of box means of images, of which several are made at a time."""
    results = []
    for each_point in (False, True):
        image, fill, points, cotangent = test_boxes.operands(
            2, 2, dtype, (BATCH,), each_point, (11_003,)
        )
        options = test_boxes.layout(2, each_point=each_point) | {"num_batch_dims": 1}
        every = image, fill, points
        results.append(test_boxes.sample(*every, **options))
        results += test_boxes.sample(*every, cotangent=cotangent, **options)
    return results


def paths(dtype):
    """Displacements along paths, and their gradients."""
    rng = np.random.default_rng(0)
    modes = calls.kernel("keys") | {
        "padding": 1,
        "align_corners": 0,
        "num_batch_dims": 1,
        "steps": 2,
    }
    results = []
    # Fields with and without polynomials for their cells.
    for shape in ((6, 8), (6, 5, 8)):
        n = len(shape)
        field = rng.normal(size=(BATCH, *shape, n)).astype(dtype)
        points = [rng.uniform(0, size, (1, 11_003)).astype(dtype) for size in shape[::-1]]
        cotangent = rng.normal(size=(BATCH, 11_003, n)).astype(dtype)
        operands = (field, np.zeros((1, n), dtype), points)
        results.append(calls.follow(*operands, **modes))
        results += calls.follow_pull(*operands, cotangent, **modes)
    return results


def contraction():
    """Value and gradients of a contraction by 4 × 4 taps."""
    rng = np.random.default_rng(0)
    image = rng.normal(size=(1, *SPACE, CHANNELS)).astype(np.float32)
    fill = rng.normal(size=(1, CHANNELS)).astype(np.float32)
    indices = [rng.integers(-1, n, (1, 4, 20_001), np.int32) for n in SPACE[::-1]]
    weights = [rng.normal(size=i.shape).astype(np.float32) for i in indices]
    cotangent = rng.normal(size=(1, 20_001, CHANNELS)).astype(np.float32)
    pull = calls.taps_pull(
        image, fill, indices, weights, cotangent, ((1,), [(1,), (1,)]), num_batch_dims=1
    )
    return [calls.taps(image, fill, indices, weights, num_batch_dims=1), *pull]


def threads_of_pool():
    """Threads that XLA has for kernels."""
    names = [p.read_text() for p in pathlib.Path("/proc/self/task").glob("*/comm")]
    return sum("XLAEigen" in name for name in names)


def main():
    """Prints the threads, then the digests."""
    lines = [digest(contraction())]
    for dtype in calls.DTYPES:
        for channels in (1, 2, 3, 8):
            for d_image in ((BATCH,), (1,)):
                lines.append(digest(sampling(dtype, channels, d_image, (BATCH,))))
    for channels in (1, 2, 3, 4):
        lines.append(digest(sampling("float32", channels, (1,), (BATCH,), "keys")))
    lines.append(digest(sampling("bfloat16", 3, (BATCH,), (BATCH,), "keys")))
    lines.append(digest(sampling("float32", 3, (BATCH,), (1,))))
    for dtype in ("float32", "float64"):
        lines.append(digest(affine(dtype, 1, (BATCH,), (BATCH,))))
        lines.append(digest(affine(dtype, 3, (1,), (1,))))
        lines.append(digest(paths(dtype)))
        lines.append(digest(boxes(dtype)))
    print(threads_of_pool())
    print("\n".join(lines))


if __name__ == "__main__":
    main()
