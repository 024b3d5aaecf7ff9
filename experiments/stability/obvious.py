"""A tutorial's code without precautions, from many seeds: the head with and without its scale.

The model that PyTorch's tutorial on spatial transformers trains, at half its side: two convolutions
before theta, a free family, one rate for all, upright digits.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen, nnx
from jaxtyping import Array

import stn_jax as stn
from experiments.data.datasets import Dataset
from experiments.data.sources import load
from experiments.engine.files import environment, write_json
from experiments.engine.options import Options, check_at_least
from experiments.engine.records import Record, Result
from experiments.models import TRANSFORMS, TransformName
from experiments.models.pooling import max_pool
from experiments.report import text_table
from stn_jax import nn as stnn
from stn_jax.nn.linen import spatial_transformer

_OPTIMIZERS = {"adam": optax.adam, "sgd": optax.sgd}
_HEADS = {"plain": 1.0, "scaled": None}
_LEAST_COVERAGE = 0.5
FrameworkName = Literal["nnx", "linen"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ObviousArguments(Options):
    """Train a tutorial's ST-CNN from many seeds, with and without the scale of its head.

    Writes obvious.json.
    """

    transforms: tuple[TransformName, ...] = ("affine", "thin_plate_spline")
    """One or more transforms."""
    frameworks: tuple[FrameworkName, ...] = ("nnx", "linen")
    """The API of Flax that the model is written in."""
    adam: tuple[float, ...] = (0.01,)
    """Rates of Adam."""
    sgd: tuple[float, ...] = (0.1,)
    """Rates of SGD."""
    seeds: int = 20
    """Number of trainings of each kind."""
    steps: int = 250
    """Training steps."""
    batch_size: int = 32
    """Images in a training step."""
    margin: float = 10.0
    """A seed has failed if its accuracy is more than this many percentage points below the median
    without a transformer, or if less than half of the output's pixels read inside the image."""
    out: Path = Path("runs/obvious")
    """Output folder."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, seeds=1, steps=1, batch_size=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ObviousRow(Record):
    """The trainings of one kind.

    Attributes:
      transform: The family, or ``none`` for the classifier alone.
      framework: ``nnx`` or ``linen``.
      optimizer: Its name and rate.
      head: ``plain`` or ``scaled``.
      seeds: Their number.
      failed: The number of those that failed.
      accuracy: The median of the test accuracies, in percent.
      worst: The least of them.
      distance: The median over seeds of theta's mean distance from the identity.
    """

    transform: str
    framework: str
    optimizer: str
    head: str
    seeds: int
    failed: int
    accuracy: float
    worst: float
    distance: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class ObviousResult(Result):
    """``obvious.json``."""

    rows: tuple[ObviousRow, ...]


class _Functions(NamedTuple):
    """A model as pure functions: ``init(key)`` and ``apply(params, images)``, logits and theta."""

    init: Callable[[Array], Any]
    apply: Callable[[Any, Array], tuple[Array, Array]]


class _Tutorial(nnx.Module):
    """Two convolutions and two layers, perhaps behind a transformer with two convolutions."""

    def __init__(self, localization: Any, transform: Any, side: int, rngs: nnx.Rngs) -> None:
        self.has_transformer = transform is not None
        if transform is not None:
            self.transformer = stnn.SpatialTransformer(localization(rngs=rngs), transform)
        self.first = nnx.Conv(1, 10, (3, 3), padding="VALID", rngs=rngs)
        self.second = nnx.Conv(10, 20, (3, 3), padding="VALID", rngs=rngs)
        size = ((side - 2) // 2 - 2) // 2
        self.hidden = nnx.Linear(20 * size**2, 50, rngs=rngs)
        self.logits = nnx.Linear(50, 10, rngs=rngs)

    def __call__(self, images: Array) -> tuple[Array, Array]:
        theta = jnp.zeros((len(images), 0))
        if self.has_transformer:
            images, theta = self.transformer(images, return_theta=True)
        maps = nnx.relu(max_pool(self.first(images)))
        maps = nnx.relu(max_pool(self.second(maps)))
        return self.logits(nnx.relu(self.hidden(maps.reshape(len(maps), -1)))), theta


class _LinenTutorial(linen.Module):
    """The same in Linen."""

    localization: Any
    transform: Any

    @linen.compact
    def __call__(self, images: Array) -> tuple[Array, Array]:
        theta = jnp.zeros((len(images), 0))
        if self.transform is not None:
            transformer = spatial_transformer(self.localization, self.transform)
            images, theta = transformer(images, return_theta=True)
        maps = images
        for filters in (10, 20):
            maps = linen.relu(max_pool(linen.Conv(filters, (3, 3), padding="VALID")(maps)))
        hidden = linen.relu(linen.Dense(50)(maps.reshape(len(maps), -1)))
        return linen.Dense(10)(hidden), theta


def _functions(
    framework: FrameworkName, transform: stn.Transform | None, scale: float | None, side: int
) -> _Functions:
    """The model of the tutorial, with the head's default scale if it is ``None``."""
    localization: Any = None
    if transform is not None:
        head: Any = stnn.RegressionHead
        localization = functools.partial(
            stnn.ConvolutionalLocalization,
            (side, side, 1),
            transform,
            features=(8, 10),
            kernel_size=3,
            hidden=32,
            downsample=1,
            head=head if scale is None else functools.partial(head, scale=scale),
        )
    if framework == "linen":
        model = _LinenTutorial(localization, transform)
        example = jnp.zeros((1, side, side, 1))

        def apply(params: Any, images: Array) -> tuple[Array, Array]:
            outputs: Any = model.apply(params, images)
            return outputs

        return _Functions(lambda key: model.init(key, example), apply)
    make = functools.partial(_Tutorial, localization, transform, side)
    graph = nnx.graphdef(nnx.eval_shape(lambda: make(nnx.Rngs(0))))
    return _Functions(
        lambda key: nnx.state(make(nnx.Rngs(key))),
        lambda params, images: nnx.merge(graph, params)(images),
    )


