"""Every family of transforms, each with an oracle in float64: linear ones and combinators from the
matrices of ``reference.py``, splines and fields by SciPy.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import reference
from scipy import integrate, interpolate, linalg, ndimage, optimize

import stn_jax as stn
from stn_jax import Transform

CONTROL = np.array([[-0.9, -0.7], [0.8, -1.0], [0.1, 0.05], [-0.4, 0.9], [1.0, 0.6], [0.3, -0.3]])


class Member(NamedTuple):
    """A family and what the laws need to know of it.

    ``oracle`` maps ``(theta, points)`` to points, and is itself as exact as ``tolerance``.
    ``spread`` is how far the laws' parameters lie from the identity, and ``step`` that of its
    difference quotients. The laws of what is ``slow`` run with the slow tests. Without
    ``has_identity`` no theta leaves points where they are.
    """

    make: Callable[[], Transform]
    oracle: Callable[[np.ndarray, np.ndarray], np.ndarray]
    spread: float = 0.3
    tolerance: float = 1e-13
    step: float = 1e-6
    slow: bool = False
    has_identity: bool = True

    @property
    def transform(self):
        return self.make()

    def theta(self, seed, share=1.0):
        """Random parameters around the identity."""
        t = self.make()
        noise = np.random.default_rng(seed).uniform(-1, 1, t.num_params)
        return t.identity + share * self.spread * noise

    def points(self, seed, *shape, extent=1.0):
        return np.random.default_rng(seed).uniform(-extent, extent, (*shape, self.make().ndim))


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
    """SciPy takes lists of points alone."""

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
    """The field composed with itself, pixel by pixel, then read at the points."""
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


def _polar(radius, aspect):
    make = functools.partial(stn.polar, radius=radius, aspect=aspect)
    return Member(make, polar_oracle(radius, aspect), has_identity=False)


def _log_polar(inner, radius, aspect):
    make = functools.partial(stn.log_polar, inner=inner, radius=radius, aspect=aspect)
    return Member(make, polar_oracle(radius, aspect, inner), has_identity=False)


def _linear(name, ndim=2):
    make = functools.partial(getattr(stn, name), ndim=ndim)
    return Member(make, linear_oracle(name, ndim), 0.1 if name == "projective" else 0.3)


def _exponential(group, ndim=2):
    make = functools.partial(stn.exponential, group, ndim=ndim)
    return Member(make, exponential_oracle(group, ndim), 0.1 if group == "projective" else 0.3)


def _spline(oracle, *args, **options):
    make = functools.partial(stn.thin_plate_spline, *args, **options)
    return Member(make, oracle, 0.1, 1e-12)


def _displacement(*shape):
    make = functools.partial(stn.displacement, shape)
    return Member(make, lattice_oracle(shape), 0.1)


def _flow(spread, *shape, align_corners=False):
    make = functools.partial(stn.flow, shape, align_corners=align_corners)
    return Member(make, flow_oracle(shape, align_corners), spread)


def _stationary_velocity(spread, *shape, squarings, align_corners=False):
    make = functools.partial(
        stn.stationary_velocity, shape, squarings=squarings, align_corners=align_corners
    )
    # At the identity each squaring reads the field at its kinks, which a difference quotient feels.
    oracle = stationary_velocity_oracle(shape, squarings, align_corners)
    return Member(make, oracle, spread, 1e-7, 1e-7)


def _diffeomorphic(*shape):
    make = functools.partial(stn.diffeomorphic, shape, steps=24)
    return Member(make, diffeomorphic_oracle(shape), 0.3, 1e-6, 1e-3)


def _cpab(*shape):
    return Member(functools.partial(stn.cpab, shape), cpab_oracle(shape), 0.3, 1e-7, 1e-4)


def _chain(*names):
    members = [MEMBERS[name] for name in names]
    spread, tolerance = min(m.spread for m in members), max(m.tolerance for m in members)
    make = lambda: stn.chain(*(m.make() for m in members))  # noqa: E731
    return Member(make, chain_oracle(*members), spread / 2, 10 * tolerance)


def _inverse(name):
    member = MEMBERS[name]
    make = lambda: stn.inverse(member.make())  # noqa: E731
    return Member(make, inverse_oracle(member.oracle), member.spread / 2, 1e-8, 1e-4)


def _bounded(name, radius):
    member = MEMBERS[name]
    make = lambda: stn.bounded(member.make(), radius=radius)  # noqa: E731
    return member._replace(make=make, oracle=bounded_oracle(member, radius))


def _isotropic(name, *aspect):
    member = MEMBERS[name]
    made = aspect[0] if len(aspect) == 1 else aspect
    make = lambda: stn.isotropic(member.make(), aspect=made)  # noqa: E731
    return member._replace(make=make, oracle=isotropic_oracle(member, *aspect))


def _fixed(name, held):
    """``held`` has the identity's values."""
    member = MEMBERS[name]
    make = lambda: stn.fixed(member.make(), held)  # noqa: E731
    return member._replace(make=make, oracle=fixed_oracle(member, held))


