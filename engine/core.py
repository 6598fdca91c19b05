"""The engine's synchronous heart: requests in, one step at a time, events out.

Whoever drives it (the serving thread, the offline `LLM`, a test) calls `add`, `abort` and `step` from one thread.
Every request that was added gets exactly one event with `finish` set, whatever happens to it.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from engine.request import Event, FinishReason, Request, State, TokenLogprob
from engine.scheduler import Scheduler, Step
from engine.text import Detokenizer, Tokenizer


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


class StepRunner(Protocol):
    """Computes steps. A `DeviceLost` ends the engine; any other exception ends the step's requests alone."""

    def step(self, step: Step) -> Mapping[Request, Sample]: ...

    def release(self, request: Request) -> None:
        """Forget a request that ended or was preempted; a request it does not know is no error."""


@dataclass(slots=True, eq=False)
class _Choice:
    """A living request with what only its output needs."""

    request: Request
    detokenizer: Detokenizer | None
    prompt_logprobs: list[TokenLogprob | None] = field(default_factory=lambda: [None])


class Core:
    """Drives scheduler and runner, turns sampled tokens into text, and ends requests."""

    def __init__(self, scheduler: Scheduler, runner: StepRunner, tokenizer: Tokenizer) -> None:
        self.scheduler = scheduler
        self._runner = runner
        self._tokenizer = tokenizer
        self._choices: dict[Request, _Choice] = {}
        self._of_id: dict[str, list[Request]] = {}
        self._deadlines: list[tuple[float, int, Request]] = []
        self._outbox: list[Event] = []
        self.steps = 0

    @property
    def has_work(self) -> bool:
        return self.scheduler.has_work

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
        """Compute one step.

        Raises:
            DeviceLost: nothing can be computed any more; the requests are still there to be ended.
        """
        self._expire()
        step = self.scheduler.schedule()
        for request in step.preempted:
            self._runner.release(request)
            self._choices[request].prompt_logprobs = [None]
        if step.tokens:
            self._compute(step)
        return self._take_outbox()

    def _compute(self, step: Step) -> None:
        self.steps += 1
        started = time.monotonic()
        try:
            samples = self._runner.step(step)
        except DeviceLost:
            raise
        except Exception as error:
            for request in step.tokens:
                self._end(request, FinishReason.FAILED, error=f"the step failed: {type(error).__name__}: {error}")
            return
        self.scheduler.complete(step)
        for request in step.tokens:
            request.scheduled = request.scheduled or started
            self._accept(self._choices[request], samples[request])

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
        choice.prompt_logprobs += sample.prompt_logprobs
        if sample.error is not None:
            self.scheduler.distrust(request)
            self._end(request, FinishReason.FAILED, error=sample.error)
        elif sample.token_id is not None:
            self._accept_token(choice, sample, sample.token_id)

    def _accept_token(self, choice: _Choice, sample: Sample, token_id: int) -> None:
        request = choice.request
        request.first_token = request.first_token or time.monotonic()
        request.tokens.append(token_id)
        text = self._push_text(choice, token_id)
        reason, stop = self._finished(choice)
        first = request.output_length == 1 and request.params.prompt_logprobs is not None
        finish = None
        if reason is not None:
            text += choice.detokenizer.flush() if choice.detokenizer else ""
            finish = request.finish(reason, time.monotonic(), stop)
            self._forget(request)
        self._outbox.append(Event(
            request.id, request.choice, text, (token_id,), (sample.logprob,) if sample.logprob else (),
            tuple(choice.prompt_logprobs) if first else None, finish,
        ))

    def _push_text(self, choice: _Choice, token_id: int) -> str:
        if choice.detokenizer is None:
            return ""
        params = choice.request.params
        if token_id in params.stop_token_ids and not params.include_stop_str_in_output:
            return ""
        return choice.detokenizer.push(token_id, choice.request.output_length > params.min_tokens)

    def _finished(self, choice: _Choice) -> tuple[FinishReason | None, str | int | None]:
        """Why the request ends with its newest token, if it does, and what stopped it."""
        request, params = choice.request, choice.request.params
        newest = request.tokens[-1]
        if request.output_length > params.min_tokens:
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
