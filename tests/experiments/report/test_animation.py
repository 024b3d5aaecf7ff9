"""The animation of a report, and the frames that it shows."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from run_samples import SNAPSHOTS, STEPS

from experiments.report import animation
from experiments.report.runs import read_run


def test_animation_has_a_frame_for_each_snapshot_and_holds_the_last(report: Path) -> None:
    with Image.open(report / "theta.gif") as gif:
        durations = []
        for frame in range(gif.n_frames):
            gif.seek(frame)
            durations.append(gif.info["duration"])
            assert np.asarray(gif.convert("L")).std() > 10
        assert gif.info["loop"] == 0
    assert len(durations) == SNAPSHOTS
    assert len(set(durations[:-1])) == 1
    assert durations[-1] > 5 * durations[0]


@pytest.mark.parametrize("max_frames", [1, 3])
def test_animation_leaves_frames_out_evenly(st_run: Path, max_frames: int) -> None:
    pictures = read_run(st_run).pictures
    assert pictures is not None
    gif = animation.theta_animation(
        pictures, total_steps=STEPS, max_frames=max_frames, max_images=2
    )
    with Image.open(io.BytesIO(gif)) as image:
        assert image.n_frames == max_frames


def test_animation_leaves_frames_out_to_stay_small(
    st_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(animation, "_MAX_BYTES", 1)
    pictures = read_run(st_run).pictures
    assert pictures is not None
    gif = animation.theta_animation(pictures, total_steps=STEPS, max_images=1)
    with Image.open(io.BytesIO(gif)) as image:
        assert image.n_frames == 2


def test_frames_keep_the_first_and_the_last() -> None:
    assert animation.frame_indices(3, 40) == [0, 1, 2]
    indices = animation.frame_indices(1000, 40)
    assert len(indices) == len(set(indices)) == 40
    assert (indices[0], indices[-1]) == (0, 999)
    assert set(np.diff(indices)) == {25, 26}


def test_captions() -> None:
    def theta(*numbers: float) -> np.ndarray:
        return np.array(numbers, np.float32)

    assert (
        animation.theta_caption(0, 200, theta(1, 0, 0, 0, 1, 0))
        == "batch = 0/200, theta = [1.00 0.00 0.00 / 0.00 1.00 0.00]"
    )
    assert (
        animation.theta_caption(7, 200, theta(0.5, -0.001, -0.25))
        == "batch = 7/200, theta = [0.50 0.00 -0.25]"
    )
    projective = animation.theta_caption(1, 2, theta(1, 0, 0, 0, 1, 0, 0.125, 0))
    assert projective.endswith("[1.00 0.00 0.00 / 0.00 1.00 0.00 / 0.12 0.00]")
    assert len(animation.theta_caption(1, 2, np.zeros(32))) < 100
