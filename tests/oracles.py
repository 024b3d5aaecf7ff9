"""Oracles of families in float64, from theta and points to points: matrices of ``reference.py``,
splines, fields and flows by SciPy.
"""

import functools

import numpy as np
import reference
from scipy import integrate, interpolate, linalg, ndimage, optimize


def linear_oracle(name, ndim):
    return lambda theta, points: reference.act(reference.matrix(name, theta, ndim), points)


def generator(group, theta, ndim):
    """The generator of an exponential family, from the definition of theta."""
    result = np.zeros((ndim + 1, ndim + 1))
    if group == "projective":
        result.ravel()[:-1] = theta
        result[2, 2] = -result[0, 0] - result[1, 1]
    elif group == "affine":
        result[:ndim] = theta.reshape(ndim, ndim + 1)
    else:
        if group == "similarity":
            result[:ndim, :ndim] = theta[0] * np.eye(ndim)
            theta = theta[1:]
        turn = theta[:-ndim] if ndim == 3 else np.array([0, 0, theta[0]])
        result[:ndim, :ndim] += np.cross(turn, -np.eye(3))[:ndim, :ndim]
        result[:ndim, ndim] = theta[-ndim:]
    return result


def exponential_oracle(group, ndim):
    return lambda theta, points: reference.act(linalg.expm(generator(group, theta, ndim)), points)


def spline_oracle(control, smoothing=0.0):
    """SciPy's kernel in 2-D is r² log r, half of ours; the others are the same."""
    name = {1: "cubic", 2: "thin_plate_spline", 3: "linear"}[control.shape[1]]
    weight = smoothing / 2 if name == "thin_plate_spline" else smoothing

    @by_rows
    def apply(theta, points):
        places = theta.reshape(control.shape)
        kernel = {"kernel": name, "degree": 1, "smoothing": weight}
        return interpolate.RBFInterpolator(control, places, **kernel)(points)

    return apply


def by_rows(oracle):
    """SciPy takes only lists of points."""

    @functools.wraps(oracle)
    def apply(theta, points):
        return oracle(theta, points.reshape(-1, points.shape[-1])).reshape(points.shape)

    return apply


def lattice_offsets(shape):
    """SciPy's B-spline of the lattice, continued at its edges."""

    @by_rows
    def offsets(theta, points):
        lattice = theta.reshape(*shape, len(shape))
        index = np.stack(
            [
                np.clip(reference.pixel(points[..., k], shape[-1 - k], True), -2, shape[-1 - k] + 1)
                for k in reversed(range(len(shape)))
            ]
        )
        margin = 4
        wide = np.pad(lattice, [(margin, margin)] * len(shape) + [(0, 0)], mode="edge")
        options = {"order": 3, "prefilter": False, "mode": "nearest"}
        channels = [
            ndimage.map_coordinates(wide[..., c], index + margin, **options)
            for c in range(len(shape))
        ]
        return np.stack(channels, axis=-1)

    return offsets


def lattice_oracle(shape):
    return lambda theta, points: points + lattice_offsets(shape)(theta, points)


def flow_oracle(shape, align_corners):
    @by_rows
    def apply(theta, points):
        field = theta.reshape(*shape, len(shape))
        index = np.stack(
            [
                reference.pixel(points[..., k], shape[-1 - k], align_corners)
                for k in reversed(range(len(shape)))
            ]
        )
        channels = [
            ndimage.map_coordinates(field[..., c], index, order=1, mode="nearest")
            for c in range(len(shape))
        ]
        return points + np.stack(channels, axis=-1)

    return apply


def stationary_velocity_oracle(shape, squarings, align_corners):
    """Composes the field with itself, pixel by pixel, then reads it at the points."""
    lattice = reference.regular_grid(shape, align_corners)
    at = flow_oracle(shape, align_corners)

    def apply(theta, points):
        field = theta / 2**squarings
        for _ in range(squarings):
            moved = lattice + field.reshape(lattice.shape)
            field = (at(field, moved) - lattice).ravel()
        return at(field, points)

    return apply


def diffeomorphic_oracle(shape):
    offsets = lattice_offsets(shape)

    def apply(theta, points):
        rate = lambda _, p: offsets(theta, p.reshape(points.shape)).ravel()  # noqa: E731
        options = {"method": "DOP853", "rtol": 1e-9, "atol": 1e-10}
        end = integrate.solve_ivp(rate, (0, 1), points.ravel(), **options).y[:, -1]
        return end.reshape(points.shape)

    return apply


def cpab_oracle(shape):
    """SciPy's integration of the velocity, interpolated by Kuhn's triangulation."""
    last = np.array(shape[::-1]) - 1

    def velocity(field, points):
        places = np.clip((points + 1) * last / 2, 0, last)
        corner = np.minimum(np.floor(places), last - 1).astype(int)
        inside = places - corner
        value = before = field[tuple(corner.T[::-1])]
        for axis in np.argsort(-inside, axis=1).T:
            rows = np.arange(len(points))
            corner[rows, axis] += 1
            here = field[tuple(corner.T[::-1])]
            value, before = value + inside[rows, axis][:, None] * (here - before), here
        return value

    @by_rows
    def apply(theta, points):
        field = theta.reshape(*shape, len(shape))
        rate = lambda _, p: velocity(field, p.reshape(points.shape)).ravel()  # noqa: E731
        options = {"method": "DOP853", "rtol": 1e-11, "atol": 1e-12}
        end = integrate.solve_ivp(rate, (0, 1), points.ravel(), **options).y[:, -1]
        return end.reshape(points.shape)

    return apply


def chain_oracle(*members):
    def apply(theta, points):
        start = 0
        for member in members:
            end = start + member.make().num_params
            points, start = member.oracle(theta[start:end], points), end
        return points

    return apply


def inverse_oracle(oracle):
    """The root of ``oracle(theta, target) = source``, point by point."""

    @by_rows
    def apply(theta, points):
        def find(point):
            found = optimize.root(lambda target: oracle(theta, target) - point, point, tol=1e-13)
            np.testing.assert_allclose(oracle(theta, found.x), point, atol=1e-12)
            return found.x

        return np.array([find(point) for point in points])

    return apply


def bounded_oracle(member, radius):
    identity = member.make().identity

    def apply(theta, points):
        return member.oracle(identity + radius * np.tanh((theta - identity) / radius), points)

    return apply


def isotropic_oracle(member, *aspect):
    lengths = np.array([*aspect, 1.0])
    return lambda theta, points: member.oracle(theta, points * lengths) / lengths


def fixed_oracle(member, held):
    size = member.make().num_params
    free = [index for index in range(size) if index not in held]

    def apply(theta, points):
        whole = np.zeros(size)
        whole[free], whole[list(held)] = theta, list(held.values())
        return member.oracle(whole, points)

    return apply


def lattice_points(*shape):
    return reference.regular_grid(shape, True).reshape(-1, len(shape))


def polar_oracle(radius, aspect, inner=None):
    def apply(theta, points):
        share, angle = (points[..., 0] + 1) / 2, np.pi * (points[..., 1] + 1)
        distance = radius * share if inner is None else inner * (radius / inner) ** share
        x, y = distance * np.cos(angle) / aspect, distance * np.sin(angle)
        return np.stack([theta[0] + x, theta[1] + y], axis=-1)

    return apply
