"""How much one caller may ask for: requests and tokens a minute, told in OpenAI's header lines."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from handler.openai.errors import ApiError
from handler.token_bucket import TokenBucket

Unit = Literal["requests", "tokens"]
_UNITS: Final[tuple[Unit, ...]] = ("requests", "tokens")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one caller may ask for in a minute; None is no limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None

    def or_else(self, other: Limits) -> Limits:
        """These, and the other's where these say nothing."""
        return Limits(
            other.requests_per_minute if self.requests_per_minute is None else self.requests_per_minute,
            other.tokens_per_minute if self.tokens_per_minute is None else self.tokens_per_minute,
        )

    def of(self, unit: Unit) -> int | None:
        """The limit in this unit."""
        return self.requests_per_minute if unit == "requests" else self.tokens_per_minute


class Reservation:
    """Tokens set aside for one request. What it does not use goes back, what it uses beyond them is taken too."""

    def __init__(self, bucket: TokenBucket | None, reserved: int) -> None:
        self._bucket = bucket
        self._left = reserved

    def spend(self, tokens: int) -> None:
        """So many were used."""
        self._left -= tokens

    def settle(self) -> None:
        """The request has ended; a second call is no error."""
        if self._bucket is not None:
            self._bucket.settle(self._left)
            self._bucket = None


class Allowance:
    """What one caller has left. In the memory of this process, and so gone with it."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._limits = Limits()
        self._buckets: dict[Unit, TokenBucket] = {}
        self.change(limits)

    def change(self, limits: Limits) -> None:
        """Other limits from now on; what was used stays used."""
        if limits == self._limits:
            return
        self._limits = limits
        for unit in _UNITS:
            self._change(unit, limits.of(unit))

    def take_request(self) -> None:
        """Count a request; raises `ApiError` 429 when there have been too many."""
        self._take("requests", 1)

    def reserve(self, tokens: int) -> Reservation:
        """Set tokens aside for a request; raises `ApiError` 429 when they are not there."""
        self._take("tokens", tokens)
        return Reservation(self._buckets.get("tokens"), tokens)

    def headers(self) -> dict[str, str]:
        """OpenAI's header lines, for each limit there is."""
        lines: dict[str, str] = {}
        for unit, bucket in self._buckets.items():
            limit = int(bucket.per_minute)
            lines[f"x-ratelimit-limit-{unit}"] = str(limit)
            lines[f"x-ratelimit-remaining-{unit}"] = str(max(0, math.floor(bucket.level)))
            lines[f"x-ratelimit-reset-{unit}"] = duration(bucket.seconds_until(limit))
        return lines

    def _change(self, unit: Unit, limit: int | None) -> None:
        if limit is None:
            self._buckets.pop(unit, None)
        elif unit in self._buckets:
            self._buckets[unit].resize(limit)
        else:
            self._buckets[unit] = TokenBucket(limit, self._clock)

    def _take(self, unit: Unit, amount: int) -> None:
        bucket = self._buckets.get(unit)
        if bucket is not None and not bucket.take(amount):
            raise _refusal(unit, amount, bucket)


def _refusal(unit: Unit, amount: int, bucket: TokenBucket) -> ApiError:
    """OpenAI's error; its client waits as long as `retry-after-ms` says, and not at all for what can never be."""
    limit, wait_s = int(bucket.per_minute), bucket.seconds_until(amount)
    if math.isinf(wait_s):
        message = f"the request may take {amount} {unit}; the limit is {limit} a minute"
        return ApiError(
            429, message, unit, code="rate_limit_exceeded", headers={"x-should-retry": "false"}
        )
    message = f"the limit of {limit} {unit} a minute is reached; try again in {duration(wait_s)}"
    return ApiError(
        429, message, unit, code="rate_limit_exceeded", retry_after=max(1, math.ceil(wait_s)),
        headers={"retry-after-ms": str(max(1, math.ceil(1000 * wait_s)))},
    )


def duration(seconds: float) -> str:
    """As OpenAI writes it: 20ms, 1s, 1.5s, 6m0s."""
    ms = math.ceil(1000 * seconds)
    if ms < 1000:
        return f"{ms}ms"
    minutes, rest = divmod(ms, 60_000)
    return (f"{minutes}m" if minutes else "") + f"{rest / 1000:g}s"
