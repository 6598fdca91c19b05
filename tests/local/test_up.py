"""`pilotlight up` from outside: RunPod's client, OpenAI's client, signals, and what is left over."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam

from engine.source import DEMO
from tests.handler.brake import Brake
from tests.handler.processes import eventually
from tests.local.up_process import COUNT, COUNTED, Up, answer, runs, up

CHAT: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Count from 3 to 7."}]
LONG = {**COUNT, "sampling_params": {"max_tokens": 150, "ignore_eos": True}, "stream": True}


LASTS = ("--idle-timeout", "3600")
"""Workers stay, however long the machine takes between two requests."""


@pytest.fixture
def brake(tmp_path: Path) -> Brake:
    return Brake(tmp_path)


def test_from_zero_and_back_with_runpods_and_openais_clients(brake: Brake) -> None:
    with up(*LASTS, "--workers-max", "1", "--gpu-price", "0.00031", **brake.environment) as endpoint:
        assert endpoint.workers()["ready"] == 0
        client = endpoint.endpoint()
        assert client.run_sync({"input": COUNT}, timeout=60)[0]["choices"][0]["tokens"] == [COUNTED]
        began = time.monotonic()
        runpod_s_client_is_answered(endpoint, brake)
        openai_s_client_is_answered(endpoint)
        assert client.health()["jobs"]["failed"] == 0
        served_s = time.monotonic() - began
        [start] = eventually(lambda: re.findall(r"is ready after (\d+\.\d+) s: (.+)\n", endpoint.output))
        assert "import torch" in start[1], "the timeline of the cold start is shown"
        endpoint.keep_idle(1)
        endpoint.await_workers(idle=0, running=0, initializing=0)
        assert eventually(endpoint.bill)
        [charge] = endpoint.bill()
        assert charge["why"] == "scaled down"
        assert served_s <= endpoint.ledger_s() <= charge["seconds"] + 1, "the bill and the worker's own books"
        assert endpoint.stop(signal.SIGINT) == 0


def runpod_s_client_is_answered(endpoint: Up, brake: Brake) -> None:
    client = endpoint.endpoint()
    job = client.run({"input": COUNT})
    assert job.output(timeout=60)[0]["choices"][0]["tokens"] == [COUNTED]
    assert client.run_sync({"input": COUNT}, timeout=60)[0]["choices"][0]["tokens"] == [COUNTED]
    pieces = list(client.run({"input": {**COUNT, "stream": True}}).stream())
    assert "".join(piece["choices"][0]["tokens"][0] for piece in pieces) == COUNTED
    with brake.held():
        long = client.run({"input": LONG})
        assert eventually(lambda: long.status() == "IN_PROGRESS")
        assert long.cancel()["status"] == "CANCELLED"
        assert long.status() == "CANCELLED"
    assert client.health()["workers"]["ready"] == 1


def openai_s_client_is_answered(endpoint: Up) -> None:
    with OpenAI(base_url=f"{endpoint.url}/v2/local/openai/v1", api_key="none", max_retries=0) as client:
        whole = client.chat.completions.create(model="demo", messages=CHAT, temperature=0)
        assert whole.choices[0].message.content == COUNTED
        stream = client.chat.completions.create(model="demo", messages=CHAT, temperature=0, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == COUNTED
        assert [model.id for model in client.models.list()] == ["demo"]


def test_from_zero_to_three_workers_and_back(brake: Brake) -> None:
    by_count = ("--scaler", "request-count", "--scaler-value", "1")
    with up("--idle-timeout", "2", *by_count, **brake.environment) as endpoint:
        with brake.held():
            jobs = [endpoint.post("/v2/local/run", {"input": COUNT})["id"] for _ in range(3)]
            assert eventually(lambda: endpoint.output.count(" starts (pid") == 3)
        for job in jobs:
            assert eventually(lambda: endpoint.get(f"/v2/local/status/{job}")["status"] == "COMPLETED")  # noqa: B023
        endpoint.await_workers(idle=0, running=0, initializing=0)
        assert eventually(lambda: len(endpoint.bill()) == 3)
        assert eventually(lambda: endpoint.pids() == [])


def test_ctrl_c_lets_the_running_job_end_and_keeps_what_waits(brake: Brake) -> None:
    with up(*LASTS, "--workers-max", "1", "--grace", "50", **brake.environment) as endpoint:
        assert answer(endpoint.post("/v2/local/runsync", {"input": COUNT})) == COUNTED
        brake.on()
        # In one piece: the SDK sends each of a stream by itself, and a busy machine may take longer than the grace.
        running = endpoint.post("/v2/local/run", {"input": {**LONG, "stream": False}})["id"]
        assert eventually(lambda: endpoint.get(f"/v2/local/status/{running}")["status"] == "IN_PROGRESS")
        pids = endpoint.pids()
        endpoint.popen.send_signal(signal.SIGINT)
        endpoint.await_workers(running=0)
        brake.off()
        assert endpoint.wait() == 0
        assert eventually(lambda: not any(map(runs, pids))), "a process is left over"
        lines = [json.loads(line) for line in (endpoint.state / "jobs.jsonl").read_text().splitlines()]
        assert [line.get("status") for line in lines if line["job"] == running][-1] == "COMPLETED", endpoint.output
        [charge] = endpoint.bill()
        assert charge["why"] == "the endpoint ends"


@pytest.mark.parametrize("loop", ["sdk", "native"])
def test_a_worker_that_is_told_to_end_amid_its_work_loses_nothing(loop: str, brake: Brake) -> None:
    options = ("--workers-min", "1", "--workers-max", "1", "--job-loop", loop, "--grace", "50")
    with up(*options, **brake.environment) as endpoint:
        endpoint.await_workers(idle=1)
        with brake.held():
            jobs = [endpoint.post("/v2/local/run", {"input": LONG})["id"] for _ in range(12)]
            endpoint.await_workers(running=1)
            first = endpoint.pids()[0]
            os.kill(first, signal.SIGTERM)
        assert eventually(lambda: "ended with status 0" in endpoint.output)
        for job in jobs:
            assert eventually(lambda: endpoint.get(f"/v2/local/status/{job}")["status"] == "COMPLETED")  # noqa: B023
        assert endpoint.stop(signal.SIGTERM) == 0
        assert "is killed" not in endpoint.output
        assert endpoint.ledger()["requests"] >= len(jobs)
        assert endpoint.ledger()["unclosed_epochs"] == 0, "both lives' books are closed"


def test_a_second_ctrl_c_does_not_wait(brake: Brake) -> None:
    with up(*LASTS, "--workers-max", "1", "--grace", "600", **brake.environment) as endpoint:
        assert answer(endpoint.post("/v2/local/runsync", {"input": COUNT})) == COUNTED
        brake.on()
        endpoint.post("/v2/local/run", {"input": {**LONG, "sampling_params": {"max_tokens": 1900, "ignore_eos": True}}})
        endpoint.await_workers(running=1)
        pids = endpoint.pids()
        endpoint.popen.send_signal(signal.SIGINT)
        endpoint.await_workers(running=0)
        assert endpoint.stop(signal.SIGINT) == 0
        assert eventually(lambda: not any(map(runs, pids)))


def test_a_killed_endpoint_leaves_no_worker_and_the_next_has_its_jobs(brake: Brake) -> None:
    with brake.held(), up("--workers-max", "0", **brake.environment) as endpoint:
        waiting = endpoint.post("/v2/local/run", {"input": COUNT})["id"]
        endpoint.client().patch("/v2/serverless/local", json={"workers": {"max": 1, "min": 1}})
        endpoint.await_workers(initializing=1)
        pids = eventually(endpoint.pids)
        endpoint.stop(signal.SIGKILL)
        assert eventually(lambda: not any(map(runs, pids)))
        environment = {"XDG_STATE_HOME": str(endpoint.state.parents[1])}
        with up(**environment) as again:
            done = f"/v2/local/status/{waiting}"
            assert eventually(lambda: again.get(done)["status"] == "COMPLETED")
            assert answer(again.get(done)) == COUNTED


def test_an_idle_worker_is_frozen_thawed_and_bills_nothing_meanwhile() -> None:
    with up("--idle-timeout", "1", "--workers-max", "1", "--flashboot") as endpoint:
        assert answer(endpoint.post("/v2/local/runsync", {"input": COUNT})) == COUNTED
        assert eventually(lambda: "is frozen" in endpoint.output)
        assert endpoint.workers()["ready"] == 0
        # A request does not wait for ever for the freeze to be noticed: on a busy machine one may be too early.
        assert any(found_restored(endpoint, freeze) for freeze in range(1, 4))
        assert endpoint.output.count(" starts (pid") == 1
        assert answer(endpoint.post("/v2/local/runsync", {"input": COUNT})) == COUNTED
        assert endpoint.stop(signal.SIGTERM) == 0
        bill = endpoint.bill()
        assert bill[0]["why"] == "frozen"
        gap = seconds_between(bill[0]["ended"], bill[1]["started"])
        assert gap > 4
        billed = sum(charge["seconds"] for charge in bill)
        assert 0 < endpoint.ledger_s() <= billed + len(bill)


def found_restored(endpoint: Up, freeze: int) -> bool:
    """Whether a request that came some seconds after the so many-th freeze found it restored."""
    assert eventually(lambda: endpoint.output.count("is frozen") >= freeze)
    time.sleep(5)
    warm = endpoint.post("/v2/local/runsync", {"input": {"warmup": True}})
    return bool(warm["output"][0]["start_kind"] == "restored")


def seconds_between(earlier: str, later: str) -> float:
    from datetime import datetime

    return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()


def test_a_model_that_breaks_later_is_said_and_tried_again(tmp_path: Path) -> None:
    model = shutil.copytree(DEMO, tmp_path / "model")
    from_there = os.path.join("..", os.path.relpath(model, tempfile.gettempdir()))  # noqa: PTH118 - Path drops nothing.
    with up(PILOTLIGHT_MODEL=from_there) as endpoint:
        assert eventually(lambda: endpoint.workers()["ready"] == 0)
        config = (model / "config.json").rename(tmp_path / "config.json")
        job = endpoint.post("/v2/local/run", {"input": COUNT})["id"]
        assert eventually(lambda: "before it was ready" in endpoint.output)
        assert "/model/config.json is missing" in endpoint.output
        assert re.search(r"the next try is in \d+ s", endpoint.output)
        assert endpoint.get(f"/v2/local/status/{job}")["status"] == "IN_QUEUE"
        config.rename(model / "config.json")
        assert eventually(lambda: endpoint.get(f"/v2/local/status/{job}")["status"] == "COMPLETED")
        assert endpoint.stop(signal.SIGTERM) == 0


def test_what_else_the_environment_names_makes_no_other_thing_of_the_workers() -> None:
    with up(PORT="80", PILOTLIGHT_PORT="81") as endpoint:
        assert answer(endpoint.post("/v2/local/runsync", {"input": COUNT})) == COUNTED


def test_at_a_terminal_it_shows_how_it_stands(tmp_path: Path, brake: Brake) -> None:
    screen, side = pty.openpty()
    command = [sys.executable, "-m", "pilotlight", "up", "--port", "0", "--workers-min", "1", "--gpu", "RTX 4090"]
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path), "TERM": "xterm", **brake.environment}
    brake.on()
    with subprocess.Popen(command, stderr=side, stdin=side, stdout=side, env=environment, cwd=tmp_path) as process:
        os.close(side)
        seen = b""
        while b"1 initializing" not in seen:
            seen += os.read(screen, 65536)
        brake.off()
        while not all(words in seen for words in (b"cold start", b"import torch", b"1 idle")):
            seen += os.read(screen, 65536)
        process.send_signal(signal.SIGINT)
        with suppress(OSError):  # How a terminal ends that nobody holds any more.
            while part := os.read(screen, 65536):
                seen += part
    os.close(screen)
    assert process.returncode == 0
    for words in (b"0 waiting, 0 running, 0 done, 0 failed", b"1 initializing", b"worker-seconds at $0.00031/s"):
        assert words in seen


@pytest.mark.parametrize("loop", ["sdk", "native"])
def test_either_job_loop_serves_also_a_user_of_runpods_command_line(loop: str, tmp_path: Path) -> None:
    (tmp_path / ".runpod").mkdir()
    (tmp_path / ".runpod" / "config.toml").write_text('[default]\napi_key = "a key of RunPod"\n')
    with up("--job-loop", loop, "--grace", "50", HOME=str(tmp_path)) as endpoint:
        assert answer(endpoint.post("/v2/local/runsync", {"input": COUNT})) == COUNTED
        assert endpoint.stop(signal.SIGTERM) == 0
        assert "is killed" not in endpoint.output


def test_with_a_key_only_those_who_show_it_are_answered() -> None:
    with up("--workers-max", "0", "--api-key", "one,two") as endpoint:
        for path in ("/v2/local/health", "/v2/serverless/local"):
            statuses = [
                httpx.get(f"{endpoint.url}{path}", headers={"Authorization": f"Bearer {key}"}, timeout=60).status_code
                for key in ("one", "two", "three")
            ]
            assert statuses == [200, 200, 401]


def test_rate_limits_hold_unless_they_are_switched_off() -> None:
    with up("--workers-max", "0") as endpoint, endpoint.client() as client:
        assert eventually(lambda: client.post("/v2/local/purge-queue").status_code == 429), "more than 2 in 10 s"
    with up("--workers-max", "0", "--no-rate-limits") as endpoint, endpoint.client() as client:
        assert {client.post("/v2/local/purge-queue").status_code for _ in range(10)} == {200}


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--workers-min", "2", "--workers-max", "1"], 2, "at least 2 and at most 1 workers"),
        (["--idle-timeout", "0"], 2, "idle timeout of 0 s: write 1 to 3600"),
        (["--scaler", "queue-delay", "--mode", "load-balancer"], 2, "scales by request-count alone"),
        (["--runtime", "podman"], 2, "--image"),
        (["--gpu", "GTX 970"], 2, "'GTX 970' is not in the price list"),
        (["/nowhere/model"], 1, "/nowhere/model is neither a folder nor a hub id"),
        (["--gpu-price", "much"], 2, "much is no price"),
        (["--scaler", "magic"], 2, "magic"),
    ],
)
def test_what_cannot_be_is_refused_by_name(arguments: list[str], status: int, said: str) -> None:
    command = [sys.executable, "-m", "pilotlight", "up", "--port", "0", *arguments]
    # Variables of the tests' own begin as settings do, and would be told to be none.
    unset = {name: value for name, value in os.environ.items() if not name.startswith("PILOTLIGHT_")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, env=unset)
    assert done.returncode == status
    assert said in " ".join(done.stderr.split())
    assert done.stderr.startswith("Usage:") or done.stderr.count("\n") == 1


def test_a_port_and_a_folder_that_others_have_are_named() -> None:
    with up("--workers-max", "0") as endpoint:
        url, environment = endpoint.url, {**os.environ, "XDG_STATE_HOME": str(endpoint.state.parents[1])}
        command = [sys.executable, "-m", "pilotlight", "up", "--port"]
        port = url.rpartition(":")[2]
        taken = subprocess.run([*command, port], capture_output=True, text=True, env=environment, check=False)
        assert (taken.returncode, f"cannot listen on 127.0.0.1 port {port}" in taken.stderr) == (1, True)
        shared = subprocess.run([*command, "0"], capture_output=True, text=True, env=environment, check=False)
        assert (shared.returncode, "another endpoint keeps its jobs" in shared.stderr) == (1, True)
