"""What every test shares."""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.at_length import only_properties

# Several processes of a test may share two cores; threads that spin while they wait would starve each other.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# How long an example takes says more about the machine's other work than about what is tested.
settings.register_profile("in any time", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("in any time")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """See `tests.at_length`."""
    only_properties(items)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """With `-n`, tests share the machine with those of other processes; one marked `alone` has it for itself.

    Fixtures count as the test's own work. The wait for the machine does not count into its timeout.
    """
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return (yield)
    folder = item.config._tmp_path_factory.getbasetemp().parent  # type: ignore[attr-defined]  # a fixture comes later
    with _machine(folder, alone=item.get_closest_marker("alone") is not None):
        return (yield)


@contextmanager
def _machine(folder: Path, *, alone: bool) -> Iterator[None]:
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
