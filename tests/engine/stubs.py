"""Stand-ins for the model: arithmetic that shows whether the engine around it did its part."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

from engine.core import Core, Sample, Samples
from engine.engine import Engine, Model
from engine.pages import PagePool
from engine.plan import Plan
from engine.request import Event, Finish, Request, SamplingParams
from engine.scheduler import Scheduler, Step
from engine.text import Tokenizer

VOCABULARY = 1000

Choose = Callable[[Request, int], int]
"""From a request and the digest of all its tokens to its next token."""


def digest(before: int, token: int) -> int:
    """A number that stands for a whole sequence, from the one for all but its last token."""
    return crc32(token.to_bytes(8, "little"), before)


def usual_choice(request: Request, state: int) -> int:
    """A token that depends on every token before it and on the choice."""
    return digest(state, request.choice) % VOCABULARY


def alone(request: Request, length: int) -> list[int]:
    """What the stub model answers when nothing else is there: the oracle for any batch."""
    state, answer = 0, list[int]()
    for token in request.tokens[: request.prompt_length]:
        state = digest(state, token)
    for _ in range(length):
        answer.append(usual_choice(request, state))
        state = digest(state, answer[-1])
    return answer


class StubModel:
    """A runner whose "key and value" of a token is the digest of the sequence so far, kept in page slots.

    Each digest is computed from the one before it as read back through the page table, so a page with two writers, a
    wrongly shared prefix or a slot never written changes the answer, as it would a real model's. On top of that
    every slot of every computed request is compared with what it must hold.

    Attributes:
        rows: tokens, as the device would know them, of the requests that hold a row.
        unsound: requests whose next sample is reported as not a number.
        faults: exceptions to raise, by the number of the step (from 0).
    """

    def __init__(self, page_size: int, choose: Choose = usual_choice) -> None:
        self._page_size = page_size
        self._choose = choose
        self._slots: dict[int, tuple[int, int]] = {}
        self._step = itertools.count()
        self.rows: dict[Request, list[int]] = {}
        self.unsound: set[Request] = set()
        self.faults: dict[int, Exception] = {}

    def release(self, request: Request) -> None:
        """Take back the request's row."""
        self.rows.pop(request, None)

    compilations = 0

    def defer(self) -> bool:
        """Nothing is put off."""
        return False

    def launch(self, step: Step) -> Samples:
        """Compute a step, or raise the fault that is due."""
        fault = self.faults.pop(next(self._step), None)
        if fault is not None:
            raise fault
        for request in step.tokens:
            row = self.rows.setdefault(request, [])
            row += request.tokens[len(row) :]
        written = [slot for request, count in step.tokens.items() for slot in self._write(request, count)]
        assert len(written) == len(set(written)), "two requests wrote one slot"
        for request, count in step.tokens.items():
            self._check(request, request.computed + count)
        samples = {request: self._sample(request, count) for request, count in step.tokens.items()}
        return lambda: samples

    def _slot(self, request: Request, position: int) -> int:
        return request.pages[position // self._page_size] * self._page_size + position % self._page_size

    def _state(self, request: Request, length: int) -> int:
        return self._slots[self._slot(request, length - 1)][1] if length else 0

    def _write(self, request: Request, count: int) -> Iterable[int]:
        for position in range(request.computed, request.computed + count):
            slot, token = self._slot(request, position), self.rows[request][position]
            self._slots[slot] = (token, digest(self._state(request, position), token))
            yield slot

    def _check(self, request: Request, length: int) -> None:
        held = [self._slots[self._slot(request, position)][0] for position in range(length)]
        assert held == self.rows[request][:length], "the page table leads to other tokens than the request's"

    def _sample(self, request: Request, count: int) -> Sample:
        if count < request.remaining:
            return Sample(None)
        if request in self.unsound:
            self.rows[request].append(0)
            return Sample(0, error="the model's output is not a number")
        token = self._choose(request, self._state(request, request.computed + count))
        self.rows[request].append(token)
        return Sample(token)


def follow_script(script: Sequence[int]) -> Choose:
    """A choice that gives the script's tokens one after the other, and its last one from then on."""
    return lambda request, _: script[min(request.length - request.prompt_length, len(script) - 1)]


_arrivals = itertools.count()


def make_request(
    prompt: Sequence[int], max_tokens: int = 4, *, name: str | None = None, choice: int = 0, priority: int = 0,
    salt: bytes = b"", leader: Request | None = None, deadline: float | None = None,
    params: SamplingParams | None = None,
) -> Request:
    """A request as `new_requests` makes it, arriving after all others."""
    order = next(_arrivals)
    return Request(
        name or f"request-{order}", choice, list(prompt), len(prompt), params or SamplingParams(max_tokens=max_tokens),
        (priority, order), len(prompt) + max_tokens, arrived=float(order), salt=salt, leader=leader, deadline=deadline,
    )


def make_scheduler(pages: int = 64, page_size: int = 4, budget: int = 64, max_running: int = 8) -> Scheduler:
    """A scheduler with a pool of its own."""
    return Scheduler(PagePool(pages), page_size, budget, max_running)


def make_engine(
    model: StubModel, tokenizer: Tokenizer, *, page_size: int = 4, pages: int = 64, max_running: int = 8,
    max_waiting: int = 64, overlap: bool = False,
) -> Engine:
    """An engine around the stub model."""
    plan = Plan(
        "cpu", "float32", "stub", overlap, 1, 0, 0, page_size, pages, 1, pages * page_size, max_running, 64,
        max_waiting, True,
    )
    core = Core(make_scheduler(pages, page_size, 64, max_running), model, tokenizer, overlap)
    return Engine(core, Model("stub", Path(), tokenizer, None, tokenizer.vocab_size), plan)


def drain(core: Core, steps: int = 1000) -> list[Event]:
    """All events until nothing is left to do."""
    events: list[Event] = []
    for _ in range(steps):
        if not core.has_work:
            return events
        events += core.step()
    raise AssertionError(f"still at work after {steps} steps")


def plain(**more: Any) -> SamplingParams:
    """What a request of four tokens asks for, whose text nobody reads."""
    return SamplingParams(**{"max_tokens": 4, "ignore_eos": True, "detokenize": False, **more})


def finishes(events: Iterable[Event]) -> list[Finish]:
    """How requests ended."""
    return [event.finish for event in events if event.finish is not None]
