"""The compared runs, and their errors on test images that are all turned by the same angle."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Integer, UInt8
from tqdm import tqdm

import stn_jax as stn
from experiments import models
from experiments.classification.config import Recipe, Run
from experiments.classification.restore import trained_states
from experiments.classification.run import build_classifier, check_model
from experiments.classification.step import Classifier
from experiments.data.datasets import Dataset, Split
from experiments.engine import Interrupted, in_batches
from experiments.engine.files import read_json, write_json
from experiments.engine.signals import stop_signal
from experiments.invariance.config import Arguments

_BATCH = 256
# The models' numbers of parameters may differ by at most this share.
_SIZE_TOLERANCE = 0.1


def runs_of(arguments: Arguments, dataset: Dataset) -> dict[str, Run]:
    """The runs, by the name of the model.

    Raises:
      ValueError: If a model cannot be built, or no ST-CNN is about as large as the CNN.
    """
    shared = arguments.resolved(Recipe)
    upright = Run(**shared, model="cnn", distortion="none")
    turned = dataclasses.replace(upright, distortion="R")
    size = check_model(turned, dataset)
    kind: Any = "st-cnn", arguments.transform, dataset.image_shape, dataset.num_classes
    width = models.width_for(size, *kind) / models.width_for(models.PARAMETERS, *kind)
    transformed = dataclasses.replace(
        turned,
        model="st-cnn",
        transform=arguments.transform,
        # Slightly less, so that rounding errors do not add a filter.
        width=width * (1 - 1e-6),
    )
    found = check_model(transformed, dataset)
    if abs(found - size) > _SIZE_TOLERANCE * size:
        raise ValueError(
            f"width must leave the ST-CNN about as many parameters as the CNN; at {arguments.width}"
            f" the CNN has {size:,} and the nearest ST-CNN {found:,}. Take a larger --width."
        )
    return {
        "CNN, upright digits": upright,
        "CNN, turned digits": turned,
        "ST-CNN, turned digits": transformed,
    }


@functools.partial(jax.jit, static_argnames="forward")
def error_mask_turned(
    forward: Callable[[Any, Array], dict[str, Array]],
    params: Any,
    images: UInt8[Array, "batch h w c"],
    labels: Integer[Array, " batch"],
    angle: Float[Array, ""] | float,
) -> Bool[Array, "seeds batch"]:
    """Whether each seed misclassifies each undistorted image after a turn by radians."""
    theta = jnp.stack([jnp.asarray(angle, jnp.float32), 0.0, 0.0])
    turned = jax.vmap(lambda image: stn.warp(image, stn.rigid(), theta))(
        images.astype(jnp.float32) / 255
    )
    predictions = jax.vmap(lambda own: forward(own, turned)["predictions"])(params)
    return predictions != labels


def count_errors(
    classifier: Classifier, params: Any, test: Split, angle: float
) -> Integer[np.ndarray, " seeds"]:
    """How many test images each seed misclassifies when all are turned by an angle in degrees."""
    wrong = in_batches(
        lambda part: error_mask_turned(
            classifier.forward, params, test.images[part], test.labels[part], np.deg2rad(angle)
        ),
        len(test.labels),
        _BATCH,
        axis=1,
    )
    count: Integer[np.ndarray, " seeds"] = wrong.sum(axis=1)
    return count


def measure(
    run: Run, folder: Path, dataset: Dataset, angles: Sequence[float], name: str
) -> Float[np.ndarray, "seeds angles"]:
    """Errors in percent of each seed of a finished run, at each angle in degrees.

    The errors are stored in ``turned.json`` in the run's folder, and not measured again.

    Raises:
      Interrupted: If the user asked to stop.
      ValueError: If the run is not finished, or its states cannot be read.
    """
    file = folder / "turned.json"
    done: dict[str, list[float]] = read_json(file) if file.is_file() else {}
    missing = [angle for angle in angles if _key(angle) not in done]
    if missing:
        classifier = build_classifier(run, dataset)
        params = trained_states(run, folder, classifier).params
        with stop_signal() as stop:
            for angle in tqdm(missing, unit="angle", desc=name):
                if stop["requested"]:
                    raise Interrupted(f"{name}, angle {angle:g}°")
                wrong = count_errors(classifier, params, dataset.test, angle)
                done[_key(angle)] = (100 * wrong / len(dataset.test.labels)).tolist()
                write_json(file, done)
    return np.array([done[_key(angle)] for angle in angles]).T


def _key(angle: float) -> str:
    return f"{angle:g}"
