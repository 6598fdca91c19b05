"""`pilotlight up` under the same: its clients' routes, its OpenAI route, its management, and jobs on a real worker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fuzz.effort import cases
from tests.fuzz.jobs import fuzz_jobs
from tests.fuzz.operations import fuzz_operations, read_document
from tests.fuzz.tally import Tally
from tests.fuzz.targets import check_endpoint, target_endpoint
from tests.local.up_process import Up

pytestmark = pytest.mark.timeout(3600)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Up]:
    with target_endpoint() as started:
        yield started


def test_every_job_ends(endpoint: Up) -> None:
    fuzz_jobs(f"{endpoint.url}/v2/local", cases(40), Tally())
    check_endpoint(endpoint)


def test_every_operation_answers_as_the_document_says(endpoint: Up) -> None:
    fuzz_operations(read_document(endpoint.url), cases(40), Tally())
    endpoint.await_workers(idle=1)
    check_endpoint(endpoint)
