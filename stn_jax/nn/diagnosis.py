"""A diagnosis, in words, of the numbers logged during the training of a spatial transformer."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from stn_jax import _checks


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """A problem in the training of a spatial transformer.

    Attributes:
      name: Name of the problem.
      evidence: Name of the logged number that shows it.
      value: Value of that number.
      threshold: The bound that the value crosses; a rule of thumb.
      meaning: What the transformer does, in a sentence.
      remedy: What to try.

    Example:
      >>> from stn_jax import nn as stnn
      >>> (finding,) = stnn.diagnose({"coverage": 0.05})
      >>> print(str(finding).splitlines()[0])
      left the image: coverage is 0.05, below 0.2. Most output pixels read outside the image.
      >>> print(finding.remedy[:36])
      stn_jax.bounded around the transform

    Reference:
      Jaderberg et al., arXiv:1506.02025, introduce the spatial transformer; they do not name these
      problems.
    """

    name: str
    evidence: str
    value: float
    threshold: float
    meaning: str
    remedy: str

    def __str__(self) -> str:
        side = "above" if self.value > self.threshold else "below"
        return (
            f"{self.name}: {self.evidence} is {self.value:.3g}, {side} {self.threshold:g}. "
            f"{self.meaning}\n  Try {self.remedy}"
        )


class Diagnosis(tuple[Finding, ...]):
    """The findings of :func:`diagnose`: a tuple that prints as text; empty if nothing is wrong.

    Example:
      >>> from stn_jax import nn as stnn
      >>> diagnosis = stnn.diagnose({"coverage": 0.9, "scale": 0.7, "distance": 0.3})
      >>> print(diagnosis)
      nothing wrong
      >>> len(diagnosis)
      0

    Reference:
      See :class:`Finding`; the network is that of Jaderberg et al., arXiv:1506.02025.
    """

    __slots__ = ()

    def __str__(self) -> str:
        return "\n".join(map(str, self)) or "nothing wrong"


class _Rule(NamedTuple):
    """A finding, and the side of the threshold on which its number shows a problem."""

    name: str
    evidence: str
    wrong: Literal["above", "below"]
    threshold: float
    meaning: str
    remedy: str

    def broken_by(self, value: float) -> bool:
        return value > self.threshold if self.wrong == "above" else value < self.threshold


_RULES = (
    _Rule(
        "not finite",
        "nonfinite",
        "above",
        0.0,
        "Some theta holds NaN or infinite values.",
        "a smaller multiplier in localization_rate, or stn_jax.bounded around the transform; "
        "optax.apply_if_finite around the optimizer, outside optax.MultiSteps, to skip updates "
        "that are not finite; jax.debug_nans, to find the first one.",
    ),
    _Rule(
        "gradient not finite",
        "gradient_nonfinite",
        "above",
        0.0,
        "Some step's gradient holds NaN or infinite values.",
        "optax.apply_if_finite around the optimizer, outside optax.MultiSteps; check the loss; "
        "jax.debug_nans finds the first NaN. Clipping by the global norm does not help: it spreads "
        "a NaN to every parameter.",
    ),
    _Rule(
        "stuck at the identity",
        "distance",
        "below",
        5e-3,
        "The transforms hardly move any pixel.",
        'gradient="linearized", which sees farther; initial_theta=perturbed_identity(...) '
        "or tiled(); or a larger multiplier and fewer frozen_steps in localization_rate.",
    ),
    _Rule(
        "collapsed to a point",
        "scale",
        "below",
        0.05,
        "Each output shows little more than one point or line of its image.",
        "stn_jax.bounded around the transform, a family without scale or with it fixed, "
        "identity_penalty in the loss, or a smaller multiplier in localization_rate.",
    ),
    _Rule(
        "left the image",
        "coverage",
        "below",
        0.2,
        "Most output pixels read outside the image.",
        "stn_jax.bounded around the transform, identity_penalty in the loss, or a smaller "
        "multiplier in localization_rate.",
    ),
    _Rule(
        "folding",
        "fold",
        "above",
        0.05,  # a good training of splines ends at 0.02; those that failed, between 0.25 and 0.5
        "Outputs show parts of the image mirrored or folded over.",
        "a smaller learning rate, or a smaller multiplier in localization_rate, since large steps "
        "on a noisy gradient move theta at random; a family that cannot fold, such as similarity "
        "or diffeomorphic; stn_jax.bounded with a smaller radius; or identity_penalty in the loss.",
    ),
    _Rule(
        "same for every image",
        "spread_ratio",
        "below",
        0.1,  # below it in trainings that failed so, at least 0.15 in good ones
        "The transforms differ little from image to image, compared with their distance from the "
        "identity. This is no problem where one transform suits all images.",
        "a smaller multiplier in localization_rate, since large steps of a bias move all images "
        "alike; a localization network of convolutions and a softmax over places, which has no "
        "such bias; or a loss that is not small wherever all outputs are alike.",
    ),
    _Rule(
        "localization gradient vanished",
        "gradient_ratio",
        "below",
        1e-4,
        "The localization network's gradient is tiny compared with that of the rest.",
        'gradient="linearized", which sees farther; antialias=True for transforms that shrink '
        'the image; or padding="border" for crops outside the image.',
    ),
    _Rule(
        "localization gradient dominates",
        "gradient_ratio",
        "above",
        100.0,  # in good trainings on rotated digits the ratio reaches 10
        "The localization network's gradient is far larger than that of the rest.",
        "a smaller multiplier and some frozen_steps in localization_rate, or "
        "optax.clip_by_global_norm.",
    ),
)
# Below this distance from the identity, transforms that are alike have hardly moved yet.
_MOVED = 0.1
_GRADIENTS = ("gradient_localization", "gradient_rest")
_NUMBERS = ("coverage", "scale", "distance", "spread", "fold", "nonfinite", *_GRADIENTS)


def diagnose(
    history: Mapping[str, Any] | Sequence[Mapping[str, Any]], *, window: int = 20
) -> Diagnosis:
    """Finds problems of training in the numbers of :func:`monitor` and :func:`gradient_norms`.

    It looks for transforms that are stuck at the identity, collapsed to a point, outside the image,
    folding, not finite, or the same for every image, and for a localization gradient that is tiny
    or huge compared with that of the rest. Values that are not finite count wherever they occur. Of
    the other numbers the median of the last records counts, since single batches scatter. A
    transformer that has not been trained is reported as stuck at the identity, or, if it starts
    elsewhere, as the same for every image.

    Args:
      history: One record, a list of records, or one mapping from names to arrays over time. Other
        names are ignored; checks whose numbers are missing are skipped.
      window: Number of last records whose median counts.

    Returns:
      The findings; empty, and printed as ``nothing wrong``, if there are none.

    Raises:
      ValueError: If ``history`` holds none of the numbers, or ``window`` is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> import stn_jax as stn
      >>> from stn_jax import nn as stnn
      >>> record = stnn.monitor(stn.attention(), jnp.array([[0.01, 0.2, 0.0]]), (8, 8))
      >>> [finding.name for finding in stnn.diagnose(record)]
      ['collapsed to a point']

    Reference:
      See :class:`Finding`; the network is that of Jaderberg et al., arXiv:1506.02025.
    """
    _checks.positive("window", window)
    numbers = _evidence(history, window)
    found = [
        Finding(
            name=rule.name,
            evidence=rule.evidence,
            value=numbers[rule.evidence],
            threshold=rule.threshold,
            meaning=rule.meaning,
            remedy=rule.remedy,
        )
        for rule in _RULES
        if rule.evidence in numbers and rule.broken_by(numbers[rule.evidence])
    ]
    # The sign of the Jacobian of a collapsed transform means nothing: report no folds.
    collapsed = any(finding.evidence == "scale" for finding in found)
    return Diagnosis(f for f in found if not (collapsed and f.evidence == "fold"))


def _evidence(
    history: Mapping[str, Any] | Sequence[Mapping[str, Any]], window: int
) -> dict[str, float]:
    """One number per name, from its values over time."""
    records = [history] if isinstance(history, Mapping) else history
    series = {
        name: np.concatenate([np.ravel(np.asarray(r[name], np.float64)) for r in records])
        for name in _NUMBERS
        if records and all(name in record for record in records)
    }
    if not any(len(values) for values in series.values()):
        raise ValueError(
            f"history must hold some of {', '.join(_NUMBERS)}, in every record, as returned by "
            f"monitor and gradient_norms; got {sorted({name for r in records for name in r})}."
        )
    numbers = {}
    for name, values in series.items():
        recent = values[-window:]
        if np.isfinite(recent).any():
            numbers[name] = float(np.median(recent[np.isfinite(recent)]))
    if "spread" in numbers and numbers.get("distance", 0.0) > _MOVED:
        numbers["spread_ratio"] = numbers["spread"] / numbers["distance"]
    if "nonfinite" in series:
        numbers["nonfinite"] = float(np.max(series["nonfinite"]))
    norms = [series[name] for name in _GRADIENTS if name in series]
    if norms:
        numbers["gradient_nonfinite"] = float(np.mean(~np.isfinite(norms).all(axis=0)))
    if all(name in numbers for name in _GRADIENTS):
        localization, rest = (numbers[name] for name in _GRADIENTS)
        numbers["gradient_ratio"] = localization / rest if rest else float(localization > 0) * 1e9
    return numbers
