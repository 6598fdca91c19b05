"""The API is down, slow, called too often, or talks nonsense: no double ping, no runaway, and all is put back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.handler.processes import ROOT, deaf_port
from tests.warmup.warmers import TICK, make_settings, make_warmer
from tests.warmup.world import BEGAN, Killed, World
from warmup.endpoint_api import (
    ApiDown,
    ApiLimited,
    ApiNonsense,
    ApiRefused,
    ApiSlow,
    Change,
    EndpointApi,
    Scaling,
    retry_after,
)
from warmup.run import BackOff
from warmup.state import State, Touched
from warmup.warmer import Tick

KEY = "rpa_0123456789ABCDEF"
ENDPOINT = {"workers": {"min": 0, "max": 3, "idleTimeout": 5}, "scaling": {"type": "QUEUE_DELAY", "queueDelay": 4}}


class Server:
    """Answers every request with what it is told."""

    def __init__(self) -> None:
        self.status, self.body, self.headers = 200, json.dumps(ENDPOINT).encode(), dict[str, str]()
        self.hangs = threading.Event()
        self.hangs.set()
        self.asked: list[tuple[str, str, bytes, str | None, str | None]] = []
        self.url = ""

    def says(self, body: Any, status: int = 200, **headers: str) -> None:
        self.status, self.headers = status, {name.replace("_", "-"): value for name, value in headers.items()}
        self.body = body if isinstance(body, bytes) else json.dumps(body).encode()


@contextmanager
def answering() -> Iterator[Server]:
    told = Server()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            who = self.headers["Authorization"], self.headers["User-Agent"]
            told.asked.append((self.command, self.path, body, *who))
            told.hangs.wait(20)
            self.send_response(told.status)
            for name, value in told.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(told.body)))
            self.end_headers()
            self.wfile.write(told.body)

        do_GET = do_PATCH = do_POST = answer  # noqa: N815

        def log_message(self, *_: Any) -> None:
            """A test's output is not the place."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    told.url = f"http://127.0.0.1:{server.server_port}/v2"
    try:
        yield told
    finally:
        told.hangs.set()
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    with answering() as told:
        yield told


def api(url: str, timeout: float = 60.0) -> EndpointApi:
    return EndpointApi("abc", KEY, url, url, timeout)


def test_it_asks_as_documented(server: Server) -> None:
    assert api(server.url).scaling() == Scaling("QUEUE_DELAY", 0, 3, 5)
    api(server.url).change(Change(workers_min=1))
    server.says({"id": "x", "status": "IN_QUEUE"})
    assert api(server.url).ping(1.0) == "x"
    calls = [(method, path, json.loads(body) if body else None) for method, path, body, _, _ in server.asked]
    assert calls == [
        ("GET", "/v2/serverless/abc", None), ("PATCH", "/v2/serverless/abc", {"workers": {"min": 1}}),
        ("POST", "/v2/abc/run", {"input": {"warmup": True}, "policy": {"ttl": 10_000}}),
    ]
    assert {(key, agent and agent.split("/")[0]) for *_, key, agent in server.asked} == {
        (f"Bearer {KEY}", "pilotlight-warmer")
    }


def test_down_and_slow(server: Server) -> None:
    with deaf_port() as port, pytest.raises(ApiDown):
        api(f"http://127.0.0.1:{port}/v2").scaling()
    server.says({"title": "Bad gateway", "detail": f"key {KEY}"}, 502)
    with pytest.raises(ApiDown, match=r"HTTP 502, Bad gateway: key \[key\]"):
        api(server.url).scaling()
    server.hangs.clear()
    with pytest.raises(ApiSlow, match=r"no answer in 0.2 s"):
        api(server.url, 0.2).health()


def test_refused_and_limited_with_its_headers(server: Server) -> None:
    server.says({"title": "Unauthorized"}, 401)
    with pytest.raises(ApiRefused, match="RUNPOD_API_KEY"):
        api(server.url).scaling()
    server.says({"title": "Too many requests"}, 429, RateLimit='"minute";r=0;t=12, "hour";r=2900;t=3000')
    with pytest.raises(ApiLimited) as found:
        api(server.url).scaling()
    assert found.value.retry_after_s == 12
    assert retry_after({"Retry-After": "7"}) == 7
    assert retry_after({"Retry-After": "soon", "RateLimit": "nonsense"}) is None


@pytest.mark.parametrize("body", [
    b"<html>", b"[]", b"{}", b"null", b"[" * 100_000, b"x" * 2_000_000,
    {"workers": {"min": True, "max": 3}, "scaling": ENDPOINT["scaling"]},
    {"workers": {"min": -1, "max": 3}, "scaling": ENDPOINT["scaling"]}, {**ENDPOINT, "scaling": {"type": "OTHER"}},
    {"workers": {"min": "0", "max": 3}, "scaling": ENDPOINT["scaling"]},
], ids=range(10))
def test_nonsense(server: Server, body: Any) -> None:
    server.says(body)
    with pytest.raises(ApiNonsense):
        api(server.url).scaling()


def test_nothing_is_raised_out_of_a_look_and_the_pauses_grow(server: Server, tmp_path: Path) -> None:
    world = World()
    warmer = make_warmer(make_settings(tmp_path, "always"), world, endpoint=api(server.url))
    back_off = BackOff(1.0, 60.0, draw=lambda: 1.0)
    pauses = []
    for body, status in ((b"<html>", 200), ({}, 500), ({}, 403), ({}, 503)):
        server.says(body, status)
        tick = warmer.tick(world.now)
        assert tick.role == "in trouble"
        assert tick.trouble
        pauses.append(back_off.pause(tick, 1.0))
    server.says({}, 429, Retry_After="30")
    pauses.append(back_off.pause(warmer.tick(world.now), 1.0))
    assert pauses == [1, 2, 4, 8, 30]
    assert back_off.pause(Tick("acts"), 1.0) == 1.0
    assert {method for method, *_ in server.asked} == {"GET"}


