"""Conversions between normalised and physical coordinates; public in ``conversions``."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from stn_jax import _checks
from stn_jax._pixel_units import checked_field
from stn_jax._types import AnyArray
from stn_jax.coordinates import regular_grid, scale_and_centre
from stn_jax.transforms.matrices import square_matrix

World = Float[np.ndarray, "n_plus_1 n_plus_1"]


def world_from_itk(
    spacing: Sequence[float] | np.ndarray,
    origin: Sequence[float] | np.ndarray | None = None,
    direction: Sequence[float] | np.ndarray | None = None,
) -> World:
    """The matrix from pixel coordinates to physical points of an image of ITK or SimpleITK.

    ITK's points are in millimetres towards the patient's left, posterior and superior (LPS).

    Args:
      spacing: ``image.GetSpacing()``, ``(x, y)`` or ``(x, y, z)``.
      origin: ``image.GetOrigin()``, the point of the first pixel's centre; ``None`` for 0.
      direction: ``image.GetDirection()``, the cosines row by row; ``None`` for the identity.

    Returns:
      ``[n + 1, n + 1]`` in float64; it acts on ``(x, y, 1)`` or ``(x, y, z, 1)`` of the array
      ``[z, y, x]`` that ``GetArrayFromImage`` returns.

    Raises:
      ValueError: If lengths do not fit, or a spacing or the direction is singular.

    Example:
      >>> from stn_jax import conversions
      >>> conversions.world_from_itk((0.5, 2.0), origin=(10.0, -4.0)).tolist()
      [[0.5, 0.0, 10.0], [0.0, 2.0, -4.0], [0.0, 0.0, 1.0]]

    Reference:
      The ITK Software Guide, section "Defining Origin and Spacing".
    """
    steps = _checks.float64s("spacing", spacing)
    n = steps.size
    first = np.zeros(n) if origin is None else _checks.float64s("origin", origin)
    cosines = np.eye(n) if direction is None else _checks.float64s("direction", direction)
    if steps.shape != (n,) or first.shape != (n,) or cosines.size != n * n:
        raise ValueError(
            f"spacing, origin and direction must have n, n and n² numbers; got {steps.size}, "
            f"{first.size} and {cosines.size}."
        )
    world = np.eye(n + 1)
    world[:n, :n], world[:n, n] = cosines.reshape(n, n) * steps, first
    return _checked_world("spacing and direction", world, n)


def world_from_nibabel(affine: AnyArray) -> World:
    """The matrix from pixel coordinates to LPS points of an image of nibabel or MONAI.

    Their affine maps the indices ``(i, j, k)`` of the array to points towards the patient's right,
    anterior and superior (RAS). Here pixel coordinates are ``(x, y, z)``, the indices in reverse,
    and points are LPS, as in ITK.

    Args:
      affine: ``image.affine``, ``[4, 4]``.

    Returns:
      ``[4, 4]`` in float64; it acts on ``(x, y, z, 1)`` of the array as nibabel loads it.

    Raises:
      ValueError: If ``affine`` is not an invertible 4×4 matrix.

    Example:
      >>> import numpy as np
      >>> from stn_jax import conversions
      >>> affine = np.diag([1.0, 2.0, 3.0, 1.0])  # i is 1 mm to the right, k is 3 mm up
      >>> world = conversions.world_from_nibabel(affine)
      >>> (world @ [0, 0, 5, 1]).tolist()  # z is the first axis, i; left is negative
      [-5.0, 0.0, 0.0, 1.0]

    Reference:
      Nibabel's documentation, "Coordinate systems and affines".
    """
    world = _checked_world("affine", _checks.float64s("affine", affine), 3)
    return np.diag([-1.0, -1, 1, 1]) @ world[:, [2, 1, 0, 3]]


def matrix_about_center(
    matrix: Float[AnyArray, "n n"],
    translation: Float[AnyArray, " n"],
    center: Float[AnyArray, " n"],
) -> Float[Array, "n n_plus_1"]:
    """The affine matrix of ``T(p) = A (p − c) + c + t``, as ITK and SimpleITK hold theirs.

    Args:
      matrix: ``A``, ``transform.GetMatrix()`` as ``[n, n]``.
      translation: ``t``, ``transform.GetTranslation()``.
      center: ``c``, ``transform.GetCenter()``.

    Returns:
      ``[n, n + 1]``.

    Raises:
      ValueError: If shapes do not fit.
      TypeError: If an argument is not of a floating dtype.

    Example:
      >>> import jax.numpy as jnp
      >>> from stn_jax import conversions
      >>> half_turn = jnp.array([[-1.0, 0.0], [0.0, -1.0]])
      >>> conversions.matrix_about_center(half_turn, jnp.zeros(2), jnp.array([3.0, 1.0])).tolist()
      [[-1.0, 0.0, 6.0], [0.0, -1.0, 2.0]]

    Reference:
      The ITK Software Guide, section "Affine transform".
    """
    parts = [
        _checks.floating(name, each)
        for name, each in (("matrix", matrix), ("translation", translation), ("center", center))
    ]
    linear, shift, about = _checks.common_dtype(*parts)
    n = linear.shape[0]
    if linear.shape != (n, n) or shift.shape != (n,) or about.shape != (n,):
        raise ValueError(
            "matrix, translation and center must be [n, n], [n] and [n]; got "
            f"{linear.shape}, {shift.shape} and {about.shape}."
        )
    moved = jnp.sum(linear * about[None], axis=1)
    return jnp.concatenate([linear, (about + shift - moved)[:, None]], axis=1)


def matrix_from_world(
    matrix: Float[AnyArray, "rows columns"],
    image_world: AnyArray,
    output_world: AnyArray,
    image_shape: Sequence[int],
    output_shape: Sequence[int],
    *,
    align_corners: bool = False,
) -> Float[Array, "rows columns"]:
    """Converts a matrix between physical points to one in normalised coordinates.

    Args:
      matrix: ``[n, n + 1]`` or ``[n + 1, n + 1]``, from points of the output to points of the
        input, the direction of ITK's ``Resample``. For a registration of nibabel images, which is
        RAS, negate its x and y rows and columns.
      image_world: From pixel coordinates to points of the input, ``[n + 1, n + 1]``:
        :func:`world_from_itk` or :func:`world_from_nibabel`. NumPy, not traced.
      output_world: The same of the output.
      image_shape: Spatial shape of the input.
      output_shape: Spatial shape of the output.
      align_corners: Alignment of the normalised coordinates of the result.

    Returns:
      Matrix of the shape of ``matrix``, target to source, normalised coordinates.

    Raises:
      ValueError: If shapes do not fit, or a world is singular.
      TypeError: If ``matrix`` is not of a floating dtype.

    Example:
      The same scene on a finer lattice:

      >>> import numpy as np
      >>> from stn_jax import conversions
      >>> coarse = conversions.world_from_itk((2.0, 2.0), origin=(1.0, 1.0))
      >>> fine = conversions.world_from_itk((1.0, 1.0), origin=(0.5, 0.5))
      >>> conversions.matrix_from_world(np.eye(3)[:2], coarse, fine, (5, 5), (10, 10)).tolist()
      [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    """
    shapes = image_shape, output_shape
    into, out_of = _changes(image_world, output_world, *shapes, align_corners)
    return _between(matrix, into, out_of)


def world_matrix(
    matrix: Float[AnyArray, "rows columns"],
    image_world: AnyArray,
    output_world: AnyArray,
    image_shape: Sequence[int],
    output_shape: Sequence[int],
    *,
    align_corners: bool = False,
) -> Float[Array, "rows columns"]:
    """Converts a matrix in normalised coordinates to one between physical points.

    The inverse of :func:`matrix_from_world`, with the same arguments and errors.

    Example:
      >>> import numpy as np
      >>> from stn_jax import conversions
      >>> world = conversions.world_from_itk((2.0, 2.0))
      >>> shift = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.0]])  # a quarter of the width
      >>> conversions.world_matrix(shift, world, world, (8, 8), (8, 8)).tolist()
      [[1.0, 0.0, 4.0], [0.0, 1.0, 0.0]]
    """
    shapes = image_shape, output_shape
    into, out_of = _changes(image_world, output_world, *shapes, align_corners)
    return _between(matrix, np.linalg.inv(into), np.linalg.inv(out_of))


def offsets_from_world(
    displacement: Float[AnyArray, "*space n"],
    image_world: AnyArray,
    output_world: AnyArray,
    image_shape: Sequence[int] | None = None,
    *,
    align_corners: bool = False,
) -> Float[Array, "*space n"]:
    """Converts a displacement field between physical points to normalised offsets.

    ITK, SimpleITK and ANTs move the point of each output pixel by a vector ``(x, y)`` or ``(x, y,
    z)`` in millimetres, LPS, to the point of the input that it reads.

    Args:
      displacement: ``[*space, n]``, as ``GetArrayFromImage`` gives the field.
      image_world, output_world: As in :func:`matrix_from_world`.
      image_shape: Spatial shape of the input; ``None`` takes that of ``displacement``.
      align_corners: Alignment of the normalised coordinates of the result.

    Returns:
      ``[*space, n]``. Ravelled they are the ``theta`` of :func:`stn_jax.flow` for that lattice.

    Raises:
      ValueError: If shapes do not fit, or a world is singular.
      TypeError: If ``displacement`` is not of a floating dtype.

    Example:
      >>> import jax.numpy as jnp
      >>> from stn_jax import conversions
      >>> world = conversions.world_from_itk((0.5, 1.0))
      >>> right = jnp.zeros((4, 8, 2)).at[..., 0].set(1.0)  # a millimetre, two of eight pixels
      >>> conversions.offsets_from_world(right, world, world)[0, 0].tolist()
      [0.5, 0.0]
    """
    field, shape = checked_field("displacement", displacement, image_shape, may_be_symbolic=False)
    linear, still = _field_parts(field, shape, image_world, output_world, align_corners)
    return _multiplied(linear, field) + jnp.asarray(still, field.dtype)


def world_displacement(
    offsets: Float[AnyArray, "*space n"],
    image_world: AnyArray,
    output_world: AnyArray,
    image_shape: Sequence[int] | None = None,
    *,
    align_corners: bool = False,
) -> Float[Array, "*space n"]:
    """Converts normalised offsets to a displacement field between physical points.

    The inverse of :func:`offsets_from_world`, with the same arguments and errors.

    Example:
      >>> import jax.numpy as jnp
      >>> from stn_jax import conversions
      >>> world = conversions.world_from_itk((0.5, 1.0))
      >>> offsets = jnp.zeros((4, 8, 2)).at[..., 0].set(0.5)
      >>> conversions.world_displacement(offsets, world, world)[0, 0].tolist()
      [1.0, 0.0]
    """
    field, shape = checked_field("offsets", offsets, image_shape, may_be_symbolic=False)
    linear, still = _field_parts(field, shape, image_world, output_world, align_corners)
    return _multiplied(np.linalg.inv(linear), field - jnp.asarray(still, field.dtype))


def reverse_axes(matrix: Float[AnyArray, "rows columns"]) -> Float[Array, "rows columns"]:
    """A matrix on ``(x, y, z)`` from one on array indices ``(i, j, k)``, or the other way.

    SciPy's ``affine_transform`` and MONAI's ``AffineTransform`` with ``normalized=False`` map
    output to input indices; with the axes reversed their matrix is one for
    :func:`matrix_from_pixels`.

    Args:
      matrix: ``[n, n + 1]`` or ``[n + 1, n + 1]``.

    Returns:
      Matrix of the same shape.

    Raises:
      ValueError: If ``matrix`` has another shape.
      TypeError: If ``matrix`` is not of a floating dtype.

    Example:
      >>> import jax.numpy as jnp
      >>> from stn_jax import conversions
      >>> conversions.reverse_axes(jnp.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])).tolist()
      [[5.0, 4.0, 6.0], [2.0, 1.0, 3.0]]
    """
    matrix = _checks.floating("matrix", matrix)
    n = matrix.shape[-1] - 1
    matrix = _checks.matrix(matrix, n)
    order = [*range(n)[::-1], n]
    return matrix[np.array(order[: len(matrix)])][:, np.array(order)]


def _checked_world(name: str, world: np.ndarray, ndim: int) -> np.ndarray:
    """Checks that a matrix from pixel coordinates to points can be inverted."""
    if world.shape != (ndim + 1, ndim + 1) or not np.abs(np.linalg.det(world)) > 0:
        raise ValueError(
            f"{name} must give an invertible matrix [{ndim + 1}, {ndim + 1}] from pixel "
            f"coordinates to points; got {world.tolist()}."
        )
    return world


def _changes(
    image_world: AnyArray,
    output_world: AnyArray,
    image_shape: Sequence[int],
    output_shape: Sequence[int],
    align_corners: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Two matrices: from physical to normalised points of the input, and back for the output."""
    ndim = len(_checks.spatial_shape("image_shape", image_shape))
    matrices = []
    for name, world, shape in (
        ("image", image_world, image_shape),
        ("output", output_world, output_shape),
    ):
        if isinstance(world, jax.core.Tracer):
            raise TypeError(f"{name}_world must be a NumPy array, not traced; got {world}.")
        world = _checked_world(f"{name}_world", _checks.float64s(f"{name}_world", world), ndim)
        name = f"{name}_shape"
        sizes = _checks.spatial_shape(name, shape, ndim, may_be_symbolic=False)
        _checks.with_extent(name, sizes, align_corners)
        scale, centre = map(np.asarray, scale_and_centre(sizes, align_corners))
        pixels = np.diag([*scale, 1.0])
        pixels[:ndim, ndim] = centre
        matrices.append(world @ pixels)
    return np.linalg.inv(matrices[0]), matrices[1]


