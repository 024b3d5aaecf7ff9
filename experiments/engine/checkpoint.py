"""Checkpoints; the only file that knows Orbax."""

import hashlib
import shutil
import sys
import textwrap
import time
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from tqdm import tqdm

from experiments.engine.devices import are_several, broadcast_from_0, is_first

State = TypeVar("State")
# A killed run loses at most this much work, and one dispatch.
SECONDS_BETWEEN_CHECKPOINTS = 30


class CheckpointError(ValueError):
    """A checkpoint cannot be written or read; the message names it and says what to do."""


class OtherStateError(CheckpointError):
    """The state in a checkpoint has other leaves, shapes or dtypes than the expected one."""


class Checkpoints:
    """The last two checkpoints of one training, written while the training goes on.

    A checkpoint is written under a temporary name and then renamed, so a half-written one is never
    read. It holds a digest of its numbers, so that damage is noticed. Only the first process writes
    and reads.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._saved_at = time.monotonic()
        if not is_first():
            return
        folder.mkdir(parents=True, exist_ok=True)
        alone = ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0})
        several = {"multiprocessing_options": alone} if are_several() else {}
        self._manager = ocp.CheckpointManager(
            folder.absolute(),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=2, cleanup_tmp_directories=True, create=False, **several
            ),
        )

    def are_due(self) -> bool:
        """Whether half a minute has passed since the last checkpoint, or since the start."""
        return time.monotonic() - self._saved_at > SECONDS_BETWEEN_CHECKPOINTS

    def save(self, step: int, state: State) -> None:
        """Starts to write the state after ``step`` steps; waits only for the previous checkpoint.

        Raises:
          CheckpointError: If this checkpoint or the one before it cannot be written.
        """
        self._saved_at = time.monotonic()
        if not is_first():
            return
        # A copy, since the next step reuses the memory of the state.
        copied = jax.tree.map(_copy, state)
        items = {
            "state": ocp.args.StandardSave(copied),
            "digest": ocp.args.JsonSave({"sha256": _digest(copied), "leaves": _described(copied)}),
        }
        try:
            self._manager.wait_until_finished()
            if step not in self._manager.all_steps():
                self._manager.save(step, args=ocp.args.Composite(**items))
        except Exception as error:  # Orbax raises whatever its parts raise.
            raise self._unwritten(error) from error

    def latest(self) -> int | None:
        """The step of the last checkpoint."""
        return self._manager.latest_step()

    def restore(self, step: int, like: State) -> State:
        """Reads the state after ``step`` steps, shaped like ``like``.

        Raises:
          OtherStateError: If the leaves, their shapes or their dtypes are not those of ``like``.
          CheckpointError: If the checkpoint cannot be read or is damaged; names it.
        """
        where = self._folder / str(step)
        digest = self._read(step, "digest", ocp.args.JsonRestore())
        # Compare first, because Orbax silently casts and pads leaves. Old checkpoints lack
        # ``leaves``.
        if "leaves" in digest and (other := _difference(_described(like), digest["leaves"])):
            raise OtherStateError(
                f"checkpoint {where} is of another state: {other}. Resume with the settings that "
                "it was made with, or train in another folder."
            )
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        state: State = self._read(step, "state", ocp.args.StandardRestore(abstract))
        if _digest(state) != digest["sha256"]:
            raise CheckpointError(f"checkpoint {where} is damaged: its digest does not match.")
        return state

    def _read(self, step: int, item: str, arguments: Any) -> Any:
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**{item: arguments}))[item]
        except Exception as error:  # Orbax raises whatever its parts raise.
            where = self._folder / str(step)
            raise CheckpointError(f"checkpoint {where} cannot be read: {_brief(error)}.") from error

    def resume(self, like: State) -> tuple[int, State] | None:
        """The step and the state of the last whole checkpoint; ``None`` if there is no checkpoint.

        Later checkpoints, which are broken, are renamed and reported. All processes get the state
        that the first process read.

        Raises:
          OtherStateError: If the leaves, their shapes or their dtypes are not those of ``like``.
          CheckpointError: If there are checkpoints but none of them is whole; names them.
        """
        found = self._last_whole(like) if is_first() else None
        step, state = broadcast_from_0(found or (-1, like))
        return None if step < 0 else (int(step), state)

    def _last_whole(self, like: State) -> tuple[int, State] | None:
        broken: list[CheckpointError] = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                state = self.restore(step, like)
            except OtherStateError:
                raise
            except CheckpointError as error:
                broken.append(error)
                continue
            for reason, late in zip(broken, self._later_than(step), strict=True):
                aside = f"{late}.damaged"
                shutil.rmtree(self._folder / aside, ignore_errors=True)
                (self._folder / str(late)).rename(self._folder / aside)
                tqdm.write(
                    f"{reason} It is set aside as {aside}; going on from step {step}.",
                    file=sys.stderr,
                )
            self._manager.reload()
            return step, state
        if broken:
            raise CheckpointError(
                " ".join(map(str, broken)) + f" No earlier one is whole; delete {self._folder} to "
                "train again from the start."
            )
        return None

    def close(self) -> None:
        """Waits until the last checkpoint is written, and releases Orbax's resources.

        Raises:
          CheckpointError: If the last checkpoint cannot be written.
        """
        if not is_first():
            return
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._unwritten(error) from error
        finally:
            self._manager.close()

    def _later_than(self, step: int) -> list[int]:
        return sorted((each for each in self._manager.all_steps() if each > step), reverse=True)

    def _unwritten(self, error: Exception) -> CheckpointError:
        whole = [int(path.name) for path in self._folder.iterdir() if path.name.isdigit()]
        kept = f"that of step {max(whole)} is whole" if whole else "there is none yet"
        return CheckpointError(
            f"a checkpoint cannot be written to {self._folder}: {_brief(error)}. Of the earlier "
            f"ones, {kept}. Make room on the disk, then resume the run."
        )


def _copy(leaf: Any) -> Any:
    return jnp.copy(leaf) if _is_key(leaf) else np.array(leaf)


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _brief(error: Exception) -> str:
    """The first line of an error's message, shortened; TensorStore's messages fill a page."""
    return textwrap.shorten(str(error).partition("\n")[0], 160)


def _leaves(state: Any) -> list[tuple[str, np.ndarray]]:
    """The numbers of all leaves, with their places in the tree."""
    return [
        (
            jax.tree_util.keystr(path),
            np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf),
        )
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    ]


def _described(state: Any) -> dict[str, str]:
    """The dtype and the shape of each leaf."""
    return {place: f"{array.dtype}{list(array.shape)}" for place, array in _leaves(state)}


def _difference(expected: dict[str, str], got: dict[str, str]) -> str:
    """The first leaf in which two states differ, in words; empty if there is none."""
    for place in expected | got:
        if expected.get(place) != got.get(place):
            return (
                f"at {place} expected {expected.get(place, 'none')}, got {got.get(place, 'none')}"
            )
    return ""


def _digest(state: Any) -> str:
    """A hash of all numbers, with their dtypes, shapes and places in the tree."""
    digest = hashlib.sha256()
    for place, array in _leaves(state):
        digest.update(f"{place} {array.dtype} {array.shape}".encode())
        # Read the array as bytes, since NumPy has no buffer format for bfloat16.
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
