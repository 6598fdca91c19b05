"""What the server takes on, and what it refuses, gives up or cuts, so that some do not hold up the others."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

import httpx
import pytest

from tests.handler.brake import Brake
from tests.handler.processes import Server, eventually, serving

COMPLETIONS = "/v1/completions"
LONG = {"prompt": "Count", "max_tokens": 2000, "ignore_eos": True}
SHORT = {"prompt": "Count", "max_tokens": 4}
ENDLESS = {"prompt": "Count", "n": 16, "max_tokens": 1900, "ignore_eos": True, "logprobs": 20, "stream": True}
"""About 100 MB of answer, more than any socket's buffers hold."""


@pytest.fixture(scope="module")
def brake(tmp_path_factory: pytest.TempPathFactory) -> Brake:
    return Brake(tmp_path_factory.mktemp("brake"))


@pytest.fixture(scope="module")
def server(brake: Brake) -> Iterator[Server]:
    """A server of little patience that runs 20 requests at once, and has a short queue."""
    limits = {
        "max_running": "20", "max_waiting": "8", "max_waiting_tokens": "600", "token_budget": "64",
        "receive_timeout": "2", "slow_reader": "2", "keep_alive": "2", "max_body": "200000", "max_concurrency": "1",
    }
    with serving(more=brake.environment, **limits) as started:
        started.await_ready()
        yield started


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


def connect(server: Server, received: bytes = b"", buffer: int | None = None) -> socket.socket:
    """A raw connection that has sent this."""
    address = urlsplit(server.url)
    connection = socket.socket()
    if buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    connection.settimeout(30)
    connection.connect((address.hostname, address.port))
    connection.sendall(received)
    return connection


def request(body: object, path: str = COMPLETIONS) -> bytes:
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(content)}"
    return f"{head}\r\n\r\n".encode() + content


def read_all(connection: socket.socket) -> bytes:
    """Everything until the other side closes."""
    parts = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def count(http: httpx.Client, name: str) -> float:
    """A metric's value, over all its labels."""
    lines = [line for line in http.get("/metrics").text.splitlines() if line.startswith(name)]
    return sum(float(line.split()[-1]) for line in lines)


def idle(server: Server) -> bool:
    now = server.statistics()
    return now["running"] == now["waiting"] == now["pages_used"] == 0


@contextmanager
def busy(server: Server, brake: Brake) -> Iterator[None]:
    """While every row is taken by requests that take their time."""
    with brake.held(), connect(server, request({**LONG, "n": 16})), connect(server, request({**LONG, "n": 4})):
        assert eventually(lambda: server.statistics()["running"] == 20)
        yield
    assert eventually(lambda: idle(server))


def test_the_queue_is_bounded_by_requests(server: Server, brake: Brake, http: httpx.Client) -> None:
    with busy(server, brake), connect(server, request({**LONG, "n": 8})):
        assert eventually(lambda: server.statistics()["waiting"] == 8)
        answer = http.post(COMPLETIONS, json=SHORT)
        malformed = http.post(COMPLETIONS, content=b"{")
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "queue_full")
    assert 1 <= int(answer.headers["Retry-After"]) <= 60
    assert malformed.status_code == 429  # Nothing was done for it, not even parsing.
    assert 'reason="queue_full"' in http.get("/metrics").text


def test_the_queue_is_bounded_by_tokens_but_one_may_always_wait(
    server: Server, brake: Brake, http: httpx.Client
) -> None:
    with busy(server, brake), connect(server, request({"prompt": [5] * 1000, "max_tokens": 4})):
        assert eventually(lambda: server.statistics()["waiting"] == 1)
        answer = http.post(COMPLETIONS, json=SHORT)
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "queue_full")
        assert "1000 tokens of prompts wait already; the bound is 600" in answer.json()["error"]["message"]


def test_what_can_never_fit_is_refused_at_once_however_full_it_is(
    server: Server, brake: Brake, http: httpx.Client
) -> None:
    with busy(server, brake):
        answer = http.post(COMPLETIONS, json={"prompt": [5] * 2049, "max_tokens": 1})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "context_length_exceeded")


def test_the_queue_of_jobs_is_bounded_too(server: Server, brake: Brake, http: httpx.Client) -> None:
    job = {"input": {"prompt": "Count", "sampling_params": {"max_tokens": 1900, "ignore_eos": True}}}
    with busy(server, brake):
        answers = [http.post("/run", json=job) for _ in range(10)]
        refused = answers.pop()
        assert [answer.status_code for answer in answers] == [200] * 9
        assert refused.status_code == 429
        assert int(refused.headers["Retry-After"]) >= 1
        for answer in answers:
            http.post(f"/cancel/{answer.json()['id']}")
    assert eventually(lambda: idle(server))
    last = http.post("/run", json=job)
    assert last.status_code == 200
    http.post(f"/cancel/{last.json()['id']}")
    assert eventually(lambda: idle(server))


def test_a_deadline_that_passes_in_the_queue_is_a_504_and_nothing_was_computed(
    server: Server, brake: Brake, http: httpx.Client
) -> None:
    with busy(server, brake):
        scheduled = count(http, "vllm:request_queue_time_seconds_count")
        ended = count(http, "vllm:request_success_total")
        answer = http.post(COMPLETIONS, json=SHORT, headers={"X-Request-Timeout": "0.2"})
        assert count(http, "vllm:request_success_total") == ended + 1
        assert count(http, "vllm:request_queue_time_seconds_count") == scheduled
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")


def test_a_deadline_ends_what_computes(http: httpx.Client) -> None:
    answer = http.post(COMPLETIONS, json={**LONG, "n": 16}, headers={"X-Request-Timeout": "0.3"})
    assert answer.status_code == 504


