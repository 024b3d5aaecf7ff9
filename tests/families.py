"""Every family of transforms, each with an oracle of ``oracles.py``."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from oracles import (
    bounded_oracle,
    chain_oracle,
    cpab_oracle,
    diffeomorphic_oracle,
    exponential_oracle,
    fixed_oracle,
    flow_oracle,
    inverse_oracle,
    isotropic_oracle,
    lattice_oracle,
    lattice_points,
    linear_oracle,
    polar_oracle,
    spline_oracle,
    stationary_velocity_oracle,
)
from reference import act

import stn_jax as stn
from stn_jax import Transform

CONTROL = np.array([[-0.9, -0.7], [0.8, -1.0], [0.1, 0.05], [-0.4, 0.9], [1.0, 0.6], [0.3, -0.3]])


class Member(NamedTuple):
    """A family, with its oracle and the options of its laws.

    ``oracle`` maps ``(theta, points)`` to points with errors of at most ``tolerance``. ``spread``
    is the distance of the laws' parameters from the identity, and ``step`` the step of difference
    quotients. The laws of a ``slow`` member run with the slow tests. A family without
    ``has_identity`` has no theta of the identity. At the identity of a family with
    ``kinks_at_identity`` first derivatives bend, so that there is no second derivative.
    """

    make: Callable[[], Transform]
    oracle: Callable[[np.ndarray, np.ndarray], np.ndarray]
    spread: float = 0.3
    tolerance: float = 1e-13
    step: float = 1e-6
    slow: bool = False
    has_identity: bool = True
    kinks_at_identity: bool = False

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
    # At the identity each squaring reads the field at kinks, where difference quotients are wrong.
    oracle = stationary_velocity_oracle(shape, squarings, align_corners)
    return Member(make, oracle, spread, 1e-7, 1e-7, kinks_at_identity=True)


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
    make = lambda: stn.inverted(member.make())  # noqa: E731
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
    "exponential rigid": _exponential("rigid"),
    "exponential similarity": _exponential("similarity"),
    "exponential affine": _exponential("affine"),
    "exponential projective": _exponential("projective"),
    "exponential rigid 3-D": _exponential("rigid", 3),
    "exponential similarity 3-D": _exponential("similarity", 3),
    "exponential affine 3-D": _exponential("affine", 3),
    "projective, full matrix": Member(
        functools.partial(stn.projective, full_matrix=True),
        lambda theta, points: act(theta.reshape(3, 3), points),
        0.1,
    ),
    "thin plate spline": _spline(spline_oracle(lattice_points(4, 4)), (4, 4)),
    "smoothed spline": _spline(spline_oracle(lattice_points(3, 4), 0.3), (3, 4), smoothing=0.3),
    "spline of own points": _spline(spline_oracle(CONTROL), control_points=CONTROL),
    "spline of signals": _spline(spline_oracle(lattice_points(5)), (5,)),
    "spline of volumes": _spline(
        spline_oracle(lattice_points(2, 3, 2), 0.3), (2, 3, 2), smoothing=0.3
    ),
    "polar": _polar(0.8, 1.5),
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
    "cpab": _cpab(3, 4)._replace(slow=True),
    "cpab of signals": _cpab(5),
    # The integrator of the oracle steps over more kinks.
    "cpab 3-D": _cpab(2, 3, 2)._replace(slow=True, tolerance=5e-7),
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
    "isotropic similarity 3-D": _isotropic("similarity 3-D", 0.7, 1.6),
    "isotropic displacement": _isotropic("displacement", 1.4),
    "fixed similarity": _fixed("similarity", {0: 1.0, 2: 0.0}),
}
MEMBERS |= {
    "chain of combinators": _chain("inverse of projective", "bounded projective"),
}
