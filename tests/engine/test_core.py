"""A request's life in the core and in the engine around it: every one ends exactly once, whatever happens."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.core import Core, DeviceLost
from engine.engine import Engine, new_requests
from engine.errors import ContextExceeded, EngineDead, InvalidRequest, QueueFull
from engine.request import Event, Finish, FinishReason, Request, SamplingParams, State
from engine.source import DEMO
from engine.text import Tokenizer
from tests.engine.stubs import (
    StubModel,
    alone,
    drain,
    follow_script,
    make_engine,
    make_request,
    make_scheduler,
    usual_choice,
)

FOREVER = 200
"""More tokens than any of these tests lets a request have."""


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_folder(DEMO)


@pytest.fixture(params=[False, True], ids=["in turn", "overlapped"])
def overlap(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def core(tokenizer: Tokenizer, overlap: bool) -> Core:
    return Core(make_scheduler(), StubModel(4), tokenizer, overlap)


Scripted = Callable[[Sequence[int] | str], Core]


@pytest.fixture
def scripted(tokenizer: Tokenizer, overlap: bool) -> Scripted:
    """Makes a core whose model says this and nothing else."""

    def make(script: Sequence[int] | str) -> Core:
        tokens = tokenizer.encode(script, add_special_tokens=False) if isinstance(script, str) else script
        return Core(make_scheduler(), StubModel(4, follow_script(tokens)), tokenizer, overlap)

    return make


def only_end(tokenizer: Tokenizer) -> int:
    [eos] = tokenizer.eos_token_ids
    return eos


def plain(**more: Any) -> SamplingParams:
    return SamplingParams(**{"max_tokens": 4, "ignore_eos": True, "detokenize": False, **more})


def finishes(events: Iterable[Event]) -> list[Finish]:
    return [event.finish for event in events if event.finish is not None]


def answer(core: Core, params: SamplingParams, prompt: Sequence[int] = (5, 6, 7)) -> tuple[str, list[int], Finish]:
    """Text, tokens and end of a single request."""
    core.add(make_request(prompt, params.max_tokens or FOREVER, params=params))
    events = drain(core)
    [finish] = finishes(events)
    return "".join(event.text for event in events), [token for event in events for token in event.token_ids], finish


# How a request ends.


def test_events_of_a_request_join_to_its_whole_output(core: Core) -> None:
    request = make_request(range(10), 20, params=plain(max_tokens=20))
    core.add(request)
    events = drain(core)
    assert [token for event in events for token in event.token_ids] == alone(request, 20)
    assert [event.finish is not None for event in events] == [False] * 19 + [True]
    [finish] = finishes(events)
    assert (finish.reason, finish.prompt_tokens, finish.completion_tokens, finish.max_tokens) == (
        FinishReason.LENGTH, 10, 20, 20
    )


def test_milestones_of_a_request_are_in_order(core: Core) -> None:
    now = time.monotonic()
    [request] = new_requests([1, 2, 3], plain(), request_id="a", order=lambda: 0, max_model_len=99, vocab_size=1000)
    core.add(request)
    [finish] = finishes(drain(core))
    timing = finish.timing
    assert timing.scheduled is not None
    assert timing.first_token is not None
    assert now <= timing.arrived <= timing.scheduled <= timing.first_token <= timing.finished


def test_end_of_sequence_ends_and_leaves_no_text(tokenizer: Tokenizer, scripted: Scripted) -> None:
    eos = only_end(tokenizer)
    hello = tokenizer.encode("Hello", add_special_tokens=False)
    text, tokens, finish = answer(scripted([*hello, eos]), SamplingParams(max_tokens=20))
    assert (text, tokens) == ("Hello", [*hello, eos])
    assert (finish.reason, finish.stop) == (FinishReason.STOP, None)


def test_end_of_sequence_is_passed_over_when_told_so(tokenizer: Tokenizer, scripted: Scripted) -> None:
    core = scripted([only_end(tokenizer)])
    _, tokens, finish = answer(core, SamplingParams(max_tokens=3, ignore_eos=True))
    assert (len(tokens), finish.reason) == (3, FinishReason.LENGTH)


def test_end_of_sequence_counts_only_after_min_tokens(tokenizer: Tokenizer, scripted: Scripted) -> None:
    _, tokens, finish = answer(scripted([only_end(tokenizer)]), SamplingParams(max_tokens=9, min_tokens=3))
    assert (len(tokens), finish.reason) == (4, FinishReason.STOP)


@pytest.mark.parametrize(("include", "expected"), [(False, "one "), (True, "one two")])
def test_a_stop_token_ends_the_text_before_or_behind_it(
    tokenizer: Tokenizer, scripted: Scripted, include: bool, expected: str
) -> None:
    script = [*tokenizer.encode("one ", add_special_tokens=False), *tokenizer.encode("two", add_special_tokens=False)]
    params = SamplingParams(max_tokens=20, stop_token_ids=(script[-1],), include_stop_str_in_output=include)
    text, tokens, finish = answer(scripted(script), params)
    assert tokens == script
    assert (finish.reason, finish.stop) == (FinishReason.STOP, script[-1])
    without_last = tokenizer.decode(script[:-1], skip_special_tokens=True)
    assert text == (expected if include else without_last)


@pytest.mark.parametrize(("include", "expected"), [(False, "one two "), (True, "one two three")])
def test_a_stop_string_cuts_the_text(tokenizer: Tokenizer, scripted: Scripted, include: bool, expected: str) -> None:
    params = SamplingParams(max_tokens=50, stop=("four", "three"), include_stop_str_in_output=include)
    text, _, finish = answer(scripted("one two three four five"), params)
    assert text == expected
    assert (finish.reason, finish.stop) == (FinishReason.STOP, "three")


def test_what_might_have_become_a_stop_string_comes_out_at_the_end(tokenizer: Tokenizer, scripted: Scripted) -> None:
    script = tokenizer.encode("one tw", add_special_tokens=False)
    text, _, finish = answer(scripted(script), SamplingParams(max_tokens=len(script), stop=("two",)))
    assert (text, finish.reason) == ("one tw", FinishReason.LENGTH)


def test_a_stop_string_within_min_tokens_is_passed_over(tokenizer: Tokenizer, scripted: Scripted) -> None:
    script = tokenizer.encode("stop go stop", add_special_tokens=False)
    first = len(tokenizer.encode("stop", add_special_tokens=False))
    text, _, _ = answer(scripted(script), SamplingParams(max_tokens=50, min_tokens=first, stop=("stop",)))
    assert text == "stop go "


def test_a_stop_wins_over_the_length_at_the_same_token(tokenizer: Tokenizer, scripted: Scripted) -> None:
    _, _, finish = answer(scripted([7, only_end(tokenizer)]), SamplingParams(max_tokens=2))
    assert finish.reason is FinishReason.STOP


def test_text_streams_whole_characters(tokenizer: Tokenizer, scripted: Scripted) -> None:
    script = tokenizer.encode("é漢字🙂", add_special_tokens=False)
    core = scripted(script)
    core.add(make_request([5], len(script), params=SamplingParams(max_tokens=len(script))))
    texts = [event.text for event in drain(core)]
    assert "".join(texts) == "é漢字🙂"
    assert not any("\ufffd" in text for text in texts)


def test_a_choice_ends_on_its_own(core: Core) -> None:
    requests = new_requests(
        range(9), plain(n=3), request_id="a", order=iter(range(9)).__next__, max_model_len=99, vocab_size=1000
    )
    for request in requests:
        core.add(request)
    events = drain(core)
    assert sorted(event.choice for event in events if event.finish) == [0, 1, 2]
    for request in requests:
        own = [token for event in events if event.choice == request.choice for token in event.token_ids]
        assert own == alone(request, 4)
    assert len({tuple(request.output) for request in requests}) == 3


# Aborts, deadlines and faults.


def waiting(core: Core) -> Request:
    for _ in range(8):
        core.add(make_request([1], FOREVER, params=plain()))
    core.step()
    request = make_request([2], 9, name="a", params=plain())
    core.add(request)
    core.step()
    assert request.state is State.WAITING
    return request


def prefilling(core: Core) -> Request:
    request = make_request(range(100), 9, name="a", params=plain())
    core.add(request)
    core.step()
    assert request.prefilling
    assert request.state is State.RUNNING
    return request


def decoding(core: Core) -> Request:
    request = make_request(range(10), 9, name="a", params=plain())
    core.add(request)
    while request.output_length < 2:
        core.step()
    return request


def preempted(core: Core) -> Request:
    core.add(make_request(range(100), 130, name="first", params=plain()))
    request = make_request(range(200, 240), 100, name="a", params=plain())
    core.add(request)
    while not request.preemptions:
        core.step()
    return request


@pytest.mark.parametrize("state", [waiting, prefilling, decoding, preempted])
def test_an_abort_ends_a_request_once_in_any_state(core: Core, state: Callable[[Core], Request]) -> None:
    request = state(core)
    [event] = core.abort("a")
    assert event.finish is not None
    assert (event.request_id, event.finish.reason, event.token_ids) == ("a", FinishReason.ABORTED, ())
    assert (request.state, request.pages) == (State.ENDED, [])
    assert core.abort("a") == []
    assert not any(event.request_id == "a" for _ in range(5) for event in core.step())


def test_an_abort_of_what_has_ended_or_never_was_is_nothing(core: Core) -> None:
    core.add(make_request([1], 2, name="a", params=plain()))
    drain(core)
    assert core.abort("a") == []
    assert core.abort("nobody") == []


def test_an_abort_ends_every_living_choice(core: Core) -> None:
    for request in new_requests(
        [1], plain(n=3), request_id="a", order=iter(range(9)).__next__, max_model_len=99, vocab_size=1000
    ):
        core.add(request)
    core.step()
    assert sorted(event.choice for event in core.abort("a")) == [0, 1, 2]
    assert drain(core) == []
    assert not core.has_work
    assert core.scheduler.pool.used == 0


def test_an_abort_gives_out_the_text_that_was_held_back(tokenizer: Tokenizer, scripted: Scripted) -> None:
    core = scripted("tw tw tw")
    core.add(make_request([5], 50, name="a", params=SamplingParams(max_tokens=50, stop=("twenty",))))
    events = [event for _ in range(3) for event in core.step()]
    text, tokens = "".join(event.text for event in events), [token for event in events for token in event.token_ids]
    assert tokenizer.decode(tokens, True) == text + core.abort("a")[0].text != text


def test_a_request_ends_at_its_deadline(core: Core) -> None:
    now = time.monotonic()
    late = make_request([1], FOREVER, name="late", deadline=now, params=plain())
    soon = make_request([1], 3, name="soon", deadline=now + 1000, params=plain())
    core.add(late)
    core.add(soon)
    ends = {event.request_id: event.finish.reason for event in drain(core) if event.finish}
    assert ends == {"late": FinishReason.DEADLINE, "soon": FinishReason.LENGTH}


def test_a_failing_step_ends_its_own_requests_and_no_other(core: Core, tokenizer: Tokenizer, overlap: bool) -> None:
    model = StubModel(4)
    core = Core(make_scheduler(max_running=2), model, tokenizer, overlap)
    requests = [make_request([n], 4, name=str(n), params=plain()) for n in range(3)]
    for request in requests:
        core.add(request)
    model.faults[1] = RuntimeError("out of luck")
    ends = {event.request_id: event.finish for event in drain(core) if event.finish}
    assert [ends[str(n)].reason for n in range(3)] == [FinishReason.FAILED, FinishReason.FAILED, FinishReason.LENGTH]
    assert ends["0"].error == "the step failed: RuntimeError: out of luck"
    assert (core.scheduler.pool.used, model.rows) == (0, {})


def test_logits_that_are_not_numbers_end_only_their_request(tokenizer: Tokenizer, overlap: bool) -> None:
    model = StubModel(4)
    core = Core(make_scheduler(), model, tokenizer, overlap)
    sick, sound = make_request([1], 4, name="sick", params=plain()), make_request([2], 4, name="sound", params=plain())
    core.add(sick)
    core.add(sound)
    model.unsound.add(sick)
    ends = {event.request_id: event.finish for event in drain(core) if event.finish}
    assert (ends["sick"].reason, ends["sick"].error) == (FinishReason.FAILED, "the model's output is not a number")
    assert ends["sound"].reason is FinishReason.LENGTH
    assert list(sound.output) == alone(sound, 4)


def test_pages_behind_logits_that_are_not_numbers_are_not_shared(tokenizer: Tokenizer, overlap: bool) -> None:
    model = StubModel(4)
    core = Core(make_scheduler(budget=8), model, tokenizer, overlap)
    sick, again = make_request(range(18), 4, params=plain()), make_request(range(18), 4, params=plain())
    model.unsound.add(sick)
    core.add(sick)
    drain(core)
    core.add(again)
    drain(core)
    assert again.cached_tokens == 0


def test_a_lost_device_is_the_callers_to_handle(tokenizer: Tokenizer, overlap: bool) -> None:
    model = StubModel(4)
    model.faults[1] = DeviceLost("gone")
    core = Core(make_scheduler(), model, tokenizer, overlap)
    core.add(make_request([1], 4, params=plain()))
    core.step()
    with pytest.raises(DeviceLost, match="gone"):
        core.step()
    [event] = core.abort_all(FinishReason.FAILED, "the device is gone")
    assert event.finish is not None
    assert (event.finish.reason, event.finish.error) == (FinishReason.FAILED, "the device is gone")


def test_an_end_in_the_step_that_loses_the_device_is_still_told(tokenizer: Tokenizer, overlap: bool) -> None:
    model = StubModel(4)
    model.faults[0] = DeviceLost("gone")
    core = Core(make_scheduler(), model, tokenizer, overlap)
    core.add(make_request([1], 4, name="late", deadline=time.monotonic(), params=plain()))
    core.add(make_request([2], 4, name="other", params=plain()))
    with pytest.raises(DeviceLost):
        core.step()
    ends = {event.request_id: event.finish.reason for event in core.abort_all(FinishReason.FAILED) if event.finish}
    assert ends == {"late": FinishReason.DEADLINE, "other": FinishReason.FAILED}


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_every_request_ends_exactly_once_whatever_happens(data: st.DataObject) -> None:
    model = StubModel(2)
    overlap = data.draw(st.booleans(), "overlap")
    core = Core(
        make_scheduler(pages=10, page_size=2, budget=8, max_running=4), model, Tokenizer.from_folder(DEMO), overlap
    )
    model.faults = {step: ValueError("fault") for step in data.draw(st.sets(st.integers(0, 20), max_size=3))}
    events: list[Event] = []
    requests: list[Request] = []
    arrivals = itertools.count()
    for _ in range(data.draw(st.integers(1, 25))):
        match data.draw(st.sampled_from(["add", "add", "step", "step", "step", "abort", "unsound"])):
            case "add":
                new = new_requests(
                    range(data.draw(st.integers(1, 12))), plain(n=data.draw(st.integers(1, 2)), max_tokens=8),
                    request_id=str(len(requests)), order=arrivals.__next__, max_model_len=20, vocab_size=1000,
                    deadline=time.monotonic() if data.draw(st.integers(0, 9)) == 0 else None,
                )
                requests += new
                for request in new:
                    core.add(request)
            case "step":
                events += core.step()
            case "abort":
                events += core.abort(str(data.draw(st.integers(0, 9))))
            case "unsound" if requests:
                model.unsound.add(data.draw(st.sampled_from(requests)))
    events += drain(core)
    assert sorted((event.request_id, event.choice) for event in events if event.finish) == sorted(
        (request.id, request.choice) for request in requests
    )
    last = {(event.request_id, event.choice): event for event in events}
    assert all(event.finish is not None for event in last.values()), "an event came behind the end"
    assert core.scheduler.pool.used == 0
    for request in requests:
        assert list(request.output) == alone(request, request.output_length)


# What a request may be.


def make(prompt: Sequence[int], params: SamplingParams, max_model_len: int = 16) -> list[Request]:
    return new_requests(
        prompt, params, request_id="a", order=iter(range(999)).__next__, max_model_len=max_model_len, vocab_size=1000
    )


def test_max_tokens_is_cut_to_the_context() -> None:
    assert make([1] * 10, plain(max_tokens=100))[0].max_total == 16
    assert make([1] * 10, plain(max_tokens=None))[0].max_total == 16
    assert make([1] * 10, plain(max_tokens=2))[0].max_total == 12


def test_a_prompt_that_leaves_room_for_one_token_is_taken() -> None:
    assert make([1] * 15, plain())[0].max_total == 16
    with pytest.raises(ContextExceeded, match="16 tokens; the context holds 16"):
        make([1] * 16, plain())


def test_choices_have_one_seed_and_one_leader() -> None:
    first, *others = make([1], plain(n=3))
    assert first.leader is None
    assert all(other.leader is first and other.seed == first.seed for other in others)
    assert make([1], plain(seed=7))[0].seed == 7
    assert make([1], plain())[0].seed != make([1], plain())[0].seed


@pytest.mark.parametrize(
    ("prompt", "params", "param"),
    [
        ([], plain(), "prompt"),
        ([1000], plain(), "prompt"),
        ([-1], plain(), "prompt"),
        ([1], plain(logit_bias={1000: 1.0}), "logit_bias"),
        ([1], plain(logit_bias={-1: 1.0}), "logit_bias"),
        ([1], plain(stop_token_ids=(1000,)), "stop_token_ids"),
        ([1], plain(stop_token_ids=(-1,)), "stop_token_ids"),
    ],
)
def test_a_token_that_the_model_does_not_have_is_refused(prompt: list[int], params: SamplingParams, param: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        make(prompt, params)
    assert raised.value.param == param


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 0), ("n", 129), ("temperature", -1), ("temperature", float("nan")), ("top_p", 0), ("top_p", 1.1),
        ("top_k", -2), ("min_p", 1.5), ("presence_penalty", 3), ("frequency_penalty", -3), ("repetition_penalty", 0),
        ("max_tokens", 0), ("min_tokens", -1), ("min_tokens", 17), ("stop", ("",)), ("logprobs", 65),
        ("prompt_logprobs", -1), ("logit_bias", {1: float("inf")}),
    ],
)
def test_a_parameter_out_of_range_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(InvalidRequest, match=f"^{field} ") as raised:
        SamplingParams(**{field: value})
    assert raised.value.param == field


# The engine around the core.


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
        asyncio.run(asyncio.wait_for(work(engine), 20))
    finally:
        engine.stop()


class Gate:
    """Holds a stub model's steps until opened, so that a test can act while requests are under way."""

    def __init__(self) -> None:
        self.open = threading.Event()

    def __call__(self, request: Request, state: int) -> int:
        assert self.open.wait(20)
        return usual_choice(request, state)


def test_requests_from_many_loops_at_once_get_their_own_answers(tokenizer: Tokenizer) -> None:
    engine = make_engine(StubModel(4), tokenizer, pages=40)
    engine.start()
    answers: dict[int, list[list[Event]]] = {}

    async def ask(number: int) -> None:
        work = (collect(engine, [number, turn, 3], plain(max_tokens=10)) for turn in range(10))
        answers[number] = await asyncio.wait_for(asyncio.gather(*work), 20)

    threads = [threading.Thread(target=lambda number=number: asyncio.run(ask(number))) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
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
        await until(lambda: engine.statistics().running == 0)
        assert engine.statistics().pages_used == 0

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

    asyncio.run(asyncio.wait_for(work(), 20))
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
        await asyncio.to_thread(told.wait, 20)

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

    asyncio.run(asyncio.wait_for(work(), 20))
