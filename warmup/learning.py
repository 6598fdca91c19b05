"""What the workers' ledger teaches: when users came, how long starts take, what a second costs."""

from __future__ import annotations

import gzip
import json
import logging
import math
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from warmup.costs import Costs, Restores, Seconds, Starts
from warmup.errors import WarmerError
from warmup.patience import patient

if TYPE_CHECKING:
    from handler.billing.store import Store
    from warmup.history import History
    from warmup.settings import Settings

HORIZON_DAYS: Final = 28
"""Four weeks: each hour of the week four times."""

AFTER_BOOT_S: Final = 2.0
"""A request that is taken up this soon after a boot had waited for it."""

_LATE_DAYS: Final = 2
"""So long after a day objects of it may still come."""

_FEWEST: Final = 3
_MOST_STARTS: Final = 200
_DIGEST_VERSION: Final = 1

_log = logging.getLogger("pilotlight.warmer")


class NoPrice(WarmerError):
    """Nobody has said what a second of a worker costs."""


@dataclass
class Digest:
    """All that is kept of the ledger's objects that were read. Moments are seconds since 1970.

    Attributes:
        objects: the keys that were read, by the day in their names.
        arrivals: of users' requests, in no order; `services` how many seconds of work each took.
        pings: when warm-ups came.
        boots: by the epoch's name: when it began, the seconds until it could serve, and whether it was a restore.
        cold: by the same, when a user's request came that had waited for it.
        warmup_s: seconds that the ledger marks as warm-ups, by day.
        unsettled_s: by the epoch's name, seconds before its first request.
        read_to: the last day until which all was read; None before it was.
        chains: the number of the last line that was read of each.
        price: US dollars a second, as last recorded.
    """

    objects: dict[str, list[str]] = field(default_factory=dict)
    arrivals: list[float] = field(default_factory=list)
    services: list[float] = field(default_factory=list)
    pings: list[float] = field(default_factory=list)
    boots: dict[str, tuple[float, float, bool]] = field(default_factory=dict)
    cold: dict[str, float] = field(default_factory=dict)
    warmup_s: dict[str, float] = field(default_factory=dict)
    unsettled_s: dict[str, float] = field(default_factory=dict)
    read_to: str | None = None
    chains: dict[str, int] = field(default_factory=dict)
    price: float | None = None

    def packed(self) -> bytes:
        """As it is kept beside the state."""
        return gzip.compress(json.dumps({"version": _DIGEST_VERSION, **asdict(self)}).encode(), 6, mtime=0)

    @classmethod
    def unpacked(cls, body: bytes) -> Digest:
        """What was kept; an empty one where that is of no use."""
        try:
            given = json.loads(gzip.decompress(body))
            if given.pop("version") == _DIGEST_VERSION:
                return cls(**{**given, "boots": {name: tuple(boot) for name, boot in given["boots"].items()}})
        except (OSError, EOFError, zlib.error, ValueError, TypeError, KeyError, AttributeError):
            _log.warning("what was learnt before is damaged; the ledger is read anew")
        return cls()

    def take(self, line: dict[str, Any]) -> None:
        """Learn from a line of the ledger."""
        match line["kind"]:
            case "start":
                restored = line["start_kind"] == "restored"
                self.boots[_epoch(line)] = (_moment(line["at"]), (line.get("ready_ms") or 0) / 1000, restored)
            case "phase":
                self._take_phase(line)
            case "request":
                self._settle(line)
                if line["warmup"]:
                    self.pings.append(_moment(line["at"]))
                else:
                    self._take_request(line)

    def _take_phase(self, line: dict[str, Any]) -> None:
        """Time before an epoch's first request is of that one's kind, which is not known yet."""
        if line.get("price") is not None:
            self.price = float(line["price"])
        if line["warmup"] is None:
            self.unsettled_s[_epoch(line)] = self.unsettled_s.get(_epoch(line), 0.0) + line["ms"] / 1000
        elif line["warmup"]:
            self._warm(line, line["ms"] / 1000)

    def _settle(self, line: dict[str, Any]) -> None:
        before = self.unsettled_s.pop(_epoch(line), 0.0)
        if line["warmup"]:
            self._warm(line, before)

    def _warm(self, line: dict[str, Any], seconds: float) -> None:
        day = line["at"][:10]
        self.warmup_s[day] = self.warmup_s.get(day, 0.0) + seconds

    def _take_request(self, line: dict[str, Any]) -> None:
        """The first of an epoch that had waited for the boot came when that began."""
        at, took = _moment(line["at"]), max(0, (line.get("duration_ms") or 0) - (line.get("queue_ms") or 0)) / 1000
        boot = self.boots.get(_epoch(line))
        if line["start_kind"] != "warm" and boot is not None and at <= boot[0] + boot[1] + AFTER_BOOT_S:
            at = self.cold[_epoch(line)] = min(at, boot[0])
        self.arrivals.append(at)
        self.services.append(took)

    def forget(self, before: float) -> None:
        """Drop what is older."""
        kept = [(at, took) for at, took in zip(self.arrivals, self.services, strict=True) if at >= before]
        self.arrivals, self.services = [at for at, _ in kept], [took for _, took in kept]
        self.pings = [at for at in self.pings if at >= before]
        self.boots = {name: boot for name, boot in self.boots.items() if boot[0] >= before}
        self.cold = {name: at for name, at in self.cold.items() if at >= before}
        self.unsettled_s = {name: seconds for name, seconds in self.unsettled_s.items() if name in self.boots}
        known = {name.rpartition(".")[0] for name in self.boots}
        self.chains = {name: last for name, last in self.chains.items() if name.rpartition("-")[0] in known}
        day = _day(before)
        self.objects = {name: keys for name, keys in self.objects.items() if name >= day}
        self.warmup_s = {name: seconds for name, seconds in self.warmup_s.items() if name >= day}

    def history(self) -> History:
        """The arrivals in order."""
        from warmup.history import History

        return History.of(self.arrivals, self.services)

    def starts(self, cold_seconds: float) -> Starts:
        """How long starts take; what is given until some were seen."""
        cold = [ready for _, ready, restored in self.boots.values() if not restored and ready > 0][-_MOST_STARTS:]
        restored = [ready for _, ready, restored in self.boots.values() if restored][-_MOST_STARTS:]
        seconds = Seconds(tuple(cold)) if len(cold) >= _FEWEST else Seconds.constant(cold_seconds)
        if len(restored) < _FEWEST:
            return Starts(seconds)
        return Starts(seconds, Restores.counted(Seconds(tuple(restored)), self._starts()))

    def _starts(self) -> Iterator[tuple[float, bool]]:
        """Of each start the seconds without work before it, and whether it was a restore."""
        from warmup.history import History

        work = History.of([*self.arrivals, *self.pings], [*self.services, *(0.0 for _ in self.pings)])
        ends = work.reach()
        for began, _, restored in self.boots.values():
            place = int(work.arrivals.searchsorted(began))
            yield began - (float(ends[place - 1]) if place else -math.inf), restored


