"""Reads run folders; errors name the file and the line."""

import dataclasses
import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import stn_jax
from experiments.data.tasks import TASKS
from experiments.report.records import RunResult
from stn_jax import Transform

_METRIC_KEYS = ("seed", "step", "loss", "train_error")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Regions:
    """The regions that a spatial transformer of N parallel transforms samples, and its outputs.

    Attributes:
      transform: The family of ``theta``.
      theta: Parameters, ``[snapshots, images, N, num_params]``.
      outputs: Warped images, uint8 ``[snapshots, images, N, out_height, out_width, channels]``;
        volumes flattened.
    """

    transform: Transform
    theta: np.ndarray
    outputs: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Pictures:
    """A few test images, throughout the training of the first seed.

    Attributes:
      steps: Step of each snapshot, ``[snapshots]``.
      inputs: Distorted inputs, volumes flattened, uint8 ``[images, height, width, channels]``.
      labels: True classes, ``[images]``.
      predictions: Predicted classes, ``[snapshots, images]``.
      regions: Those of the spatial transformer; ``None`` for a model without one.
    """

    steps: np.ndarray
    inputs: np.ndarray
    labels: np.ndarray
    predictions: np.ndarray
    regions: Regions | None

    def first(self, number: int) -> "Pictures":
        """The first images."""
        regions = self.regions
        if regions is not None:
            regions = dataclasses.replace(
                regions, theta=regions.theta[:, :number], outputs=regions.outputs[:, :number]
            )
        return dataclasses.replace(
            self,
            inputs=self.inputs[:number],
            labels=self.labels[:number],
            predictions=self.predictions[:, :number],
            regions=regions,
        )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class RunFolder:
    """The files of one run.

    Attributes:
      config: ``config.json``.
      metrics: The lines of ``metrics.jsonl``.
      result: ``result.json``.
      pictures: ``pictures.npz``, or ``None`` where the run has none.
    """

    config: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]
    result: RunResult
    pictures: Pictures | None


def read_run(folder: Path) -> RunFolder:
    """Reads a run folder.

    Args:
      folder: Folder with ``config.json``, ``metrics.jsonl``, ``result.json`` and perhaps
        ``pictures.npz``.

    Returns:
      The run.

    Raises:
      ValueError: If a file is missing or broken, or lacks an entry; names the file.
    """
    config = _json_object(folder / "config.json", _read_text(folder / "config.json"))
    file = folder / "result.json"
    result = RunResult.from_json(_json_object(file, _read_text(file)), file)
    pictures = folder / "pictures.npz"
    return RunFolder(
        config=config,
        metrics=_read_metrics(folder / "metrics.jsonl"),
        result=result,
        pictures=_read_pictures(pictures, config) if pictures.exists() else None,
    )


def transform_named(name: str, ndim: int = 2) -> Transform:
    """The family of transforms of this name, for images or for volumes."""
    try:
        family = getattr(stn_jax, name)
        transform: Transform = family() if ndim == 2 else family(ndim=ndim)
    except (AttributeError, TypeError):
        where = "" if ndim == 2 else f" in {ndim}-D"
        raise ValueError(f"stn_jax has no family of transforms called {name!r}{where}") from None
    return transform


def run_names(results: Sequence[RunResult]) -> list[str]:
    """A short name for each run: its model, then settings until all names differ."""

    def name(result: RunResult, keys: Sequence[str]) -> str:
        values = (getattr(result, key) for key in keys)
        return " ".join(str(value) for value in values if value is not None)

    keys = ("model", "transform", "distortion", "dataset", "steps")
    for count in range(1, len(keys) + 1):
        names = [name(result, keys[:count]) for result in results]
        if len(set(names)) == len(names):
            return names
    return [f"{name} ({index})" for index, name in enumerate(names, start=1)] if results else []


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ValueError(f"{path} is missing; a finished run has written it.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as text: {error}.") from error


def _json_object(where: Path | str, text: str, keys: Sequence[str] = ()) -> Mapping[str, Any]:
    try:
        value: dict[str, Any] = dict(json.loads(text))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where} is not a JSON object: {error}. Was it cut off?") from error
    missing = [key for key in keys if key not in value]
    if missing:
        raise ValueError(f"{where} lacks {', '.join(missing)}.")
    return value


def _read_metrics(path: Path) -> list[Mapping[str, Any]]:
    lines = _read_text(path).splitlines()
    if not lines:
        raise ValueError(f"{path} is empty; expected one JSON object a line.")
    return [
        _json_object(f"{path}, line {number}", line, _METRIC_KEYS)
        for number, line in enumerate(lines, start=1)
    ]


def _read_pictures(path: Path, config: Mapping[str, Any]) -> Pictures:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} is not a readable NPZ file: {error}. Was it cut off?") from error
    try:
        return _pictures(arrays, config)
    except KeyError as error:
        raise ValueError(f"{path} and the config.json beside it lack {error}.") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}.") from None


def _pictures(arrays: Mapping[str, np.ndarray], config: Mapping[str, Any]) -> Pictures:
    snapshots, images = arrays["predictions"].shape[:1], arrays["labels"].shape[:1]
    _check("predictions", arrays["predictions"], snapshots + images)
    _check("steps", arrays["steps"], snapshots)
    _check("labels", arrays["labels"], images)
    _check("inputs", arrays["inputs"], (*images, None, None, None), np.uint8)
    regions = None
    if "theta" in arrays:
        task = TASKS.get(str(config.get("distortion")))
        transform = transform_named(str(config["transform"]), 2 if task is None else task.ndim)
        theta, outputs = arrays["theta"], arrays["outputs"]
        if theta.ndim == 3:  # One transform has no axis of its own.
            theta, outputs = theta[:, :, None], outputs[:, :, None]
        number = theta.shape[2:3]
        _check("theta", theta, (*snapshots, *images, *number, transform.num_params))
        _check("outputs", outputs, (*snapshots, *images, *number, None, None, None), np.uint8)
        regions = Regions(transform=transform, theta=theta, outputs=outputs)
    return Pictures(
        steps=arrays["steps"],
        inputs=arrays["inputs"],
        labels=arrays["labels"],
        predictions=arrays["predictions"],
        regions=regions,
    )


def _check(
    name: str,
    array: np.ndarray,
    shape: tuple[int | None, ...],
    dtype: type[np.generic] = np.generic,
) -> None:
    """Checks an array's dtype and shape, in which ``None`` is any size."""
    fits = array.ndim == len(shape) and all(
        size > 0 and want in (None, size) for size, want in zip(array.shape, shape, strict=True)
    )
    if not fits:
        sizes = ", ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(f"{name} must have shape [{sizes}], none of them 0; got {array.shape}")
    if not issubclass(array.dtype.type, dtype):
        raise ValueError(f"{name} must be {dtype.__name__}; got {array.dtype}")
