"""Checkpoints; the only file that knows Orbax."""

from pathlib import Path
from typing import TypeVar

import jax
import orbax.checkpoint as ocp

State = TypeVar("State")


class Checkpoints:
    """The checkpoints of one training, the last two kept.

    A checkpoint is written beside its place and renamed into it, so a half-written one is never
    taken for whole.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._manager = ocp.CheckpointManager(
            folder.absolute(),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=2, enable_async_checkpointing=False, cleanup_tmp_directories=True
            ),
        )

    def save(self, step: int, state: State) -> None:
        """Writes the state after ``step`` steps."""
        if step not in self._manager.all_steps():
            self._manager.save(step, args=ocp.args.StandardSave(state))

    def latest(self) -> int | None:
        """The step of the last whole checkpoint."""
        return self._manager.latest_step()

    def restore(self, step: int, like: State) -> State:
        """Reads the state after ``step`` steps, shaped like ``like``.

        Raises:
          ValueError: If the checkpoint cannot be read; names it.
        """
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        try:
            return self._manager.restore(step, args=ocp.args.StandardRestore(abstract))
        except Exception as error:
            raise ValueError(
                f"checkpoint {self._folder / str(step)} cannot be read: {error}. Delete that "
                "folder to go on from the one before it."
            ) from error

    def close(self) -> None:
        """Releases Orbax's resources."""
        self._manager.close()
