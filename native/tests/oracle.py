"""What the handlers compute, from the definitions: NumPy in float64, one batch item at a time.

Axes are in array order. Pixels of index −1 are outside: the fill.
"""

import itertools

import numpy as np

KERNELS = {"nearest": 0, "linear": 1}
PADDINGS = {"constant": 0, "border": 1, "reflection": 2, "wrap": 3}


def axis_taps(coordinates, n, kernel, padding, align_corners):
    """Index and weight ``[taps, points]`` along one axis of ``n`` pixels."""
    indices, weights = [], []
    for p in np.asarray(coordinates, np.float64).tolist():
        period = {"reflection": max(2 * n - 2, 1) if align_corners else 2 * n, "wrap": n}.get(
            padding
        )
        near = 0.0 if np.isnan(p) else p
        if period is not None:
            near = 0.0 if np.isinf(near) else near - period * np.floor(near / period)
        near = min(max(near, -2.0), (period or n) - 1 + 2.0)
        if kernel == "linear":
            first = int(np.floor(near))
            taps = {0: first, 1: first + 1}
            weight = [1 - (near - first), near - first]
        else:
            taps = {0: int(np.floor(near + 0.5))}
            weight = [1.0]
        indices.append([_map(i, n, padding, period, align_corners) for i in taps.values()])
        weights.append([np.nan if np.isnan(p) else w for w in weight])
    count = 2 if kernel == "linear" else 1
    return (
        np.array(indices, np.int64).reshape(-1, count).T,
        np.array(weights, np.float64).reshape(-1, count).T,
    )


def _map(i, n, padding, period, align_corners):
    if padding == "constant":
        return i if 0 <= i < n else -1
    if padding == "border":
        return min(max(i, 0), n - 1)
    i %= period
    if padding == "reflection":
        i = min(i, period - (0 if align_corners else 1) - i)
    return i


def _pixel(image, fill, index):
    return fill if min(index) < 0 else image[index]


def contract(image, fill, indices, weights):
    """``[points, channels]`` from ``[taps, points]`` for each axis."""
    points = indices[0].shape[1]
    out = np.zeros((points, image.shape[-1]))
    for p in range(points):
        for taps in itertools.product(*(range(len(index)) for index in indices)):
            weight = np.prod([w[t, p] for w, t in zip(weights, taps, strict=True)])
            if weight != 0:
                index = tuple(i[t, p] for i, t in zip(indices, taps, strict=True))
                out[p] += weight * _pixel(image, fill, index)
    return out


def contract_pull(image, fill, indices, weights, cotangent):
    """Gradients to the image, and to the weights along each axis."""
    d_image = np.zeros(image.shape)
    d_weights = [np.zeros(w.shape) for w in weights]
    for p in range(indices[0].shape[1]):
        for taps in itertools.product(*(range(len(index)) for index in indices)):
            along = [w[t, p] for w, t in zip(weights, taps, strict=True)]
            index = tuple(i[t, p] for i, t in zip(indices, taps, strict=True))
            weight = np.prod(along)
            if weight != 0 and not np.isnan(weight) and min(index) >= 0:
                d_image[index] += weight * cotangent[p]
            pixel = _pixel(image, fill, index)
            product = sum(c * v for c, v in zip(cotangent[p], pixel, strict=True) if c != 0)
            for axis, tap in enumerate(taps):
                others = np.prod(along[:axis] + along[axis + 1 :])
                if others != 0 and not np.isnan(others):
                    d_weights[axis][tap, p] += others * product
    return d_image, d_weights


def sample(image, fill, coordinates, kernel, padding, align_corners):
    """``coordinates`` in the order of the axes, each ``[points]``."""
    taps = [
        axis_taps(c, n, kernel, padding, align_corners)
        for c, n in zip(coordinates, image.shape, strict=False)
    ]
    return contract(image, fill, *zip(*taps, strict=True))


def sample_pull(image, fill, coordinates, kernel, padding, align_corners, cotangent):
    """Gradients to the image, and to the coordinates along each axis."""
    taps = [
        axis_taps(c, n, kernel, padding, align_corners)
        for c, n in zip(coordinates, image.shape, strict=False)
    ]
    d_image, d_weights = contract_pull(image, fill, *zip(*taps, strict=True), cotangent)
    if kernel == "nearest":
        return d_image, [np.zeros(len(c)) for c in coordinates]
    slopes = []
    for c, d in zip(coordinates, d_weights, strict=True):
        steady = np.isnan(c) | (np.abs(c) >= 2**23)
        slopes.append(np.where(steady, 0, d[1] - d[0]))
    return d_image, slopes
