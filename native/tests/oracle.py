"""What the handlers compute, from the definitions: NumPy in float64, one batch item at a time.

Axes are in array order. Pixels of index −1 are outside: the fill.
"""

import itertools

import numpy as np

# The coefficients that the handlers are given, for each tap: of powers of the fraction.
KERNELS = {
    "nearest": [[1]],
    "linear": [[1, -1], [0, 1]],
    "quadratic": [[0.5, -1, 0.5], [0.5, 1, -1], [0, 0, 0.5]],
    "keys": [[0, -0.5, 1, -0.5], [1, 0, -2.5, 1.5], [0, 0.5, 2, -1.5], [0, 0, -0.5, 0.5]],
}
PADDINGS = {"constant": 0, "border": 1, "reflection": 2, "wrap": 3}


def weight_and_slope(kernel, t):
    """The weight at a distance, and its derivative, by the textbook formulas."""
    d, sign = abs(t), -1 if t < 0 else 1
    if kernel == "nearest":
        return 1.0, 0.0
    if kernel == "linear":
        return 1 - d, -sign
    if kernel == "quadratic":
        if d < 0.5:
            return 0.75 - d * d, -2 * t
        return (1.5 - d) ** 2 / 2, -sign * (1.5 - d)
    if d < 1:
        return 1.5 * d**3 - 2.5 * d**2 + 1, sign * (4.5 * d**2 - 5 * d)
    return -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2, sign * (-1.5 * d**2 + 5 * d - 4)


def axis_taps(coordinates, n, kernel, padding, align_corners):
    """Index, weight and slope ``[taps, points]`` along one axis of ``n`` pixels."""
    indices, weights, slopes = [], [], []
    count = len(KERNELS[kernel])
    margin = (count + 1) // 2 + 1
    for p in np.asarray(coordinates, np.float64).tolist():
        period = {"reflection": max(2 * n - 2, 1) if align_corners else 2 * n, "wrap": n}.get(
            padding
        )
        near = 0.0 if np.isnan(p) else p
        if period is not None:
            near = 0.0 if np.isinf(near) else near - period * np.floor(near / period)
        near = min(max(near, float(-margin)), (period or n) - 1.0 + margin)
        first = int(np.floor(near + 1 - count / 2))
        taps = range(first, first + count)
        # The linear kernel's right pixel is at distance −1 or less: the piece on the left of 0.
        both = [weight_and_slope(kernel, near - i if i <= near else -(i - near)) for i in taps]
        indices.append([_map(i, n, padding, period, align_corners) for i in taps])
        weights.append([np.nan if np.isnan(p) else w for w, _ in both])
        far = np.isnan(p) or abs(p) >= 2**23
        slopes.append([0.0 if far else s for _, s in both])
    return tuple(
        np.array(each, dtype).reshape(-1, count).T
        for each, dtype in ((indices, np.int64), (weights, np.float64), (slopes, np.float64))
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
    indices, weights, _ = zip(*taps, strict=True)
    return contract(image, fill, indices, weights)


def sample_pull(image, fill, coordinates, kernel, padding, align_corners, cotangent):
    """Gradients to the image, and to the coordinates along each axis."""
    taps = [
        axis_taps(c, n, kernel, padding, align_corners)
        for c, n in zip(coordinates, image.shape, strict=False)
    ]
    indices, weights, slopes = zip(*taps, strict=True)
    d_image, d_weights = contract_pull(image, fill, indices, weights, cotangent)
    terms = [np.where(s != 0, s * d, 0) for s, d in zip(slopes, d_weights, strict=True)]
    return d_image, [each.sum(axis=0) for each in terms]
