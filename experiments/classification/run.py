"""One run: trains and tests a classifier for each seed, and writes the run's folder.

Everything in the folder follows from ``config.json``. A run that was stopped or killed resumes from
its last checkpoint, and ends with the same numbers as an uninterrupted one.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optax
from flax import nnx

from experiments import models
from experiments.classification.config import Recipe, Run
from experiments.classification.recipes import RECIPES
from experiments.classification.snapshots import follow_test_images
from experiments.classification.step import Classifier, error_mask, make_classifier
from experiments.data.datasets import Dataset
from experiments.data.distortions import distorted_shape, hash_test_images
from experiments.data.sources import load_split
from experiments.engine import intervals
from experiments.engine.devices import Devices, all_devices, wait_for_all
from experiments.engine.files import environment, write_atomically, write_json
from experiments.engine.fit import fit
from experiments.engine.optimizers import with_localization_rate
from experiments.engine.problem import State
from experiments.engine.session import Session, open_session
from experiments.engine.step import make_program
from experiments.report.records import RunResult


class DataShape(NamedTuple):
    """The shapes and classes of a data set on which its models depend.

    Attributes:
      image_shape: Height, width and channels of an undistorted image.
      num_classes: Number of classes of undistorted images.
      class_names: Their names, if they have names.
    """

    image_shape: tuple[int, int, int]
    num_classes: int
    class_names: tuple[str, ...] | None = None


def load_dataset(recipe: Recipe) -> Dataset:
    """The data of a recipe. With ``on="validation"`` the held-out images replace the test set."""
    return load_split(recipe.data, recipe.validation, on=recipe.on)


def check_model(run: Run, dataset: Dataset) -> int:
    """The number of parameters of the model, without building it.

    Raises:
      ValueError: If the model cannot be built for these images, the batch does not divide over the
        devices or into its parts, or no images are held out for early stopping.
    """
    run.check_training(run.batch_size, validates=dataset.validation is not None)
    abstract: Any = nnx.eval_shape(lambda: create_model(run, dataset, nnx.Rngs(0)))
    return models.count_parameters(abstract)


def execute(
    run: Run,
    folder: Path,
    dataset: Dataset,
    *,
    profile: bool = False,
    metrics_writer: str | None = None,
) -> RunResult:
    """Trains and tests a model for each seed; writes ``result.json`` and returns it.

    Args:
      run: The run.
      folder: Its folder, made by :func:`experiments.engine.run_folder.prepare_folder`.
      dataset: The run's data.
      profile: Whether to trace the second dispatch, into ``profile`` in the folder.
      metrics_writer: ``MODULE:OBJECT`` of a writer that gets all metrics, too.

    Raises:
      Interrupted: If the user asked to stop; the state is saved.
    """
    if (folder / "result.json").exists():
        return RunResult.read(folder / "result.json")
    classifier = build_classifier(run, dataset)
    with open_session(
        folder, key="seed", profile=profile, metrics_writer=metrics_writer
    ) as session:
        states = _train(run, dataset, classifier, session)
        test = dataset.test
        masks = [
            error_mask(classifier, state.params, test.images, test.labels, copies=run.test_copies)
            for state in states
        ]
        wrong = np.concatenate(masks)
        tested_steps = np.concatenate([np.asarray(state.step) for state in states]).tolist()
        result = _result(run, dataset, wrong, tested_steps, session)
    write_atomically(
        folder / "misread.npz", lambda path: np.savez_compressed(path, wrong=wrong, seeds=run.seeds)
    )
    write_json(folder / "result.json", result.to_json())
    wait_for_all(str(folder / "result.json"))
    return result


def _train(run: Run, dataset: Dataset, classifier: Classifier, session: Session) -> list[State]:
    """Trains all seeds; returns the states to test, for each group of seeds."""
    problem = dataclasses.replace(
        classifier.problem,
        data=(dataset.train.images, dataset.train.labels),
        evaluate=_evaluation(classifier, dataset),
        snapshots=follow_test_images(
            session.folder / "pictures.npz", dataset, classifier, seed=run.seeds[0]
        ),
    )
    program = make_program(problem, devices_of(run), accumulate=run.accumulate)
    return [
        fit(problem, program, run.schedule, session, seeds, name=run.model).states
        for seeds in run.seed_groups
    ]


def _evaluation(classifier: Classifier, dataset: Dataset) -> Any:
    """The function that measures the held-out images, if there are any."""
    held_out = dataset.validation
    if held_out is None:
        return None

    def evaluate(states: State, constants: Any) -> dict[str, np.ndarray]:
        del constants
        wrong = error_mask(classifier, states.params, held_out.images, held_out.labels)
        return {"validation_error": 100 * wrong.mean(axis=(1, 2))}

    return evaluate


def _result(
    run: Run, dataset: Dataset, wrong: np.ndarray, tested_steps: list[int], session: Session
) -> RunResult:
    errors = 100 * wrong.mean(axis=(1, 2))
    lines = [session.log.at(*at) for at in zip(run.seeds, tested_steps, strict=True)]
    return RunResult(
        model=run.model,
        transform=run.transform if models.has_transformer(run.model) else None,
        distortion=run.distortion,
        dataset=dataset.name,
        benchmark=dataset.benchmark,
        num_parameters=check_model(run, dataset),
        steps=run.steps,
        batch_size=run.batch_size,
        seeds=run.seeds,
        test_errors=tuple(errors.tolist()),
        test_images=len(dataset.test.labels),
        mean=float(errors.mean()),
        interval=intervals.interval(wrong),
        interval_method=intervals.INTERVAL_METHOD,
        wall_time_s=round(session.seconds(run.model, run.seed_groups), 2),
        tested_steps=tuple(tested_steps),
        validation_errors=tuple(line.get("validation_error") for line in lines),
        test_copies=run.test_copies,
        image_shape=dataset.image_shape,
        num_classes=dataset.num_classes,
        class_names=dataset.class_names,
        test_sha256=hash_test_images(
            run.task.measured, dataset.test.images, copies=run.test_copies
        ),
        **environment(),
    )


def build_classifier(run: Run, dataset: Dataset | DataShape) -> Classifier:
    """The functions that train and test the run's model."""
    return make_classifier(
        functools.partial(create_model, run, dataset),
        make_optimizer(run),
        run.task,
        run.batch_size,
        penalty=run.identity_penalty,
        label_smoothing=run.smoothing,
    )


def devices_of(run: Run) -> Devices:
    """How the run's steps are spread over devices."""
    return all_devices(run.parallel, run.batch_size)


def make_optimizer(run: Run) -> optax.GradientTransformation:
    """The recipe's optimizer, with the rate of the localization network if the model has one."""
    optimizer = RECIPES[run.recipe].optimizer(run.learning_rate, run.steps)
    if not models.has_transformer(run.model):
        return optimizer
    return with_localization_rate(optimizer, run.localization_rate, run.localization_frozen_steps)


def create_model(run: Run, dataset: Dataset | DataShape, rngs: nnx.Rngs) -> models.Model:
    """The run's model, untrained."""
    task = run.task
    in_shape = distorted_shape(task.distortion, dataset.image_shape)
    crop = models.crop_of(run.distortion, run.model, dataset.image_shape)
    kind = run.model, run.transform, in_shape, task.num_classes(dataset.num_classes)
    width = run.width * models.width_for(models.PARAMETERS, *kind, crop=crop)
    model = models.build(*kind, width=width, crop=crop, rngs=rngs)
    models.compute_in(model, run.precision)
    return model
