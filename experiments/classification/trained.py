"""A trained classifier and the way from pictures to its input: of a finished run, or in one file.

:func:`load_run` reads either. :meth:`Trained.save` writes the file: safetensors with the parameters
by name, and in its metadata all that is needed to make the model again.
"""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import nnx
from jaxtyping import Array, Float, Integer
from PIL import Image
from safetensors import SafetensorError, safe_open

from experiments import models
from experiments.classification.config import Run
from experiments.classification.restore import run_from_json, run_of, trained_states
from experiments.classification.run import DataShape, build_classifier, create_model, load_dataset
from experiments.data.distortions import distort_test_images, distorted_shape
from experiments.data.examples import decoding
from experiments.data.pictures import FitName, as_array
from experiments.engine.files import write_atomically
from experiments.report.records import RunResult

ENDING = ".safetensors"
# Tells a file of Trained.save from other safetensors files.
_FORMAT = "stn_jax.experiments.classification"


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """From pictures to the input of a trained model.

    Attributes:
      run: The run that trained it.
      seed: The seed of this training.
      data_shape: The shape of an undistorted image, and the number of classes.
      test_error: On the run's test images, in percent.
    """

    run: Run
    seed: int
    data_shape: DataShape
    test_error: float

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one input of the model, a distorted image: height, width, channels."""
        return distorted_shape(self.run.task.distortion, self.data_shape.image_shape)

    @property
    def num_classes(self) -> int:
        """Number of classes that the model tells apart."""
        return self.run.task.num_classes(self.data_shape.num_classes)

    def name(self, label: int) -> str:
        """The name of a class; its number if the classes have no names, or are sums of labels."""
        names = self.data_shape.class_names
        return names[label] if names and len(names) == self.num_classes else str(label)

    def from_picture(
        self, picture: Image.Image, *, fit: FitName = "crop", invert: bool = False
    ) -> Float[np.ndarray, "height width channels"]:
        """The model's input for a picture: resized, grey or RGB as in training, from 0 to 1.

        Args:
          picture: Of any size and mode.
          fit: As in :func:`experiments.data.pictures.as_array`.
          invert: Whether to swap dark and bright, as for dark ink on paper where the training
            images are bright on black.

        Raises:
          ValueError: If the model takes volumes or images of other than 1 or 3 channels, or the
            picture has 32 bits a channel.
        """
        shape = self.input_shape
        if len(shape) != 3:
            raise ValueError(
                f"a model of volumes takes arrays of shape {shape}, not pictures; got a picture."
            )
        array = as_array(picture, (shape[0], shape[1], shape[2]), fit=fit)
        values = 255 - array if invert else array
        return values.astype(np.float32) / np.float32(255)

    def from_files(
        self, paths: Iterable[Path], *, fit: FitName = "crop", invert: bool = False
    ) -> Float[np.ndarray, "n height width channels"]:
        """The model's inputs for image files, as :meth:`from_picture` makes them.

        Raises:
          DataError: If a file cannot be read as an image; names it.
          ValueError: As :meth:`from_picture`, and if there is no file.
        """
        images = []
        for path in paths:
            with decoding(path):
                picture = Image.open(path)
                picture.load()
            with picture:
                images.append(self.from_picture(picture, fit=fit, invert=invert))
        if not images:
            raise ValueError("paths must name at least one image file; got none.")
        return np.stack(images)

    def test_images(
        self, numbers: Sequence[int] | Integer[np.ndarray, " n"] | None = None
    ) -> tuple[Float[Array, "n *shape"], Integer[np.ndarray, " n"]]:
        """Distorted test images with their labels, as the run was tested on; reads its data.

        Args:
          numbers: Which ones; all, each once, if ``None``.

        Raises:
          DataError: If the data cannot be read where the run says that they are.
        """
        test, task = load_dataset(self.run).test, self.run.task
        chosen = np.arange(len(test.labels)) if numbers is None else np.asarray(numbers)
        images = distort_test_images(task.measured, jnp.asarray(test.images), jnp.asarray(chosen))
        return images, task.targets(test.labels)[chosen % len(test.labels)]


class Trained(NamedTuple):
    """A trained classifier.

    Attributes:
      model: From images ``[batch, *pipeline.input_shape]`` with values from 0 to 1 to logits;
        ``model.forward`` gives theta, too.
      pipeline: From pictures to such images.
    """

    model: models.Model
    pipeline: Pipeline

    def predict(self, images: Float[Array | np.ndarray, "n *shape"]) -> "Prediction":
        """Classifies images that the pipeline made."""
        probabilities, theta, outputs = _predict(self.model, jnp.asarray(images))
        if theta is None or outputs is None:
            return Prediction(np.asarray(probabilities), None, None)
        return Prediction(*map(np.asarray, (probabilities, theta, outputs)))

    def save(self, path: Path) -> None:
        """Writes the parameters and the run's settings into one safetensors file.

        Raises:
          ValueError: If the file's name does not end in ``.safetensors``.
        """
        if path.suffix != ENDING:
            raise ValueError(f"path must end in {ENDING}; got {path}.")
        pipeline = self.pipeline
        about = {
            "run": pipeline.run.to_json(),
            "seed": pipeline.seed,
            "image_shape": pipeline.data_shape.image_shape,
            "num_classes": pipeline.data_shape.num_classes,
            "class_names": pipeline.data_shape.class_names,
            "test_error": pipeline.test_error,
        }
        metadata = {"format": _FORMAT, "trained": json.dumps(about)}
        tensors = {name: np.asarray(leaf) for name, leaf in _named(self.model).items()}
        write_atomically(
            path, lambda partial: safetensors.numpy.save_file(tensors, partial, metadata)
        )


class Prediction(NamedTuple):
    """The predictions of a classifier for n images.

    Attributes:
      probabilities: Of each class, ``[n, classes]``.
      theta: The parameters of the spatial transformer's maps, ``None`` without one.
      outputs: Its outputs, before any pooling, ``None`` without one.
    """

    probabilities: Float[np.ndarray, "n classes"]
    theta: Float[np.ndarray, "n ..."] | None
    outputs: Float[np.ndarray, "n ..."] | None

    @property
    def labels(self) -> Integer[np.ndarray, " n"]:
        """The most probable class of each image."""
        labels: Integer[np.ndarray, " n"] = self.probabilities.argmax(-1)
        return labels


@nnx.jit
def _predict(model: models.Model, images: Array) -> tuple[Array, Array | None, Array | None]:
    theta, outputs = None, images
    if model.transformer is not None:
        outputs, theta = model.transformer(images, return_theta=True)
    probabilities = jax.nn.softmax(model.classify(outputs))
    return probabilities, theta, None if theta is None else outputs


def load_run(where: Path, *, seed: int | None = None) -> Trained:
    """The trained model of a finished run, and its pipeline.

    Args:
      where: The folder of a run with one model, or a file that :meth:`Trained.save` wrote.
      seed: The training to take; the first of the run if ``None``.

    Raises:
      ValueError: If there is no finished run, its checkpoint cannot be read, or it has no such
        seed; names the file or the folder.
    """
    where = Path(where)
    if where.is_file():
        return _from_file(where, seed)
    runs = [path.parent.name for path in sorted(where.glob("*/config.json"))]
    if runs or not (where / "config.json").is_file():
        instead = f"name one of the runs in it: {', '.join(runs)}" if runs else "name another"
        got = "a folder of several runs" if runs else "a folder without config.json"
        got = got if where.is_dir() else "nothing there"
        raise ValueError(
            f"{where} must be the folder of a finished run or a {ENDING} file of one; got {got}. "
            f"{instead[0].upper()}{instead[1:]}."
        )
    return _from_folder(where, seed)


def _from_folder(folder: Path, seed: int | None) -> Trained:
    run = run_of(folder)
    if not (folder / "result.json").is_file():
        raise ValueError(f"{folder} must hold a finished run; got no result.json. Finish it first.")
    result = RunResult.read(folder / "result.json")
    if result.image_shape is None or result.num_classes is None:
        # The run is of an older version, whose results do not say of which shape its images are.
        dataset = load_dataset(run)
        shape = DataShape(dataset.image_shape, dataset.num_classes, dataset.class_names)
    else:
        shape = DataShape(result.image_shape, result.num_classes, result.class_names)
    number = _index_of_seed(seed, run.seeds, folder)
    params = trained_states(run, folder, build_classifier(run, shape)).params
    model = create_model(run, shape, nnx.Rngs(0))
    nnx.update(model, jax.tree.map(lambda leaf: leaf[number], params))
    error = result.test_errors[number]
    return Trained(model, Pipeline(run, run.seeds[number], shape, error))


def _index_of_seed(seed: int | None, seeds: Sequence[int], where: Path) -> int:
    if seed is not None and seed not in seeds:
        raise ValueError(
            f"seed must be one of those of {where}, {', '.join(map(str, seeds))}; got {seed}."
        )
    return 0 if seed is None else list(seeds).index(seed)


def _from_file(path: Path, seed: int | None) -> Trained:
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"{path} is not a readable safetensors file: {error}. Name a run's folder, or a file "
            "that Trained.save wrote."
        ) from error
    if metadata.get("format") != _FORMAT:
        raise ValueError(
            f"{path} must be a file that Trained.save wrote; got other weights, of format "
            f"{metadata.get('format')!r}. Name a run's folder, or save one."
        )
    about = json.loads(metadata["trained"])
    run = run_from_json(about["run"], path)
    _index_of_seed(seed, (about["seed"],), path)
    names = about.get("class_names")
    shape = DataShape(
        tuple(about["image_shape"]), about["num_classes"], None if names is None else tuple(names)
    )
    model = create_model(run, shape, nnx.Rngs(0))
    _fill(model, tensors, path)
    return Trained(model, Pipeline(run, about["seed"], shape, about["test_error"]))


def _named(model: models.Model) -> dict[str, Any]:
    """The model's variables by their paths, with dots."""
    return {
        ".".join(map(str, place)): variable
        for place, variable in nnx.to_flat_state(nnx.state(model))
    }


def _fill(model: models.Model, tensors: dict[str, np.ndarray], path: Path) -> None:
    """Sets the model's parameters; checks names and shapes."""
    variables = _named(model)
    expected = {name: variable.shape for name, variable in variables.items()}
    found = {name: tensor.shape for name, tensor in tensors.items()}
    for name in expected | found:
        if expected.get(name) != found.get(name):
            raise ValueError(
                f"{path}: {name} must have shape {expected.get(name, 'none')}, as its settings "
                f"say; got {found.get(name, 'none')}. Write the file again."
            )
    flat = nnx.to_flat_state(nnx.state(model))
    state = {place: jnp.asarray(tensors[".".join(map(str, place))]) for place, _ in flat}
    nnx.update(model, nnx.from_flat_state(state))
