"""An endpoint, and one with a real worker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.handler.brake import Brake
from tests.handler.processes import Process, eventually, running
from tests.local.endpoint import LocalEndpoint


@pytest.fixture(scope="module")
def endpoint() -> Iterator[LocalEndpoint]:
    """Without workers."""
    with LocalEndpoint().listening() as listening:
        yield listening


@pytest.fixture(scope="module")
def brake(tmp_path_factory: pytest.TempPathFactory) -> Brake:
    """Of that worker."""
    return Brake(tmp_path_factory.mktemp("brake"))


@pytest.fixture(scope="module")
def served(brake: Brake) -> Iterator[LocalEndpoint]:
    """With one real worker, `python -m handler` and the demo model, that is ready."""
    with (
        LocalEndpoint().listening() as listening,
        running(
            Process, "-m", "handler", environment={**listening.environment("pod1"), **brake.environment}
        ) as worker,
    ):
        assert eventually(lambda: listening.crew.asked), worker.output
        yield listening
