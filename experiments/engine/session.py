"""An open output folder: its metrics, its checkpoint folders, and the request to stop."""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from experiments.engine.metrics import MetricsLog, TensorBoard, load_writer
from experiments.engine.signals import stop_signal


class Session(NamedTuple):
    """The state that the trainings of one output folder share.

    Attributes:
      folder: The output folder.
      log: Its metrics.
      stop: ``stop["requested"]`` says whether the user asked to stop.
      profile: Whether the second dispatch of the first training is traced.
    """

    folder: Path
    log: MetricsLog
    stop: dict[str, bool]
    profile: bool

    def identify(self, name: str, seed: int) -> int | str:
        """The name of a training in the metrics: its seed, or a name with the seed."""
        return seed if self.log.key == "seed" else f"{name}-seed-{seed}"

    def checkpoints(self, name: str, seeds: Sequence[int]) -> Path:
        """The folder of the checkpoints of some seeds that are trained together."""
        return checkpoint_folder(self.folder, seeds, "" if self.log.key == "seed" else name)

    def rows(self, name: str, seeds: Sequence[int]) -> list[dict[str, Any]]:
        """The lines of metrics of the trainings of one name."""
        identities = [self.identify(name, seed) for seed in seeds]
        return [row for identity in identities for row in self.log.rows(identity)]

    def seconds(self, name: str, groups: Sequence[Sequence[int]]) -> float:
        """The time that the trainings of one name took, in groups of seeds."""
        return sum(self.log.seconds(self.identify(name, seeds[0])) for seeds in groups)


@contextmanager
def open_session(
    folder: Path, *, key: str, profile: bool = False, metrics_writer: str | None = None
) -> Iterator[Session]:
    """Opens the metrics of an output folder, and listens to signals until it ends.

    Args:
      folder: Made by :func:`experiments.engine.run_folder.prepare_folder`.
      key: The entry of a line of metrics that tells trainings apart: ``seed``, or ``training``
        where there are trainings of several names.
      profile: Whether the first training is traced.
      metrics_writer: ``MODULE:OBJECT`` of a writer beside TensorBoard's.
    """
    own = () if metrics_writer is None else (load_writer(metrics_writer),)
    log = MetricsLog(folder / "metrics.jsonl", key=key, writers=(TensorBoard, *own))
    with closing(log), stop_signal() as stop:
        yield Session(folder, log, stop, profile)


def checkpoint_folder(folder: Path, seeds: Sequence[int], name: str = "") -> Path:
    """The folder of checkpoints, in an output folder, of some seeds that are trained together."""
    which = f"seed-{'-'.join(map(str, seeds))}"
    return folder / "checkpoints" / (f"{name}-{which}" if name else which)
