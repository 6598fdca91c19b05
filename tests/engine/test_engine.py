"""The engine around the core: requests of many loops, each with its own end, whatever happens."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from engine.core import DeviceLost
from engine.engine import Engine
from engine.errors import EngineDead, InvalidRequest, QueueFull
from engine.request import Event, FinishReason, Request, SamplingParams
from engine.source import DEMO
from engine.text import Tokenizer
from tests.engine.stubs import (
    StubModel,
    alone,
    finishes,
    make_engine,
    make_request,
    plain,
    usual_choice,
)

HANGS_S = 60.0
"""What takes longer than this hangs."""


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_folder(DEMO)


async def collect(engine: Engine, prompt: Sequence[int], params: SamplingParams, **more: Any) -> list[Event]:
    submission = engine.submit(prompt, params, **more)
    return [event async for event in engine.stream(submission)]


def with_engine(
    model: StubModel, tokenizer: Tokenizer, work: Callable[[Engine], Coroutine[Any, Any, None]], **settings: Any
) -> None:
    """Run `work` on an event loop beside a started engine; a hang fails."""
    engine = make_engine(model, tokenizer, **settings)
    engine.start()
    try:
        asyncio.run(asyncio.wait_for(work(engine), HANGS_S))
    finally:
        engine.stop()


class Gate:
    """Holds a stub model's steps until opened, so that a test can act while requests are under way."""

    def __init__(self) -> None:
        self.open = threading.Event()

    def __call__(self, request: Request, state: int) -> int:
        assert self.open.wait(HANGS_S)
        return usual_choice(request, state)


def test_requests_from_many_loops_at_once_get_their_own_answers(tokenizer: Tokenizer) -> None:
    engine = make_engine(StubModel(4), tokenizer, pages=40)
    engine.start()
    answers: dict[int, list[list[Event]]] = {}

    async def ask(number: int) -> None:
        work = (collect(engine, [number, turn, 3], plain(max_tokens=10)) for turn in range(10))
        answers[number] = await asyncio.wait_for(asyncio.gather(*work), HANGS_S)

    threads = [threading.Thread(target=lambda number=number: asyncio.run(ask(number))) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANGS_S)
    engine.stop()
    for number, streams in answers.items():
        for turn, events in enumerate(streams):
            tokens = [token for event in events for token in event.token_ids]
            assert tokens == alone(make_request([number, turn, 3], 10), 10)
            assert len(finishes(events)) == 1
    assert len(answers) == 6


def test_a_stream_ends_with_the_last_choice(tokenizer: Tokenizer) -> None:
    async def work(engine: Engine) -> None:
        events = await collect(engine, [1, 2], plain(n=3))
        assert len(finishes(events)) == 3
        assert events[-1].finish is not None

    with_engine(StubModel(4), tokenizer, work)


async def until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110 - the engine's thread sets no event of ours
        await asyncio.sleep(0.001)


def test_leaving_a_stream_early_aborts_the_request(tokenizer: Tokenizer) -> None:
    async def work(engine: Engine) -> None:
        stream = engine.stream(engine.submit([1, 2], plain(max_tokens=None)))
        await anext(stream)
        await stream.aclose()
        await until(lambda: engine.statistics().running == engine.statistics().pages_used == 0)

    with_engine(StubModel(4), tokenizer, work, pages=100_000)


def test_an_aborted_request_tells_its_stream(tokenizer: Tokenizer) -> None:
    async def work(engine: Engine) -> None:
        submission = engine.submit([1, 2], plain(max_tokens=None), request_id="a")
        stream = engine.stream(submission)
        await anext(stream)
        for name in ("a", "a", "nobody"):
            engine.abort(name)
        [finish] = finishes([event async for event in stream])
        assert finish.reason is FinishReason.ABORTED

    with_engine(StubModel(4), tokenizer, work, pages=100_000)


def test_a_timeout_ends_a_request(tokenizer: Tokenizer) -> None:
    async def work(engine: Engine) -> None:
        [finish] = finishes(await collect(engine, [1, 2], plain(max_tokens=None), timeout=0.02))
        assert finish.reason is FinishReason.DEADLINE

    with_engine(StubModel(4), tokenizer, work, pages=100_000)


def test_an_id_under_way_cannot_be_used_twice_but_again_later(tokenizer: Tokenizer) -> None:
    gate = Gate()

    async def work(engine: Engine) -> None:
        submission = engine.submit([1], plain(), request_id="a")
        with pytest.raises(InvalidRequest) as raised:
            engine.submit([1], plain(), request_id="a")
        assert raised.value.param == "request_id"
        gate.open.set()
        assert len([event async for event in engine.stream(submission)]) == 4
        assert len(await collect(engine, [1], plain(), request_id="a")) == 4

    with_engine(StubModel(4, gate), tokenizer, work)


