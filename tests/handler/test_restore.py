"""A worker that was frozen and resumed notices; one that was only slow does not."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler.epochs import Epoch, Epochs, Moment
from handler.restore import FREEZE_S, Reading, looks_frozen, was_frozen
from tests.handler.brake import Brake
from tests.handler.control_plane import ControlPlane
from tests.handler.processes import ROOT, Process, Server, eventually, running, serving

COUNT = {"messages": [{"role": "user", "content": "Count from 3 to 7."}]}
LONG = {**COUNT, "ignore_eos": True, "max_tokens": 1500}
FROZEN_S = 5.0

BEFORE = Reading(Moment(1.7e9, 1000.0), 60.0, 5.0)

seconds = st.floats(0, 1e6)
awake = st.floats(0, FREEZE_S - 0.01)


def later(monotonic: float, ahead: float = 0.0, cpu: float = 0.0, waited: float = 0.0) -> Reading:
    """The next tick, after so many seconds, with the wall clock so far ahead of the monotonic one."""
    wall, start = BEFORE.now
    return Reading(Moment(wall + monotonic + ahead, start + monotonic), BEFORE.cpu_s + cpu, BEFORE.waited_s + waited)


# What the clocks and accounts say.


@given(gap=awake, cpu=seconds)
def test_a_tick_in_time_is_no_freeze(gap: float, cpu: float) -> None:
    assert not was_frozen(BEFORE, later(gap, cpu=cpu))


@given(frozen=st.floats(FREEZE_S + 0.01, 1e7), waited=st.floats(0, 1), cpu=seconds)
def test_a_gap_without_waiting_is_a_freeze_however_busy_the_process_was_before(
    frozen: float, waited: float, cpu: float
) -> None:
    assert was_frozen(BEFORE, later(frozen + waited, cpu=cpu, waited=waited))


@given(waited=seconds, unseen=st.floats(0, 0.1))
def test_a_gap_spent_waiting_is_no_freeze(waited: float, unseen: float) -> None:
    assert not was_frozen(BEFORE, later(1 + waited * (1 + unseen), waited=waited))


@given(gap=awake, ahead=st.floats(FREEZE_S + 0.01, 1e8))
def test_a_wall_clock_that_got_ahead_is_a_snapshot_of_another_day(gap: float, ahead: float) -> None:
    assert was_frozen(BEFORE, later(gap, ahead))


@given(gap=awake, behind=st.floats(0, 1e8))
def test_a_wall_clock_that_was_set_back_is_no_freeze(gap: float, behind: float) -> None:
    assert not was_frozen(BEFORE, later(gap, -behind))
    assert not looks_frozen(BEFORE.now, later(gap, -behind).now)


@given(rates=st.lists(st.floats(-500e-6, 500e-6), min_size=1, max_size=50))
def test_a_clock_that_is_slewed_never_adds_up_to_a_freeze(rates: list[float]) -> None:
    readings = [BEFORE]
    for rate in rates:
        (wall, monotonic), cpu, waited = readings[-1]
        readings.append(Reading(Moment(wall + 1 + rate, monotonic + 1), cpu, waited))
    assert not any(was_frozen(before, after) for before, after in pairwise(readings))


@given(back=st.floats(0.01, 50))
def test_clocks_that_run_backwards_are_another_machines(back: float) -> None:
    assert was_frozen(BEFORE, later(-back))
    assert was_frozen(BEFORE, later(1, cpu=-back))


@given(gap=st.floats(-1e6, 1e6), ahead=st.floats(-1e6, 1e6))
def test_a_request_waits_for_the_judgement_wherever_it_may_be_a_freeze(gap: float, ahead: float) -> None:
    after = later(gap, ahead)
    assert looks_frozen(BEFORE.now, after.now) or not was_frozen(BEFORE, after)


def test_only_the_first_request_of_an_epoch_is_not_warm() -> None:
    epochs = Epochs(BEFORE.now)
    assert [epochs.take_start_kind() for _ in range(3)] == ["fresh", "warm", "warm"]
    epochs.begin(BEFORE.now, later(9).now)
    assert epochs.start_kind == "restored"
    assert [epochs.take_start_kind() for _ in range(3)] == ["restored", "warm", "warm"]


def test_a_listener_that_fails_keeps_nothing_from_the_others() -> None:
    epochs = Epochs(BEFORE.now)
    heard: list[Epoch] = []
    epochs.on_begin(fail)
    epochs.on_begin(heard.append)
    epochs.begin(BEFORE.now, later(9).now)
    assert heard == [Epoch(1, "restored", later(9).now, BEFORE.now)]


def fail(epoch: Epoch) -> None:
    raise OSError("nothing works")


# Real freezes and real load.


@contextmanager
def frozen(process: Process) -> Iterator[None]:
    """The process is stopped inside."""
    process.popen.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.popen.send_signal(signal.SIGCONT)


def counter(client: httpx.Client, name: str) -> float:
    found = re.search(rf"^{name}{{[^}}]*}} (\S+)$", client.get("/metrics").text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_a_frozen_server_begins_an_epoch_and_serves_on() -> None:
    with serving() as server, server.client() as client:
        server.await_ready()
        assert start_of(client) == ("fresh", 0)
        assert client.post("/v1/chat/completions", json=COUNT).status_code == 200
        assert start_of(client) == ("warm", 0)
        with frozen(server):
            time.sleep(FROZEN_S)
        assert eventually(lambda: start_of(client) == ("restored", 1))
        assert client.post("/v1/chat/completions", json=COUNT).status_code == 200
        assert start_of(client) == ("warm", 1)
        assert counter(client, "pilotlight_restores_total") == 1
        assert eventually(lambda: "epoch 1" in server.output), "it is told after it has begun"


def start_of(client: httpx.Client) -> tuple[str, int]:
    health = client.get("/health").json()
    return health["start_kind"], health["epoch"]


def test_a_request_that_was_waiting_during_the_freeze_finds_it_restored() -> None:
    # Each on a connection of its own: a kept one is closed first, since its idle time runs out in the freeze too.
    with serving() as server, server.client() as client, server.client() as waiting:
        server.await_ready()
        assert warm_up(client)["start_kind"] == "fresh"
        # A request does not wait for ever for the freeze to be noticed: on a busy machine one may be too early.
        assert any(found_restored(server, waiting, freeze) for freeze in range(1, 4))


def found_restored(server: Server, waiting: httpx.Client, freeze: int) -> bool:
    """Whether a request sent during the so many-th freeze found it restored."""
    sent: list[dict[str, object]] = []
    with frozen(server):
        asking = threading.Thread(target=lambda: sent.append(warm_up(waiting)))
        asking.start()
        time.sleep(FROZEN_S)
    asking.join()
    assert eventually(lambda: f"epoch {freeze};" in server.output)
    return [(answer["start_kind"], answer["epoch"]) for answer in sent] == [("restored", freeze)]


def warm_up(client: httpx.Client) -> dict[str, object]:
    output: dict[str, object] = client.post("/runsync", json={"input": {"warmup": True}}).json()["output"][0]
    return output


def test_a_stream_open_across_a_freeze_comes_to_its_end() -> None:
    with serving() as server, server.client() as client:
        server.await_ready()
        with client.stream("POST", "/v1/chat/completions", json={**LONG, "stream": True}) as answer:
            lines = answer.iter_lines()
            next(lines)
            with frozen(server):
                time.sleep(FROZEN_S)
            rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        assert json.loads(rest[-2].removeprefix("data: "))["choices"][0]["finish_reason"] == "length"
        assert eventually(lambda: start_of(client) == ("restored", 1))


def test_a_time_limit_that_passes_in_a_freeze_ends_the_request(tmp_path: Path) -> None:
    brake = Brake(tmp_path)
    with serving(request_timeout="4", more=brake.environment) as server, server.client() as client:
        server.await_ready()
        with brake.held(), client.stream("POST", "/v1/chat/completions", json={**LONG, "stream": True}) as answer:
            lines = answer.iter_lines()
            next(lines)
            with frozen(server):
                time.sleep(FROZEN_S)
            assert any("timeout" in line for line in lines)
        assert eventually(lambda: client.post("/v1/chat/completions", json=COUNT).status_code == 200)


def test_a_queue_worker_takes_jobs_again_after_a_freeze() -> None:
    with ExitStack() as stack:
        plane = stack.enter_context(ControlPlane().listening())
        worker = stack.enter_context(running(Process, "-m", "handler", environment=plane.environment()))
        assert warm_up_job(plane, "first") == ("fresh", 0)
        with frozen(worker):
            time.sleep(FROZEN_S)
        assert eventually(lambda: "restored from a freeze" in worker.output)
        assert warm_up_job(plane, "second") == ("restored", 1)
        assert warm_up_job(plane, "third") == ("warm", 1)


def warm_up_job(plane: ControlPlane, name: str) -> tuple[str, int]:
    done = plane.run(name, {"warmup": True}).done
    assert done is not None
    [output] = done["output"]
    return output["start_kind"], output["epoch"]


WATCHED = """
import ctypes, os, signal, sys, threading, time
from handler.epochs import Epochs, Moment
from handler.restore import RestoreWatch

