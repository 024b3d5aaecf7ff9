"""Oracles in slow, plain NumPy in float64, written only from the paper."""

import functools
import itertools

import numpy as np


def regular_axis(size, align_corners):
    """Normalised centres of the pixels of an axis, one by one."""
    if align_corners:
        return np.array([0.0 if size == 1 else -1 + 2 * i / (size - 1) for i in range(size)])
    return np.array([-1 + (i + 0.5) * 2 / size for i in range(size)])


def regular_grid(shape, align_corners):
    """Lattice points (x, y) or (x, y, z) of an output of the given spatial shape."""
    grid = np.zeros((*shape, len(shape)))
    for index in itertools.product(*map(range, shape)):
        grid[index] = [
            regular_axis(shape[axis], align_corners)[index[axis]]
            for axis in reversed(range(len(shape)))
        ]
    return grid


def pixel(coordinate, size, align_corners):
    """Pixel coordinate of a normalised one."""
    if align_corners:
        return (coordinate + 1) / 2 * (size - 1)
    return (coordinate + 1) / 2 * size - 0.5


# The paper's equation 3 in its two forms, and the derivative of equation 7 with respect to the
# coordinate; at a kink, that of the cell on the right.
KERNELS = {
    "nearest": (
        lambda x, m: (np.floor(x + 0.5) == m).astype(float),
        lambda x, m: np.zeros(np.broadcast_shapes(x.shape, m.shape)),
    ),
    "linear": (
        lambda x, m: np.maximum(0, 1 - np.abs(x - m)),
        lambda x, m: (np.floor(x) + 1 == m).astype(float) - (np.floor(x) == m),
    ),
}


def keys_weight(t, a=-0.5):
    """Keys 1981, equation 4: the cubic convolution kernel, piece by piece."""
    t = np.abs(t)
    inner = (a + 2) * t**3 - (a + 3) * t**2 + 1
    outer = a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a
    return np.where(t <= 1, inner, np.where(t < 2, outer, 0.0))


def keys_slope(t, a=-0.5):
    """Its derivative."""
    s, t = np.sign(t), np.abs(t)
    inner = 3 * (a + 2) * t**2 - 2 * (a + 3) * t
    outer = 3 * a * t**2 - 10 * a * t + 8 * a
    return s * np.where(t <= 1, inner, np.where(t < 2, outer, 0.0))


def lanczos_weight(x, m, radius):
    """The window sinc(t) sinc(t / radius), normalised over the pixels under it."""
    t = x - m
    weight = np.where(np.abs(t) < radius, np.sinc(t) * np.sinc(t / radius), 0.0)
    return weight / weight.sum(-1, keepdims=True)


def lanczos_slope(x, m, radius):
    """Its derivative by central differences; their step is small, for the kinks at whole pixels."""
    h = 1e-5
    return (lanczos_weight(x + h, m, radius) - lanczos_weight(x - h, m, radius)) / (2 * h)


KERNELS["cubic"] = (lambda x, m: keys_weight(x - m), lambda x, m: keys_slope(x - m))
for radius in (3, 5):
    KERNELS[f"lanczos{radius}"] = tuple(
        functools.partial(function, radius=radius) for function in (lanczos_weight, lanczos_slope)
    )

# Names of numpy.pad's modes; the mirror is at the edge, or at the centre of the corner pixel.
PAD_MODE = {"border": "edge", "wrap": "wrap", "reflection": "symmetric"}


def extend(image, margin, padding, fill, align_corners):
    """The image with ``margin`` more pixels on every side."""
    width = [(margin, margin)] * (image.ndim - 1)
    channels = []
    for c in range(image.shape[-1]):
        if padding in ("constant", "renormalized"):
            value = np.broadcast_to(fill, image.shape[-1:])[c]
            channels.append(np.pad(image[..., c], width, constant_values=value))
        elif padding in ("dst1", "dst2"):
            channels.append(antisymmetric(image[..., c], margin, padding))
        else:
            centred = padding == "reflection" and align_corners
            mode = "reflect" if centred else PAD_MODE[padding]
            channels.append(np.pad(image[..., c], width, mode=mode))
    return np.stack(channels, axis=-1)


