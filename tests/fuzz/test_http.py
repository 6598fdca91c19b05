"""`pilotlight serve` under what clients may send, by its own document and against it: no fault, and no hang."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import httpx
import pytest

from tests.fuzz.connections import fuzz_connections
from tests.fuzz.effort import cases
from tests.fuzz.operations import CHECKS, fuzz_operations, read_document
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


MESSAGES = [{"role": "user", "content": "Count from 3 to 7."}]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "one", "echo": True}),
        ("/v1/completions", {"prompt": ["one", "two"], "n": 2, "logprobs": 2, "max_tokens": 3}),
        ("/v1/chat/completions", {"messages": MESSAGES, "logprobs": True, "top_logprobs": 2}),
        ("/v1/chat/completions", {"messages": MESSAGES, "n": 2, "stream_options": {"include_usage": True}}),
        ("/v2/any/openai/v1/chat/completions", {"messages": MESSAGES}),
    ],
)
def test_each_event_of_a_stream_is_as_the_document_says(server: Server, path: str, body: dict[str, Any]) -> None:
    operation = read_document(server.url).include(path=path.replace("any", "{endpoint_id}"), method="POST")
    [found] = [cast(Any, result).ok() for result in operation.get_all_operations()]
    streamed = {"model": "demo", "stream": True, **body}
    case = found.Case(path_parameters={"endpoint_id": "any"}, body=streamed, media_type="application/json")
    response = case.call()
    assert response.content.count(b"data: ") > 3
    case.validate_response(response, checks=CHECKS)


def test_connections_that_speak_no_http_disturb_nobody(server: Server) -> None:
    fuzz_connections(server.url, cases(100), Tally())
    check_server(server)