def spin():
    while time.monotonic() < start + 6: pass

def await_tick():
    now = time.monotonic()
    while watch._last is None or watch._last.now.monotonic_s < now: time.sleep(0.1)

epochs = Epochs(Moment.now())
watch = RestoreWatch(epochs)
watch.start()
await_tick()
print("watching", flush=True)
await_tick()
start = time.monotonic()
{load}
await_tick()
print(epochs.current.number)
"""
HOLD_INTERPRETER = "ctypes.PyDLL(None).usleep(5_000_000)"
"""No other thread runs, and no CPU time is used: a stalled read of a mapped file looks like this."""
SPIN = "threads = [threading.Thread(target=spin) for _ in range(8)]; [t.start() for t in threads]; threads[0].join()"


def watched(load: str, nice: int = 0) -> subprocess.Popen[str]:
    """A process that watches, does this, and then writes how often it was restored."""
    command = ["nice", "-n", str(nice), sys.executable, "-c", WATCHED.format(load=load)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "watching\n"
    return process


@contextmanager
def competitors(number: int) -> Iterator[None]:
    """Processes that compute all the time."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.mark.parametrize("load", [HOLD_INTERPRETER, SPIN], ids=["held", "busy"])
def test_a_process_whose_interpreter_is_busy_is_not_restored(load: str) -> None:
    assert watched(load).communicate(timeout=60)[0] == "0\n"


