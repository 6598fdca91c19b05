"""What a report holds."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from engine.percentiles import Percentiles
from handler.billing.price import plain

PHASES = ("boot", "execution", "idle", "drain", "rounding")

Key = tuple[str | None, ...]
"""What a group has in common; None where its time belongs to no request."""


@dataclass(slots=True)
class Spending:
    """Time and money. Sums are exact: milliseconds, and decimals.

    Attributes:
        ms: by phase.
        costs: US dollars by phase, of what has a price; a phase of which nothing has is not there.
        unpriced_ms: of what has none.
    """

    ms: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PHASES, 0))
    costs: dict[str, Decimal] = field(default_factory=dict)
    unpriced_ms: int = 0

    @property
    def total_ms(self) -> int:
        return sum(self.ms.values())

    @property
    def cost(self) -> Decimal | None:
        """Of what has a price. None where there is time and none of it has one; no time at all costs nothing."""
        return None if self.unpriced_ms and not self.costs else sum(self.costs.values(), Decimal())

    def cost_of(self, phase: str) -> Decimal | None:
        """Of one phase, as for `cost`."""
        return self.costs.get(phase, None if self.cost is None else Decimal())

    def add(self, phase: str, ms: int, cost: Decimal | None, unpriced_ms: int) -> None:
        """Put something on the account; negative amounts take it off."""
        self.ms[phase] += ms
        self.unpriced_ms += unpriced_ms
        if cost is not None:
            self.costs[phase] = self.costs.get(phase, Decimal()) + cost


@dataclass(slots=True)
class Work:
    """What was done: requests of users and their tokens, and warm-ups.

    Attributes:
        requests: of users, without the lost ones that nobody can name.
        lost: of the requests, those that were in flight when their worker was killed.
        nameless: how many times such could not be told apart; each stands for no request, or one, or several.
    """

    requests: int = 0
    warmups: int = 0
    lost: int = 0
    nameless: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0

    def add(self, other: Work) -> None:
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclass(frozen=True, slots=True)
class Group:
    """A part of the report. All groups add up to the whole.

    Attributes:
        key: in the order of the report's `by`.
        no_request: it is the time that belongs to no request, in a report by tenant or start kind.
        warmups: how much of `spending` was for warm-ups.
    """

    key: Key
    no_request: bool = False
    spending: Spending = field(default_factory=Spending)
    warmups: Spending = field(default_factory=Spending)
    work: Work = field(default_factory=Work)

    def add(self, phase: str, warmup: bool, ms: int, cost: Decimal | None, unpriced_ms: int) -> None:
        """Put time on the account."""
        self.spending.add(phase, ms, cost, unpriced_ms)
        if warmup:
            self.warmups.add(phase, ms, cost, unpriced_ms)

    def seconds(self) -> dict[str, Decimal]:
        """By phase, in all and for warm-ups, as the contract has them."""
        phases = {phase: seconds(ms) for phase, ms in self.spending.ms.items()}
        return {"total": seconds(self.spending.total_ms), **phases, "warmup": seconds(self.warmups.total_ms)}

    def per_1000_tokens(self) -> Decimal | None:
        """US dollars for 1,000 output tokens, to twelve decimals; None where there is no cost or no token."""
        cost, tokens = self.spending.cost, self.work.output_tokens
        return None if cost is None or not tokens else (cost * 1000 / tokens).quantize(Decimal("1e-12"))


@dataclass(frozen=True, slots=True)
class Boot:
    """A cold start.

    Attributes:
        cost: of its boot seconds; None where they have no price.
        spans: as the worker measured them; see engine/timeline.py.
    """

    worker: str
    began: datetime
    ready_ms: int
    cost: Decimal | None
    spans: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Report:
    """What a ledger says of a period.

    Attributes:
        whole: all of it.
        cold_starts: boots, and `restores` those that came back from a freeze.
        queue_ms: of users' requests, by what they found.
        boots: the newest cold starts, the newest first.
        hours: the groups by hour, in order; empty unless asked for.
        unclosed_epochs: of workers that are alive, or were killed and not recovered.
        objects: files read; `skipped` are those that could not be unpacked.
        damaged_lines: that are no JSON, or lack what a line of their kind has.
    """

    place: str
    by: tuple[str, ...]
    whole: Group
    cold_starts: int
    restores: int
    groups: Sequence[Group]
    queue_ms: Mapping[str, Percentiles]
    first_token_ms: Mapping[str, Percentiles]
    boots: Sequence[Boot]
    hours: Sequence[Group]
    unclosed_epochs: int
    objects: int
    skipped: Sequence[str]
    damaged_lines: int


def seconds(ms: int) -> Decimal:
    """Milliseconds as seconds with three decimals, exactly."""
    return Decimal(ms).scaleb(-3)


def exact_json(fields: Any) -> str:
    """JSON in which a Decimal is a number with just its digits; binary fractions would show others."""
    text = json.dumps(fields, ensure_ascii=False, default=lambda amount: f"\0{amount:f}")
    return re.sub(r'"\\u0000(-?[0-9.]+)"', r"\1", text)


def money(amount: Decimal | None) -> Decimal | None:
    """An amount without zeros at its end."""
    return None if amount is None else Decimal(plain(amount))