LINEAR = {
    **{
        name: _linear(name)
        for name in ("translation", "rigid", "similarity", "attention", "affine", "projective")
    },
    **{
        f"{name} 3-D": _linear(name, 3)
        for name in ("translation", "rigid", "similarity", "attention", "affine")
    },
}
MEMBERS = {
    **LINEAR,
    "exponential rigid": _exponential("rigid")._replace(slow=True),
    "exponential similarity": _exponential("similarity")._replace(slow=True),
    "exponential affine": _exponential("affine")._replace(slow=True),
    "exponential projective": _exponential("projective")._replace(slow=True),
    "exponential rigid 3-D": _exponential("rigid", 3)._replace(slow=True),
    "exponential similarity 3-D": _exponential("similarity", 3),
    "exponential affine 3-D": _exponential("affine", 3)._replace(slow=True),
    "thin plate spline": _spline(spline_oracle(lattice_points(4, 4)), (4, 4)),
    "smoothed spline": _spline(spline_oracle(lattice_points(3, 4), 0.3), (3, 4), smoothing=0.3),
    "spline of own points": _spline(spline_oracle(CONTROL), control_points=CONTROL),
    "spline of signals": _spline(spline_oracle(lattice_points(5)), (5,)),
    "spline of volumes": _spline(
        spline_oracle(lattice_points(2, 3, 2), 0.3), (2, 3, 2), smoothing=0.3
    )._replace(slow=True),
    "polar": _polar(0.8, 1.5)._replace(slow=True),
    "log-polar": _log_polar(0.2, 1.3, 1.0),
    "displacement": _displacement(4, 5),
    "displacement 3-D": _displacement(2, 4, 3),
    "flow": _flow(0.06, 5, 6),
    "flow, aligned": _flow(0.1, 4, 3, align_corners=True),
    "flow 3-D": _flow(0.06, 2, 3, 4),
    "stationary velocity": _stationary_velocity(0.06, 5, 6, squarings=5),
    "stationary velocity 3-D, aligned": _stationary_velocity(
        0.06, 3, 2, 3, squarings=2, align_corners=True
    ),
    "diffeomorphic": _diffeomorphic(4, 5),
    "diffeomorphic 3-D": _diffeomorphic(3, 2, 4),
    "cpab": _cpab(3, 4),
    "cpab of signals": _cpab(5)._replace(slow=True),
    "cpab 3-D": _cpab(2, 3, 2)._replace(slow=True),
}
MEMBERS |= {
    "chain of linear": _chain("projective", "attention", "rigid"),
    "chain of linear 3-D": _chain("rigid 3-D", "affine 3-D"),
    "chain of any": _chain("affine", "thin plate spline", "displacement"),
    "inverse of projective": _inverse("projective"),
    "inverse of affine 3-D": _inverse("affine 3-D"),
    "inverse of displacement": _inverse("displacement"),
    "bounded projective": _bounded("projective", 0.1),
    "bounded spline": _bounded("thin plate spline", 0.3),
    "isotropic rigid": _isotropic("rigid", 4 / 3),
    "isotropic similarity 3-D": _isotropic("similarity 3-D", 0.7, 1.6)._replace(slow=True),
    "isotropic displacement": _isotropic("displacement", 1.4)._replace(slow=True),
    "fixed similarity": _fixed("similarity", {0: 1.0, 2: 0.0}),
}
MEMBERS |= {
    "chain of combinators": _chain("inverse of projective", "bounded projective"),
}
