"""One draw of an augmentation, applied to images, masks, points and boxes together."""

import dataclasses
import functools
import itertools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike

from stn_jax import _checks
from stn_jax._records import Opened
from stn_jax._types import AnyArray
from stn_jax.augmentation.base import Augmentation
from stn_jax.coordinates import (
    normalized_from_pixels,
    pixels_from_displacement,
    pixels_from_normalized,
)
from stn_jax.sampling import interpolate
from stn_jax.sampling.filters import FilterName
from stn_jax.sampling.kernels import Kernel, KernelName
from stn_jax.sampling.options import SampleOptions
from stn_jax.sampling.padding import PaddingName
from stn_jax.transforms.base import Transform, displacement_on_lattice
from stn_jax.warp import enclosing_boxes, outline, warp

# Points along each side of a box, if the map bends lines.
_POINTS_PER_CURVED_SIDE = 8


class Kind:
    """Base class of the kinds of arrays that a draw moves; see :func:`augment`.

    Example:
      >>> from stn_jax import augmentation as aug
      >>> isinstance(aug.Mask(), aug.Kind)
      True

    Reference:
      The targets of Albumentations, arXiv:1809.06839, and of Kornia's ``AugmentationSequential``.
    """


@dataclasses.dataclass(frozen=True, kw_only=True)
class Image(Kind):
    """How images and volumes are sampled, ``[*space, channels]``.

    Attributes:
      kernel: As in :func:`stn_jax.warp`.
      padding: As in :func:`stn_jax.warp`.
      fill_value: As in :func:`stn_jax.warp`.
      clip: As in :func:`stn_jax.warp`.
      antialias: As in :func:`stn_jax.warp`; for draws that make an image smaller.

    Example:
      >>> from stn_jax import augmentation as aug
      >>> aug.Image(padding="reflection").kernel
      'linear'

    Reference:
      Jaderberg et al., Spatial Transformer Networks, arXiv:1506.02025, equation 3.
    """

    kernel: KernelName | Kernel = "linear"
    padding: PaddingName = "constant"
    fill_value: ArrayLike = 0.0
    clip: bool = False
    antialias: bool | FilterName = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mask(Image):
    """How masks of labels are sampled, ``[*space, channels]``: with the nearest kernel.

    Attributes:
      kernel: As in :func:`stn_jax.warp`.
      padding: As in :func:`stn_jax.warp`.
      fill_value: The label of what lies outside of the input.
      clip: As in :func:`stn_jax.warp`.
      antialias: As in :func:`stn_jax.warp`.

    Example:
      >>> from stn_jax import augmentation as aug
      >>> aug.Mask(fill_value=255).kernel
      'nearest'

    Reference:
      Jaderberg et al., Spatial Transformer Networks, arXiv:1506.02025, equation 4.
    """

    kernel: KernelName | Kernel = "nearest"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Points(Kind):
    """Points ``[..., n]``, ``(x, y)`` or ``(x, y, z)`` in pixels; the first pixel's centre is 0.

    They move by the inverse of the drawn map, also to places outside of the output.

    Example:
      >>> from stn_jax import augmentation as aug
      >>> kinds = {"landmarks": aug.Points()}

    Reference:
      Jaderberg et al., Spatial Transformer Networks, arXiv:1506.02025, equation 1, inverted.
    """


@dataclasses.dataclass(frozen=True, kw_only=True)
class Boxes(Kind):
    """Boxes ``[..., 4]`` of images, ``(x0, y0, x1, y1)`` in the pixel coordinates of points.

    They become the smallest axis-aligned boxes around their moved outlines. A box that covers the
    whole image is ``(−0.5, −0.5, width − 0.5, height − 0.5)``.

    Attributes:
      clip: Whether boxes are cut off at the edges of the output.
      points_per_side: As in :func:`stn_jax.warp_boxes`; ``None`` takes the corners where the map
        has a matrix, and 8 points elsewhere.

    Example:
      >>> from stn_jax import augmentation as aug
      >>> kinds = {"boxes": aug.Boxes(clip=True)}

    Reference:
      The boxes of :func:`stn_jax.warp_boxes`.
    """

    clip: bool = False
    points_per_side: int | None = None


_BY_NAME: dict[str, Kind] = {
    "image": Image(),
    "mask": Mask(),
    "points": Points(),
    "boxes": Boxes(),
}


