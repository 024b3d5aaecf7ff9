"""The options of the experiment on invariance."""

import dataclasses
from pathlib import Path

from experiments.classification.config import Recipe
from experiments.engine.options import Launch, Resume
from experiments.models import TransformName


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(Recipe, Launch, Resume):
    """Measure how errors grow as the test digits are turned, of two CNNs and an ST-CNN.

    Trains a CNN on upright digits, and a CNN and an ST-CNN on turned digits. The same command again
    skips finished runs and resumes one that was killed. Writes the folder of a run for each model,
    invariance.json, invariance.png and report.html.
    """

    FIRST = (
        *("data", "transform", "max_angle", "angle_step", "steps", "seeds", "out"),
        *("resume", "config"),
    )

    transform: TransformName = "affine"
    """Transform of the ST-CNN."""
    width: float = 1.0
    """Factor on the filters of the CNN's classifier; at 1 it has 400,000 parameters. The ST-CNN has
    as many as the CNN."""
    max_angle: float = 90.0
    """The test digits are turned by angles from minus to plus this one, in degrees."""
    angle_step: float = 10.0
    """Degrees between neighbouring angles; 0 is always one of the angles."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One training for each seed and model."""
    seeds_at_once: int = 3
    """Seeds that are trained together in one compiled program."""
    out: Path = Path("runs/invariance")
    """Output folder."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.max_angle <= 180:
            raise ValueError(f"max_angle must be in (0, 180]; got {self.max_angle}.")
        steps = self.max_angle / self.angle_step if self.angle_step > 0 else 0
        if steps < 0.5 or abs(steps - round(steps)) > 1e-6:
            raise ValueError(
                f"angle_step must divide max_angle, {self.max_angle:g}; got {self.angle_step:g}."
            )

    @property
    def angles(self) -> tuple[float, ...]:
        """The angles in degrees, in ascending order."""
        number = round(self.max_angle / self.angle_step)
        return tuple(k * self.angle_step for k in range(-number, number + 1))
