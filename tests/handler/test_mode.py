"""What `python -m handler` is, by its arguments, the environment and the current folder."""

from __future__ import annotations

import re
import subprocess
import sys

import httpx
import pytest

from handler.healthcheck import find_server
from handler.mode import Mode, choose_mode, meaningless
from tests.handler.processes import ROOT, Server, deaf_port, eventually, free_port, running

QUEUE = {"RUNPOD_WEBHOOK_GET_JOB": "http://127.0.0.1/job-take/$ID"}


@pytest.mark.parametrize(
    ("arguments", "environment", "test_input", "mode"),
    [
        ([], {}, False, "server"),
        ([], {"PORT": ""}, False, "server"),
        ([], {}, True, "runpod's test"),
        (["--test_input={}"], QUEUE, False, "runpod's test"),
        (["--test_input", "{}"], {}, False, "runpod's test"),
        (["--rp_serve_api", "--rp_api_port", "8001"], {"PORT": "80"}, False, "runpod's test"),
        ([], {"RUNPOD_REALTIME_PORT": "9000"}, False, "runpod's test"),
        ([], {"RUNPOD_REALTIME_PORT": "0", **QUEUE}, False, "queue"),
        ([], QUEUE, True, "queue"),
        ([], {"PORT": "80"}, False, "load balancer"),
        ([], {"PORT_HEALTH": "81", **QUEUE}, True, "load balancer"),
    ],
)
def test_the_mode(arguments: list[str], environment: dict[str, str], test_input: bool, mode: Mode) -> None:
    assert choose_mode(arguments, environment, test_input) == mode


@pytest.mark.parametrize("environment", [{}, QUEUE, {"PORT": "80"}])
def test_who_asks_for_help_is_told_what_decides_and_starts_nothing(environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "handler", "--help"]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(word in done.stdout for word in ("--test_input", "PORT", "RUNPOD_WEBHOOK_GET_JOB", "PILOTLIGHT_PORT"))


@pytest.mark.parametrize(
    ("arguments", "mode", "refused"),
    [
        (["--nonsense"], "server", "--nonsense"),
        (["serve"], "load balancer", "serve"),
        (["--rp_log_level", "DEBUG"], "queue", None),
        (["--rp_log_levle", "DEBUG"], "queue", "--rp_log_levle"),
        (["--test_input={}", "--port=1"], "runpod's test", "--port=1"),
        (["--rp_serve_api", "--rp_api_port=8001", "--rp_api_host", "0.0.0.0"], "runpod's test", None),
    ],
)
def test_an_argument_that_means_nothing_is_found(arguments: list[str], mode: Mode, refused: str | None) -> None:
    assert meaningless(arguments, mode) == refused


@pytest.mark.parametrize("environment", [{}, QUEUE])
def test_nothing_is_started_with_an_argument_that_means_nothing(environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "handler", "--modle=demo"]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr == "python -m handler: --modle=demo means nothing here; --help says what does\n"


@pytest.mark.parametrize(
    ("environment", "address"),
    [
        ({}, ("127.0.0.1", 8000)),
        ({"PILOTLIGHT_HOST": "0.0.0.0", "PILOTLIGHT_PORT": "9"}, ("127.0.0.1", 9)),
        ({"PILOTLIGHT_HOST": "::"}, ("::1", 8000)),
        ({"PILOTLIGHT_HOST": "10.0.0.1", "PORT": "9", "PORT_HEALTH": "10"}, ("10.0.0.1", 10)),
        ({"PORT_HEALTH": "10"}, ("127.0.0.1", 10)),
        (QUEUE, None),
    ],
)
def test_what_the_health_check_asks(environment: dict[str, str], address: tuple[str, int] | None) -> None:
    assert find_server(environment) == address


def test_the_health_check_fails_where_nothing_listens() -> None:
    with deaf_port() as port:
        assert check_health(port) == 1


def check_health(port: int) -> int:
    command = [sys.executable, "-m", "handler.healthcheck"]
    return subprocess.run(command, env={"PORT": str(port)}, cwd=ROOT, timeout=60, check=False).returncode


def test_it_serves_where_nothing_else_is_asked_for() -> None:
    with running(Server, "-m", "handler", environment={"PILOTLIGHT_PORT": "0"}) as server:
        server.await_ready()
        assert server.url.startswith("http://127.0.0.1:")
        assert eventually(lambda: check_health(httpx.URL(server.url).port or 0) == 0)
        assert server.stop() == 0


def test_a_load_balanced_worker_says_how_it_is_on_a_port_of_its_own() -> None:
    port, health_port = free_port(), free_port()
    variables = {"PORT": f"{port}", "PORT_HEALTH": f"{health_port}", "HEALTH_CHECK_PATH": "/health"}
    with running(Server, "-m", "handler", environment=variables) as server:
        assert eventually(lambda: len(re.findall(r"listening on http://0\.0\.0\.0", server.output)) == 2), server.output
        health = f"http://127.0.0.1:{health_port}/health"
        assert eventually(lambda: httpx.get(health, timeout=60).status_code == httpx.codes.OK)
        assert httpx.get(health, timeout=60).content == b"", "it is asked as /ping is, whose first answer is 204"
        assert httpx.get(f"http://127.0.0.1:{port}/v1/models", timeout=60).status_code == httpx.codes.OK


def test_a_port_that_is_none_is_named() -> None:
    with running(Server, "-m", "handler", environment={"PORT": "eighty"}) as server:
        assert server.wait() == 1
        assert "PORT: " in server.output