def augment(
    sample: Any,
    augmentation: Augmentation,
    key: Array,
    *,
    kinds: Mapping[str, Kind | None] | None = None,
) -> Any:
    """Draws a map and moves images, masks, points and boxes by it.

    The map's parameters are drawn once, so all move together. The image is resampled once, also by
    a :func:`compose` of several. Batch with ``jax.vmap`` over samples and keys.

    Args:
      sample: A dictionary of arrays, or of pytrees of arrays, or an image alone. The names
        ``image``, ``mask``, ``points`` and ``boxes`` have a kind; others get one by ``kinds``.
      augmentation: What is drawn, such as :func:`random_affine`.
      key: A key of ``jax.random``. The same key gives the same map.
      kinds: For each name the kind of its arrays, with its options: :class:`Image`,
        :class:`Mask`, :class:`Points` or :class:`Boxes`; or ``None`` for what stays as it is, such
        as a label.

    Returns:
      The moved sample, a dictionary with the same names. Images and masks keep their dtype. If
      ``sample`` is an image alone, the moved image.

    Raises:
      ValueError: If a name has no kind, or an array does not fit the augmentation.
      TypeError: If a dtype does not fit the kind.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from stn_jax import augmentation as aug
      >>> sample = {
      ...     "image": jnp.ones((48, 64, 3)),
      ...     "mask": jnp.ones((48, 64, 1), jnp.uint8),
      ...     "points": jnp.array([[10.0, 20.0]]),
      ...     "label": jnp.array(7),
      ... }
      >>> bend = aug.compose(
      ...     aug.random_affine((48, 64), angle=(-0.2, 0.2)),
      ...     aug.random_elastic((48, 64), amplitude=4.0, spacing=16),
      ...     aug.random_crop((48, 64), (40, 40)),
      ... )
      >>> moved = aug.augment(sample, bend, jax.random.key(0), kinds={"label": None})
      >>> moved["image"].shape, moved["mask"].dtype.name, moved["points"].shape, int(moved["label"])
      ((40, 40, 3), 'uint8', (1, 2), 7)

    Reference:
      Simard et al., Best practices for convolutional neural networks applied to visual document
      analysis, ICDAR 2003.
    """
    augmentation = _checked(augmentation)
    return move(sample, augmentation, augmentation.draw(key), kinds=kinds)


def move(
    sample: Any,
    augmentation: Augmentation,
    theta: AnyArray,
    *,
    kinds: Mapping[str, Kind | None] | None = None,
) -> Any:
    """Moves images, masks, points and boxes by a map that has been drawn.

    Args:
      sample: As in :func:`augment`.
      augmentation: As in :func:`augment`.
      theta: Parameters of the map, such as ``augmentation.draw(key)``.
      kinds: As in :func:`augment`.

    Returns:
      The moved sample, as in :func:`augment`.

    Raises:
      ValueError: As in :func:`augment`.
      TypeError: As in :func:`augment`.

    Example:
      Two images by the same draw:

      >>> import jax
      >>> import jax.numpy as jnp
      >>> from stn_jax import augmentation as aug
      >>> turn = aug.random_affine((8, 8), angle=(-0.5, 0.5))
      >>> theta = turn.draw(jax.random.key(0))
      >>> left, right = (aug.move(jnp.full((8, 8, 1), v), turn, theta) for v in (1.0, 2.0))
      >>> bool((2 * left == right).all())
      True

    Reference:
      Jaderberg et al., Spatial Transformer Networks, arXiv:1506.02025, section 3.
    """
    augmentation = _checked(augmentation)
    if not isinstance(sample, Mapping):
        alone = _with_defaults(kinds or {}, ["image"])
        return _move({"image": sample}, augmentation, theta, alone)["image"]
    return _move(sample, augmentation, theta, _with_defaults(kinds or {}, list(sample)))


def _checked(augmentation: Augmentation) -> Augmentation:
    example = "stn_jax.augmentation.random_flip((64, 64))"
    return _checks.instance("augmentation", augmentation, Augmentation, example)


def _with_defaults(kinds: Mapping[str, Kind | None], names: list[str]) -> dict[str, Kind | None]:
    """The kind of each name of a sample."""
    known = _BY_NAME | dict(kinds)
    missing = [name for name in names if name not in known]
    if missing:
        raise ValueError(
            f"kinds must say how to move {', '.join(map(repr, missing))}; only "
            f"{', '.join(map(repr, _BY_NAME))} have a kind by their name. Pass for example "
            f"kinds={{{missing[0]!r}: Image()}}, or None for what stays as it is."
        )
    for name in names:
        if known[name] is not None:
            _checks.instance(f"kinds[{name!r}]", known[name], Kind, "stn_jax.augmentation.Mask()")
    return {name: known[name] for name in names}


