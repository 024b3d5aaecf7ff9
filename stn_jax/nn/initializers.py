"""Initializers: the theta that an untrained head returns."""

import functools
import math
import typing
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, ArrayLike, Float

from stn_jax import _checks
from stn_jax.transforms import Transform


@typing.runtime_checkable
class Initializer(typing.Protocol):
    """A function that makes the theta of an untrained head, ``[N, num_params]``."""

    def __call__(self, transform: Transform, *, num_transforms: int, rngs: nnx.Rngs) -> Array:
        """The initial parameters of each of the N transforms."""
        ...


InitialTheta = Initializer | ArrayLike

# ``tiled`` fits crops only in families of at most this many parameters; dense flows have more.
_MOST_PARAMETERS = 1024
# Largest residual of a fitted crop, in normalised units; in float64 it is about 1e-15.
_RESIDUAL = 1e-9


def exact_identity(
    transform: Transform, *, num_transforms: int, rngs: nnx.Rngs
) -> Float[Array, "transforms params"]:
    """Starts every transform at the identity: the untrained transformer returns its input.

    An ``initial_theta`` of the heads, and their default.

    Args:
      transform: The family.
      num_transforms: Number N of parallel transforms.
      rngs: Flax random state; not used.

    Returns:
      ``[N, num_params]``.

    Example:
      >>> import stn_jax as stn
      >>> from flax import nnx
      >>> from stn_jax import nn as stnn
      >>> stnn.exact_identity(stn.attention(), num_transforms=2, rngs=nnx.Rngs(0)).tolist()
      [[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]

    Reference:
      Jaderberg et al., Spatial Transformer Networks, arXiv:1506.02025, section 3.
    """
    start = jnp.asarray(transform.identity, jnp.float32)
    return jnp.broadcast_to(start, (num_transforms, transform.num_params))


def perturbed_identity(std: float) -> Initializer:
    """Starts each transform at the identity plus Gaussian noise, drawn from ``rngs``.

    Each parallel transform gets its own noise, so that gradients differ from the first step on.

    Args:
      std: Standard deviation of each parameter, in its own unit; not negative.

    Returns:
      An ``initial_theta`` of the heads.

    Raises:
      ValueError: If ``std`` is negative.

    Example:
      >>> import stn_jax as stn
      >>> from flax import nnx
      >>> from stn_jax import nn as stnn
      >>> start = stnn.perturbed_identity(0.1)
      >>> start(stn.affine(), num_transforms=2, rngs=nnx.Rngs(0)).shape
      (2, 6)

    Reference:
      Parallel transforms: Jaderberg et al., arXiv:1506.02025, section 3.
    """
    if not std >= 0:
        raise ValueError(f"std must not be negative; got {std!r}.")

    def draw(transform: Transform, *, num_transforms: int, rngs: nnx.Rngs) -> Array:
        start = exact_identity(transform, num_transforms=num_transforms, rngs=rngs)
        return start + std * jax.random.normal(rngs.params(), start.shape)

    return draw


def tiled(
    *, grid: Sequence[int] | None = None, scale: float | Sequence[float] | None = None
) -> Initializer:
    """Starts parallel transforms at crops that lie side by side and cover the image.

    The image is cut into a grid of equal tiles, row by row, and each crop is centred on its tile.
    The theta of a crop is found by least squares in float64, for every family that can express the
    crop, such as ``bounded`` and ``fixed`` families, chains and thin plate splines.

    Args:
      grid: Number of tiles along each axis, ``(rows, columns)`` or ``(slabs, rows, columns)``.
        ``None`` makes the grid as square as possible: 2 tiles side by side, 4 tiles two by two.
      scale: Size of a crop as a share of the image, one number or one for each of ``(x, y)`` or
        ``(x, y, z)``. ``None`` takes the first of these that the family can express: the size of
        the tile; the smallest size, equal along all axes, that covers the tile; the whole image.
        Crops larger than their tile may reach outside the image.

    Returns:
      An ``initial_theta`` of the heads.

    Raises:
      ValueError: If ``grid`` or ``scale`` does not hold positive numbers; or, when the head is
        made, if they do not fit the transforms or the family does not hold such crops.

    Example:
      Two crops of half the size, of which only the position is learned:

      >>> import stn_jax as stn
      >>> from flax import nnx
      >>> from stn_jax import nn as stnn
      >>> crop = stn.fixed(stn.attention(), {0: 0.5})
      >>> start = stnn.tiled(scale=0.5)
      >>> start(crop, num_transforms=2, rngs=nnx.Rngs(0)).round(6).tolist()
      [[-0.5, 0.0], [0.5, 0.0]]

    Reference:
      Parallel crops: Jaderberg et al., arXiv:1506.02025, section 4.3.
    """
    if grid is not None:
        grid = _checks.spatial_shape("grid", grid)
    if scale is not None and not (np.array(scale, np.float64) > 0).all():
        raise ValueError(f"scale must be positive, one number or one per axis; got {scale!r}.")

    def crops(transform: Transform, *, num_transforms: int, rngs: nnx.Rngs) -> Array:
        ndim = transform.ndim
        tiles = _squarest(num_transforms, ndim) if grid is None else grid
        if len(tiles) != ndim or np.prod(tiles) != num_transforms:
            raise ValueError(
                f"grid must have {ndim} entries whose product is the number of parallel "
                f"transforms, {num_transforms}; got {tiles}."
            )
        along = np.array(tiles[::-1], np.float64)  # x first
        if scale is not None and np.shape(scale) not in ((), (ndim,)):
            raise ValueError(
                f"scale must be one number or {ndim}, x first, for a {transform.name} transform; "
                f"got {scale!r}."
            )
        given = [1 / along, np.max(1 / along), 1.0] if scale is None else [scale]
        sizes = [np.broadcast_to(np.array(size, np.float64), ndim) for size in given]
        index = np.stack(np.meshgrid(*map(np.arange, tiles), indexing="ij"), axis=-1)
        centres = (2 * index.reshape(-1, ndim)[:, ::-1] + 1) / along - 1
        thetas = _fit_crops(transform, sizes, centres)
        if thetas is not None:
            return jnp.asarray(thetas, jnp.float32)
        raise ValueError(
            f"tiled cannot express its crops, of scale {sizes[0].tolist()} around "
            f"{centres.tolist()}, in a {transform.name} transform. Give a scale that the family "
            "can express, such as tiled(scale=0.5) if its scale is fixed at 0.5; use a family that "
            "scales and shifts, such as attention or affine; use a wider radius for a bounded "
            "family; or pass theta itself as initial_theta."
        )

    return crops


