"""Measures which parts of a bird crops contain, by annotations that no training gets."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Integer

from experiments.birds.config import Birds
from experiments.birds.data import BODY, HEAD, Split
from experiments.birds.model import SCALE
from experiments.birds.records import CropRates, OneCropRates, PartRates
from experiments.data import pipeline
from experiments.data.pipeline import Reading


class Predicted(NamedTuple):
    """The predictions of a trained model for a split, with the annotations of its images.

    Attributes:
      labels: Predicted classes, ``[n]``.
      theta: Centres ``(x, y)`` of the crops, ``[n, transforms, 2]``; ``None`` without transformers.
      boxes: Left, top, right and bottom in coordinates of the networks' input, ``[n, 4]``.
      parts: Places in the same coordinates, ``[n, parts, 2]``; NaN where a part is not visible.
    """

    labels: Integer[np.ndarray, " n"]
    theta: Float[np.ndarray, "n transforms 2"] | None
    boxes: Float[np.ndarray, "n 4"]
    parts: Float[np.ndarray, "n parts 2"]


class Contained(NamedTuple):
    """The content of the crops of one transformer; means over images, as shares.

    Attributes:
      parts: For each part, how often it lies in the crop if it is visible, ``[parts]``; NaN if it
        never is.
      overlap: Intersection over union of the crop and the box.
      contained: Share of the box's area that lies in the crop.
    """

    parts: Float[np.ndarray, " parts"]
    overlap: float
    contained: float


def predict(
    experiment: Birds, forward: Callable[[Any], tuple[Array, Array | None]], split: Split
) -> Predicted:
    """The predictions of a model for all images of a split.

    Args:
      experiment: The settings.
      forward: Gives logits and centres of a batch of images.
      split: The images.
    """
    batch_size, number = experiment.resolved.batch_size, len(split.labels)
    # Threads, not processes: they start at once, and there is little to read.
    batches = pipeline.in_order(split.examples, batch_size, reading=Reading(threads=2))
    labels, theta, boxes, parts = [], [], [], []
    for batch in batches:
        logits, centres = forward(batch["image"])
        labels.append(np.asarray(logits).argmax(-1))
        if centres is not None:
            theta.append(np.asarray(centres))
        boxes.append(batch["box"].reshape(-1, 2, 2))
        parts.append(batch.get("parts", np.zeros((batch_size, 0, 2), np.float32)))
    view = functools.partial(on_view, stored=experiment.framing.side, side=experiment.side)
    return Predicted(
        np.concatenate(labels)[:number],
        np.concatenate(theta)[:number] if theta else None,
        view(np.concatenate(boxes)[:number]).reshape(-1, 4),
        view(np.concatenate(parts)[:number]),
    )


def crop_rates(
    predicted: Predicted, theta: Float[np.ndarray, "n transforms 2"], parts: Sequence[str]
) -> CropRates:
    """The content of each transformer's crops, and of all crops of an image together.

    Transformers are sorted by the rate of the head minus that of the body, the largest first.

    Args:
      predicted: The boxes and parts.
      theta: Centres of crops.
      parts: Names of the parts.
    """
    entries = []
    for centres in np.moveaxis(theta, 1, 0):
        content = content_of(centres, SCALE, predicted.boxes, predicted.parts)
        rates = _groups(content.parts, parts)
        entries.append(
            OneCropRates(
                head=rates.head,
                body=rates.body,
                parts=rates.parts,
                overlap=content.overlap,
                contained=content.contained,
            )
        )
    any_crop = np.any(
        [inside(c[:, None], SCALE, predicted.parts) for c in np.moveaxis(theta, 1, 0)], axis=0
    )
    entries.sort(key=lambda entry: (entry.body or 0) - (entry.head or 0))
    together = _groups(share_of_visible(any_crop, predicted.parts), parts)
    return CropRates(transformers=tuple(entries), any=together)


def _groups(rates: np.ndarray, parts: Sequence[str]) -> PartRates:
    each = {
        name: None if np.isnan(rate) else float(rate)
        for name, rate in zip(parts, rates, strict=True)
    }
    return PartRates(
        head=mean_of_group(rates, parts, HEAD), body=mean_of_group(rates, parts, BODY), parts=each
    )


def on_view(points: Float[np.ndarray, "*n 2"], stored: int, side: int) -> Float[np.ndarray, "*n 2"]:
    """Converts normalised coordinates of an image to those of the square in its middle."""
    # If the margin is odd, its smaller half is on the left and at the top.
    return points * (stored / side) + (stored - side) % 2 / side


def content_of(
    centres: Float[np.ndarray, "n 2"],
    scale: float,
    boxes: Float[np.ndarray, "n 4"],
    parts: Float[np.ndarray, "n parts 2"],
) -> Contained:
    """The content of crops.

    Args:
      centres: Centres of the crops, normalised.
      scale: Side of a crop as a share of the image's.
      boxes: Left, top, right and bottom; only the area inside the image counts.
      parts: Places; parts outside the image count as not visible.
    """
    low, high = np.maximum(centres - scale, -1), np.minimum(centres + scale, 1)
    visible = np.clip(boxes, -1, 1)
    common = np.minimum(high, visible[:, 2:]) - np.maximum(low, visible[:, :2])
    common_area = np.clip(common, 0, None).prod(axis=1)
    crop_area = np.clip(high - low, 0, None).prod(axis=1)
    box_area = (visible[:, 2:] - visible[:, :2]).prod(axis=1)
    overlap = common_area / np.maximum(crop_area + box_area - common_area, 1e-12)
    contained = common_area / np.maximum(box_area, 1e-12)
    rates = share_of_visible(inside(centres[:, None], scale, parts), parts)
    return Contained(rates, float(overlap.mean()), float(contained.mean()))


def inside(
    centres: Float[np.ndarray, "n parts_or_1 2"],
    scale: float,
    parts: Float[np.ndarray, "n parts 2"],
) -> Bool[np.ndarray, "n parts"]:
    """Whether each part is visible and lies in the crop around each centre."""
    return (np.abs(parts - centres) <= scale).all(axis=-1) & _visible(parts)


def share_of_visible(
    contained: Bool[np.ndarray, "n parts"], parts: Float[np.ndarray, "n parts 2"]
) -> Float[np.ndarray, " parts"]:
    """How often each part is in a crop if it is visible; NaN if it never is."""
    times = _visible(parts).sum(axis=0)
    return np.where(times > 0, contained.sum(axis=0) / np.maximum(times, 1), np.nan)


def mean_of_group(
    rates: Float[np.ndarray, " parts"], names: Sequence[str], group: Sequence[str]
) -> float | None:
    """The mean rate of a group's parts; skips parts that are never visible; ``None`` if all are."""
    own = [rate for rate, name in zip(rates, names, strict=True) if name in group]
    own = [rate for rate in own if not np.isnan(rate)]
    return float(np.mean(own)) if own else None


def _visible(parts: Float[np.ndarray, "n parts 2"]) -> Bool[np.ndarray, "n parts"]:
    return (np.abs(parts) <= 1).all(axis=-1)  # False for NaN.