@pytest.mark.parametrize("choices", [1, 4])
def test_more_requests_than_may_wait_are_refused(tokenizer: Tokenizer, choices: int) -> None:
    gate = Gate()

    async def work(engine: Engine) -> None:
        taken = [engine.submit([1], plain())]
        await until(lambda: engine.statistics().running == 1)
        taken += [engine.submit([1], plain(n=choices)) for _ in range(8 // choices)]
        with pytest.raises(QueueFull, match="8 requests wait already; the bound is 8"):
            engine.submit([1], plain())
        assert engine.statistics().waiting == 8
        gate.open.set()
        for submission in taken:
            assert [event async for event in engine.stream(submission)]
        assert len(await collect(engine, [1], plain())) == 4

    with_engine(StubModel(4, gate), tokenizer, work, max_waiting=8, max_running=1)


def test_more_choices_than_may_ever_wait_are_a_bad_request(tokenizer: Tokenizer) -> None:
    async def work(engine: Engine) -> None:
        with pytest.raises(InvalidRequest, match="only 9 may run and wait"):
            engine.submit([1], plain(n=10))

    with_engine(StubModel(4), tokenizer, work, max_waiting=8, max_running=1)


def test_a_lost_device_fails_every_request_and_closes_the_engine(tokenizer: Tokenizer) -> None:
    gate = Gate()
    model = StubModel(4, gate)
    model.faults[3] = DeviceLost("gone")
    told: list[str] = []
    engine = make_engine(model, tokenizer)
    engine.start(told.append)

    async def work() -> None:
        streams = [engine.stream(engine.submit([n], plain(max_tokens=None))) for n in range(12)]
        gate.open.set()
        for stream in streams:
            [finish] = finishes([event async for event in stream])
            assert finish.reason is FinishReason.FAILED
            assert finish.error == "the engine stopped: DeviceLost: gone"
        with pytest.raises(EngineDead, match="gone"):
            engine.submit([1], plain())

    asyncio.run(asyncio.wait_for(work(), HANGS_S))
    engine.stop()
    assert told == [engine.failure] == ["the engine stopped: DeviceLost: gone"]


def test_requests_that_arrive_as_the_device_is_lost_fail_too(tokenizer: Tokenizer) -> None:
    gate = Gate()

    def lose(request: Request, state: int) -> int:
        gate(request, state)
        raise DeviceLost("gone")

    async def work(engine: Engine) -> None:
        streams = [engine.stream(engine.submit([1], plain()))]
        await until(lambda: engine.statistics().running == 1)
        streams += [engine.stream(engine.submit([n], plain(n=2))) for n in range(3)]
        gate.open.set()
        ends = [finish for stream in streams for finish in finishes([event async for event in stream])]
        assert [finish.reason for finish in ends] == [FinishReason.FAILED] * 7

    with_engine(StubModel(4, lose), tokenizer, work)


def test_a_failing_step_leaves_the_engine_alive(tokenizer: Tokenizer) -> None:
    model = StubModel(4)
    model.faults[0] = RuntimeError("out of luck")

    async def work(engine: Engine) -> None:
        [finish] = finishes(await collect(engine, [1], plain()))
        assert finish.reason is FinishReason.FAILED
        assert len(await collect(engine, [1], plain())) == 4
        assert engine.failure is None

    with_engine(model, tokenizer, work)


def test_failure_is_reported_even_if_the_requests_cannot_be_ended(tokenizer: Tokenizer) -> None:
    class Broken(StubModel):
        def release(self, request: Request) -> None:
            raise RuntimeError("release failed too")

    model = Broken(4)
    model.faults[0] = DeviceLost("gone")
    told = threading.Event()
    engine = make_engine(model, tokenizer)
    engine.start(lambda message: told.set())

    async def work() -> None:
        engine.submit([1], plain())
        await asyncio.to_thread(told.wait, HANGS_S)

    thread_errors: list[object] = []
    before, threading.excepthook = threading.excepthook, thread_errors.append
    try:
        asyncio.run(work())
        engine.stop()
    finally:
        threading.excepthook = before
    assert told.is_set()
    assert engine.failure is not None


def test_a_closed_event_loop_costs_its_own_requests_alone(tokenizer: Tokenizer) -> None:
    async def leave(engine: Engine) -> None:
        engine.submit([1], plain(max_tokens=None, n=2))

    async def work(engine: Engine) -> None:
        await asyncio.to_thread(lambda: asyncio.run(leave(engine)))
        assert len(await collect(engine, [2], plain())) == 4
        await until(lambda: engine.statistics().running == 0)
        assert engine.failure is None

    with_engine(StubModel(4), tokenizer, work, pages=100_000)


def test_stopping_ends_every_request_and_refuses_new_ones(tokenizer: Tokenizer) -> None:
    async def work(engine: Engine) -> None:
        streams = [engine.stream(engine.submit([n], plain(max_tokens=None))) for n in range(12)]
        await anext(streams[0])
        await asyncio.to_thread(engine.stop)
        for stream in streams:
            [finish] = finishes([event async for event in stream])
            assert finish.reason is FinishReason.ABORTED
        with pytest.raises(EngineDead, match="shut down"):
            engine.submit([1], plain())
        engine.stop()

    with_engine(StubModel(4), tokenizer, work, pages=100_000)


def test_stopping_an_engine_that_never_started_ends_its_requests(tokenizer: Tokenizer) -> None:
    async def work() -> None:
        engine = make_engine(StubModel(4), tokenizer)
        stream = engine.stream(engine.submit([1], plain()))
        engine.stop()
        [finish] = finishes([event async for event in stream])
        assert finish.reason is FinishReason.ABORTED

    asyncio.run(asyncio.wait_for(work(), HANGS_S))