def _move(
    sample: Mapping[str, Any],
    augmentation: Augmentation,
    theta: AnyArray,
    kinds: Mapping[str, Kind | None],
) -> dict[str, Any]:
    theta = augmentation.transform.check_theta(theta)
    leaves = {name: jax.tree.flatten(value) for name, value in sample.items()}
    moved: dict[tuple[str, int], Any] = {}
    outlines: dict[tuple[str, int], Array] = {}
    pixels = None
    for name, (arrays, _) in leaves.items():
        kind = kinds[name]
        for place, array in enumerate(arrays):
            if isinstance(kind, Image):
                if pixels is None and not kind.antialias:
                    # ``Opened`` makes the transform's arrays arguments of the compiled function.
                    pixels = _source_pixels(
                        Opened(augmentation.transform),
                        theta,
                        augmentation.image_shape,
                        augmentation.output_shape,
                    )
                moved[name, place] = _sampled(array, name, augmentation, theta, kind, pixels)
            elif isinstance(kind, Points | Boxes):
                outlines[name, place] = _outline(array, name, augmentation, kind)
            else:
                moved[name, place] = array
    for (name, place), points in _inverted(outlines, augmentation, theta).items():
        moved[name, place] = _points_or_boxes(points, augmentation, kinds[name])
    return {
        name: jax.tree.unflatten(tree, [moved[name, place] for place in range(len(arrays))])
        for name, (arrays, tree) in leaves.items()
    }


@functools.partial(jax.jit, static_argnums=(2, 3))
def _source_pixels(
    transform: Transform,
    theta: Array,
    image_shape: tuple[int, ...],
    output_shape: tuple[int, ...],
) -> list[Array]:
    """The pixel coordinates of the input that the output's pixels read, x first."""
    displacement = displacement_on_lattice(transform, theta, output_shape, align_corners=False)
    return pixels_from_displacement(displacement, image_shape, align_corners=False)


_sample = jax.jit(interpolate.sample_pixels)


@jax.jit
def _invert(transform: Transform, theta: Array, points: Array) -> Array:
    return transform.inverse(theta, points)


def _sampled(
    array: Any,
    name: str,
    augmentation: Augmentation,
    theta: Array,
    kind: Image,
    pixels: list[Array] | None,
) -> Array:
    array = _checks.as_array(name, array)
    shape = array.shape
    _checks.known_sizes(name, shape[:-1])
    if len(shape) == len(augmentation.image_shape) + 1 and shape[:-1] != augmentation.image_shape:
        raise ValueError(
            f"{name} must have the spatial shape {augmentation.image_shape}, for which "
            f"{augmentation.name} was made; got {shape}. Make the augmentation for that shape."
        )
    if kind.antialias:
        return warp(
            array,
            augmentation.transform,
            theta,
            output_shape=augmentation.output_shape,
            kernel=kind.kernel,
            padding=kind.padding,
            fill_value=kind.fill_value,
            clip=kind.clip,
            antialias=kind.antialias,
        )
    assert pixels is not None
    options = SampleOptions.create(
        kind.kernel, kind.padding, False, "exact", False, None, kind.clip
    )
    image = options.check_image(array, augmentation.transform.ndim)
    fill = options.check_fill_value(kind.fill_value, image)
    return _sample(image, pixels, fill, options)


def _outline(array: Any, name: str, augmentation: Augmentation, kind: Kind) -> Array:
    """Points to move: the given ones, or the outlines of boxes ``[..., points, 2]``."""
    ndim = augmentation.transform.ndim
    if isinstance(kind, Points):
        return _checks.points(name, array, ndim)
    assert isinstance(kind, Boxes)
    is_straight = augmentation.transform.homogeneous is not None
    along = kind.points_per_side or (2 if is_straight else _POINTS_PER_CURVED_SIDE)
    return outline(name, array, augmentation.transform, along)


def _inverted(
    outlines: Mapping[tuple[str, int], Array], augmentation: Augmentation, theta: Array
) -> dict[tuple[str, int], Array]:
    """Moves all points together: compilers take long over several copies of an inverse."""
    if not outlines:
        return {}
    dtype = _checks.widest(theta.dtype, *(each.dtype for each in outlines.values()))
    ndim = augmentation.transform.ndim
    flat = [each.astype(dtype).reshape(-1, ndim) for each in outlines.values()]
    points = normalized_from_pixels(jnp.concatenate(flat), augmentation.image_shape)
    there = _invert(Opened(augmentation.transform), theta.astype(dtype), points)
    there = pixels_from_normalized(there, augmentation.output_shape)
    # Slices, since a number of points may be a symbol of an export, unlike the ends of a split.
    ends = list(itertools.accumulate((each.shape[0] for each in flat), initial=0))
    return {
        place: jax.lax.slice_in_dim(there, *part).reshape(given.shape)
        for (place, given), part in zip(outlines.items(), itertools.pairwise(ends), strict=True)
    }


def _points_or_boxes(points: Array, augmentation: Augmentation, kind: Kind | None) -> Array:
    """Moved points, or the boxes around moved outlines."""
    if not isinstance(kind, Boxes):
        return points
    boxes = enclosing_boxes(points)
    if not kind.clip:
        return boxes
    sides = np.tile(np.array(augmentation.output_shape[::-1]) - 0.5, 2)
    return jnp.clip(boxes, -0.5, jnp.asarray(sides, boxes.dtype))
