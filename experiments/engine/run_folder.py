"""The folder of a run: made, checked against its settings, and read back."""

import dataclasses
import shutil
from collections.abc import Collection, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from experiments.engine.checkpoint import Checkpoints
from experiments.engine.devices import broadcast_from_0, is_first, wait_for_all
from experiments.engine.early_stopping import Progress
from experiments.engine.files import is_partial, read_json, write_json
from experiments.engine.problem import Schedule


@runtime_checkable
class Settings(Protocol):
    """A record that determines the content of a folder."""

    def to_json(self) -> dict[str, Any]:
        """The settings as JSON values."""


def prepare_folder(run: Settings, folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Makes the folder of a run, or checks that it holds this very run.

    Raises:
      ValueError: If it holds a run and neither option is given, or if it holds anything but this
        run.
    """
    if is_first():
        _prepare(run, folder, resume=resume, overwrite=overwrite)
    wait_for_all(str(folder))


def _prepare(run: Settings, folder: Path, *, resume: bool, overwrite: bool) -> None:
    config_file = folder / "config.json"
    # A folder counts as empty if a kill has left only partial files.
    occupied = folder.exists() and (
        not folder.is_dir() or not all(is_partial(path) for path in folder.iterdir())
    )
    if occupied and not config_file.is_file():
        raise ValueError(f"{folder} exists and is not a run; choose another --out.")
    if occupied and overwrite:
        _delete(folder)
    elif occupied and not resume:
        raise _occupied(folder)
    elif occupied:
        check_settings(run, folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(config_file, run.to_json())


def prepare_folders(
    command: Settings,
    out: Path,
    runs: Sequence[tuple[Settings, Path]],
    *,
    resume: bool,
    overwrite: bool,
    extends: bool = False,
) -> None:
    """Makes the folders of the runs of one command, and keeps its settings beside them.

    Args:
      command: Its settings, which ``config.json`` in ``out`` holds then.
      out: Its output folder.
      runs: The runs, each with its folder inside ``out``.
      resume, overwrite: As in :func:`prepare_folder`, for each run. The other content of ``out`` is
        left alone.
      extends: Whether a command of other settings may add runs to those that ``out`` holds.

    Raises:
      ValueError: If ``out`` is itself the folder of a run, or holds runs and no option allows that.
    """
    config_file = out / "config.json"
    if is_first() and config_file.is_file():
        if (out / "metrics.jsonl").exists():
            if extends:
                raise ValueError(f"{out} is the folder of a single run; choose another --out.")
            if not overwrite:
                raise _occupied(out)
            _delete(out)
        elif not (resume or overwrite or extends):
            raise _occupied(out)
    wait_for_all(str(out))
    for run, folder in runs:
        prepare_folder(run, folder, resume=resume, overwrite=overwrite)
    # Written last, so that a refused run leaves the settings that were there.
    if is_first():
        out.mkdir(parents=True, exist_ok=True)
        write_json(config_file, command.to_json())
    wait_for_all(str(config_file))


def _occupied(folder: Path) -> ValueError:
    return ValueError(
        f"{folder} holds a run already; --resume goes on with it, --overwrite deletes it, another "
        "--out leaves it alone."
    )


def _delete(folder: Path) -> None:
    """Deletes the folder of a run.

    Raises:
      ValueError: If it holds folders of further runs.
    """
    nested = sorted(path.parent.name for path in folder.glob("*/config.json"))
    if nested:
        raise ValueError(
            f"{folder} holds further runs, in {', '.join(nested)}, which --overwrite would delete "
            "with it. Delete the folder by hand, or choose another --out."
        )
    # Renamed first, so that a kill leaves either the whole run or none.
    doomed = folder.with_name(f".{folder.name}.deleted")
    shutil.rmtree(doomed, ignore_errors=True)
    folder.rename(doomed)
    shutil.rmtree(doomed)


def check_settings(run: Settings, folder: Path, *, but: Collection[str] = ()) -> None:
    """Checks that a folder holds a run of these settings; those in ``but`` may differ.

    A setting that the folder lacks is newer than the run, so the run had its default.

    Raises:
      ValueError: If settings differ; names them.
    """
    now = run.to_json()
    fields: Iterable[dataclasses.Field[Any]] = (
        dataclasses.fields(run) if dataclasses.is_dataclass(run) else ()
    )
    usual = {field.name: field.default for field in fields if field.name in now}
    before = usual | read_json(folder / "config.json")
    keys = (before.keys() | now.keys()) - set(but)
    changed = sorted(key for key in keys if before.get(key) != now.get(key))
    if changed:
        differences = (f"{k} was {before.get(k)!r}, is {now.get(k)!r}" for k in changed)
        raise ValueError(
            f"{folder} holds a run with other settings, so it cannot be resumed: "
            + "; ".join(differences)
        )


def read_finished(folder: Path, schedule: Schedule, like: Progress) -> Progress:
    """The last checkpoint of a finished training.

    Args:
      folder: The folder of its checkpoints.
      schedule: Of the training.
      like: A progress with the same leaves, shapes and dtypes.

    Raises:
      ValueError: If there is no checkpoint, it cannot be read, or the training is not finished.
    """
    return broadcast_from_0(_read_finished(folder, schedule, like) if is_first() else like)


def _read_finished(folder: Path, schedule: Schedule, like: Progress) -> Progress:
    step = None
    # ``Checkpoints`` would create a missing folder.
    if folder.is_dir():
        with closing(Checkpoints(folder)) as checkpoints:
            step = checkpoints.latest()
            if step is not None:
                progress = checkpoints.restore(step, like)
                if progress.is_done(schedule, step):
                    return progress
    raise ValueError(
        f"{folder} must hold a checkpoint of step {schedule.steps}; the last is of {step}. Delete "
        "the run and train it again."
    )