def test_a_ping_whose_answer_is_lost_is_not_sent_again(tmp_path: Path) -> None:
    world = World(deaf=True)
    warmer = make_warmer(make_settings(tmp_path, "fixed:60"), world)
    for _ in range(6):
        warmer.tick(world.now)
        world.advance(TICK)
    assert set(world.pings_by(60).values()) == {1}


@pytest.mark.parametrize("after", range(12))
def test_wherever_it_is_killed_the_next_one_puts_back_what_was_set_and_pings_no_moment_twice(
    after: int, tmp_path: Path
) -> None:
    world = World(kill_in=after)
    settings = make_settings(tmp_path, "cron:Sat 23:50-23:58 UTC")
    killed = make_warmer(settings, world)
    for _ in range(4):
        try:
            killed.tick(world.now)
        except Killed:
            break
        world.advance(TICK)
    world.kill_in = None
    world.advance(40)
    heir = make_warmer(settings, world)
    while world.now < BEGAN + 400:
        heir.tick(world.now)
        world.advance(TICK)
    assert (world.least, world.idle) == (0, 5)
    assert len(world.pings) <= 1


def test_between_the_writing_down_and_the_ping_it_is_killed_and_the_moment_stays_without(tmp_path: Path) -> None:
    world = World()
    settings = make_settings(tmp_path, "fixed:300")
    counted = World(kill_in=1000)
    make_warmer(make_settings(tmp_path / "counted", "fixed:300"), counted).tick(counted.now)
    assert counted.kill_in is not None
    world.kill_in = 1000 - counted.kill_in - 3
    with pytest.raises(Killed):
        make_warmer(settings, world).tick(world.now)
    world.kill_in = None
    assert world.pings == []
    world.advance(60)
    heir = make_warmer(settings, world)
    for _ in range(10):
        heir.tick(world.now)
        world.advance(TICK)
    assert heir.state.pings == 1
    assert world.pings == []


def test_a_restart_in_the_middle_of_a_window_goes_on_with_it(tmp_path: Path) -> None:
    world = World()
    settings = make_settings(tmp_path, "cron:Sat 23:50-23:58 UTC")
    make_warmer(settings, world).tick(world.now)
    world.advance(40)
    heir = make_warmer(settings, world)
    assert heir.tick(world.now).did == ()
    assert (world.least, len(world.pings)) == (1, 1)
    assert "min workers 0" in heir.close(world.now).did[0]
    assert world.least == 0


@pytest.mark.parametrize(("touched", "status"), [(Touched(before_min=0, set_min=1), 1), (Touched(), 0)])
def test_what_could_not_be_put_back_at_the_end_is_a_failure(touched: Touched, status: int, tmp_path: Path) -> None:
    """The API is down all the time."""
    (tmp_path / "warmer.json").write_text(State(touched=touched).as_json())
    command = [sys.executable, "-m", "pilotlight", "warm", "run", "--endpoint", "x", "--price", "0.001"]
    with deaf_port() as port:
        down = f"http://127.0.0.1:{port}/v2"
        process = subprocess.Popen(
            [*command, "--state", str(tmp_path)], cwd=ROOT, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "PILOTLIGHT_RUNPOD_API": down, "RUNPOD_ENDPOINT_BASE_URL": down},
        )
        with process:
            assert process.stderr is not None
            assert any("Connection refused" in line for line in iter(process.stderr.readline, ""))
            process.send_signal(signal.SIGTERM)
            said = process.stderr.read()
    assert (process.returncode, said.count("could not be taken back")) == (status, status), said


def test_a_ping_that_was_asked_for_waits_for_no_job_and_says_so(tmp_path: Path) -> None:
    world = World()
    world.arrive()
    tick = make_warmer(make_settings(tmp_path, "never"), world).tick(world.now, ping=True)
    assert (tick.did, tick.refused, world.pings) == ((), ("no ping: a job runs or waits",), [])


def test_the_kill_switch_puts_back_and_stops(tmp_path: Path) -> None:
    world = World()
    warmer = make_warmer(make_settings(tmp_path, "always"), world)
    warmer.tick(world.now)
    world.advance(TICK)
    (tmp_path / "STOP").touch()
    for _ in range(3):
        assert warmer.tick(world.now).role == "is stopped"
        world.advance(TICK)
    assert (world.least, len(world.changes)) == (0, 2)


def test_a_dry_run_says_what_it_would_do_and_leaves_no_trace(tmp_path: Path) -> None:
    from tests.warmup.world import clock_of
    from warmup.learning import Learner
    from warmup.lease import Onlooker
    from warmup.places import FolderPlace
    from warmup.warmer import Warmer

    world, place = World(), FolderPlace(tmp_path)
    settings = make_settings(tmp_path, "always", dry_run=True)
    warmer = Warmer(settings, world, place, Learner(None, "local"), Onlooker(place, clock_of(world)))
    assert warmer.tick(world.now).did[0].startswith("min workers 1")
    warmer.close(world.now)
    assert (world.changes, world.pings, list(tmp_path.iterdir())) == ([], [], [])
