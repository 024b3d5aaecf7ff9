"""Numbers to log of a spatial transformer at every training step, and their diagnosis."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from stn_jax import _checks, diagnostics
from stn_jax._types import AnyArray, Size
from stn_jax.coordinates import regular_grid
from stn_jax.transforms import Transform


def monitor(
    transform: Transform,
    theta: Float[AnyArray, "*batch params"],
    output_shape: Sequence[Size],
    *,
    align_corners: bool = False,
) -> dict[str, Float[Array, ""]]:
    """Summarises a batch of transforms in a few numbers, cheap enough for every step.

    Scale and rotation are computed from the mean Jacobian over the lattice: by its determinant, and
    by its polar decomposition into a rotation and a stretch. So they mean the same for every
    family. A theta with a value that is not finite counts in ``nonfinite`` only.

    Args:
      transform: A family of maps from target to source points; for a spatial transformer of several
        steps, its ``composition``.
      theta: Parameters ``[..., num_params]``.
      output_shape: Spatial shape of the output. A coarser one is cheaper, and nearly as exact.
      align_corners: As in :func:`stn_jax.regular_grid`.

    Returns:
      Scalars in float32 or wider, for :func:`diagnose` and any logger; NaN if no theta is finite:

      - ``coverage`` and ``coverage_min``: share of output pixels that read inside the image, its
        mean and its minimum over the batch;
      - ``scale``: length in the input per unit of output, mean; below 1 the output is magnified;
      - ``rotation``: absolute angle in radians, mean;
      - ``distance``: root mean square of ``|T(p) − p|`` in normalised units, mean;
      - ``fold``: share of output pixels that show the input folded or mirrored, mean;
      - ``nonfinite``: share of thetas that are not finite.

    Raises:
      ValueError: If the last axis of ``theta`` has the wrong length, or ``output_shape`` does not
        fit the transform.
      TypeError: If ``theta`` is not of a floating dtype.

    Example:
      >>> import jax.numpy as jnp
      >>> import stn_jax as stn
      >>> from stn_jax import nn as stnn
      >>> theta = jnp.array([[0.5, 0.3, 0.0, 0.0], [0.5, -0.3, 0.0, 0.0]])
      >>> numbers = stnn.monitor(stn.similarity(), theta, (8, 8))
      >>> {name: round(numbers[name].item(), 3) for name in ("coverage", "scale", "rotation")}
      {'coverage': 1.0, 'scale': 0.5, 'rotation': 0.3}

    Reference:
      Polar decomposition: Higham, Functions of Matrices, SIAM 2008, chapter 8. The other numbers
      are those of :mod:`stn_jax.diagnostics`.
    """
    theta = _checks.batch_of_theta(theta, transform.num_params, transform.name)
    shape = _checks.spatial_shape("output_shape", output_shape, transform.ndim)
    theta = theta.reshape(-1, transform.num_params)
    points = regular_grid(shape, align_corners=align_corners, dtype=theta.dtype)
    finite = jnp.isfinite(theta).all(axis=-1)

    def measures(theta: Array) -> dict[str, Array]:
        options = {"align_corners": align_corners}
        linear = diagnostics.jacobian(transform, theta, points)
        linear = linear.mean(axis=tuple(range(transform.ndim)))
        return {
            "coverage": diagnostics.coverage(transform, theta, shape, **options).fraction,
            "scale": jnp.abs(jnp.linalg.det(linear)) ** (1 / transform.ndim),
            "rotation": _rotation_angle(linear),
            "distance": diagnostics.distance_from_identity(transform, theta, shape, **options),
            "fold": diagnostics.fold_fraction(transform, theta, shape, **options),
        }

    identity = jnp.asarray(transform.identity, theta.dtype)
    each = jax.vmap(measures)(jnp.where(finite[:, None], theta, identity))
    record = {name: jnp.mean(values, where=finite) for name, values in each.items()}
    least = jnp.min(each["coverage"], where=finite, initial=jnp.inf)
    record["coverage_min"] = jnp.where(finite.any(), least, jnp.nan)
    record["nonfinite"] = jnp.mean(~finite, dtype=theta.dtype)
    return record


def gradient_norms(grads: Any, labels: Any) -> dict[str, Float[Array, ""]]:
    """The gradient norms of the localization networks and of the rest, to log at every step.

    Args:
      grads: A tree of gradients, from ``nnx.grad`` or ``jax.grad``.
      labels: The tree of :func:`localization_labels`, or that function itself.

    Returns:
      ``gradient_localization`` and ``gradient_rest``: Euclidean norms, in float32 or wider.

    Raises:
      ValueError: If ``labels`` does not have the structure of ``grads``.

    Example:
      >>> import jax.numpy as jnp
      >>> from stn_jax import nn as stnn
      >>> grads = {"localization": jnp.array([3.0, 4.0]), "logits": jnp.array([1.0])}
      >>> norms = stnn.gradient_norms(grads, stnn.localization_labels)
      >>> {name: norm.item() for name, norm in norms.items()}
      {'gradient_localization': 5.0, 'gradient_rest': 1.0}

    Reference:
      Training of both networks together: Jaderberg et al., arXiv:1506.02025, section 3.
    """
    labels = labels(grads) if callable(labels) else labels
    squares: dict[str, Any] = {"localization": 0.0, "rest": 0.0}

    def add(label: str, gradient: Any) -> None:
        for leaf in jax.tree.leaves(gradient):
            squares[label] += jnp.sum(_checks.floating("grads", leaf) ** 2)

    try:
        jax.tree.map(add, labels, grads)
    except (ValueError, KeyError) as error:
        raise ValueError(
            "labels must hold 'localization' or 'rest' for each parameter of grads, as "
            f"localization_labels(model) does; got {labels!r} for a gradient of structure "
            f"{jax.tree.structure(grads)}."
        ) from error
    return {f"gradient_{label}": jnp.sqrt(square) for label, square in squares.items()}


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
        0.01,
        "Outputs show parts of the image mirrored or folded over.",
        "a smaller learning rate, or a smaller multiplier in localization_rate, since large steps "
        "on a noisy gradient move theta at random; a family that cannot fold, such as similarity "
        "or diffeomorphic; stn_jax.bounded with a smaller radius; or identity_penalty in the loss.",
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
_GRADIENTS = ("gradient_localization", "gradient_rest")
_NUMBERS = ("coverage", "scale", "distance", "fold", "nonfinite", *_GRADIENTS)


def diagnose(
    history: Mapping[str, Any] | Sequence[Mapping[str, Any]], *, window: int = 20
) -> Diagnosis:
    """Finds problems of training in the numbers of :func:`monitor` and :func:`gradient_norms`.

    It looks for transforms that are stuck at the identity, collapsed to a point, outside the image,
    folding or not finite, and for a localization gradient that is tiny or huge compared with that
    of the rest. Values that are not finite count wherever they occur. Of the other numbers the
    median of the last records counts, since single batches scatter. A transformer that has not been
    trained is at the identity, so it is reported as stuck.

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
    if "nonfinite" in series:
        numbers["nonfinite"] = float(np.max(series["nonfinite"]))
    norms = [series[name] for name in _GRADIENTS if name in series]
    if norms:
        numbers["gradient_nonfinite"] = float(np.mean(~np.isfinite(norms).all(axis=0)))
    if all(name in numbers for name in _GRADIENTS):
        localization, rest = (numbers[name] for name in _GRADIENTS)
        numbers["gradient_ratio"] = localization / rest if rest else float(localization > 0) * 1e9
    return numbers


def _rotation_angle(matrix: Array) -> Array:
    """The absolute angle of the rotation in the polar decomposition of a matrix."""
    if len(matrix) == 2:
        (a, b), (c, d) = matrix
        return jnp.abs(jnp.arctan2(c - b, a + d))
    if len(matrix) == 1:
        return jnp.zeros_like(matrix[0, 0])
    left, _, right = jnp.linalg.svd(matrix)
    # If the matrix mirrors, flip the direction of its smallest singular value to get a rotation.
    turned = left.at[:, -1].multiply(jnp.linalg.det(left @ right))
    rotation = turned @ right
    x, y, z = rotation[2, 1], rotation[0, 2], rotation[1, 0]
    sine = jnp.hypot(jnp.hypot(x - rotation[1, 2], y - rotation[2, 0]), z - rotation[0, 1]) / 2
    return jnp.arctan2(sine, (jnp.trace(rotation) - 1) / 2)