class Learner:
    """Reads what is new in a ledger.

    Args:
        store: the ledger's; None where there is none.
        endpoint: whose lines count.
    """

    def __init__(self, store: Store | None, endpoint: str, digest: Digest | None = None) -> None:
        self._store = store
        self._endpoint = endpoint
        self.digest = digest or Digest()

    def learn(self, now: float) -> int:
        """Read the objects that have come since; gives how many those were.

        Raises:
            StoreTrouble: the ledger cannot be read.
        """
        if self._store is None:
            return 0
        found = self._found(now)
        with patient("objects of the ledger", len(found)) as advance:
            for day, key in found:
                self._read(key)
                self.digest.objects.setdefault(day, []).append(key)
                advance(1)
        self.digest.read_to = _day(now)
        self.digest.forget(now - HORIZON_DAYS * 86400)
        return len(found)

    def _found(self, now: float) -> list[tuple[str, str]]:
        """What is new, by the day, as it was written.

        The last day is listed first: what it has then is all there is before it when the days before are listed.
        """
        days = self._days(now)
        new = {day: self._new(day) for day in reversed(days)}
        return [(day, key) for day in days for key in new[day]]

    def _days(self, now: float) -> list[str]:
        """All at first; later those since it was last read to the end, and some before, for latecomers.

        All again where that was in the future: by a clock so far ahead they may have been forgotten.
        """
        first, today = _day(now - 86400 * HORIZON_DAYS), _day(now)
        if self.digest.read_to is not None and self.digest.read_to <= today:
            first = max(first, str(date.fromisoformat(self.digest.read_to) - timedelta(days=_LATE_DAYS)))
        days = (_day(now - 86400 * number) for number in range(HORIZON_DAYS, -2, -1))
        return [day for day in days if day >= first]

    def _new(self, day: str) -> list[str]:
        known = set(self.digest.objects.get(day, ()))
        return [key for key in self._keys(day) if key not in known]

    def _keys(self, day: str) -> list[str]:
        from pathlib import Path

        from handler.billing.segment import UNDER, parse_key

        assert self._store is not None
        if self._store.place.startswith("file://") and not Path(self._store.place.removeprefix("file://")).is_dir():
            return []
        found = [(parse_key(stored.key), stored.key) for stored in self._store.keys(f"{UNDER}dt={day}/")]
        mine = [(key, text) for key, text in found if key is not None and key.endpoint == self._endpoint]
        return [text for key, text in sorted(mine, key=lambda pair: (pair[0].chain, pair[0].name.first))]

    def _read(self, key: str) -> None:
        from handler.billing.segment import decode, parse_key, seq_of, split

        assert self._store is not None
        try:
            raw = gzip.decompress(self._store.get(key))
        except (OSError, EOFError, zlib.error):
            _log.warning("left out, as it cannot be unpacked: %s", key)
            return
        parsed = parse_key(key)
        assert parsed is not None
        before = self.digest.chains.get(parsed.chain, 0)
        for line in filter(None, map(decode, split(raw))):
            if seq_of(line) <= before:
                continue  # A chain's lines are numbered, and some stand in two objects.
            try:
                self.digest.take(line)
            except (KeyError, TypeError, ValueError):
                _log.warning("left out, as it is no line that is known: %s in %s", line.get("id"), key)
        self.digest.chains[parsed.chain] = max(before, parsed.name.last or 0)


def costs_of(settings: Settings, digest: Digest) -> Costs:
    """What is weighed: the settings, and what the ledger shows.

    Raises:
        NoPrice: neither says what a second costs.
    """
    price = digest.price if settings.price is None else settings.price
    if price is None:
        raise NoPrice("what does a second of a worker cost? The ledger does not say yet: write --price 0.00031")
    return Costs(price, settings.wait_value, digest.starts(settings.cold_seconds), active_price=settings.active_price)


def _epoch(line: dict[str, Any]) -> str:
    return f"{line['boot']}.{line['epoch']}"


def _moment(stamp: str) -> float:
    return datetime.fromisoformat(stamp).timestamp()


def _day(moment: float) -> str:
    return (datetime.fromtimestamp(0, UTC) + timedelta(seconds=moment)).strftime("%Y-%m-%d")
