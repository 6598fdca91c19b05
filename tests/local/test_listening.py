"""How long the endpoint waits for those who begin a request and do not end it, or do not read the answer."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import httpx
import pytest

from handler.local.job import Asked
from handler.local.listening import BOUNDS, HEAD_BYTES
from tests.handler.processes import eventually
from tests.local.endpoint import LocalEndpoint


@pytest.fixture(scope="module")
def hasty() -> Iterator[LocalEndpoint]:
    with LocalEndpoint(bounds=replace(BOUNDS, receive_s=0.5, unread_s=0.5)).listening() as listening:
        yield listening


def connect(endpoint: LocalEndpoint, said: bytes = b"") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", endpoint.port), timeout=60)
    connection.sendall(said)
    return connection


def read_all(connection: socket.socket) -> bytes:
    """Until the other side closes."""
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)


def answer_to(endpoint: LocalEndpoint, said: bytes) -> bytes:
    """What is answered to a client that was not itself so slow that it was taken for silent."""

    def answer() -> bytes:
        with suppress(ConnectionError), connect(endpoint, said) as connection:
            return read_all(connection)
        return b""

    return eventually(answer)


def test_silence_is_not_waited_for(hasty: LocalEndpoint) -> None:
    with connect(hasty) as silent:
        assert read_all(silent) == b""


def test_a_head_that_does_not_end_is_refused(hasty: LocalEndpoint) -> None:
    assert answer_to(hasty, b"GET /v2/local/health HTTP/1.1\r\nHost: x\r\n").startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("path", ["/v2/local/run", "/v2/local/openai/v1/completions", "/v2/local/job-done/pod1/job"])
def test_a_body_that_does_not_come_is_refused(hasty: LocalEndpoint, path: str) -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: worker-key\r\nContent-Length: 100\r\n\r\n"
    answer = answer_to(hasty, head.encode() + b'{"input":')
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"the body was not here after 0.5 s" in answer


def test_what_takes_long_by_itself_is_waited_for(hasty: LocalEndpoint) -> None:
    """The answer to a poll comes after a second, and the connection is good for the next request."""
    poll = b"GET /v2/local/job-take/pod1?gpu=local HTTP/1.1\r\nHost: x\r\nAuthorization: worker-key\r\n"
    both = answer_to(hasty, poll + b"\r\n" + poll + b"Connection: close\r\n\r\n")
    assert both.count(b"HTTP/1.1 204 ") == 2


def test_a_long_address_is_taken_whole_and_an_endless_one_is_not(hasty: LocalEndpoint) -> None:
    jobs = ",".join(f"job-{number:030}" for number in range(HEAD_BYTES // 40))
    head = "HTTP/1.1\r\nHost: x\r\nAuthorization: worker-key\r\nConnection: close\r\n\r\n"
    answer = answer_to(hasty, f"GET /v2/local/ping/pod1?job_id={jobs} {head}".encode())
    assert answer.startswith(b"HTTP/1.1 200 ")
    with connect(hasty) as endless, pytest.raises((ConnectionResetError, BrokenPipeError)):
        endless.sendall(b"GET /" + b"a" * 40 * HEAD_BYTES)


def test_who_does_not_read_an_answer_is_cut(hasty: LocalEndpoint, caplog: pytest.LogCaptureFixture) -> None:
    job = hasty.on_loop(lambda: hasty.queue.submit(Asked({})))
    [taken] = hasty.on_loop(lambda: hasty.queue.take_now("pod1", 1))
    assert taken is job
    hasty.on_loop(lambda: hasty.queue.finish(job.id, "pod1", "x" * 19_000_000))
    question = f"GET /v2/local/status/{job.id} HTTP/1.1\r\nHost: x\r\n\r\n".encode()

    def is_cut() -> bool:
        with suppress(ConnectionError), connect(hasty, question):
            return eventually(lambda: "cut a client that does not read its answer" in caplog.text, 10)
        return False

    assert eventually(is_cut)
    answer = eventually(lambda: read_whole(hasty, f"/status/{job.id}"))
    assert len(json.loads(answer)["output"]) == 19_000_000


def read_whole(endpoint: LocalEndpoint, path: str) -> bytes:
    """An answer; nothing where the machine kept us from reading it, so that we were cut, too."""
    with suppress(httpx.TransportError), endpoint.client() as client:
        return client.get(path).content
    return b""
