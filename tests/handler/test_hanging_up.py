"""A client that goes away frees what its request held, whether it was streaming or waiting."""

from __future__ import annotations

import json
import socket
from urllib.parse import urlsplit

import httpx
import pytest

from tests.handler.brake import Brake
from tests.handler.conftest import KEY
from tests.handler.processes import Server, eventually

BODY = {"messages": [{"role": "user", "content": "Count from 3 to 7."}], "ignore_eos": True, "max_tokens": 2000}
COMPLETION = {"prompt": ["Count", "Repeat"], "n": 2, "ignore_eos": True, "max_tokens": 2000}


def connect(server: Server, path: str, body: dict[str, object]) -> socket.socket:
    """A raw connection that has sent its request."""
    content = json.dumps(body).encode()
    address = urlsplit(server.url)
    assert address.hostname is not None
    connection = socket.create_connection((address.hostname, address.port or 80))
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {address.netloc}\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    connection.sendall(head.encode() + content)
    return connection


@pytest.mark.parametrize("stream", [False, True], ids=["waiting", "streaming"])
@pytest.mark.parametrize(
    ("path", "body"), [("/v1/chat/completions", BODY), ("/v1/completions", COMPLETION)], ids=["chat", "completions"]
)
def test_requests_of_a_client_that_left_are_aborted(
    server: Server, brake: Brake, path: str, body: dict[str, object], stream: bool
) -> None:
    with brake.held():
        connection = connect(server, path, {**body, "stream": stream})
        assert eventually(lambda: server.statistics()["running"] > 0)
        connection.close()
        assert eventually(lambda: is_idle(server))


def is_idle(server: Server) -> bool:
    now = server.statistics()
    return now["running"] == now["waiting"] == now["pages_used"] == 0


def test_a_client_that_leaves_at_once_leaves_nothing(server: Server, http: httpx.Client) -> None:
    for _ in range(20):
        connect(server, "/v1/chat/completions", {**BODY, "stream": True}).close()
    assert http.get("/ping").status_code == 200, "those before it are in"
    assert eventually(lambda: is_idle(server))


def test_aborts_are_counted(server: Server, brake: Brake, http: httpx.Client) -> None:
    with brake.held():
        connection = connect(server, "/v1/chat/completions", BODY)
        assert eventually(lambda: server.statistics()["running"] > 0)
        connection.close()
        assert eventually(lambda: is_idle(server))
    assert eventually(lambda: 'finished_reason="abort"' in http.get("/metrics").text)
