"""The record of a family of transforms."""

import dataclasses
from collections.abc import Callable
from typing import Any, ParamSpec

import jax
import numpy as np
from jaxtyping import Array, Float

from stn_jax import _checks, _records
from stn_jax._types import AnyArray
from stn_jax.coordinates import regular_grid

PointFunction = Callable[[Array, Array], Array]
Parameters = ParamSpec("Parameters")


def family(make: Callable[Parameters, "Transform"]) -> Callable[Parameters, "Transform"]:
    """Decorates a function that returns transforms: equal arguments give equal transforms.

    JAX then compares, hashes, copies and pickles a transform by the function that made it and its
    arguments. While a transform is in use, equal arguments even return the same object. So
    ``jax.jit`` compiles once for all equal transforms, and not again for a copy of a model.

    Args:
      make: The function, from arguments to a :class:`Transform`. Arguments are hashable objects,
        transforms, or arrays. JAX arrays, also traced ones, become leaves of the transform, which
        is a pytree. All other arguments, NumPy arrays included, become part of its structure.

    Returns:
      The decorated function. Its transforms can be pickled if it is at the top level of a module.

    Example:
      A family whose argument may be traced, batched and differentiated:

      >>> import jax
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> import stn_jax as stn
      >>> @stn.family
      ... def shear(strength):
      ...     def displacement(theta, points):
      ...         return strength * theta[0] * points[..., ::-1] * np.array([1, 0], np.float32)
      ...
      ...     return stn.Transform(
      ...         name="shear",
      ...         ndim=2,
      ...         identity=np.zeros(1),
      ...         displacement=displacement,
      ...         inverse=lambda theta, points: points - displacement(theta, points),
      ...     )
      >>> shear(0.5) is shear(strength=0.5)
      True
      >>> corner = jnp.array([1.0, 1.0])
      >>> jax.grad(lambda s: shear(s).apply(jnp.array([0.25]), corner)[0])(2.0).item()
      0.25

    Reference:
      Functions that return records of pure functions, as in optax.
    """
    return _records.maker(make)


