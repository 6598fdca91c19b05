"""Any JSON as a job: it ends, well or with a typed error, and the server is as before."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fuzz.effort import cases
from tests.fuzz.jobs import fuzz_jobs
from tests.fuzz.tally import Tally
from tests.fuzz.targets import check_server, target_server
from tests.handler.processes import Server

pytestmark = pytest.mark.timeout(3600)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with target_server() as started:
        yield started


def test_every_job_ends(server: Server) -> None:
    fuzz_jobs(server.url, cases(150), Tally())
    check_server(server)
