"""What crops hold of birds, by the boxes and places of parts that a training never sees."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Integer

from experiments.birds.data import BODY, HEAD
from experiments.birds.model import SCALE


class Found(NamedTuple):
    """What a trained model made of a split.

    Attributes:
      predictions: Classes, ``[n]``.
      theta: Centres ``(x, y)`` of the crops, ``[n, transforms, 2]``; ``None`` without transformers.
      boxes: Left, top, right and bottom on what the networks see, ``[n, 4]``.
      parts: Places on it, ``[n, parts, 2]``, NaN where a part is not seen.
    """

    predictions: Integer[np.ndarray, " n"]
    theta: Float[np.ndarray, "n transforms 2"] | None
    boxes: Float[np.ndarray, "n 4"]
    parts: Float[np.ndarray, "n parts 2"]


class Held(NamedTuple):
    """What crops of one transformer hold; means over images, as shares.

    Attributes:
      parts: Of each part, how often it lies in the crop where it is seen, ``[parts]``; NaN for one
        that never is.
      overlap: Intersection over union of the crop and the box.
      contained: Share of the box's area that lies in the crop.
    """

    parts: Float[np.ndarray, " parts"]
    overlap: float
    contained: float


def crops_held(
    found: Found, theta: Float[np.ndarray, "n transforms 2"], parts: Sequence[str]
) -> dict[str, Any]:
    """What each transformer's crops hold, that with most of head over body first, and any of them.

    Args:
      found: Whose boxes and parts.
      theta: Centres of crops.
      parts: Names of the parts.
    """
    entries = []
    for centres in np.moveaxis(theta, 1, 0):
        held = held_by(centres, SCALE, found.boxes, found.parts)
        entries.append(
            _groups(held.parts, parts) | {"overlap": held.overlap, "contained": held.contained}
        )
    any_crop = np.any(
        [inside(c[:, None], SCALE, found.parts) for c in np.moveaxis(theta, 1, 0)], axis=0
    )
    entries.sort(key=lambda entry: (entry["body"] or 0) - (entry["head"] or 0))
    return {
        "transformers": entries,
        "any": _groups(share_of_seen(any_crop, found.parts), parts),
    }


def _groups(rates: np.ndarray, parts: Sequence[str]) -> dict[str, Any]:
    each = {
        name: None if np.isnan(rate) else float(rate)
        for name, rate in zip(parts, rates, strict=True)
    }
    return {
        "head": mean_of_group(rates, parts, HEAD),
        "body": mean_of_group(rates, parts, BODY),
        "parts": each,
    }


def on_view(points: Float[np.ndarray, "*n 2"], stored: int, side: int) -> Float[np.ndarray, "*n 2"]:
    """Normalised coordinates of an image as those of the square in its middle."""
    # Of an odd margin, the smaller half is on the left and at the top.
    return points * (stored / side) + (stored - side) % 2 / side


def held_by(
    centres: Float[np.ndarray, "n 2"],
    scale: float,
    boxes: Float[np.ndarray, "n 4"],
    parts: Float[np.ndarray, "n parts 2"],
) -> Held:
    """What crops hold.

    Args:
      centres: Of the crops, normalised.
      scale: Side of a crop as a share of the image's.
      boxes: Left, top, right and bottom; what lies outside the image does not count.
      parts: Places; parts outside the image count as not seen.
    """
    low, high = np.maximum(centres - scale, -1), np.minimum(centres + scale, 1)
    seen = np.clip(boxes, -1, 1)
    common = np.minimum(high, seen[:, 2:]) - np.maximum(low, seen[:, :2])
    common_area = np.clip(common, 0, None).prod(axis=1)
    crop_area = np.clip(high - low, 0, None).prod(axis=1)
    box_area = (seen[:, 2:] - seen[:, :2]).prod(axis=1)
    overlap = common_area / np.maximum(crop_area + box_area - common_area, 1e-12)
    contained = common_area / np.maximum(box_area, 1e-12)
    rates = share_of_seen(inside(centres[:, None], scale, parts), parts)
    return Held(rates, float(overlap.mean()), float(contained.mean()))


def inside(
    centres: Float[np.ndarray, "n parts_or_1 2"],
    scale: float,
    parts: Float[np.ndarray, "n parts 2"],
) -> Bool[np.ndarray, "n parts"]:
    """Which parts lie in the crops around centres; none that is not seen."""
    return (np.abs(parts - centres) <= scale).all(axis=-1) & _seen(parts)


def share_of_seen(
    held: Bool[np.ndarray, "n parts"], parts: Float[np.ndarray, "n parts 2"]
) -> Float[np.ndarray, " parts"]:
    """How often each part is held of the times that it is seen; NaN if it never is."""
    times = _seen(parts).sum(axis=0)
    return np.where(times > 0, held.sum(axis=0) / np.maximum(times, 1), np.nan)


def mean_of_group(
    rates: Float[np.ndarray, " parts"], names: Sequence[str], group: Sequence[str]
) -> float | None:
    """The mean rate of the parts of a group that are ever seen; ``None`` if there are none."""
    own = [rate for rate, name in zip(rates, names, strict=True) if name in group]
    own = [rate for rate in own if not np.isnan(rate)]
    return float(np.mean(own)) if own else None


def _seen(parts: Float[np.ndarray, "n parts 2"]) -> Bool[np.ndarray, "n parts"]:
    return (np.abs(parts) <= 1).all(axis=-1)  # NaN is not.
