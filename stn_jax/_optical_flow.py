"""Conversions of optical flow; public in ``conversions``."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt16

from stn_jax import _checks
from stn_jax._pixel_units import offsets_from_voxels, voxels_from_offsets
from stn_jax._types import AnyArray, Size

# Middlebury's .flo files mark unknown flow by larger numbers.
_UNKNOWN = 1e9
# KITTI stores steps of 1/64 pixel around this number.
_KITTI_ZERO, _KITTI_STEPS = 2**15, 64


def offsets_from_optical_flow(
    flow: Float[AnyArray, "height width 2"],
    image_shape: Sequence[Size] | None = None,
    *,
    align_corners: bool = False,
) -> Float[Array, "height width 2"]:
    """Normalised offsets of optical flow, such as a ``.flo`` file or a network gives.

    Flow from a first to a second image says by how many pixels, ``(u, v)`` to the right and down,
    each pixel of the first has moved. So :func:`stn_jax.warp` of the *second* image by
    :func:`stn_jax.flow` shows what the first does.

    Args:
      flow: ``[height, width, 2]`` in pixels. Beyond 1e9, as unknown flow is stored in ``.flo``
        files, it becomes NaN.
      image_shape: Spatial shape of the second image; ``None`` takes that of ``flow``.
      align_corners: As in :func:`offsets_from_voxels`.

    Returns:
      ``[height, width, 2]``; ravelled, the ``theta`` of :func:`stn_jax.flow` for that lattice.

    Raises:
      ValueError: If the axes of ``flow`` and ``image_shape`` do not fit each other.
      TypeError: If ``flow`` is not of a floating dtype.

    Example:
      >>> import jax.numpy as jnp
      >>> import stn_jax as stn
      >>> from stn_jax import conversions
      >>> second = jnp.array([[0.0, 0.0, 7.0, 0.0]])[..., None]  # was one pixel farther left
      >>> moved = jnp.zeros((1, 4, 2)).at[..., 0].set(1.0)
      >>> theta = conversions.offsets_from_optical_flow(moved).ravel()
      >>> stn.warp(second, stn.flow((1, 4)), theta).ravel().tolist()
      [0.0, 7.0, 0.0, 0.0]

    Reference:
      Baker et al., A Database and Evaluation Methodology for Optical Flow, IJCV 92(1), 2011.
    """
    flow = _checks.floating("flow", flow)
    known = jnp.where(jnp.abs(flow) > _UNKNOWN, jnp.nan, flow)
    return offsets_from_voxels(known[..., ::-1], image_shape, align_corners=align_corners)


def optical_flow_from_offsets(
    offsets: Float[AnyArray, "height width 2"],
    image_shape: Sequence[Size] | None = None,
    *,
    align_corners: bool = False,
) -> Float[Array, "height width 2"]:
    """Optical flow ``(u, v)`` in pixels of normalised offsets.

    The inverse of :func:`offsets_from_optical_flow`, with the same arguments and errors.

    Example:
      >>> import jax.numpy as jnp
      >>> from stn_jax import conversions
      >>> offsets = jnp.zeros((3, 4, 2)).at[..., 0].set(0.5)
      >>> conversions.optical_flow_from_offsets(offsets)[0, 0].tolist()
      [1.0, 0.0]
    """
    return voxels_from_offsets(offsets, image_shape, align_corners=align_corners)[..., ::-1]


def optical_flow_from_kitti(
    picture: UInt16[AnyArray, "height width 3"],
) -> tuple[Float[Array, "height width 2"], Bool[Array, "height width"]]:
    """Optical flow and its mask from a 16-bit picture as KITTI stores them.

    Args:
      picture: ``[height, width, 3]`` in uint16: u, v and whether they are known, in the order red,
        green, blue. ``cv2.imread(file, cv2.IMREAD_UNCHANGED)`` gives the reverse order.

    Returns:
      Flow ``[height, width, 2]`` in pixels, float32, and a mask ``[height, width]``, true where it
      is known.

    Raises:
      ValueError: If ``picture`` has not three channels.
      TypeError: If ``picture`` is not uint16.

    Example:
      >>> import numpy as np
      >>> from stn_jax import conversions
      >>> picture = np.array([[[2**15 + 64, 2**15 - 32, 1]]], np.uint16)
      >>> flow, known = conversions.optical_flow_from_kitti(picture)
      >>> flow.tolist(), known.tolist()
      ([[[1.0, -0.5]]], [[True]])

    Reference:
      Geiger et al., Are we ready for autonomous driving? The KITTI vision benchmark suite, CVPR
      2012; the development kit of flow 2012.
    """
    picture = _checks.as_array("picture", picture)
    if picture.dtype != jnp.uint16:
        raise TypeError(
            f"picture must be uint16, as KITTI's files are; got {picture.dtype}. Read the file "
            "with all its bits: cv2.imread(file, cv2.IMREAD_UNCHANGED)."
        )
    if picture.ndim != 3 or picture.shape[-1] != 3:
        raise ValueError(f"picture must be [height, width, 3]; got {picture.shape}.")
    flow = (picture[..., :2].astype(jnp.float32) - _KITTI_ZERO) / _KITTI_STEPS
    return flow, picture[..., 2] > 0


def kitti_from_optical_flow(
    flow: Float[AnyArray, "height width 2"], known: Bool[AnyArray, "height width"]
) -> UInt16[Array, "height width 3"]:
    """The 16-bit picture of optical flow, in steps of 1/64 pixel, from −512 to 512 pixels.

    The inverse of :func:`optical_flow_from_kitti`; larger flow is cut off.

    Args:
      flow: ``[height, width, 2]`` in pixels.
      known: Mask ``[height, width]``; where it is false, the picture is 0.

    Returns:
      ``[height, width, 3]`` in uint16, in the order red, green, blue.

    Raises:
      ValueError: If shapes do not fit.
      TypeError: If ``flow`` is not of a floating dtype.

    Example:
      >>> import numpy as np
      >>> from stn_jax import conversions
      >>> flow, known = np.array([[[1.0, -0.5]]]), np.array([[True]])
      >>> conversions.kitti_from_optical_flow(flow, known).tolist()
      [[[32832, 32736, 1]]]
    """
    flow, known = _checks.floating("flow", flow), _checks.as_array("known", known, bool)
    if flow.ndim != 3 or flow.shape[-1] != 2 or known.shape != flow.shape[:-1]:
        raise ValueError(
            f"flow must be [height, width, 2] and known [height, width]; got {flow.shape} and "
            f"{known.shape}."
        )
    steps = jnp.round(flow.astype(np.float32) * _KITTI_STEPS) + _KITTI_ZERO
    steps = jnp.where(known[..., None], jnp.clip(steps, 0, 2**16 - 1), 0)
    picture = jnp.concatenate([steps, known[..., None].astype(steps.dtype)], axis=-1)
    return picture.astype(jnp.uint16)
