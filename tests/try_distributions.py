"""Installs the built distributions outside of the checkout, and runs the README's examples.

``python tests/try_distributions.py dist`` makes an empty environment in a temporary folder. From
the wheel alone it runs the README's two Python examples; then, with the extra ``experiments`` and
in the unpacked source distribution, a short form of the training script. It needs the package
index.
"""

import os
import re
import subprocess
import sys
import tarfile
import tempfile
import venv
from pathlib import Path

TRAINING = (
    "-m", "experiments.distorted_mnist", "--model", "st-fcn", "--width", "0.1", "--steps", "20",
    "--batch-size", "32", "--out", "run",
)  # fmt: skip


def doors(readme: str) -> list[str]:
    """The README's Python examples."""
    return re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL)


def main(folder: str) -> None:
    """Tries the one wheel and the one source distribution of a folder."""
    (wheel,) = Path(folder).resolve().glob("*.whl")
    (source,) = Path(folder).resolve().glob("*.tar.gz")
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        venv.create(place / "environment", with_pip=True)
        python = place / "environment" / "bin" / "python"

        def run(*words: str, where: Path = place) -> str:
            command = [str(python), *words]
            finished = subprocess.run(
                command, cwd=where, env=environment, check=True, stdout=subprocess.PIPE, text=True
            )
            return finished.stdout.strip()

        with tarfile.open(source) as archive:
            archive.extractall(place, filter="data")
        unpacked = place / source.name.removesuffix(".tar.gz")
        run("-m", "pip", "install", "--quiet", str(wheel))
        report = "import stn_jax; print(stn_jax.__version__, stn_jax.__file__)"
        version, file = run("-c", report).split()
        assert Path(file).is_relative_to(place / "environment"), file
        assert version in wheel.name, (version, wheel.name)
        for number, example in enumerate(doors((unpacked / "README.md").read_text()), start=1):
            run("-c", example)
            print(f"door {number}: runs from the wheel, stn_jax {version}", flush=True)
        run("-m", "pip", "install", "--quiet", f"{wheel}[experiments]")
        print(run(*TRAINING, where=unpacked))
        assert (unpacked / "run" / "report.html").is_file()
        print("door 3: runs from the unpacked source distribution")


if __name__ == "__main__":
    main(*sys.argv[1:])
