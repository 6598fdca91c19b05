"""Importing torch, as a process that shares its cores must."""

from __future__ import annotations

import importlib
import os
import warnings


def import_torch() -> None:
    """Import torch, its threads set to sleep while they wait.

    By default they spin, which on cores shared with an event loop or another container starves the very thread they
    wait for: 60 tokens took 14.7 s so and 0.6 s asleep on two busy cores. `OMP_WAIT_POLICY` set by the user wins.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # torch works without numpy and so do we; its warning would be the first thing a user reads.
    warnings.filterwarnings("ignore", message="Failed to initialize NumPy", category=UserWarning)
    # Weights are views of read-only pages, and nobody writes to them.
    warnings.filterwarnings("ignore", message="The given buffer is not writable", category=UserWarning)
    importlib.import_module("torch")