def _between(matrix: AnyArray, into: np.ndarray, out_of: np.ndarray) -> Array:
    """``into · matrix · out_of``; ``into · out_of``, for the identity, in float64."""
    ndim = len(into) - 1
    matrix = _checks.matrix(matrix, ndim)
    change = square_matrix(matrix) - jnp.eye(ndim + 1, dtype=matrix.dtype)
    left, right, still = (jnp.asarray(each, matrix.dtype) for each in (into, out_of, into @ out_of))
    product = jnp.matmul(left, change, precision=jax.lax.Precision.HIGHEST)
    product = jnp.matmul(product, right, precision=jax.lax.Precision.HIGHEST)
    return (still + product)[: len(matrix)]


def _field_parts(
    field: Array,
    image_shape: tuple[int, ...],
    image_world: AnyArray,
    output_world: AnyArray,
    align_corners: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """The matrix from physical vectors to offsets, and the offsets where all vectors are 0."""
    shape, n = field.shape[:-1], field.shape[-1]
    into, out_of = _changes(image_world, output_world, image_shape, shape, align_corners)
    with jax.ensure_compile_time_eval():
        lattice = np.asarray(regular_grid(shape, align_corners=align_corners), np.float64)
    change = into @ out_of - np.eye(n + 1)
    return into[:n, :n], lattice @ change[:n, :n].T + change[:n, n]


def _multiplied(matrix: np.ndarray, vectors: Array) -> Array:
    """The matrix times each vector ``[*space, n]``."""
    linear = jnp.asarray(matrix, vectors.dtype)
    return jnp.tensordot(vectors, linear, (-1, 1), precision=jax.lax.Precision.HIGHEST)