def test_a_job_whose_deadline_passes_in_the_queue_is_not_run(server: Server, brake: Brake, http: httpx.Client) -> None:
    slow = {"input": {"prompt": "Count", "sampling_params": {"max_tokens": 1900, "ignore_eos": True}}}
    with brake.held():
        first = http.post("/run", json=slow).json()["id"]
        late = http.post("/runsync", json=slow, headers={"X-Request-Timeout": "0.2"}).json()
        assert late["status"] == "TIMED_OUT"
        assert "executionTime" not in late
        http.post(f"/cancel/{first}")
    assert eventually(lambda: idle(server))


@pytest.mark.parametrize("value", ["", "soon", "0", "-1", "nan", "inf"])
def test_a_wrong_deadline_is_a_400_that_names_the_header(http: httpx.Client, value: str) -> None:
    answer = http.post(COMPLETIONS, json=SHORT, headers={"X-Request-Timeout": value})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "X-Request-Timeout"


def test_a_client_that_does_not_read_holds_up_nobody_and_is_cut(server: Server, http: httpx.Client) -> None:
    with connect(server, request(ENDLESS), buffer=4096) as stuck:
        assert eventually(lambda: server.statistics()["running"] == 16 or "does not read" in server.output)
        with ThreadPoolExecutor() as pool:
            others = list(pool.map(lambda _: http.post(COMPLETIONS, json={**SHORT, "stream": True}), range(4)))
        assert [answer.text.endswith("data: [DONE]\n\n") for answer in others] == [True] * 4
        assert eventually(lambda: "cut a client that does not read" in server.output)
        assert eventually(lambda: idle(server))
        assert b"[DONE]" not in read_all(stuck)
    assert "pilotlight_slow_readers_total" in http.get("/metrics").text


def test_a_body_that_does_not_come_is_given_up(server: Server) -> None:
    def said() -> bytes:
        with connect(server, request(SHORT)[:-5]) as slow:
            return read_all(slow)

    answer = timely(said)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"body_too_slow" in answer


def timely(said: Callable[[], bytes]) -> bytes:
    """What is answered to a client that was not itself so slow that it was taken for silent."""

    def answer() -> bytes:
        with suppress(ConnectionError):
            return said()
        return b""

    return eventually(answer)


@pytest.mark.parametrize("drip", [b"", b"x-a: 1\r\n"], ids=["silent", "dripping"])
def test_a_head_that_does_not_end_is_given_up(server: Server, drip: bytes) -> None:
    def said() -> bytes:
        with connect(server, b"POST /v1/completions HTTP/1.1\r\n") as slow:
            return _drip(slow, drip) if drip else read_all(slow)

    assert timely(said).startswith(b"HTTP/1.1 408 ")


def _drip(connection: socket.socket, piece: bytes) -> bytes:
    """Send on and on, until an answer comes."""
    connection.settimeout(0.3)
    for _ in range(200):
        try:
            return connection.recv(65536)
        except TimeoutError:
            connection.sendall(piece)
    return b""


def test_a_head_without_end_is_cut(server: Server) -> None:
    with connect(server, b"GET /ping HTTP/1.1\r\n") as endless:
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            endless.sendall((b"x-a: " + b"a" * 10_000 + b"\r\n") * 1000)
        assert eventually(lambda: "no request's head is complete" in server.output)


def test_silence_is_not_waited_for(server: Server) -> None:
    with connect(server) as silent:
        assert read_all(silent) == b""


def test_an_idle_connection_is_closed_and_then_a_slow_next_head_too(server: Server) -> None:
    def said() -> bytes:
        with connect(server, b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n") as kept:
            return read_all(kept)

    assert timely(said).startswith(b"HTTP/1.1 200 OK")

    def said_next() -> bytes:
        with connect(server, b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n") as kept:
            is_answered = kept.recv(1000).startswith(b"HTTP/1.1 200 OK")
            kept.sendall(b"GET /pi")
            return read_all(kept) if is_answered else b""

    assert timely(said_next).startswith(b"HTTP/1.1 408 ")


def test_a_connection_is_good_for_the_next_request_after_a_refusal(server: Server) -> None:
    large = {"prompt": "x" * 150_000}
    head = b"X-Request-Timeout: never\r\nContent-Type"
    ping = b"GET /ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with connect(server, request(large).replace(b"Content-Type", head) + ping) as kept:
        answers = read_all(kept)
    assert answers.startswith(b"HTTP/1.1 400 ")
    assert b"HTTP/1.1 200 OK" in answers


def test_slow_but_steady_reading_goes_on_to_the_end(server: Server) -> None:
    # One whom the machine keeps from reading for 2 s is cut, and may try again.
    answer = eventually(lambda: read_steadily(server))
    assert answer.count(b"data: ") > 1000


def read_steadily(server: Server) -> bytes:
    """A whole answer; nothing if it is cut."""
    body = {"prompt": "Count", "n": 8, "max_tokens": 200, "ignore_eos": True, "logprobs": 20, "stream": True}
    answer = b""
    with connect(server, request(body), buffer=4096) as slow, suppress(ConnectionError):
        while b"[DONE]" not in answer:
            time.sleep(0.002)
            if not (part := slow.recv(16384)):
                return b""
            answer += part
        return answer
    return b""


def test_without_keys_limits_hold_for_all_callers_together() -> None:
    with serving(requests_per_minute="1") as server, server.client() as client:
        server.await_ready()
        answers = [client.post(COMPLETIONS, json=SHORT) for _ in range(2)]
        job = client.post("/runsync", json={"input": {"prompt": "Count"}})
        assert client.get("/v1/models").status_code == 200
    assert [answer.status_code for answer in answers] == [200, 429]
    assert job.status_code == 429
    assert "limit of 1 requests a minute" in job.json()["error"]
