"""Kills a training at random steps and holds what it ends with against one left alone.

``python tests/try_kills.py 20`` trains once to the end; then once more, killed (SIGKILL) that often
and resumed each time. Metrics, results and pictures must be the same numbers.
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

STEPS, STEPS_PER_LINE = 3000, 5
TRAINING = (
    *("-m", "experiments.distorted_mnist", "--model", "st-fcn", "--width", "0.1"),
    *("--steps", str(STEPS), "--steps-per-dispatch", str(STEPS_PER_LINE), "--batch-size", "32"),
    *("--seeds", "0", "1", "--seeds-at-once", "1"),
)
TIMING = ("seconds", "images_per_second", "wall_time_s")


def start(out: Path, *more: str) -> subprocess.Popen[bytes]:
    """Begins or goes on with the training."""
    return subprocess.Popen(
        [sys.executable, *TRAINING, "--out", str(out), *more],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def end(process: subprocess.Popen[bytes]) -> None:
    """Waits until it is done.

    Raises:
      RuntimeError: If it fails.
    """
    errors = process.communicate()[1].decode()
    if process.returncode:
        raise RuntimeError(f"the training ended with {process.returncode}:\n{errors}")


def lines(out: Path) -> int:
    """How many lines of metrics there are."""
    path = out / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def kill(out: Path, at: int, rng: random.Random) -> int:
    """Goes on with a training and kills it soon after a line; returns the lines there are then."""
    process = start(out, *(["--resume"] if (out / "config.json").exists() else []))
    while lines(out) < at:
        if process.poll() is not None:
            end(process)
            raise RuntimeError(f"the training ended before line {at}, at which to kill it")
        time.sleep(0.001)
    time.sleep(rng.uniform(0, 0.05))
    process.kill()
    process.communicate()
    return lines(out)


def numbers(out: Path) -> tuple[object, object, dict[str, bytes]]:
    """All that must not depend on what happened on the way."""
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
        end(start(alone))
        total = lines(alone)
        moments = sorted(rng.sample(range(1, total), kills))
        found = [kill(killed, at, rng) for at in tqdm(moments, unit="kill")]
        end(start(killed, "--resume"))
        same = numbers(killed) == numbers(alone)
    steps = ", ".join(str(at * STEPS_PER_LINE) for at in found)
    print(f"killed {kills} times of {total * STEPS_PER_LINE} steps, after steps {steps}")
    print("all numbers are equal" if same else "the numbers DIFFER")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 20))
