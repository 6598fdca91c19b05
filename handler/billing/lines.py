"""The lines of the ledger: what each kind says. `docs/billing.md` describes every field."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

from handler.billing.identity import Identity
from handler.billing.meter import Amount
from handler.billing.price import Price
from handler.epochs import Epoch, StartKind

Line = dict[str, Any]
"""One line, ready for JSON, without what the journal adds: its id and its checksum."""

FinishReason = Literal["stop", "length", "abort", "deadline", "error", "lost"]
"""Why a request ended; `lost` is written by whoever recovers the journal of a worker that was killed."""


class Asked(NamedTuple):
    """A request as it came in.

    Attributes:
        request: its id; OpenAI's answers carry the same.
        job: RunPod's id of the job, where it came as one.
        tenant: on whose behalf, where the caller says so.
        start_kind: what it found.
    """

    request: str
    start_kind: StartKind
    warmup: bool = False
    job: str | None = None
    tenant: str | None = None


class Outcome(NamedTuple):
    """How a request ended. The first two times are milliseconds from its arrival; None where it never got there.

    Attributes:
        queue_ms: when the engine first scheduled it.
        first_token_ms: when it had its first token.
    """

    finish_reason: FinishReason
    queue_ms: int | None = None
    first_token_ms: int | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0


class Spent(NamedTuple):
    """What a request took, in milliseconds: from its arrival to its end, and its share of the worker's execution."""

    duration_ms: int
    execution_ms: int


def stamp(wall_s: float) -> str:
    """A moment in UTC, to the millisecond: `2026-11-21T10:22:24.123Z`."""
    seconds, milliseconds = divmod(round(wall_s * 1000), 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{milliseconds:03d}Z"


class Lines:
    """Makes the lines of one epoch. Moments are milliseconds since it began.

    A loaded worker writes one for each request: what they have in common is made once. For one thread at a time.
    """

    def __init__(self, identity: Identity, epoch: Epoch, model: str, price: Price) -> None:
        self._epoch = epoch
        self._began_ms = round(1000 * epoch.began.wall_s)
        self._second = 0
        self._second_text = ""
        self._price = price
        self._common = {
            "endpoint": identity.endpoint, "worker": identity.worker, "boot": identity.boot, "epoch": epoch.number,
        }
        self._pricing = {
            "model": model, "gpu": identity.gpu, "gpu_count": identity.gpu_count,
            "price": None if price.per_second is None else format(price.per_second, "f"),
            "price_kind": price.kind, "price_date": price.date,
        }

    def start(self, written: str, **facts: Any) -> Line:
        """The epoch's beginning, once the worker can serve; `facts` are written as they are."""
        return self._line("start", self.stamp(0), written, {"start_kind": self._epoch.start_kind, **facts})

    def phase(self, written: str, amount: Amount) -> Line:
        """Time of one phase."""
        fields = {"phase": amount.phase, "ms": amount.ms, "warmup": amount.warmup}
        return self._priced("phase", self.stamp(amount.start_ms), written, fields, amount.ms)

    def request(self, written: str, arrived: str, asked: Asked, outcome: Outcome, spent: Spent) -> Line:
        """A request that has ended; it may have arrived, and so be stamped, in an epoch before this one."""
        fields = {
            "request": asked.request, "job": asked.job, "tenant": asked.tenant, "start_kind": asked.start_kind,
            "finish_reason": outcome.finish_reason, "warmup": asked.warmup, "queue_ms": outcome.queue_ms,
            "first_token_ms": outcome.first_token_ms, "duration_ms": spent.duration_ms,
            "execution_ms": spent.execution_ms, "prompt_tokens": outcome.prompt_tokens,
            "cached_tokens": outcome.cached_tokens, "output_tokens": outcome.output_tokens,
        }
        return self._priced("request", arrived, written, fields, spent.execution_ms)

    def open(
        self, written: str, epoch_ms: int, wall_ahead_ms: int, in_flight: Iterable[tuple[Asked, int]]
    ) -> Line:
        """Where the books stand as a segment begins: what is under way, and its milliseconds of execution so far."""
        flights = [
            {"request": asked.request, "job": asked.job, "tenant": asked.tenant, "warmup": asked.warmup,
             "execution_ms": execution_ms}
            for asked, execution_ms in in_flight
        ]
        fields = {"epoch_ms": epoch_ms, "wall_ahead_ms": wall_ahead_ms, "in_flight": flights}
        return self._line("open", self.stamp(epoch_ms), written, fields)

    def moved(self, line: Line, before_ms: int) -> Line:
        """A line of the epoch before, as one of this one: of a request's execution, so much is told there."""
        own = line | self._common
        if line["kind"] != "request":
            return own
        execution_ms = line["execution_ms"] - before_ms
        return own | {"execution_ms": execution_ms, "cost": Price.of(line).cost(execution_ms)}

    def stamp(self, at_ms: int) -> str:
        """A moment of the epoch, in UTC. The wall clock was read at its beginning; steps of it since are no matter."""
        second, millisecond = divmod(self._began_ms + at_ms, 1000)
        if second != self._second:
            self._second = second
            self._second_text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._second_text}.{millisecond:03d}Z"

    def _priced(self, kind: str, at: str, written: str, fields: Line, ms: int) -> Line:
        return self._line(kind, at, written, {**fields, **self._pricing, "cost": self._price.cost(ms)})

    def _line(self, kind: str, at: str, written: str, fields: Line) -> Line:
        return {"kind": kind, "at": at, "written": written, **self._common, **fields}
