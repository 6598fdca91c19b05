"""A request's life in the core: every one ends exactly once, whatever happens."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.core import Core, DeviceLost
from engine.engine import new_requests
from engine.request import Event, Finish, FinishReason, Request, SamplingParams, State
from engine.source import DEMO
from engine.text import Tokenizer
from tests.engine.stubs import (
    StubModel,
    alone,
    drain,
    finishes,
    follow_script,
    make_request,
    make_scheduler,
    plain,
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
