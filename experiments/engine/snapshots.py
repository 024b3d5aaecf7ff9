"""Snapshots of a model's outputs, taken after every dispatch of a training."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.engine.files import write_atomically

Arrays = dict[str, Any]


class Snapshots:
    """A model's outputs for a few fixed examples, during the training of one seed, in an NPZ file.

    The file holds, for each name, the arrays of all snapshots along a new first axis, the step of
    each snapshot as ``steps``, and the arrays that never change.

    Args:
      path: The file; its folder is made.
      take: ``take(params, constants)`` gives a dict of arrays. It may return before the device has
        computed them.
      fixed: Arrays that are the same in all snapshots.
      seed: The seed whose training is followed.
    """

    def __init__(
        self,
        path: Path,
        take: Callable[[Any, Any], Arrays],
        fixed: Mapping[str, np.ndarray],
        *,
        seed: int,
    ) -> None:
        self.seed = seed
        self._path, self._take, self._fixed = path, take, dict(fixed)
        self._kept: list[Arrays] = []

    def take(self, step: int, params: Any, constants: Any) -> Arrays:
        """A snapshot, which is not kept yet; does not wait for the device."""
        return {"steps": np.int32(step)} | self._take(params, constants)

    def keep(self, snapshot: Arrays) -> None:
        """Waits for a snapshot and keeps it."""
        self._kept.append({name: np.asarray(value) for name, value in snapshot.items()})

    def save(self) -> None:
        """Writes the file."""
        stacked = {name: np.stack([each[name] for each in self._kept]) for name in self._kept[0]}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        arrays: Arrays = stacked | self._fixed
        write_atomically(self._path, lambda path: np.savez_compressed(path, **arrays))

    def restore(self, step: int) -> None:
        """Reads the snapshots of an interrupted training, up to the step it resumes from."""
        self._kept = []
        if not step:
            return
        with np.load(self._path) as saved:
            arrays = {name: saved[name] for name in saved.files if name not in self._fixed}
        self._kept = [
            {name: array[k] for name, array in arrays.items()}
            for k, at in enumerate(arrays["steps"])
            if at <= step
        ]
