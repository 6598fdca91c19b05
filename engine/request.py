"""A request's life: what was asked, how far it got, and the events it gives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import NamedTuple

from engine.errors import InvalidRequest

GREEDY_TEMPERATURE = 1e-5
"""Below this a temperature means greedy: dividing logits by less overflows float32 (vLLM draws the same line)."""


def _require(holds: bool, param: str, message: str) -> None:
    if not holds:
        raise InvalidRequest(f"{param} {message}", param)


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the tokens of one request are chosen. Names and defaults are vLLM's.

    Attributes:
        n: choices to generate from the prompt.
        temperature: 0 is greedy.
        top_k: 0 or -1 considers every token.
        logit_bias: token id to a number added to its logit.
        seed: the same seed draws the same noise for (choice, position), whatever else is in the batch.
            None lets the engine draw one.
        max_tokens: None generates until the context is full.
        min_tokens: no end-of-sequence or stop before this many tokens.
        stop: strings that end the output; the text stops just before the first of them.
        logprobs: number of most likely tokens reported beside each chosen one; 0 reports the chosen one alone.
        prompt_logprobs: the same for each prompt token.

    Raises:
        InvalidRequest: a value out of range, naming the field.
    """

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[int, float] | None = None
    seed: int | None = None
    max_tokens: int | None = 16
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    skip_special_tokens: bool = True
    include_stop_str_in_output: bool = False
    detokenize: bool = True

    def __post_init__(self) -> None:
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        object.__setattr__(self, "stop", stop)
        object.__setattr__(self, "stop_token_ids", tuple(self.stop_token_ids or ()))
        self._check_finite()
        self._check_choice()
        self._check_length()
        self._check_logprobs()

    def _check_finite(self) -> None:
        for name in ("temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty"):
            _require(math.isfinite(getattr(self, name)), name, "must be a finite number")
        for value in (self.logit_bias or {}).values():
            _require(math.isfinite(value), "logit_bias", "must hold finite numbers")

    def _check_choice(self) -> None:
        _require(1 <= self.n <= 128, "n", "must be from 1 to 128")
        _require(self.temperature >= 0, "temperature", "must be 0 or more")
        _require(0 < self.top_p <= 1, "top_p", "must be above 0 and at most 1")
        _require(self.top_k >= -1, "top_k", "must be -1, 0 (every token) or more")
        _require(0 <= self.min_p <= 1, "min_p", "must be from 0 to 1")
        _require(-2 <= self.presence_penalty <= 2, "presence_penalty", "must be from -2 to 2")
        _require(-2 <= self.frequency_penalty <= 2, "frequency_penalty", "must be from -2 to 2")
        _require(self.repetition_penalty > 0, "repetition_penalty", "must be above 0")

    def _check_length(self) -> None:
        _require(self.max_tokens is None or self.max_tokens >= 1, "max_tokens", "must be 1 or more")
        _require(self.min_tokens >= 0, "min_tokens", "must be 0 or more")
        if self.max_tokens is not None:
            _require(self.min_tokens <= self.max_tokens, "min_tokens", "must not be above max_tokens")
        _require(all(self.stop), "stop", "must not hold an empty string")
        _require(not self.stop or self.detokenize, "stop", "needs detokenize")

    def _check_logprobs(self) -> None:
        for name in ("logprobs", "prompt_logprobs"):
            value = getattr(self, name)
            _require(value is None or 0 <= value <= 64, name, "must be from 0 to 64")

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is always taken."""
        return self.temperature < GREEDY_TEMPERATURE

    @property
    def penalised(self) -> bool:
        """Whether the choice depends on the tokens so far."""
        return bool(self.presence_penalty or self.frequency_penalty or self.repetition_penalty != 1.0)


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token's natural log probability under the raw logits (before penalties, bias and temperature).

    Attributes:
        rank: 1 for the most likely token.
        top: the most likely tokens, best first, as (token id, logprob); as many as were asked for.
    """

    token_id: int
    logprob: float
    rank: int
    top: tuple[tuple[int, float], ...] = ()


class FinishReason(StrEnum):
    """Why a request ended. `stop` and `length` are the finished ones."""

    STOP = "stop"
    LENGTH = "length"
    ABORTED = "abort"
    DEADLINE = "deadline"
    FAILED = "error"


