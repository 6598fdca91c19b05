"""The parts of our own loop: addresses, pauses, polls that lose no answer, results on disk, pieces within bounds."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from engine.errors import InvalidConfig
from handler.native import polling, streaming
from handler.native.pacing import Pace
from handler.native.polling import Poll, Trouble
from handler.native.posting import Post
from handler.native.protocol import Addresses, encode, jobs_in, stops_in
from handler.native.shelf import Result, Shelf
from handler.native.streaming import Streams
from tests.handler.control_plane import KEY, ControlPlane, Fault

BASE = "https://api.runpod.ai/v2/ep"
ENVIRONMENT = {
    "RUNPOD_WEBHOOK_GET_JOB": f"{BASE}/job-take/$ID?gpu=NVIDIA+H200",
    "RUNPOD_WEBHOOK_POST_OUTPUT": f"{BASE}/job-done/$RUNPOD_POD_ID/$ID?gpu=NVIDIA+H200",
    "RUNPOD_WEBHOOK_POST_STREAM": f"{BASE}/job-stream/$RUNPOD_POD_ID/$ID?gpu=NVIDIA+H200",
    "RUNPOD_WEBHOOK_PING": f"{BASE}/ping/$RUNPOD_POD_ID",
    "RUNPOD_POD_ID": "pod7",
    "RUNPOD_AI_API_KEY": KEY,
}


# Addresses and shapes.


def test_addresses_are_runpods() -> None:
    addresses = Addresses.read(ENVIRONMENT)
    gpu = "gpu=NVIDIA+H200"
    assert addresses.take(1, busy=False) == f"{BASE}/job-take/pod7?{gpu}&job_in_progress=0"
    assert addresses.take(4, busy=True) == f"{BASE}/job-take-batch/pod7?{gpu}&batch_size=4&job_in_progress=1"
    assert addresses.stop_url == f"{BASE}/job-stop/pod7?{gpu}"
    assert addresses.done("a-u1") == f"{BASE}/job-done/pod7/a-u1?{gpu}&isStream=true"
    assert addresses.stream("a/b") == f"{BASE}/job-stream/pod7/a%2Fb?{gpu}&isStream=false"
    assert addresses.ping(["a", "b"]) == f"{BASE}/ping/pod7?job_id=a%2Cb&runpod_version=1.12.0"


def test_addresses_without_a_query_or_with_the_other_name_work_too() -> None:
    """As RunPod's own test runner sets them."""
    addresses = Addresses.read(ENVIRONMENT | {"RUNPOD_WEBHOOK_GET_JOB": f"{BASE}/job-take/$RUNPOD_POD_ID"})
    assert addresses.take(1, busy=False) == f"{BASE}/job-take/pod7?job_in_progress=0"


@pytest.mark.parametrize("missing", ["RUNPOD_POD_ID", "RUNPOD_AI_API_KEY", "RUNPOD_WEBHOOK_PING"])
def test_no_signs_of_life_where_nobody_could_tell_whose(missing: str) -> None:
    assert Addresses.read({**ENVIRONMENT, missing: ""}).ping_url is None


def test_without_a_queue_there_is_nothing_to_do() -> None:
    with pytest.raises(InvalidConfig, match="RUNPOD_WEBHOOK_GET_JOB"):
        Addresses.read({})


def test_jobs_come_alone_or_in_lists() -> None:
    assert jobs_in({"id": 5, "input": {}}) == [{"id": "5", "input": {}}]
    assert [job["id"] for job in jobs_in([{"id": "a"}, {"input": {}}, {"id": "b"}])] == ["a", "b"]
    for garbage in ("text", [1], [{"id": "a"}, None]):
        with pytest.raises(ValueError, match="no jobs"):
            jobs_in(garbage)
    assert stops_in({"jobsToStop": ["a"]}) == ["a"]
    with pytest.raises(ValueError, match="jobsToStop"):
        stops_in([])


def test_a_body_can_always_be_sent() -> None:
    assert json.loads(encode({"output": "ä \ud800"})) == {"output": "ä ?"}


# Pauses.


def test_pauses_grow_with_failures_and_end_with_a_success() -> None:
    async def measure() -> list[float]:
        pace, starts = Pace(), []
        for _ in range(3):
            starts.append(await pace.turn())
            pace.failed(starts[-1])
        assert not pace.is_clear
        pace.gained()
        assert pace.is_clear
        return [later - earlier for earlier, later in pairwise(starts)]

    first, second = asyncio.run(measure())
    assert 1 <= first < 30
    assert 2 <= second < 30


