"""The handlers as functions of NumPy arrays, and the oracle over batches."""

import functools

import jax
import ml_dtypes
import numpy as np
import oracle
import stn_jax_native

DTYPES = {
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}
TOLERANCES = {"float32": 2e-5, "float64": 1e-12, "bfloat16": 1e-2, "float16": 2e-3}


def coordinate_dtype(dtype):
    """Of coordinates, weights and their gradients."""
    return np.dtype(np.float64) if dtype == np.float64 else np.dtype(np.float32)


@functools.cache
def register():
    """Once in a process, when the backend is up."""
    jax.devices()
    for name, capsule in stn_jax_native.handlers().items():
        jax.ffi.register_ffi_target(name, capsule, platform="cpu")


def kernel(name):
    """Attributes of a call with a kernel of the oracle."""
    coefficients = np.array(oracle.KERNELS[name], np.float64)
    return {"taps": len(coefficients), "coefficients": coefficients.ravel()}


def call(name, results, *operands, **attributes):
    """Results as NumPy arrays; ``results`` are pairs of a shape and a dtype."""
    register()
    types = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in results]
    fn = jax.ffi.ffi_call(name, types)
    attributes = {
        key: value if isinstance(value, np.ndarray) else np.int64(value)
        for key, value in attributes.items()
    }
    return [np.asarray(r) for r in jax.jit(lambda *a: fn(*a, **attributes))(*operands)]


def full_batch(*arrays, num_batch_dims):
    """Batch sizes when all arrays are broadcast against each other."""
    return np.broadcast_shapes(*(a.shape[:num_batch_dims] for a in arrays))


def sample(image, fill, coordinates, *, num_batch_dims=0, name="stn_jax_sample", **attributes):
    """``coordinates`` in the order x, y, z."""
    ndim = len(coordinates)
    batch = full_batch(image, fill, *coordinates, num_batch_dims=num_batch_dims)
    shape = (*batch, *coordinates[0].shape[num_batch_dims:], image.shape[-1])
    attributes |= {"num_batch_dims": num_batch_dims, "ndim": ndim}
    return call(name, [(shape, image.dtype)], image, fill, *coordinates, **attributes)[0]


def sample_pull(
    image,
    fill,
    coordinates,
    cotangent,
    d_batches,
    *,
    num_batch_dims=0,
    name="stn_jax_sample_pull",
    **attributes,
):
    """``d_batches``: batch sizes of the gradients to the image and to each coordinate, or None."""
    ndim = len(coordinates)
    d_image, d_coordinates = d_batches
    results = []
    if d_image is not None:
        results.append(((*d_image, *image.shape[num_batch_dims:]), image.dtype))
    if d_coordinates is not None:
        results += [
            ((*batch, *c.shape[num_batch_dims:]), c.dtype)
            for batch, c in zip(d_coordinates, coordinates, strict=True)
        ]
    attributes |= {
        "num_batch_dims": num_batch_dims,
        "ndim": ndim,
        "wrt_image": d_image is not None,
        "wrt_coordinates": d_coordinates is not None,
    }
    operands = (image, fill, *coordinates, cotangent)
    return call(name, results, *operands, **attributes)


def affine(image, fill, matrix, *, out, num_batch_dims=0, name="stn_jax_affine", **attributes):
    """``matrix`` in the order x, y, z, less the identity; ``out`` in array order."""
    batch = full_batch(image, fill, matrix, num_batch_dims=num_batch_dims)
    attributes |= {"num_batch_dims": num_batch_dims, "ndim": len(out)}
    attributes["out"] = np.array(out, np.int64)
    results = [((*batch, *out, image.shape[-1]), image.dtype)]
    return call(name, results, image, fill, matrix, **attributes)[0]


def affine_pull(image, fill, matrix, cotangent, d_batches, *, out, num_batch_dims=0, **attributes):
    """``d_batches``: batch sizes of the gradients to the image and to the matrix, or None."""
    results = [
        ((*batch, *of.shape[num_batch_dims:]), of.dtype)
        for batch, of in zip(d_batches, (image, matrix), strict=True)
        if batch is not None
    ]
    attributes |= {"num_batch_dims": num_batch_dims, "ndim": len(out)}
    attributes |= {
        f"wrt_{name}": d is not None for name, d in zip(("image", "matrix"), d_batches, strict=True)
    }
    attributes["out"] = np.array(out, np.int64)
    return call("stn_jax_affine_pull", results, image, fill, matrix, cotangent, **attributes)