def compare(arguments: ObviousArguments) -> None:
    """Trains every kind, and writes and prints the table."""
    dataset = load("digits")
    splits = [_halved(dataset, name) for name in ("train", "test")]
    rows: list[ObviousRow] = []
    for framework, name in itertools.product(arguments.frameworks, ("adam", "sgd")):
        for rate in getattr(arguments, name):
            run = functools.partial(_train, arguments, splits, _OPTIMIZERS[name](rate), framework)
            alone = run(None, None)
            least = float(np.median(alone["accuracy"])) - arguments.margin
            place = framework, f"{name} {rate:g}"
            rows.append(_row("none", *place, "–", alone, least))
            for transform, head in itertools.product(arguments.transforms, _HEADS):
                measured = run(TRANSFORMS[transform](), _HEADS[head])
                rows.append(_row(transform, *place, head, measured, least))
                print(*dataclasses.astuple(rows[-1]), flush=True)
    result = ObviousResult(
        rows=tuple(rows),
        dataset=dataset.name,
        settings={key: getattr(arguments, key) for key in ("steps", "batch_size", "margin")},
        **environment(),
    )
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_json(arguments.out / "obvious.json", result.to_json())
    print(text_table(*table(result.rows)))


def table(rows: tuple[ObviousRow, ...]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells."""
    headings = [
        "transform",
        "framework",
        "optimizer",
        "head",
        "failed",
        "median right %",
        "worst",
        "distance",
    ]
    return headings, [
        [
            row.transform,
            row.framework,
            row.optimizer,
            row.head,
            f"{row.failed} of {row.seeds}",
            f"{row.accuracy:.1f}",
            f"{row.worst:.1f}",
            f"{row.distance:.2f}",
        ]
        for row in rows
    ]


def _row(
    transform: str,
    framework: str,
    optimizer: str,
    head: str,
    measured: Mapping[str, np.ndarray],
    least: float,
) -> ObviousRow:
    accuracy, coverage = measured["accuracy"], measured["coverage"]
    healthy = (accuracy >= least) & (coverage >= _LEAST_COVERAGE)
    return ObviousRow(
        transform=transform,
        framework=framework,
        optimizer=optimizer,
        head=head,
        seeds=len(accuracy),
        failed=int(np.sum(~healthy)),
        accuracy=round(float(np.median(accuracy)), 1),
        worst=round(float(np.min(accuracy)), 1),
        distance=round(float(np.median(measured["distance"])), 3),
    )


def _halved(dataset: Dataset, name: str) -> tuple[Array, Array]:
    """Images of half the size and their labels."""
    split = getattr(dataset, name)
    number, height, width, _ = split.images.shape
    images = split.images.reshape(number, height // 2, 2, width // 2, 2, 1).mean((2, 4)) / 255
    return jnp.asarray(images, jnp.float32), jnp.asarray(split.labels)


def _train(
    arguments: ObviousArguments,
    splits: list[tuple[Array, Array]],
    optimizer: optax.GradientTransformation,
    framework: FrameworkName,
    transform: stn.Transform | None,
    scale: float | None,
) -> dict[str, np.ndarray]:
    """Accuracy, coverage and distance from the identity at the end, ``[seeds]`` each."""
    (images, labels), (test_images, test_labels) = splits
    side = images.shape[1]

    functions = _functions(framework, transform, scale, side)

    def train(seed: Array) -> dict[str, Any]:
        start, draws = jax.random.split(jax.random.key(seed))
        params = functions.init(start)

        def step(carry: Any, key: Array) -> tuple[Any, None]:
            params, state = carry
            chosen = jax.random.randint(key, (arguments.batch_size,), 0, len(images))

            def loss(params: Any) -> Array:
                logits, _ = functions.apply(params, images[chosen])
                return optax.softmax_cross_entropy_with_integer_labels(
                    logits, labels[chosen]
                ).mean()

            updates, state = optimizer.update(jax.grad(loss)(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        keys = jax.random.split(draws, arguments.steps)
        (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), keys)
        logits, theta = functions.apply(params, test_images)
        measured = {"accuracy": 100 * jnp.mean(logits.argmax(-1) == test_labels)}
        if transform is None:
            return measured | {"coverage": jnp.ones(()), "distance": jnp.zeros(())}
        maps = stnn.monitor(transform, theta, (side, side))
        return measured | {name: maps[name] for name in ("coverage", "distance")}

    seeds = jnp.arange(arguments.seeds)
    return jax.device_get(jax.jit(lambda seeds: jax.lax.map(train, seeds))(seeds))
