"""What every test shares."""

from __future__ import annotations

import os

# Several processes of a test may share two cores; threads that spin while they wait would starve each other.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
