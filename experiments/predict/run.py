"""Predicts the classes of image files, and writes a table and pictures of them."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float

from experiments.classification.trained import Pipeline, Prediction, Trained, load_run
from experiments.data.examples import image_files
from experiments.engine.files import write_atomically, write_json
from experiments.predict.config import Arguments
from experiments.report import text_table
from stn_jax import visualize

# Number of images in memory, and in one compiled call.
_BATCH = 64


class Predicted(NamedTuple):
    """Image files and the model's predictions for them.

    Attributes:
      paths: Of the files.
      images: The model's inputs.
      prediction: The model's predictions for these inputs.
    """

    paths: list[Path]
    images: Float[np.ndarray, "n height width channels"]
    prediction: Prediction


def execute(arguments: Arguments) -> tuple[Pipeline, Predicted]:
    """Classifies the images, and writes the output folder.

    Raises:
      ValueError: If the run or an image cannot be read, or the model does not take pictures.
    """
    trained = load_run(arguments.run, seed=arguments.seed)
    predicted = predict_files(
        trained, image_files(arguments.images), invert=arguments.invert, fit=arguments.fit
    )
    folder = arguments.out
    if folder.exists() and not folder.is_dir():
        raise ValueError(
            f"{folder} must be a folder to write to; got a file. Choose another --out."
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "predictions.json", as_json(arguments, trained, predicted))
    text = as_csv(trained, predicted)
    write_atomically(folder / "predictions.csv", lambda path: path.write_text(text, newline=""))
    if predicted.prediction.theta is not None:
        draw(trained, predicted, folder / "pictures.png", most=arguments.most_pictures)
    return trained.pipeline, predicted


def predict_files(trained: Trained, paths: Sequence[Path], **options: Any) -> Predicted:
    """Classifies image files; the options are those of ``Pipeline.from_files``."""
    images, parts = [], []
    for start in range(0, len(paths), _BATCH):
        images.append(trained.pipeline.from_files(paths[start : start + _BATCH], **options))
        parts.append(trained.predict(images[-1]))
    together: Any = [
        None if each[0] is None else np.concatenate(each) for each in zip(*parts, strict=True)
    ]
    return Predicted(list(paths), np.concatenate(images), Prediction(*together))


def table(pipeline: Pipeline, predicted: Predicted) -> str:
    """A line for each image: the two most probable classes, with their probabilities."""
    rows = []
    for path, probabilities in zip(
        predicted.paths, predicted.prediction.probabilities, strict=True
    ):
        first, second = np.argsort(-probabilities, stable=True)[:2]
        own = [pipeline.name(int(label)) for label in (first, second)]
        shares = [f"{100 * probabilities[label]:.1f}" for label in (first, second)]
        rows.append([str(path), own[0], shares[0], own[1], shares[1]])
    return text_table(["image", "label", "%", "second", "%"], rows)


def as_csv(trained: Trained, predicted: Predicted) -> str:
    """The table with the probabilities of all classes."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    probabilities = predicted.prediction.probabilities
    name = trained.pipeline.name
    classes = [f"probability_{name(label)}" for label in range(probabilities.shape[1])]
    writer.writerow(["image", "label", *classes])
    for path, label, shares in zip(
        predicted.paths, predicted.prediction.labels, probabilities, strict=True
    ):
        writer.writerow([path, name(int(label)), *(f"{share:.6f}" for share in shares)])
    return text.getvalue()


def as_json(arguments: Arguments, trained: Trained, predicted: Predicted) -> dict[str, Any]:
    """The predictions with theta, and the model that made them."""
    prediction, pipeline = predicted.prediction, trained.pipeline
    thetas = [None] * len(predicted.paths) if prediction.theta is None else prediction.theta
    return {
        "run": str(arguments.run),
        "model": pipeline.run.model,
        "seed": pipeline.seed,
        "images": [
            {
                "image": str(path),
                "label": int(label),
                "name": pipeline.name(int(label)),
                "probabilities": probabilities.tolist(),
                "theta": None if theta is None else theta.tolist(),
            }
            for path, label, probabilities, theta in zip(
                predicted.paths, prediction.labels, prediction.probabilities, thetas, strict=True
            )
        ],
    }


def draw(trained: Trained, predicted: Predicted, path: Path, *, most: int) -> None:
    """Draws the first images with the regions that the transformer reads, above its outputs."""
    prediction, transformer = predicted.prediction, trained.model.transformer
    assert prediction.theta is not None
    assert prediction.outputs is not None
    assert transformer is not None
    titles = [
        f"{trained.pipeline.name(int(label))}, {100 * shares.max():.0f} %"
        for label, shares in zip(
            prediction.labels[:most], prediction.probabilities[:most], strict=True
        )
    ]
    figure = visualize.strip(
        predicted.images[:most],
        transformer.composition,
        prediction.theta[:most],
        prediction.outputs[:most],
        titles=titles,
    )
    write_atomically(path, figure.savefig)
    plt.close(figure)