def follow(field, fill, coordinates, *, num_batch_dims=0, **attributes):
    """As ``sample``: the displacements along paths."""
    options = {"num_batch_dims": num_batch_dims, "name": "stn_jax_follow"}
    return sample(field, fill, coordinates, **options, **attributes)


def follow_pull(field, fill, coordinates, cotangent, *, num_batch_dims=0, **attributes):
    """As ``sample_pull``: gradients to the field and to each coordinate, of the full batch."""
    batch = full_batch(field, fill, *coordinates, cotangent, num_batch_dims=num_batch_dims)
    attributes |= {"num_batch_dims": num_batch_dims, "name": "stn_jax_follow_pull"}
    each = (batch, [batch] * len(coordinates))
    return sample_pull(field, fill, coordinates, cotangent, each, **attributes)


def taps(image, fill, indices, weights, *, num_batch_dims=0):
    """``indices`` and ``weights`` in the order x, y, z."""
    batch = full_batch(image, fill, *indices, *weights, num_batch_dims=num_batch_dims)
    shape = (*batch, *indices[0].shape[num_batch_dims + 1 :], image.shape[-1])
    attributes = {"num_batch_dims": num_batch_dims, "ndim": len(indices)}
    operands = (image, fill, *indices, *weights)
    return call("stn_jax_taps", [(shape, image.dtype)], *operands, **attributes)[0]


def taps_pull(image, fill, indices, weights, cotangent, d_batches, *, num_batch_dims=0):
    """``d_batches``: batch sizes of the gradients to the image and to each weight, or None."""
    d_image, d_weights = d_batches
    results, mask = [], 0
    if d_image is not None:
        results.append(((*d_image, *image.shape[num_batch_dims:]), image.dtype))
    for j, (batch, weight) in enumerate(zip(d_weights, weights, strict=True)):
        if batch is not None:
            mask |= 1 << j
            results.append(((*batch, *weight.shape[num_batch_dims:]), weight.dtype))
    attributes = {
        "num_batch_dims": num_batch_dims,
        "ndim": len(indices),
        "wrt_image": d_image is not None,
        "wrt_weights": mask,
    }
    operands = (image, fill, *indices, *weights, cotangent)
    return call("stn_jax_taps_pull", results, *operands, **attributes)


def items(batch, *arrays):
    """For each batch item its number and its part of each array, as float64 or integers."""
    k = len(batch)
    whole = [np.broadcast_to(a, (*batch, *a.shape[k:])) for a in arrays]
    for item in np.ndindex(*batch):
        parts = [a[item] for a in whole]
        yield item, [a if a.dtype.kind in "iu" else a.astype(np.float64) for a in parts]


def summed(values, batch):
    """Sums over the batch axes along which ``batch`` is 1."""
    axes = tuple(a for a, size in enumerate(batch) if size == 1)
    return values.sum(axis=axes, keepdims=True)


def expected_sample(image, fill, coordinates, batch, kernel, padding, align_corners):
    """As ``sample``, by the oracle."""
    out = coordinates[0].shape[len(batch) :]
    result = np.zeros((*batch, *out, image.shape[-1]))
    for item, (im, fi, *cs) in items(batch, image, fill, *coordinates):
        flat = [c.ravel() for c in cs[::-1]]
        value = oracle.sample(im, fi, flat, kernel, padding, align_corners)
        result[item] = value.reshape(*out, -1) if value.size else 0
    return result


def expected_pull(image, fill, coordinates, cotangent, batch, kernel, padding, align_corners):
    """Unsummed gradients to the image and to x, y, z."""
    out = coordinates[0].shape[len(batch) :]
    d_image = np.zeros((*batch, *image.shape[len(batch) :]))
    d_coordinates = [np.zeros((*batch, *out)) for _ in coordinates]
    operands = (image, fill, cotangent, *coordinates)
    for item, (im, fi, ct, *cs) in items(batch, *operands):
        flat = [c.ravel() for c in cs[::-1]]
        ct = ct.reshape(flat[0].size, im.shape[-1])
        di, ds = oracle.sample_pull(im, fi, flat, kernel, padding, align_corners, ct)
        d_image[item] = di
        for d, value in zip(d_coordinates, ds[::-1], strict=True):
            d[item] = value.reshape(out)
    return d_image, d_coordinates


def assert_close(found, expected, dtype_name, scale=1.0):
    """Equal but for rounding; NaN and infinities where expected."""
    tolerance = TOLERANCES[dtype_name] * scale
    found = found.astype(np.float64)
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)
