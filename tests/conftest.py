"""What every test shares."""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterator

import pytest

# Several processes of a test may share two cores; threads that spin while they wait would starve each other.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@pytest.fixture(autouse=True)
def _machine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """With `-n`, tests share the machine with those of other processes; one marked `alone` has it for itself."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        yield
        return
    alone = request.node.get_closest_marker("alone") is not None
    folder = tmp_path_factory.getbasetemp().parent
    with (folder / "door").open("a+") as door, (folder / "machine").open("a+") as machine:
        fcntl.lockf(door, fcntl.LOCK_EX)  # Nobody comes in while somebody waits for the machine to be empty.
        fcntl.lockf(machine, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.lockf(door, fcntl.LOCK_UN)
        yield


@pytest.fixture(autouse=True)
def _same_numbers() -> None:
    """Random tensors are the same in every run, whatever ran before."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def own_state(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Servers record what they bill; what tests start must not do so in the home of whoever runs them."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))