def starting_theta(
    initial_theta: InitialTheta, transform: Transform, num_transforms: int, rngs: nnx.Rngs
) -> Float[Array, "transforms params"]:
    """The theta of ``initial_theta``, which is an initializer or the values themselves."""
    if callable(initial_theta):
        initial_theta = initial_theta(transform, num_transforms=num_transforms, rngs=rngs)
    theta = _checks.as_array("initial_theta", initial_theta, jnp.float32)
    shape = (num_transforms, transform.num_params)
    if theta.shape not in (shape, shape[1:]):
        raise ValueError(
            f"initial_theta must have shape {shape[1:]}, or {shape} for {num_transforms} "
            f"{transform.name} transform(s); got {theta.shape}."
        )
    return jnp.broadcast_to(theta, shape)


def _squarest(number: int, ndim: int) -> tuple[int, ...]:
    """Factors of a number that are as close to each other as possible, the smallest first."""
    if ndim == 1:
        return (number,)
    first = max(d for d in range(1, number + 1) if number % d == 0 and d**ndim <= number)
    return (first, *_squarest(number // first, ndim - 1))


def _fit_crops(
    transform: Transform, scales: Sequence[np.ndarray], centres: np.ndarray
) -> np.ndarray | None:
    """Theta of each map ``p ↦ scale · p + centre``, for the first scale the family can express."""
    ndim, size = transform.ndim, transform.num_params
    if size > _MOST_PARAMETERS:
        return None
    # More equations than parameters, so that a zero residual means the same map everywhere.
    number = 2 * math.ceil((size / ndim) ** (1 / ndim)) + 3
    axes = np.meshgrid(*ndim * [np.linspace(-1, 1, number)], indexing="ij")
    points = np.stack([axis.ravel() for axis in axes], axis=-1)
    # In float64, and with concrete values even if the model is made inside a trace.
    with jax.enable_x64(True), jax.ensure_compile_time_eval():
        lattice = jnp.asarray(points)
        for scale in scales:
            thetas = []
            for centre in centres:
                wanted = (scale * points + centre - points).ravel()
                theta = _gauss_newton(
                    lambda theta: _displacement(transform, theta, lattice),
                    lambda theta: _slope(transform, theta, lattice),
                    np.asarray(transform.identity),
                    wanted,
                )
                if theta is None:
                    break
                thetas.append(theta)
            else:
                return np.round(thetas, 12) + 0.0  # no noise around 0, and no −0
    return None


@functools.partial(jax.jit, static_argnums=0)
def _displacement(transform: Transform, theta: Array, points: Array) -> Array:
    """The displacements of all points as one vector; compiled once per family."""
    return transform.displacement(theta, points).ravel()


@functools.partial(jax.jit, static_argnums=0)
def _slope(transform: Transform, theta: Array, points: Array) -> Array:
    """The derivative of :func:`_displacement` with respect to theta."""
    return jax.jacfwd(_displacement, argnums=1)(transform, theta, points)


def _gauss_newton(
    value: Callable[[np.ndarray], Array],
    slope: Callable[[np.ndarray], Array],
    theta: np.ndarray,
    wanted: np.ndarray,
) -> np.ndarray | None:
    """Solves ``value(theta) = wanted``, starting at ``theta``; ``None`` if it does not converge."""
    error = np.asarray(value(theta)) - wanted
    for _ in range(30):
        if np.abs(error).max() < _RESIDUAL:
            return theta
        step = np.linalg.lstsq(np.asarray(slope(theta)), -error, rcond=1e-12)[0]
        for shrink in 0.5 ** np.arange(10):
            trial = np.asarray(value(theta + shrink * step)) - wanted
            if np.linalg.norm(trial) < 0.99 * np.linalg.norm(error):
                break
        else:
            return None
        theta, error = theta + shrink * step, trial
    return None
