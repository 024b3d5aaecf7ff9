"""Reports and run folders that several files of tests read."""

from pathlib import Path

import pytest
from run_samples import write_run

from experiments.report import build_report


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a report of three runs, of which two have pictures, and one an ST."""
    folder = tmp_path_factory.mktemp("runs")
    runs = [
        write_run(folder / "a", model="fcn", pictures=False, seeds=(0,)),
        write_run(folder / "b", model="cnn"),
        write_run(folder / "c", model="st-cnn", transform="affine", mean=1.875),
    ]
    return build_report(folder / "new" / "report", runs, "Digits & <turns>").parent


@pytest.fixture
def st_run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", model="st-cnn", transform="affine")
