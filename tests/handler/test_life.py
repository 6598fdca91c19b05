"""A server's life: listening while it boots, ready, told to stop, dead."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.handler.brake import Brake
from tests.handler.processes import ROOT, START_S, Process, Server, eventually, port_of, running, serving

CHAT = "/v1/chat/completions"
COUNT = {"messages": [{"role": "user", "content": "Count from 3 to 7."}]}
LONG = {**COUNT, "ignore_eos": True, "max_tokens": 300}
SECRET = "xylophone"
FAULTY = str(Path(__file__).parent / "faulty.py")


@pytest.fixture
def own_brake(tmp_path: Path) -> Brake:
    """Of a test's own server."""
    return Brake(tmp_path)


def test_listens_from_the_start_and_becomes_ready(own_brake: Brake) -> None:
    with own_brake.held(), serving(more=own_brake.environment) as server, server.client() as client:
        assert client.get("/ping").status_code == 204
        assert "without an API key" not in server.output
        assert client.get("/health").json()["status"] == "starting"
        early = client.post(CHAT, json=COUNT)
        assert early.status_code == 503
        assert int(early.headers["Retry-After"]) > 0
        assert early.json()["error"]["code"] == "not_ready"
        own_brake.off()
        server.await_ready()
        health = client.get("/health").json()
        assert health["status"] == "ready"
        assert health["model"] == "demo"
        assert health["start"]["ready_s"] > 0
        assert client.post(CHAT, json=COUNT).status_code == 200
        assert server.stop() == 0


def test_finishes_what_runs_after_sigterm(own_brake: Brake) -> None:
    with serving(more=own_brake.environment) as server:
        server.await_ready()
        with server.client() as client, ThreadPoolExecutor() as pool, own_brake.held():
            whole = pool.submit(client.post, CHAT, json=LONG)
            stream = pool.submit(client.post, CHAT, json={**LONG, "stream": True})
            assert eventually(lambda: server.statistics()["running"] == 2)
            server.popen.send_signal(signal.SIGTERM)
            assert eventually(lambda: "Shutting down" in server.output)
            own_brake.off()
            assert server.wait() == 0
            assert whole.result().json()["usage"]["completion_tokens"] == 300
            assert stream.result().text.endswith("data: [DONE]\n\n")


def test_grace_is_bounded(own_brake: Brake) -> None:
    with serving(grace="1", more=own_brake.environment) as server:
        server.await_ready()
        with server.client() as client, ThreadPoolExecutor() as pool, own_brake.held():
            endless = {**LONG, "max_tokens": 2000}
            whole = pool.submit(client.post, CHAT, json=endless)
            stream = pool.submit(client.post, CHAT, json={**endless, "stream": True})
            assert eventually(lambda: server.statistics()["running"] == 2)
            assert server.stop() == 0
            assert whole.result().status_code == 503
            assert whole.result().json()["error"]["code"] == "aborted"
            assert "the server is shutting down" in stream.result().text
            assert "2 requests are cut short" in server.output
            assert "Traceback" not in server.output


def test_a_second_interrupt_ends_the_grace(own_brake: Brake) -> None:
    with serving(grace="600", more=own_brake.environment) as server:
        server.await_ready()
        with server.client() as client, ThreadPoolExecutor() as pool, own_brake.held():
            cut = pool.submit(client.post, CHAT, json={**LONG, "max_tokens": 2000})
            assert eventually(lambda: server.statistics()["running"] == 1)
            server.popen.send_signal(signal.SIGINT)
            assert eventually(lambda: "Shutting down" in server.output)
            assert server.stop(signal.SIGINT) == 0
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
            for path in ("/health", "/ping"):
                assert status_or_gone(lambda: client.get(path)) in (503, None)  # noqa: B023
            assert status_or_gone(lambda: client.post(CHAT, json=COUNT)) in (503, None)
        assert server.wait() == 1


def status_or_gone(ask: Callable[[], httpx.Response]) -> int | None:
    """The answer's status; None from a server that has ended, as this one does soon."""
    try:
        return ask().status_code
    except httpx.TransportError:
        return None


def test_prompts_and_answers_stay_out_of_the_log(server: Server, http: httpx.Client) -> None:
    message = [{"role": "user", "content": f"Repeat: {SECRET}"}]
    http.post(CHAT, json={"messages": message})
    http.post(CHAT, json={"messages": SECRET})
    http.post("/runsync", json={"input": {"messages": message}})
    http.post("/run", json={"input": {SECRET: 1}})
    assert CHAT in server.output
    assert SECRET not in server.output


def test_full_queue_is_429(own_brake: Brake) -> None:
    limits = {"max_waiting": "1", "max_running": "1", "token_budget": "16"}
    with serving(more=own_brake.environment, **limits) as server, server.client() as client:
        server.await_ready()
        with ThreadPoolExecutor(8) as pool, own_brake.held():
            asked = [pool.submit(client.post, CHAT, json=LONG) for _ in range(8)]
            assert eventually(lambda: sum(one.done() for one in asked) == 6), "one runs and one waits"
            own_brake.off()
            answers = [one.result() for one in asked]
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
        with server.client() as client:
            assert client.get("/ping").is_success, "all that is said at the start has been said"
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
    command = 'exec "$0" -m pilotlight serve --port 0 <&- >&- 2>&-'
    process = subprocess.Popen(["sh", "-c", command, sys.executable], cwd=ROOT)
    try:
        port = eventually(lambda: port_of(process.pid))
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
            assert eventually(lambda: answers_ping(client))
        process.send_signal(signal.SIGTERM)
        assert process.wait(START_S) == 0
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