@_records.register
@dataclasses.dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Transform(_records.Record):
    """A family of maps from target (output) points to source (input) points.

    A family is a record of pure functions of one flat parameter vector ``theta`` and of points in
    normalised coordinates, ``(x, y)`` or ``(x, y, z)`` on the last axis. Families are made by
    functions such as :func:`stn_jax.affine`; your own family is one more record.

    A record is compared, hashed, pickled and copied by the function that made it and its arguments.
    So it may be a static argument of ``jax.jit``, and a copied or unpickled record does not
    recompile. It is also a pytree, and may be an ordinary argument of ``jit``, ``vmap`` or
    ``scan``: JAX arrays among its arguments, such as control points, are its leaves. Leaves may
    also be computed from the arguments, such as a solved system. So differentiate with respect to
    the arguments, and make the record inside the loss.

    A record that you make without :func:`family` is compared by its fields. It can be pickled if
    its functions can: define them at the top level of a module, or use :func:`family`.

    Attributes:
      name: Name for messages and files.
      ndim: Number of coordinates of a point.
      identity: The parameters of the identity, float64 NumPy ``[num_params]``; a JAX array where
        it follows from JAX arrays.
      displacement: ``(theta, points) -> T(points) − points``. Samplers use the map in this form
        since it is exactly zero at the identity and does not round small displacements.
      inverse: ``(theta, points) -> points``, the map from source to target points.
      homogeneous: ``theta -> [ndim + 1, ndim + 1]``, the matrix of a linear family, or ``None``.
      affine_change: ``theta -> [ndim, ndim + 1]``, the matrix of an affine family less the
        identity, or ``None``. It must give the same map as ``displacement``: with it the engine
        ``"native"`` computes the coordinates where it samples, and stores none of them.
      lattice_displacement: ``(theta, shape, align_corners) -> [*shape, ndim]``, the displacement at
        the points of :func:`stn_jax.regular_grid`, or ``None``. It must give the same map as
        ``displacement``, and is for families that are computed faster for a whole lattice. A
        parameter that is not finite may spread to other points.

    Example:
      A family of your own, a horizontal shear with one parameter:

      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> import stn_jax as stn
      >>> shear = stn.Transform(
      ...     name="shear",
      ...     ndim=2,
      ...     identity=np.zeros(1),
      ...     displacement=lambda theta, p: p[..., ::-1] * jnp.stack([theta[0], 0.0]),
      ...     inverse=lambda theta, p: p - p[..., ::-1] * jnp.stack([theta[0], 0.0]),
      ... )
      >>> source = shear.apply(jnp.array([0.5]), jnp.array([0.0, 1.0]))
      >>> source.tolist(), shear.invert(jnp.array([0.5]), source).tolist()
      ([0.5, 1.0], [0.0, 1.0])

    Reference:
      Jaderberg et al., Spatial Transformer Networks, arXiv:1506.02025, section 3.2.
    """

    name: str
    ndim: int
    identity: np.ndarray | Array
    displacement: PointFunction
    inverse: PointFunction
    homogeneous: Callable[[Array], Array] | None = None
    affine_change: Callable[[Array], Array] | None = None
    lattice_displacement: Callable[[Array, tuple[int, ...], bool], Array] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.identity, jax.Array):
            identity = _checks.float64s("identity", self.identity)
            identity.flags.writeable = False
            object.__setattr__(self, "identity", identity)
        if self.identity.ndim != 1:
            raise ValueError(f"identity must be a flat vector; got shape {self.identity.shape}.")

    def _summary(self) -> str:
        return f"{self.name}: {self.ndim}-D, {self.num_params} parameters"

    @property
    def num_params(self) -> int:
        """Length of ``theta``."""
        return len(self.identity)

    def check_theta(self, theta: AnyArray) -> Array:
        """Checks that ``theta`` is a flat vector; returns it in float32 or wider."""
        meaning = f"the parameters of one {self.name} transform"
        return _checks.vector("theta", theta, self.num_params, meaning)

    def apply(
        self, theta: Float[AnyArray, " params"], points: Float[AnyArray, "*batch n"]
    ) -> Float[Array, "*batch n"]:
        """Maps target points to source points.

        Args:
          theta: Parameters ``[num_params]`` of one transform; batch with ``jax.vmap``.
          points: Normalised points ``[..., ndim]``.

        Returns:
          Points of the same shape, in float32 or wider.

        Raises:
          ValueError: If ``theta`` or the last axis of ``points`` has the wrong length.
          TypeError: If either is not of a floating dtype.

        Example:
          >>> import jax.numpy as jnp
          >>> import stn_jax as stn
          >>> stn.translation().apply(jnp.array([0.5, 0.0]), jnp.zeros(2)).tolist()
          [0.5, 0.0]
        """
        theta, points = self._operands(theta, points)
        return points + self.displacement(theta, points)

    def invert(
        self, theta: Float[AnyArray, " params"], points: Float[AnyArray, "*batch n"]
    ) -> Float[Array, "*batch n"]:
        """Maps source points back to target points: ``invert(theta, apply(theta, p)) = p``.

        Points, boxes and landmarks of the input image move in this direction when the image is
        warped. A singular map gives non-finite points. An inverse that is found by iteration is NaN
        where the iteration does not converge; :func:`stn_jax.diagnostics.inverse_residual` measures
        its error.

        Args:
          theta: Parameters ``[num_params]`` of one transform.
          points: Normalised points ``[..., ndim]``.

        Returns:
          Points of the same shape, in float32 or wider.

        Raises:
          ValueError: If ``theta`` or the last axis of ``points`` has the wrong length.
          TypeError: If either is not of a floating dtype.

        Example:
          >>> import jax.numpy as jnp
          >>> import stn_jax as stn
          >>> stn.attention().invert(jnp.array([0.5, 0.0, 0.0]), jnp.array([0.25, 0.0])).tolist()
          [0.5, 0.0]
        """
        theta, points = self._operands(theta, points)
        return self.inverse(theta, points)

    def matrix(self, theta: Float[AnyArray, " params"]) -> Float[Array, "rows columns"]:
        """The homogeneous matrix of a linear family, target to source, normalised coordinates.

        Args:
          theta: Parameters ``[num_params]`` of one transform.

        Returns:
          Matrix ``[ndim + 1, ndim + 1]`` that acts on ``(x, y, 1)`` or ``(x, y, z, 1)``.

        Raises:
          ValueError: If ``theta`` has the wrong length, or the family has no matrix.

        Example:
          >>> import jax.numpy as jnp
          >>> import stn_jax as stn
          >>> stn.attention().matrix(jnp.array([0.5, 0.25, 0.0])).tolist()
          [[0.5, 0.0, 0.25], [0.0, 0.5, 0.0], [0.0, 0.0, 1.0]]
        """
        if self.homogeneous is None:
            raise ValueError(f"a {self.name} transform has no matrix; use apply and invert.")
        return self.homogeneous(self.check_theta(theta))

    def _operands(self, theta: AnyArray, points: AnyArray) -> list[Array]:
        return _checks.common_dtype(
            self.check_theta(theta), _checks.points("points", points, self.ndim)
        )


def displacement_on_lattice(
    transform: Transform, theta: Array, shape: tuple[Any, ...], *, align_corners: bool
) -> Array:
    """The displacement ``[*shape, n]`` of the points of an output lattice."""
    if transform.lattice_displacement and all(isinstance(size, int) for size in shape):
        return transform.lattice_displacement(theta, shape, align_corners)
    points = regular_grid(shape, align_corners=align_corners, dtype=theta.dtype)
    return transform.displacement(theta, points)
