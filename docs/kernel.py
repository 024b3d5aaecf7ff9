"""The process in which a page's cells run: this checkout's code, on the CPU; how figures look."""

import os
from pathlib import Path

_SETTINGS = """\
c.IPKernelApp.matplotlib = "inline"
c.Application.log_level = "ERROR"
c.HistoryManager.enabled = False
c.InlineBackend.figure_formats = {"png"}
c.InlineBackend.rc = {"figure.dpi": 150, "figure.constrained_layout.use": True}
"""


def prepare(root: Path) -> None:
    """Sets the environment that notebook kernels inherit.

    Args:
      root: The checkout.
    """
    profile = root / ".cache" / "ipython" / "profile_default"
    profile.mkdir(parents=True, exist_ok=True)
    (profile / "ipython_kernel_config.py").write_text(_SETTINGS)
    others = os.environ.get("PYTHONPATH")
    os.environ |= {
        "IPYTHONDIR": str(profile.parent),
        "PYTHONPATH": os.pathsep.join(filter(None, (str(root), others))),
        "JAX_PLATFORMS": "cpu",
        # Compilations are most of the time; they are kept between builds.
        "JAX_COMPILATION_CACHE_DIR": str(root / ".cache" / "jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }
