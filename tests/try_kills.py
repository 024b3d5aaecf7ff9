"""Kills a training at random steps and compares its result with an uninterrupted one.

``python tests/try_kills.py 20`` trains once to the end, then once more with that many kills
(SIGKILL), each followed by a resume. Metrics, results and pictures must be the same numbers, and
some kills must leave a checkpoint in the middle of a seed's training.
"""

import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

STEPS, STEPS_PER_LINE = 1000, 5
# Checkpoints so often that some kills come after one.
_PROGRAM = """
import sys
from experiments.distorted_mnist import __main__ as distorted_mnist
from experiments.engine import checkpoint
checkpoint.SECONDS_BETWEEN_CHECKPOINTS = 0.5
sys.exit(distorted_mnist.main(sys.argv[1:]))
"""
TRAINING = (
    *("-c", _PROGRAM, "--model", "st-fcn", "--width", "0.1"),
    *("--steps", str(STEPS), "--steps-per-dispatch", str(STEPS_PER_LINE), "--batch-size", "32"),
    *("--seeds", "0", "1", "--seeds-at-once", "1"),
)
TIMING = ("seconds", "images_per_second", "wall_time_s")


class Training:
    """A process that starts or resumes a training."""

    def __init__(self, out: Path, *more: str) -> None:
        # A file, since the training would block on a full pipe that nobody reads.
        self._log = out.with_suffix(".log")
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, *TRAINING, "--out", str(out), *more],
                stdout=subprocess.DEVNULL,
                stderr=log,
            )

    def ended(self) -> bool:
        """Whether it is done.

        Raises:
          RuntimeError: If it failed.
        """
        if self._process.poll():
            raise RuntimeError(
                f"the training ended with {self._process.returncode}:\n{self._log.read_text()}"
            )
        return self._process.returncode is not None

    def kill(self) -> None:
        """Ends it at once."""
        self._process.kill()
        self._process.wait()


def train(out: Path, *more: str) -> None:
    """A training to its end."""
    training = Training(out, *more)
    while not training.ended():
        time.sleep(0.1)


def lines(out: Path) -> int:
    """How many lines of metrics there are."""
    path = out / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def checkpoint(out: Path) -> int:
    """The step of the last whole checkpoint of the seed in training; 0 if there is none."""
    seeds = sorted((out / "checkpoints").glob("seed-*"))
    steps = [int(path.name) for path in seeds[-1].iterdir() if path.name.isdigit()] if seeds else []
    return max(steps, default=0)


def kill(out: Path, at: int, rng: random.Random) -> tuple[int, int]:
    """Resumes a training, kills it soon after a line; gives the number of lines, and the step."""
    training = Training(out, *(["--resume"] if (out / "config.json").exists() else []))
    while lines(out) < at:
        if training.ended():
            raise RuntimeError(f"the training was done before line {at}, at which to kill it")
        time.sleep(0.001)
    time.sleep(rng.uniform(0, 0.05))
    training.kill()
    return lines(out), checkpoint(out)


def numbers(out: Path) -> tuple[object, object, dict[str, bytes]]:
    """All results, which must not depend on interruptions."""
    told = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    metrics, result = (
        [{k: v for k, v in row.items() if k not in TIMING} for row in rows]
        for rows in (told, [json.loads((out / "result.json").read_text())])
    )
    with np.load(out / "pictures.npz") as pictures:
        return metrics, result, {name: pictures[name].tobytes() for name in pictures.files}


def main(kills: int, seed: int = 0) -> int:
    """Returns the exit status: 1 where the numbers differ."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        alone, killed = Path(folder) / "alone", Path(folder) / "killed"
        train(alone)
        total = lines(alone)
        moments = sorted(rng.sample(range(1, total), kills))
        found = [kill(killed, at, rng) for at in tqdm(moments, unit="kill")]
        train(killed, "--resume")
        same = numbers(killed) == numbers(alone)
    steps = ", ".join(str(at * STEPS_PER_LINE) for at, _ in found)
    midway = sum(0 < step < STEPS for _, step in found)
    print(f"killed {kills} times of {total * STEPS_PER_LINE} steps, after steps {steps}")
    print(f"{midway} times there was a checkpoint from the midst of a seed's training")
    print("all numbers are equal" if same else "the numbers DIFFER")
    return 0 if same and midway else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 20))
