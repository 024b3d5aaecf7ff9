"""Options that every experiment has; each experiment's records inherit them."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from experiments.engine.devices import ParallelName, all_devices
from experiments.engine.files import read_json
from experiments.engine.problem import Schedule

PrecisionName = Literal["float32", "bfloat16"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The root of all records of options: each checks its own fields, then calls its parent.

    Attributes:
      FIRST: The names of the options that the help lists first.
    """

    FIRST: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        """Checks nothing."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """The options of this command, from the settings in a run's ``config.json``."""
        return dict(config)

    @classmethod
    def saved_in(cls, folder: Path) -> dict[str, Any] | None:
        """The options of the run that a folder holds; ``None`` if it holds none.

        Raises:
          ValueError: If its ``config.json`` is not valid JSON; names it.
        """
        file = folder / "config.json"
        return cls.from_config(read_json(file)) if file.is_file() else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingOptions(Options):
    """The options of a training that its result depends on."""

    seeds: tuple[int, ...] = (0,)
    """One training for each seed."""
    seeds_at_once: int = 1
    """Seeds that are trained together in one compiled program."""
    parallel: ParallelName = "jit"
    """How a step is spread over all devices: jit, one program over a mesh | pmap, one program for
    each device. Both give the same result up to rounding."""
    accumulate: int = 1
    """Number of parts of a batch that a step processes one after the other, to save memory. The
    gradient is the same up to rounding."""
    precision: PrecisionName = "float32"
    """The dtype that the networks compute in; parameters, theta, coordinates and logits are
    float32."""
    early_stopping: int | None = None
    """Stop a training after this many measurements in a row without a smaller error on the held-out
    images, and test the state with the smallest error."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.seeds_at_once < 1:
            raise ValueError(f"seeds_at_once must be at least 1; got {self.seeds_at_once}.")
        if self.early_stopping is not None and self.early_stopping < 1:
            raise ValueError(f"early_stopping must be at least 1; got {self.early_stopping}.")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must be one or more different integers; got {self.seeds}.")

    def to_json(self) -> dict[str, Any]:
        """The options that determine a result, as JSON values."""
        return as_json(self)

    @property
    def settings(self) -> dict[str, Any]:
        """The options that a result holds: all but the paths of data and weights."""
        return {k: v for k, v in self.to_json().items() if k not in ("data", "weights")}

    def schedule_of(
        self, steps: int, steps_per_dispatch: int, *, validations: int = 20
    ) -> Schedule:
        """The length of a training."""
        return Schedule(
            steps=steps,
            steps_per_dispatch=steps_per_dispatch,
            validations=validations,
            early_stopping=self.early_stopping,
        )

    @property
    def seed_groups(self) -> list[tuple[int, ...]]:
        """The seeds, grouped into those that are trained together."""
        starts = range(0, len(self.seeds), self.seeds_at_once)
        return [self.seeds[first : first + self.seeds_at_once] for first in starts]

    def check_training(self, batch_size: int, *, validates: bool) -> None:
        """Checks the options against the devices and the data, before a folder is touched.

        Args:
          batch_size: Examples in a step.
          validates: Whether there are held-out examples.

        Raises:
          ValueError: If the batch does not divide over the devices and into the parts of a step, or
            if early stopping has no held-out examples.
        """
        if self.early_stopping is not None and not validates:
            raise ValueError("--early-stopping needs images to be held out; got --validation 0.")
        self.check_accumulate(batch_size, all_devices(self.parallel, batch_size).number)

    def check_accumulate(self, batch_size: int, devices: int = 1) -> None:
        """Checks that the parts of a step divide the examples that each device works on.

        Raises:
          ValueError: If they do not.
        """
        own = batch_size // devices
        if self.accumulate < 1 or own % self.accumulate:
            whose = (
                f"the batch size, {own}"
                if devices == 1
                else f"the images that each of the {devices} devices works on, {own}"
            )
            raise ValueError(f"accumulate must divide {whose}; got {self.accumulate}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Launch(Options):
    """How a command is started; results do not depend on it."""

    config: Path | None = None
    """A JSON or TOML file of settings, such as the config.json of a run. Options on the command
    line come before it."""
    metrics_writer: str | None = None
    """MODULE:OBJECT of a writer that gets all metrics beside TensorBoard's, such as one for Weights
    & Biases; experiments/engine/metrics.py has its form."""
    profile: bool = False
    """Write a trace of the second dispatch of each run to profile/ in its folder, for TensorBoard
    or Perfetto."""
    distributed: bool = False
    """Join the other processes of a cluster that JAX recognises, such as SLURM, Open MPI,
    Kubernetes and Cloud TPU. All processes get the same options and see the same output folder."""
    coordinator: str | None = None
    """HOST:PORT of process 0, if several processes train together on a cluster that JAX does not
    recognise. Give all processes the same options, except --process."""
    num_processes: int = 1
    """Number of processes that train together."""
    process: int = 0
    """Number of this process."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.process < self.num_processes:
            raise ValueError(
                f"process must be from 0 to {self.num_processes - 1}, one less than num_processes; "
                f"got {self.process}."
            )
        if (self.coordinator is None) != (self.num_processes == 1):
            raise ValueError(
                "coordinator and num_processes go together; got coordinator "
                f"{self.coordinator} and num_processes {self.num_processes}."
            )
        if self.distributed and self.coordinator is not None:
            raise ValueError(
                "distributed takes the coordinator from the cluster; got coordinator "
                f"{self.coordinator}. Give only one of the two."
            )

    @property
    def watching(self) -> dict[str, Any]:
        """The arguments for a session: what to profile, and who else receives the metrics."""
        return {"profile": self.profile, "metrics_writer": self.metrics_writer}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Resume(Options):
    """Whether to go on with the run in the output folder, by the settings of that run."""

    resume: bool = False
    """Go on with the run in the output folder, by the settings in its config.json. No other option
    is needed; one that contradicts them is refused."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OutputFolder(Resume):
    """Whether to resume or to delete a run that the output folder holds already."""

    overwrite: bool = False
    """Delete the run in the output folder first."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resume and self.overwrite:
            raise ValueError("--resume and --overwrite exclude each other.")


def check_at_least(options: object, **least: int) -> None:
    """Checks the fields that are given by name; fields that are ``None`` pass.

    Raises:
      ValueError: If one is less than its bound; names it.
    """
    for name, bound in least.items():
        value = getattr(options, name)
        if value is not None and value < bound:
            raise ValueError(f"{name} must be at least {bound}; got {value}.")


def as_json(options: Any, kind: type[Any] | None = None) -> dict[str, Any]:
    """The options that determine a result, as JSON values.

    Args:
      options: A record. The output folder and the options of the launch are left out.
      kind: A parent class of the record; if given, only its fields are taken.
    """
    launch = {field.name for each in (Launch, OutputFolder) for field in dataclasses.fields(each)}
    names = [field.name for field in dataclasses.fields(options if kind is None else kind)]
    values = {name: getattr(options, name) for name in names if name not in {"out", *launch}}
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
