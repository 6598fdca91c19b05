"""A server's life: listening while it boots, ready, told to stop, dead."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.handler.processes import ROOT, Process, Server, eventually, running, serving

CHAT = "/v1/chat/completions"
COUNT = {"messages": [{"role": "user", "content": "Count from 3 to 7."}]}
LONG = {**COUNT, "ignore_eos": True, "max_tokens": 300}
SECRET = "xylophone"
FAULTY = str(Path(__file__).parent / "faulty.py")


def test_listens_from_the_start_and_becomes_ready() -> None:
    with serving() as server, server.client() as client:
        assert client.get("/ping").status_code == 204
        assert "without an API key" not in server.output
        assert client.get("/health").json()["status"] == "starting"
        early = client.post(CHAT, json=COUNT)
        assert early.status_code == 503
        assert int(early.headers["Retry-After"]) > 0
        assert early.json()["error"]["code"] == "not_ready"
        server.await_ready()
        health = client.get("/health").json()
        assert health["status"] == "ready"
        assert health["model"] == "demo"
        assert health["start"]["ready_s"] > 0
        assert client.post(CHAT, json=COUNT).status_code == 200
        assert server.stop() == 0


def test_finishes_what_runs_after_sigterm() -> None:
    with serving() as server:
        server.await_ready()
        with server.client() as client, ThreadPoolExecutor() as pool:
            whole = pool.submit(client.post, CHAT, json=LONG)
            stream = pool.submit(client.post, CHAT, json={**LONG, "stream": True})
            assert eventually(lambda: server.statistics()["running"] == 2)
            assert server.stop() == 0
            assert whole.result().json()["usage"]["completion_tokens"] == 300
            assert stream.result().text.endswith("data: [DONE]\n\n")


def test_grace_is_bounded() -> None:
    with serving(grace="1") as server:
        server.await_ready()
        with server.client() as client, ThreadPoolExecutor() as pool:
            endless = {**LONG, "max_tokens": 2000}
            whole = pool.submit(client.post, CHAT, json=endless)
            stream = pool.submit(client.post, CHAT, json={**endless, "stream": True})
            assert eventually(lambda: server.statistics()["running"] == 2)
            start = time.monotonic()
            assert server.stop() == 0
            assert time.monotonic() - start < 30
            assert whole.result().status_code == 503
            assert whole.result().json()["error"]["code"] == "aborted"
            assert "the server is shutting down" in stream.result().text
            assert "2 requests are cut short" in server.output
            assert "Traceback" not in server.output


def test_a_second_interrupt_ends_the_grace() -> None:
    with serving(grace="60") as server:
        server.await_ready()
        with server.client() as client, ThreadPoolExecutor() as pool:
            cut = pool.submit(client.post, CHAT, json={**LONG, "max_tokens": 2000})
            assert eventually(lambda: server.statistics()["running"] == 1)
            server.popen.send_signal(signal.SIGINT)
            assert eventually(lambda: "Shutting down" in server.output)
            start = time.monotonic()
            assert server.stop(signal.SIGINT) == 0
            assert time.monotonic() - start < 30
            assert cut.result().status_code == 503
            assert "Traceback" not in server.output


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_boot_ends_it_quietly(signum: int) -> None:
    with serving() as server:
        assert server.url
        assert server.stop(signum) == 0
        assert "Traceback" not in server.output


def test_device_error_turns_health_to_503_and_ends_the_process() -> None:
    with running(Server, FAULTY, "serve") as server:
        server.await_ready()
        with server.client() as client:
            assert client.post(CHAT, json=COUNT).status_code == 200
            lost = client.post(CHAT, json={**COUNT, "user": "x", "seed": 666})
            assert lost.status_code == 500
            assert "device" in lost.json()["error"]["message"]
            assert client.get("/health").status_code == 503
            assert client.get("/ping").status_code == 503
            assert client.post(CHAT, json=COUNT).status_code == 503
        assert server.wait() == 1


def test_prompts_and_answers_stay_out_of_the_log(server: Server, http: httpx.Client) -> None:
    message = [{"role": "user", "content": f"Repeat: {SECRET}"}]
    http.post(CHAT, json={"messages": message})
    http.post(CHAT, json={"messages": SECRET})
    http.post("/runsync", json={"input": {"messages": message}})
    http.post("/run", json={"input": {SECRET: 1}})
    assert CHAT in server.output
    assert SECRET not in server.output


@pytest.fixture(scope="module")
def strict() -> Iterator[httpx.Client]:
    """A server that takes one request at a time, and lets one wait."""
    limits = {"max_waiting": "1", "max_running": "1", "token_budget": "16"}
    with serving(**limits) as server, server.client() as client:
        server.await_ready()
        yield client


def test_full_queue_is_429(strict: httpx.Client) -> None:
    with ThreadPoolExecutor() as pool:
        answers = list(pool.map(lambda _: strict.post(CHAT, json={**LONG, "max_tokens": 20}), range(8)))
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused
    assert refused[0].headers["Retry-After"]
    assert refused[0].json()["error"]["code"] == "queue_full"
    assert [a.status_code for a in answers if a not in refused] == [200] * (8 - len(refused))


def test_time_limit_is_504() -> None:
    with serving(request_timeout="0.1") as server, server.client() as client:
        server.await_ready()
        answer = client.post(CHAT, json={**LONG, "max_tokens": 2000})
    assert answer.status_code == 504
    assert answer.json()["error"]["code"] == "timeout"


@pytest.mark.parametrize(
    ("key", "warned"), [("", True), ("k", False)], ids=["no key", "key"]
)
def test_warns_when_others_can_reach_it_without_a_key(key: str, warned: bool) -> None:
    with serving(host="0.0.0.0", api_key=key) as server:
        assert server.url
        assert ("without an API key" in server.output) == warned


@pytest.mark.parametrize(
    ("environment", "line"),
    [
        ({"MAX_MODEL_LEN": "many"}, "MAX_MODEL_LEN"),
        ({"PILOTLIGHT_PAGE_SIZE": "17"}, "page_size"),
        ({"MODEL_NAME": "/nowhere/at/all"}, "/nowhere/at/all"),
        ({"PILOTLIGHT_API_KEY": "k\u00e9y"}, "ASCII"),
        ({"PILOTLIGHT_THREADS": "100000"}, "threads"),
    ],
    ids=str,
)
def test_bad_settings_are_one_line_and_exit_1(environment: dict[str, str], line: str) -> None:
    with running(Process, "-m", "pilotlight", "serve", "--port", "0", environment=environment) as process:
        assert process.wait() == 1
        errors = [text for text in process.output.splitlines() if text.startswith("pilotlight: ")]
        assert len(errors) == 1
        assert line in errors[0]
        assert "Traceback" not in process.output


def test_closed_standard_streams_change_nothing() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = f'exec "$0" -m pilotlight serve --port {port} <&- >&- 2>&-'
    process = subprocess.Popen(["sh", "-c", command, sys.executable], cwd=ROOT)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
            assert eventually(lambda: answers_ping(client))
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()


def answers_ping(client: httpx.Client) -> bool:
    try:
        return client.get("/ping").status_code == 200
    except httpx.TransportError:
        return False


def test_port_in_use_is_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        with running(Process, "-m", "pilotlight", "serve", "--port", port) as process:
            assert process.wait() == 1
            assert port in process.output
            assert "Traceback" not in process.output
