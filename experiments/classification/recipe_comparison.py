"""Recipes compared on held-out images: errors, and the images that each needs for an error.

A training is a folder, such as ``R/st-fcn/linear-2000``. The same command again skips finished
ones. The test images are never read.
"""

import dataclasses
from collections.abc import Sequence

from experiments.classification.config import RecipesArguments
from experiments.classification.run import check_model, execute, load_dataset
from experiments.engine.files import environment, write_atomically, write_json
from experiments.engine.records import Record, Result
from experiments.engine.run_folder import prepare_folders
from experiments.report import text_table


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecipeTraining(Record):
    """The trainings of a model by one recipe, of one length.

    Attributes:
      distortion, model, recipe, steps: What was trained.
      images: Images in all steps of a training.
      learning_rate: The highest.
      error, interval: On the held-out images, in percent, over all seeds.
      errors: By seed.
      wall_time_s: Seconds of all seeds.
    """

    distortion: str
    model: str
    recipe: str
    steps: int
    images: int
    learning_rate: float
    error: float
    interval: tuple[float, float]
    errors: tuple[float, ...]
    wall_time_s: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecipesResult(Result):
    """``recipes.json``."""

    rows: tuple[RecipeTraining, ...]


def compare(arguments: RecipesArguments) -> str:
    """Trains what is missing; writes the comparison, and returns it as text."""
    dataset = load_dataset(arguments.run(*arguments.trainings[0]))
    jobs = []
    for model, distortion, recipe, steps in arguments.trainings:
        run = arguments.run(model, distortion, recipe, steps)
        check_model(run, dataset)
        jobs.append((run, arguments.out / distortion / model / f"{recipe}-{steps}"))
    options = {"resume": True, "overwrite": False, "extends": True}
    prepare_folders(arguments, arguments.out, jobs, **options)
    rows = []
    for number, (run, folder) in enumerate(jobs, start=1):
        print(f"{number} of {len(jobs)}: {folder.relative_to(arguments.out)}", flush=True)
        result = execute(run, folder, dataset, **arguments.watching)
        rows.append(
            RecipeTraining(
                distortion=run.distortion,
                model=run.model,
                recipe=run.recipe,
                steps=run.steps,
                images=run.steps * run.batch_size,
                learning_rate=run.learning_rate,
                error=result.mean,
                interval=result.interval,
                errors=result.test_errors,
                wall_time_s=result.wall_time_s,
            )
        )
    settings = {k: v for k, v in arguments.to_json().items() if k != "data"}
    comparison = RecipesResult(
        rows=tuple(rows), dataset=dataset.name, settings=settings, **environment()
    )
    text = "\n\n".join(
        [text_table(*errors_by_recipe(rows)), text_table(*images_needed(rows, arguments.recipes))]
    )
    write_json(arguments.out / "recipes.json", comparison.to_json())
    write_atomically(arguments.out / "recipes.txt", lambda path: path.write_text(f"{text}\n"))
    return text


def errors_by_recipe(rows: Sequence[RecipeTraining]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells: a row for each training."""
    headings = ["set", "model", "recipe", "steps", "images", "error %", "interval", "seconds"]
    return headings, [
        [
            row.distortion,
            row.model,
            row.recipe,
            f"{row.steps:,}",
            f"{row.images:,}",
            f"{row.error:.2f}",
            "{:.2f} to {:.2f}".format(*row.interval),
            f"{row.wall_time_s:.0f}",
        ]
        for row in rows
    ]


def images_needed(
    rows: Sequence[RecipeTraining], recipes: Sequence[str]
) -> tuple[list[str], list[list[str]]]:
    """Headings and cells: how many times fewer images each recipe needs than the first one.

    The error to reach is that of the first recipe's longest training. A recipe needs the images of
    its shortest training that reaches it; ``–`` if none does.
    """
    first, *others = recipes
    cells = []
    for place in dict.fromkeys((row.distortion, row.model) for row in rows):
        own = [row for row in rows if (row.distortion, row.model) == place]
        longest = max((row for row in own if row.recipe == first), key=lambda row: row.images)
        ratios = []
        for recipe in others:
            enough = [r.images for r in own if r.recipe == recipe and r.error <= longest.error]
            ratios.append(f"{longest.images / min(enough):g}" if enough else "–")
        cells.append([*place, f"{longest.error:.2f}", *ratios])
    return ["set", "model", f"{first} %", *others], cells
