"""Experiments with spatial transformers: a package for each, over one engine that trains them all.

``engine`` trains anything. ``data``, ``models`` and ``report`` hold data sets, networks and pages;
``classification`` holds what experiments that predict labels share. All other packages are
experiments: each is a command, ``python -m experiments.NAME``, and imports no other.
"""

import os

# The log of XLA's compiler has nothing a user of these commands needs.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