@dataclass(frozen=True, slots=True)
class Timing:
    """Monotonic seconds (`time.monotonic`) of a request's milestones; None where it never got there."""

    arrived: float
    scheduled: float | None
    first_token: float | None
    finished: float


@dataclass(frozen=True, slots=True)
class Finish:
    """The one terminal event of a request.

    Attributes:
        stop: the stop string or stop token id that ended it, when one did.
        error: one line for the user when `reason` is `error`.
        cached_tokens: prompt tokens taken from the prefix cache when it was first scheduled.
        max_tokens: the limit that applied, the context's included.
    """

    reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    max_tokens: int
    timing: Timing
    stop: str | int | None = None
    error: str | None = None


class Event(NamedTuple):
    """What one step added to one choice of a request.

    The concatenation over a request's events is the whole output, however the steps fell. Text may lag behind
    tokens: half a UTF-8 character and a possible stop string are held back.

    Attributes:
        token_ids: tokens sampled since the last event.
        logprobs: one a token of `token_ids` when asked for, else empty.
        prompt_logprobs: with the first event when asked for; None stands for the first token, which has none.
        finish: set on the last event of the choice and on no other.
    """

    request_id: str
    choice: int
    text: str = ""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None
    finish: Finish | None = None


class State(Enum):
    """Where a request is. Preempted requests are WAITING again."""

    WAITING = "waiting"
    RUNNING = "running"
    ENDED = "ended"


@dataclass(slots=True, eq=False)
class Request:
    """One choice of what a user asked for, as the scheduler sees it; compared and hashed by identity.

    `tokens` holds the prompt and the output so far; the key and value of the first `computed` of them are in
    `pages`, or will be when the device gets there. What is left, `remaining`, is what the scheduler hands out: a
    prompt's tokens at first, one after each sampled token, all of them again after a preemption.

    Attributes:
        key: scheduling order, (priority, arrival number); lower runs first and is preempted last.
        salt: only requests with the same salt share cached pages.
        leader: the choice that computes the shared prompt first; this one waits for it.
        max_total: `tokens` never grows past this (prompt + max_tokens, or the context).
        awaited: one more token was sampled, but only the device knows it yet.
        page_hashes: chained hash of each full page known so far.
        published: how many of its pages the prefix cache knows.
    """

    id: str
    choice: int
    tokens: list[int]
    prompt_length: int
    params: SamplingParams
    key: tuple[int, int]
    max_total: int
    arrived: float
    salt: bytes = b""
    deadline: float | None = None
    seed: int = 0
    leader: Request | None = None
    state: State = State.WAITING
    computed: int = 0
    awaited: bool = False
    pages: list[int] = field(default_factory=list)
    page_hashes: list[bytes] = field(default_factory=list)
    published: int = 0
    cached_tokens: int | None = None
    scheduled: float | None = None
    first_token: float | None = None
    preemptions: int = 0

    @property
    def length(self) -> int:
        """Number of its tokens, one that only the device knows included."""
        return len(self.tokens) + self.awaited

    @property
    def own_prompt(self) -> int:
        """Prompt tokens it brings into the queue; a prompt counts once for all its choices."""
        return 0 if self.leader is not None else self.prompt_length

    @property
    def remaining(self) -> int:
        """Tokens still to compute before the next one can be sampled; 0 when the awaited token is its last."""
        # Read several times a step for each request; `min` and `length` would take three times as long.
        length, limit = len(self.tokens) + self.awaited, self.max_total - 1
        return (length if length < limit else limit) - self.computed  # noqa: FURB136 - see above

    def accept(self, token: int) -> None:
        """Take in the token that was sampled."""
        self.tokens.append(token)
        self.awaited = False

    @property
    def output(self) -> Sequence[int]:
        """The tokens generated so far."""
        return self.tokens[self.prompt_length :]

    @property
    def output_length(self) -> int:
        """Number of tokens generated so far."""
        return len(self.tokens) - self.prompt_length

    @property
    def prefilling(self) -> bool:
        """Whether the prompt is not yet computed."""
        return self.computed < self.prompt_length

    def finish(
        self, reason: FinishReason, now: float, stop: str | int | None = None, error: str | None = None
    ) -> Finish:
        """The terminal event's content as of `now` (monotonic seconds)."""
        timing = Timing(self.arrived, self.scheduled, self.first_token, now)
        return Finish(
            reason, self.prompt_length, self.output_length, self.cached_tokens or 0,
            self.max_total - self.prompt_length, timing, stop, error,
        )
