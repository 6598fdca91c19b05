"""The engine as its callers see it: `submit`, `stream`, `abort`, from any thread; the work happens on its own."""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue

from engine.backlog import Backlog
from engine.chat import ChatTemplate
from engine.core import Core
from engine.errors import ContextExceeded, EngineDead, InvalidRequest, QueueFull
from engine.plan import Plan
from engine.request import Event, FinishReason, Request, SamplingParams
from engine.submission import Outbox, Submission
from engine.text import Tokenizer

_log = logging.getLogger("pilotlight.engine")


@dataclass(frozen=True, slots=True)
class Model:
    """What a front end needs to know of the model that is served.

    Attributes:
        name: under which the model is offered.
        vocab_size: ids from 0 to this (exclusive) are valid prompt tokens.
    """

    name: str
    folder: Path
    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
    vocab_size: int


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counts since the start, and levels now. Prefix counts are in tokens."""

    running: int
    waiting: int
    pages: int
    pages_used: int
    steps: int
    preemptions: int
    prefix_queries: int
    prefix_hits: int
    kernel_compiles: int


def new_requests(
    prompt: Sequence[int], params: SamplingParams, *, request_id: str, order: Callable[[], int], max_model_len: int,
    vocab_size: int, priority: int = 0, salt: bytes = b"", deadline: float | None = None,
) -> list[Request]:
    """The requests, one a choice, of which the first computes the prompt for all.

    Args:
        order: gives the next arrival number.
        deadline: monotonic seconds after which the request is ended.

    Raises:
        InvalidRequest: the prompt is empty, or a token id is none of the model's.
        ContextExceeded: the prompt leaves no room for a single token.
    """
    if not prompt:
        raise InvalidRequest("the prompt is empty", "prompt")
    for param, ids in (
        ("prompt", prompt), ("stop_token_ids", params.stop_token_ids), ("logit_bias", params.logit_bias or ())
    ):
        _check_token_ids(ids, vocab_size, param)
    if len(prompt) >= max_model_len:
        raise ContextExceeded(
            f"the prompt has {len(prompt)} tokens; the context holds {max_model_len}, prompt and output", "prompt"
        )
    limit = max_model_len if params.max_tokens is None else min(max_model_len, len(prompt) + params.max_tokens)
    seed = secrets.randbits(63) if params.seed is None else params.seed
    now = time.monotonic()
    requests: list[Request] = []
    for choice in range(params.n):
        requests.append(
            Request(
                request_id, choice, list(prompt), len(prompt), params, (priority, order()), limit, now, salt,
                deadline, seed, requests[0] if requests else None,
            )
        )
    return requests


def _check_token_ids(ids: Iterable[int], vocab_size: int, param: str) -> None:
    for token in ids:
        if not 0 <= token < vocab_size:
            raise InvalidRequest(f"token id {token} is not from 0 to {vocab_size - 1}", param)


class Engine:
    """A `Core` on a thread of its own, with an asynchronous, thread-safe edge.

    Owns every request's life from `submit` on. Call `start` once; `stop` ends what is left.
    """

    def __init__(self, core: Core, model: Model, plan: Plan) -> None:
        self.model = model
        self.plan = plan
        self._core = core
        self._inbox: SimpleQueue[list[Request] | str | None] = SimpleQueue()
        self._submissions: dict[str, Submission] = {}
        self._outboxes: dict[asyncio.AbstractEventLoop, Outbox] = {}
        self._lock = threading.Lock()
        self._arrivals = itertools.count()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._unread = 0
        self._unread_tokens = 0
        self._backlog = Backlog()
        self._failure: str | None = None
        self._stopped = False
        self._on_failure: Callable[[str], None] = lambda message: None

    @property
    def failure(self) -> str | None:
        """Why the engine died, or None while it lives."""
        return self._failure

    def start(self, on_failure: Callable[[str], None] | None = None) -> None:
        """Begin to compute. `on_failure` is called from the engine's thread when a device error ends it."""
        if on_failure is not None:
            self._on_failure = on_failure
        self._thread.start()

    def stop(self) -> None:
        """End every request with `abort` and the thread with them; a second call is no error."""
        with self._lock:
            self._stopped = True
        self._inbox.put(None)
        if self._thread.ident is None:
            self._run()  # Nobody else will: the engine was never started.
        elif self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join()

    def submit(
        self, prompt: Sequence[int], params: SamplingParams, *, request_id: str | None = None, priority: int = 0,
        salt: bytes = b"", timeout: float | None = None,
    ) -> Submission:
        """Queue a request; call it from the event loop that will read the stream.

        Args:
            prompt: token ids.
            priority: lower runs first.
            salt: only requests with the same salt share cached prefixes.
            timeout: seconds from now after which the request ends with reason `deadline`.

        Raises:
            InvalidRequest: the request can never succeed.
            QueueFull: too many requests wait already, or too many tokens of prompts.
            EngineDead: the engine takes no more requests.
        """
        name = request_id or uuid.uuid4().hex
        deadline = None if timeout is None else time.monotonic() + timeout
        requests = new_requests(
            prompt, params, request_id=name, order=self._arrivals.__next__, max_model_len=self.plan.max_model_len,
            vocab_size=self.model.vocab_size, priority=priority, salt=salt, deadline=deadline,
        )
        submission = Submission(name, len(prompt), params.n, params.n, self._outbox(asyncio.get_running_loop()))
        with self._lock:
            self._check_open(name, params.n, len(prompt))
            self._submissions[name] = submission
            self._unread += params.n
            self._unread_tokens += len(prompt)
            self._inbox.put(requests)
        return submission

    def check_room(self) -> None:
        """Refuse early what `submit` would refuse anyway, before any work is done for it.

        Raises:
            QueueFull: not even a request of one token would be taken.
            EngineDead: the engine takes no more requests.
        """
        self._check_alive()
        self._check_queue(1, 1)

    async def stream(self, submission: Submission) -> AsyncGenerator[Event, None]:
        """The submission's events, to the last choice's end. Leaving early aborts the request."""
        living = submission.choices
        try:
            while living:
                event = await submission.get()
                living -= event.finish is not None
                yield event
        finally:
            if living:
                self.abort(submission.id)

    def abort(self, request_id: str) -> None:
        """End a request, in whatever state; one that has ended or never was is no error."""
        self._inbox.put(request_id)

    @property
    def deferred_done(self) -> bool:
        """Whether all work put off at boot is done; from then on a snapshot of the process holds it."""
        return self._core.deferred_done

    def begin_deferred(self) -> None:
        """Do the work put off at boot from now on, between steps and while idle, without waiting for a first token."""
        self._core.may_defer = True
        self._inbox.put([])  # Wakes the thread.

    def statistics(self) -> Statistics:
        """Levels and counts as of now."""
        scheduler = self._core.scheduler
        pool = scheduler.pool
        return Statistics(
            scheduler.running_count, scheduler.waiting_count + self._unread, pool.total, pool.used,
            self._core.steps, scheduler.preemptions, scheduler.prefix_queries, scheduler.prefix_hits,
            self._core.compilations,
        )

    def _check_alive(self) -> None:
        if self._stopped or self._failure is not None:
            raise EngineDead(self._failure or "the engine is shut down")

    def _check_open(self, request_id: str, choices: int, tokens: int) -> None:
        self._check_alive()
        if request_id in self._submissions:
            raise InvalidRequest(f"a request with the id {request_id} is under way", "request_id")
        most = self.plan.max_running + self.plan.max_waiting
        if choices > most:
            raise InvalidRequest(f"n is {choices}; only {most} may run and wait", "n")
        self._check_queue(choices, tokens)

    def _check_queue(self, choices: int, tokens: int) -> None:
        scheduler, plan = self._core.scheduler, self.plan
        waiting = scheduler.waiting_count + self._unread
        # What a free row will take at the next step does not count as waiting.
        if waiting + choices > plan.max_waiting + plan.max_running - scheduler.running_count:
            raise self._full(f"{waiting} requests wait already; the bound is {plan.max_waiting}", waiting)
        # One request alone may always wait, however long its prompt.
        known, bound = scheduler.waiting_tokens + self._unread_tokens, plan.max_waiting_tokens
        if bound is not None and known and known + tokens > bound + self._free_tokens():
            raise self._full(f"{known} tokens of prompts wait already; the bound is {bound}", waiting)

    def _free_tokens(self) -> int:
        """Tokens that the next step will take in before anything has to wait."""
        scheduler = self._core.scheduler
        if scheduler.waiting_count or scheduler.running_count >= self.plan.max_running:
            return 0
        return scheduler.pool.available * self.plan.page_size

    def _full(self, message: str, waiting: int) -> QueueFull:
        return QueueFull(message, self._backlog.seconds(waiting))

    def _run(self) -> None:
        try:
            while self._take_in():
                self._deliver(self._core.step())
                self._core.defer()
            self._deliver(self._core.abort_all(FinishReason.ABORTED))
        except BaseException as error:  # A panic in a library's native code is no Exception.
            self._die(error)

    def _take_in(self) -> bool:
        """Carry out what callers asked for, waiting while there is nothing to compute; False once told to stop."""
        while True:
            while not self._core.has_work and self._inbox.empty() and self._core.defer():
                pass
            try:
                item = self._inbox.get(block=not self._core.has_work)
            except Empty:
                return True
            if item is None:
                return False
            if isinstance(item, str):
                self._deliver(self._core.abort(item))
            else:
                self._add(item)

    def _take_in_rest(self) -> None:
        """Let requests still in the inbox be ended like the others."""
        while not self._inbox.empty():
            item = self._inbox.get()
            if isinstance(item, list):
                self._add(item)

    def _add(self, requests: list[Request]) -> None:
        for request in requests:
            self._core.add(request)
        with self._lock:
            self._unread -= len(requests)
            self._unread_tokens -= sum(request.own_prompt for request in requests)

    def _deliver(self, events: Sequence[Event]) -> None:
        """Hand events to their event loops, all of a loop's at once."""
        self._note_ends(events)
        by_outbox: dict[Outbox, list[tuple[Submission, Event]]] = defaultdict(list)
        for event in events:
            submission = self._submissions[event.request_id]
            by_outbox[submission.outbox].append((submission, event))
            submission.living -= event.finish is not None
            if not submission.living:
                del self._submissions[event.request_id]
        for outbox, deliveries in by_outbox.items():
            self._hand_over(outbox, deliveries)

    def _note_ends(self, events: Sequence[Event]) -> None:
        ended = sum(event.finish is not None for event in events)
        if ended:
            self._backlog.note(ended, waiting=self._core.scheduler.waiting_count + self._unread > 0)

    def _hand_over(self, outbox: Outbox, deliveries: list[tuple[Submission, Event]]) -> None:
        try:
            outbox.send(deliveries)
        except RuntimeError:  # The loop is closed: nobody will read these streams any more.
            for submission, _ in deliveries:
                if submission.living:
                    self.abort(submission.id)

    def _outbox(self, loop: asyncio.AbstractEventLoop) -> Outbox:
        with self._lock:
            if loop not in self._outboxes:
                self._outboxes = {known: box for known, box in self._outboxes.items() if not box.closed}
                self._outboxes[loop] = Outbox(loop)
            return self._outboxes[loop]

    def _die(self, error: BaseException) -> None:
        message = f"the engine stopped: {type(error).__name__}: {error}"
        _log.critical(message, exc_info=error)
        with self._lock:
            self._failure = message
        try:
            self._take_in_rest()
            self._deliver(self._core.abort_all(FinishReason.FAILED, message))
        finally:
            self._on_failure(message)