def antisymmetric(image, margin, padding):
    """The image, continued along each axis by its odd mirror images, one after the other.

    The sine transforms of type I and II expand an axis of n values in sin(π(k + 1)(j + 1)/(n + 1))
    and sin(π(k + 1)(2j + 1)/2n), which go on beyond the axis; here the values are solved for.
    """
    for axis, n in enumerate(image.shape):
        k, j = np.arange(n)[:, None] + 1, np.arange(-margin, n + margin)
        if padding == "dst1":
            basis = np.sin(np.pi * k * (j + 1) / (n + 1))
        else:
            basis = np.sin(np.pi * k * (2 * j + 1) / (2 * n))
        continued = np.linalg.solve(basis[:, margin : margin + n], basis).T
        image = np.moveaxis(np.tensordot(continued, image, (1, axis)), 0, axis)
    return image


def renormalized(value, slope, inside):
    """Weights divided by the sum of those inside, and their derivative; the others are 0."""
    value, slope = np.where(inside, value, 0), np.where(inside, slope, 0)
    total, change = value.sum(-1, keepdims=True), slope.sum(-1, keepdims=True)
    total = np.where(total == 0, 1, total)
    return value / total, (slope * total - value * change) / total**2


def grid_sample(image, grid, kernel, padding, fill, align_corners, derivative_along=None):
    """Equation 3, summed over every pixel of the extended image.

    ``derivative_along`` gives the derivative with respect to that normalised coordinate instead.
    """
    image, grid = np.asarray(image, np.float64), np.asarray(grid, np.float64)
    ndim = image.ndim - 1
    margin = 16  # Larger than the distance of any pixel that a test reads.
    extended = extend(image, margin, padding, fill, align_corners)
    points = grid.reshape(-1, ndim)
    result = np.zeros((len(points), image.shape[-1]))
    weights = []
    for k in range(ndim):
        size = image.shape[ndim - 1 - k]
        x = pixel(points[:, k], size, align_corners)
        assert np.all((x > -margin + 3) & (x < size + margin - 4))
        m = np.arange(-margin, size + margin)
        value, slope = (each(x[:, None], m) for each in KERNELS[kernel])
        if padding == "renormalized":
            here = ((x >= -0.5) & (x <= size - 0.5))[:, None]
            value, slope = renormalized(value, slope, (m >= 0) & (m < size))
            # Outside all the weight is on a pixel that has the fill value.
            value = np.where(here, value, m == -margin)
            slope = np.where(here, slope, 0)
        scale = (size - 1 if align_corners else size) / 2
        weights.append(scale * slope if derivative_along == k else value)
    for p in range(len(points)):
        volume = extended
        for k in reversed(range(ndim)):
            volume = np.tensordot(weights[k][p], volume, axes=(0, 0))
        result[p] = volume
    return result.reshape(*grid.shape[:-1], -1)


def rotation(angle):
    """[cos −sin; sin cos] of an angle, or the rotation of an axis-angle vector, as exp(K)."""
    if len(angle) == 1:
        (a,) = angle
        return np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
    x, y, z = angle
    generator = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    total, term = np.eye(3), np.eye(3)
    for n in range(1, 40):
        term = term @ generator / n
        total = total + term
    return total


def matrix(name, theta, ndim):
    """Homogeneous matrix of a linear family, from the definitions of theta."""
    theta = np.asarray(theta, np.float64)
    result = np.eye(ndim + 1)
    if name == "projective":
        return np.append(theta, 1.0).reshape(3, 3)
    if name == "affine":
        result[:ndim] = theta.reshape(ndim, ndim + 1)
        return result
    result[:ndim, ndim] = theta[-ndim:]
    if name == "attention":
        result[:ndim, :ndim] *= theta[0]
    elif name == "rigid":
        result[:ndim, :ndim] = rotation(theta[:-ndim])
    elif name == "similarity":
        result[:ndim, :ndim] = theta[0] * rotation(theta[1:-ndim])
    else:
        assert name == "translation"
    return result


def act(matrix, points):
    """The action of a homogeneous matrix on points."""
    points = np.asarray(points, np.float64)
    homogeneous = np.concatenate([points, np.ones((*points.shape[:-1], 1))], -1) @ matrix.T
    return homogeneous[..., :-1] / homogeneous[..., -1:]


def central_differences(function, x, step=1e-6):
    """Jacobian of a NumPy function, the inputs' axes last."""
    x = np.asarray(x, np.float64)
    columns = []
    for index in np.ndindex(x.shape):
        shift = np.zeros_like(x)
        shift[index] = step
        columns.append((function(x + shift) - function(x - shift)) / (2 * step))
    return np.stack(columns, axis=-1).reshape(*columns[0].shape, *x.shape)