@pytest.mark.alone
def test_a_process_that_hardly_gets_a_core_is_not_restored() -> None:
    process = watched(SPIN, nice=19)
    with competitors(4 * (os.cpu_count() or 1)):
        assert process.communicate(timeout=200)[0] == "0\n"


def test_a_process_frozen_while_all_its_threads_compute_is_restored() -> None:
    process = watched(f"{SPIN[:-len('threads[0].join()')]}os.kill(os.getpid(), signal.SIGSTOP)")
    assert eventually(lambda: state_of(process) == "T")
    time.sleep(FROZEN_S)
    process.send_signal(signal.SIGCONT)
    assert process.communicate(timeout=60)[0] == "1\n"


def state_of(process: subprocess.Popen[str]) -> str:
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]


# What was put off is done before anything freezes the process.


@pytest.mark.parametrize("first", [COUNT, None], ids=["a first answer", "a warm-up"])
def test_deferred_work_is_finished_without_further_traffic(first: dict[str, object] | None) -> None:
    with serving() as server, server.client() as client:
        server.await_ready()
        time.sleep(0.5)
        assert client.get("/health").json()["deferred_done"] is False
        if first is None:
            warm_up(client)
        else:
            assert client.post("/v1/chat/completions", json=first).status_code == 200
        assert eventually(lambda: client.get("/health").json()["deferred_done"])
