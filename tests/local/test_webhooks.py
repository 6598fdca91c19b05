"""Webhooks: results posted by themselves."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from handler.local.app import open_queue
from handler.local.job import Asked
from tests.local.crew import becomes


class Listener:
    """Notes what is posted to it, and answers with the statuses it is given, then with 200."""

    def __init__(self) -> None:
        self.posted: list[dict[str, Any]] = []
        self.statuses: list[int] = []
        self.url = ""
        self.endless = False
        self.sent = 0

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.posted.append(json.loads(handler.rfile.read(int(handler.headers["content-length"]))))
        handler.send_response(self.statuses.pop(0) if self.statuses else 200)
        handler.end_headers()
        with suppress(OSError):
            while self.endless:
                self.sent += handler.wfile.write(bytes(1 << 20))


@pytest.fixture
def listener() -> Iterator[Listener]:
    listening = Listener()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            listening.answer(self)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    listening.url = f"http://127.0.0.1:{server.server_port}/hook"
    yield listening
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def short_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handler.local.webhooks.PAUSE_S", 0.05)


async def end_one(folder: Path | None, url: str, calls: bool = True) -> dict[str, Any]:
    """A job's end; with `calls` its webhook is waited for."""
    async with open_queue(folder) as queue:
        job = queue.submit(Asked(1, webhook=url))
        queue.take_now("a", 1)
        queue.finish(job.id, "a", {"answer": 1})
        if calls:
            await becomes(lambda: job.told)
            await asyncio.sleep(0.2)  # Another call would come now.
        return job.view()


def test_a_result_is_posted_as_status_shows_it(listener: Listener) -> None:
    view = asyncio.run(end_one(None, listener.url))
    assert listener.posted == [view]
    assert view["output"] == {"answer": 1}


@pytest.mark.parametrize(("statuses", "calls"), [([500, 404], 3), ([500, 500, 500, 500], 3), ([201], 2)])
def test_anything_but_200_is_tried_twice_more(listener: Listener, statuses: list[int], calls: int) -> None:
    listener.statuses = statuses
    asyncio.run(end_one(None, listener.url))
    assert len(listener.posted) == calls


def test_nobody_there_harms_nothing() -> None:
    assert asyncio.run(end_one(None, "http://127.0.0.1:9/"))["status"] == "COMPLETED"


def test_what_the_other_side_says_beside_its_status_is_not_read(listener: Listener) -> None:
    listener.endless = True
    asyncio.run(end_one(None, listener.url))
    assert len(listener.posted) == 1
    assert listener.sent < 32 << 20


def test_a_call_that_a_restart_interrupts_is_made_after_it_and_only_once(tmp_path: Path, listener: Listener) -> None:
    view = asyncio.run(end_one(tmp_path, listener.url, calls=False))

    async def restart() -> None:
        async with open_queue(tmp_path) as queue:
            await becomes(lambda: all(job.told for job in queue.jobs()))
            await asyncio.sleep(0.3)  # Another call would come now.

    asyncio.run(restart())
    assert listener.posted[-1:] == [view]
    calls = len(listener.posted)
    asyncio.run(restart())
    assert len(listener.posted) == calls
