"""Configures the process that runs a page's cells: this checkout's code, the CPU, figures."""

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
        # Cache compilations between builds, since they take most of the time.
        "JAX_COMPILATION_CACHE_DIR": str(root / ".cache" / "jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }
