"""The engine's synchronous heart: requests in, one step at a time, events out.

Whoever drives it (the serving thread, the offline `LLM`, a test) calls `add`, `abort` and `step` from one thread.
Every request that was added gets exactly one event with `finish` set, whatever happens to it.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from engine.request import Event, FinishReason, Request, State, TokenLogprob
from engine.scheduler import Scheduler, Step
from engine.text import Detokenizer, Tokenizer
from engine.timeline import AfterReady


@dataclass(frozen=True, slots=True)
class Sample:
    """What a step gave for one request.

    Attributes:
        token_id: the sampled token; None while the prompt is not computed to its end.
        prompt_logprobs: of the prompt tokens that this step's chunk predicts, when asked for.
        error: why no token can be trusted (logits that are not numbers), else None.
    """

    token_id: int | None
    logprob: TokenLogprob | None = None
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    error: str | None = None


class DeviceLost(Exception):
    """The device can compute no more; every request on it is lost."""


Samples = Callable[[], Mapping[Request, Sample]]
"""Waits until a step is computed, and gives what it sampled."""


class StepRunner(Protocol):
    """Computes steps in the order they are launched.

    A `DeviceLost` ends the engine; any other exception ends the step's requests alone.
    """

    def launch(self, step: Step) -> Samples:
        """Start to compute a step; tokens that it samples are inputs to the next one before the host knows them."""

    def defer(self) -> bool:
        """Do a piece of the work put off at boot, some milliseconds of it; False when none is left."""

    def release(self, request: Request) -> None:
        """Forget a request that ended or was preempted; a request it does not know is no error."""

    @property
    def compilations(self) -> int:
        """Kernels compiled since the start; 0 in service."""


@dataclass(slots=True, eq=False)
class _Choice:
    """A living request with what only its output needs."""

    request: Request
    detokenizer: Detokenizer | None
    prompt_logprobs: list[TokenLogprob | None] = field(default_factory=lambda: [None])


@dataclass(frozen=True, slots=True)
class _Launched:
    """A step under way."""

    step: Step
    samples: Samples

    @property
    def must_be_known(self) -> bool:
        """Whether the next step cannot be prepared before this one's tokens are known to the host."""
        living = (request for request in self.step.tokens if request.state is not State.ENDED)
        return any(request.params.prompt_logprobs is not None for request in living)


class Core:
    """Drives scheduler and runner, turns sampled tokens into text, and ends requests.

    Args:
        overlap: prepare and launch each step while the one before it computes, so that the device never waits for
            the host; else each step's tokens are taken in before the next is scheduled. The answers are the same.

    Attributes:
        steps: launched so far.
        may_defer: whether work put off at boot may be done by now: from the first token on, or when a caller says so.
        deferred_done: whether none of it is left.
        after_ready: told of the first token and of the deferred work; None where nobody keeps a timeline.
    """

    def __init__(
        self, scheduler: Scheduler, runner: StepRunner, tokenizer: Tokenizer, overlap: bool = False
    ) -> None:
        self.scheduler = scheduler
        self._runner = runner
        self._tokenizer = tokenizer
        self._choices: dict[Request, _Choice] = {}
        self._of_id: dict[str, list[Request]] = {}
        self._deadlines: list[tuple[float, int, Request]] = []
        self._outbox: list[Event] = []
        self._overlap = overlap
        self._under_way: _Launched | None = None
        self.steps = 0
        self.may_defer = False
        self.deferred_done = False
        self.after_ready: AfterReady | None = None

    @property
    def has_work(self) -> bool:
        return self.scheduler.has_work or self._under_way is not None

    @property
    def compilations(self) -> int:
        """Kernels compiled since the start; 0 in service."""
        return self._runner.compilations

    def defer(self) -> bool:
        """Do a piece of the work put off at boot; False when none is left, or none may be done now."""
        if self.deferred_done or not self.may_defer:
            return False
        started = time.monotonic()
        has_done = self._runner.defer()
        # While requests run, a runner also stops at what is not worth their wait.
        self.deferred_done = not has_done and not self.has_work
        if self.after_ready is not None:
            self.after_ready.deferred(started, time.monotonic(), self.deferred_done)
        return has_done

    def finish_deferred(self) -> None:
        """Do all the work put off at boot."""
        while self._runner.defer():
            pass

    def add(self, request: Request) -> None:
        """Take a request in; its events come from `step`."""
        params = request.params
        detokenizer = None
        if params.detokenize:
            detokenizer = Detokenizer(
                self._tokenizer, request.tokens, params.stop,
                params.skip_special_tokens, params.include_stop_str_in_output,
            )
        self._choices[request] = _Choice(request, detokenizer)
        self._of_id.setdefault(request.id, []).append(request)
        if request.deadline is not None:
            self._watch(request, request.deadline)
        self.scheduler.add(request)

    def abort(self, request_id: str) -> list[Event]:
        """End a request's living choices; one that has ended or never was is no error."""
        for request in list(self._of_id.get(request_id, ())):
            self._end(request, FinishReason.ABORTED)
        return self._take_outbox()

    def abort_all(self, reason: FinishReason, error: str | None = None) -> list[Event]:
        """End every living request. Events that a raising `step` kept come along."""
        for request in list(self._choices):
            self._end(request, reason, error=error)
        return self._take_outbox()

    def step(self) -> list[Event]:
        """Launch one step and take in what was sampled: by the step before it with `overlap`, else by itself.

        Raises:
            DeviceLost: nothing can be computed any more; the requests are still there to be ended.
        """
        self._expire()
        if self._under_way is not None and self._under_way.must_be_known:
            self._take_in_samples()
        step = self.scheduler.schedule()
        for request in step.preempted:
            self._runner.release(request)
            self._choices[request].prompt_logprobs = [None]
        launched = self._launch(step) if step.tokens else None
        self._take_in_samples()
        if launched is not None:
            self.scheduler.advance(step)  # After the samples: to accept a token would undo that the next is awaited.
        self._under_way = launched
        if not self._overlap:
            self._take_in_samples()
        return self._take_outbox()

    def _launch(self, step: Step) -> _Launched | None:
        self.steps += 1
        started = time.monotonic()
        for request in step.tokens:
            request.scheduled = request.scheduled or started
        try:
            samples = self._runner.launch(step)
        except DeviceLost:
            raise
        except Exception as error:
            self._fail(step, error)
            return None
        return _Launched(step, samples)

    def _take_in_samples(self) -> None:
        """Wait for the step under way, if there is one, and hand out its tokens."""
        launched, self._under_way = self._under_way, None
        if launched is None:
            return
        try:
            samples = launched.samples()
        except DeviceLost:
            raise
        except Exception as error:
            self._fail(launched.step, error)
            return
        for request in launched.step.tokens:
            if request.state is not State.ENDED:
                self._accept(self._choices[request], samples[request])

    def _fail(self, step: Step, error: Exception) -> None:
        message = f"the step failed: {type(error).__name__}: {error}"
        for request in step.tokens:
            if request.state is not State.ENDED:
                self.scheduler.distrust(request)
                self._end(request, FinishReason.FAILED, error=message)

    def _watch(self, request: Request, deadline: float) -> None:
        if len(self._deadlines) > 2 * len(self._choices):  # Ended requests would stay here until their deadline.
            self._deadlines = [entry for entry in self._deadlines if entry[2].state is not State.ENDED]
            heapq.heapify(self._deadlines)
        heapq.heappush(self._deadlines, (deadline, request.key[1], request))

    def _expire(self) -> None:
        now = time.monotonic()
        while self._deadlines and self._deadlines[0][0] <= now:
            request = heapq.heappop(self._deadlines)[2]
            if request.state is not State.ENDED:
                self._end(request, FinishReason.DEADLINE)

    def _accept(self, choice: _Choice, sample: Sample) -> None:
        request = choice.request
        if sample.prompt_logprobs:
            choice.prompt_logprobs += sample.prompt_logprobs
        if sample.error is not None:
            self.scheduler.distrust(request)
            self._end(request, FinishReason.FAILED, error=sample.error)
        elif sample.token_id is not None:
            self._accept_token(choice, sample, sample.token_id)

    def _accept_token(self, choice: _Choice, sample: Sample, token_id: int) -> None:
        request = choice.request
        first = request.first_token is None
        if first:
            request.first_token = time.monotonic()
            self.may_defer = True
            if self.after_ready is not None and request.scheduled is not None:
                self.after_ready.first_token(request.scheduled, request.first_token, request.prompt_length)
        request.accept(token_id)
        may_stop = request.output_length > request.params.min_tokens
        text = self._push_text(choice, token_id, may_stop)
        reason, stop = self._finished(choice, token_id, may_stop)
        finish = None
        if reason is not None:
            text += choice.detokenizer.flush() if choice.detokenizer else ""
            finish = request.finish(reason, time.monotonic(), stop)
            self._forget(request)
        self._outbox.append(Event(
            request.id, request.choice, text, (token_id,), (sample.logprob,) if sample.logprob else (),
            tuple(choice.prompt_logprobs) if first and request.params.prompt_logprobs is not None else None, finish,
        ))

    def _push_text(self, choice: _Choice, token_id: int, may_stop: bool) -> str:
        if choice.detokenizer is None:
            return ""
        params = choice.request.params
        if token_id in params.stop_token_ids and not params.include_stop_str_in_output:
            return ""
        return choice.detokenizer.push(token_id, may_stop)

    def _finished(
        self, choice: _Choice, newest: int, may_stop: bool
    ) -> tuple[FinishReason | None, str | int | None]:
        """Why the request ends with its newest token, if it does, and what stopped it."""
        request, params = choice.request, choice.request.params
        if may_stop:
            if newest in params.stop_token_ids:
                return FinishReason.STOP, newest
            if newest in self._tokenizer.eos_token_ids and not params.ignore_eos:
                return FinishReason.STOP, None
        if choice.detokenizer is not None and choice.detokenizer.stopped is not None:
            return FinishReason.STOP, choice.detokenizer.stopped
        if len(request.tokens) >= request.max_total:
            return FinishReason.LENGTH, None
        return None, None

    def _end(self, request: Request, reason: FinishReason, error: str | None = None) -> None:
        detokenizer = self._choices[request].detokenizer
        text = detokenizer.flush() if detokenizer else ""
        finish = request.finish(reason, time.monotonic(), error=error)
        self._forget(request)
        self._outbox.append(Event(request.id, request.choice, text, finish=finish))

    def _take_outbox(self) -> list[Event]:
        events, self._outbox = self._outbox, []
        return events

    def _forget(self, request: Request) -> None:
        self.scheduler.remove(request)
        self._runner.release(request)
        del self._choices[request]
        siblings = self._of_id[request.id]
        siblings.remove(request)
        if not siblings:
            del self._of_id[request.id]