def test_failures_at_the_same_time_count_once_and_those_who_wait_come_one_by_one() -> None:
    async def measure() -> list[float]:
        pace = Pace()
        began = [await pace.turn() for _ in range(20)]
        for start in began:
            pace.failed(start)
        return [await pace.turn() - began[0] for _ in range(2)]

    first, second = asyncio.run(measure())
    assert first < 25, "the pause after one failure; after many it is 30 s"
    assert second - first >= 0.9


def test_an_empty_answer_is_followed_by_a_second_of_peace() -> None:
    async def measure() -> float:
        pace = Pace()
        began = await pace.turn()
        pace.empty(began)
        return await pace.turn() - began

    assert 0.9 <= asyncio.run(measure()) < 30


# Polls.


Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
JOB = b'HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{"id":"a","input":1}'


@asynccontextmanager
async def polling_of(answer: Answer) -> AsyncIterator[tuple[Poll, str]]:
    """A poll of a server that answers like this, once its request is there."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await answer(reader, writer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    poll = Poll({})
    try:
        yield poll, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    finally:
        await poll.close()
        server.close()


def test_a_job_that_comes_while_the_poll_is_left_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polling, "LAST_ANSWER_S", 60.0)

    async def leave() -> object:
        asked = asyncio.Event()

        async def answer_late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            """The job is written when the other side has just hung up."""
            asked.set()
            assert await reader.read() == b""
            writer.write(JOB)
            await writer.drain()

        async with polling_of(answer_late) as (poll, url):
            asking = asyncio.create_task(poll.ask(url))
            await asked.wait()
            poll.leave()
            return await asking

    assert asyncio.run(leave()) == {"id": "a", "input": 1}


def test_a_poll_that_is_never_answered_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polling, "POLL_S", 0.2)
    monkeypatch.setattr(polling, "LAST_ANSWER_S", 0.2)

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60)

    async def ask() -> float:
        async with polling_of(hang) as (poll, url):
            began = time.monotonic()
            with pytest.raises(Trouble, match="no answer"):
                await poll.ask(url)
            return time.monotonic() - began

    assert asyncio.run(ask()) < 30


def test_a_question_is_put_once() -> None:
    connections = []

    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)

    async def ask() -> None:
        async with polling_of(cut) as (poll, url):
            for _ in range(2):
                with pytest.raises(Trouble):
                    await poll.ask(url)

    asyncio.run(ask())
    assert len(connections) == 2


@pytest.mark.parametrize(
    ("head", "wait_s"),
    [
        ("500 Oops", 0), ("503 Busy\r\nRetry-After: 7", 7), ("429 Slow", 5), ("429 Slow\r\nRetry-After: 9", 9),
        ("401 No", 0),
    ],
)
def test_trouble_says_how_long_to_wait(head: str, wait_s: float) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 {head}\r\nContent-Length: 0\r\n\r\n".encode())

    async def ask() -> None:
        async with polling_of(refuse) as (poll, url):
            await poll.ask(url)

    with pytest.raises(Trouble) as trouble:
        asyncio.run(ask())
    assert trouble.value.wait_s == wait_s


# Results on disk.


def test_the_shelf_keeps_results_in_order_until_they_are_dropped(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "pod7")
    assert shelf.load() == []
    results = [Result("a/../b" * 60, b'{"output":[1]}'), Result("\u00e4", b"line\nline")]
    for result in results:
        shelf.keep(result)
        time.sleep(0.02)
    (tmp_path / "pod7" / "torn.json").write_bytes(b'{"jo')
    assert Shelf(tmp_path / "pod7").load() == results
    shelf.drop("\u00e4")
    shelf.drop("never kept")
    assert shelf.load() == results[:1]


def test_a_shelf_that_cannot_be_written_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    shelf = Shelf(tmp_path / "file" / "below")
    for name in ("a", "b"):
        shelf.keep(Result(name, b"{}"))
    assert len(caplog.records) == 1
    assert shelf.load() == []


# Streams.


def test_a_piece_over_the_bound_is_divided_and_one_that_is_lost_ends_the_stream() -> None:
    async def send(plane: ControlPlane, *outputs: object) -> None:
        post, addresses = Post({"Authorization": KEY}), Addresses.read(plane.environment())
        stream = Streams(post, addresses).open("a")
        for output in outputs:
            await stream.send(output)
        await post.close()

    text = '"ä\n' * streaming.MOST_BYTES
    with ControlPlane().listening() as plane:
        asyncio.run(send(plane, text))
        assert "".join(plane.results["a"].streamed) == text
        assert all(len(encode({"output": piece})) <= streaming.MOST_BYTES for piece in plane.results["a"].streamed)
    with ControlPlane().listening() as plane, plane.failing("stream", Fault(413, over=100)):
        asyncio.run(send(plane, "small", ["large"] * 100, "after"))
        assert plane.results["a"].streamed == ["small"]
