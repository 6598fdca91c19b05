"""`pilotlight serve` under what clients may send, by its own document and against it: no fault, and no hang."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.fuzz.connections import fuzz_connections
from tests.fuzz.effort import cases
from tests.fuzz.operations import fuzz_operations, read_document
from tests.fuzz.tally import Tally
from tests.fuzz.targets import check_server, target_server
from tests.handler.processes import Server

pytestmark = pytest.mark.timeout(3600)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with target_server() as started:
        yield started


@pytest.fixture(scope="module")
def document(server: Server) -> dict[str, Any]:
    given: dict[str, Any] = httpx.get(f"{server.url}/openapi.json", timeout=60).json()
    return given


def test_document_names_every_operation_once(document: dict[str, Any]) -> None:
    names = [operation["operationId"] for path in document["paths"].values() for operation in path.values()]
    assert len(names) == len(set(names)) > 20


def test_document_tells_of_streams_and_errors(document: dict[str, Any]) -> None:
    answers = document["paths"]["/v1/chat/completions"]["post"]["responses"]
    assert set(answers["200"]["content"]) == {"application/json", "text/event-stream"}
    assert {"400", "401", "404", "413", "429", "503", "504"} <= answers.keys()
    assert "Retry-After" in answers["429"]["headers"]
    shape = answers["400"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    assert document["components"]["schemas"][shape]["required"] == ["error"]


def test_document_tells_of_no_422(document: dict[str, Any]) -> None:
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    assert not any("422" in operation["responses"] for operation in operations)


def test_every_operation_answers_as_the_document_says(server: Server) -> None:
    fuzz_operations(read_document(server.url), cases(60), Tally())
    check_server(server)


def test_connections_that_speak_no_http_disturb_nobody(server: Server) -> None:
    fuzz_connections(server.url, cases(100), Tally())
    check_server(server)
