"""Run folders with random content."""

import json
from pathlib import Path
from typing import Any

import numpy as np

IMAGES, SNAPSHOTS, STEPS = 4, 5, 200


def write_run(
    folder: Path,
    *,
    model: str = "cnn",
    transform: str | None = None,
    seeds: tuple[int, ...] = (0, 1, 2),
    pictures: bool = True,
    **changes: Any,
) -> Path:
    """A run folder with random content; ``changes`` go into ``result.json``."""
    random = np.random.default_rng(len(model))
    folder.mkdir()
    config = {
        "model": model,
        "transform": transform,
        "distortion": "R",
        "learning_rate": 0.00125,
        "seeds": seeds,
    }
    (folder / "config.json").write_text(json.dumps(config))
    metrics = [
        {
            "seed": seed,
            "step": step,
            "loss": float(np.exp(-step / 50)) + random.uniform(0, 0.1),
            "train_error": random.uniform(0, 90),
            "images_per_second": 2500.0,
            **({"validation_error": random.uniform(1, 90)} if step % 100 == 0 else {}),
        }
        for seed in seeds
        for step in range(20, STEPS + 1, 20)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics))
    errors = [3.0 + seed / 8 for seed in seeds]
    result = {
        "model": model,
        "transform": transform,
        "distortion": "R",
        "dataset": "digits",
        "num_parameters": 398_122,
        "steps": STEPS,
        "batch_size": 128,
        "seeds": seeds,
        "test_errors": errors,
        "test_images": 1797,
        "mean": float(np.mean(errors)),
        "interval": [2.625, 3.71],
        "interval_method": "Student's t over <seeds>",
        "wall_time_s": 185.2,
        "versions": {"jax": "0.0.7"},
        "device": "cpu & friends",
        **changes,
    }
    (folder / "result.json").write_text(json.dumps(result))
    if pictures:
        arrays = {
            "steps": np.linspace(0, STEPS, SNAPSHOTS).astype(int),
            "inputs": random.integers(0, 256, (IMAGES, 12, 12, 1), np.uint8),
            "labels": np.arange(IMAGES),
            "predictions": random.integers(0, 10, (SNAPSHOTS, IMAGES)),
        }
        if transform is not None:
            identity = np.array([1, 0, 0, 0, 1, 0])
            noise = random.normal(0, 0.2, (SNAPSHOTS, IMAGES, 6)).astype(np.float32)
            arrays["theta"] = identity + np.linspace(0, 1, SNAPSHOTS)[:, None, None] * noise
            shape = (SNAPSHOTS, IMAGES, 8, 8, 1)
            arrays["outputs"] = random.integers(0, 256, shape, np.uint8)
        np.savez(folder / "pictures.npz", **arrays)
    return folder
