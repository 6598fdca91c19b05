"""What RunPod would ask for the workers: each from its start to its stop, rounded up to whole seconds."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from engine.errors import PilotlightError
from handler.billing.lines import stamp
from handler.billing.price import plain
from handler.epochs import Moment

LOST: Final = "the endpoint was killed"
"""Why a charge ends that nobody ended: it is reckoned to when it was last seen to run."""

MARK_S: Final = 1.0
"""How often it is written that what runs still runs."""

_log = logging.getLogger("pilotlight.local")


class DamagedBill(PilotlightError):
    """The bill's file holds what no bill says."""


@dataclass(frozen=True, slots=True)
class Charge:
    """A stretch of a worker's life that is paid for: from its start, or a thaw, to its stop, or a freeze.

    Attributes:
        started: seconds since 1970.
        ms: how long it was by the monotonic clock: a step of the wall clock costs nobody anything.
        price: US dollars a second, as decimal text; None where it is not known.
        why: how it ended.
    """

    worker: str
    started: float
    ms: int
    price: str | None
    why: str

    @property
    def ended(self) -> float:
        """Seconds since 1970."""
        return self.started + self.ms / 1000

    @property
    def seconds(self) -> int:
        """What is billed: a second that has begun counts whole."""
        return -(-self.ms // 1000)

    @property
    def cost(self) -> Decimal:
        """US dollars; 0 where the price is not known."""
        return self.seconds * Decimal(self.price or 0)

    def as_dict(self) -> dict[str, Any]:
        """As it stands in the file."""
        return {
            "event": "stop", "worker": self.worker, "started": stamp(self.started), "ended": stamp(self.ended),
            "ms": self.ms, "seconds": self.seconds, "price": self.price,
            "cost": None if self.price is None else plain(self.cost), "why": self.why,
        }

    @classmethod
    def of(cls, line: Mapping[str, Any]) -> Charge:
        """The charge that a line of the file holds."""
        return cls(line["worker"], _seconds(line["started"]), line["ms"], line["price"], line["why"])


@dataclass(frozen=True, slots=True)
class Total:
    """Billed seconds and US dollars."""

    seconds: int
    cost: Decimal

    @classmethod
    def of(cls, charges: Iterable[Charge]) -> Total:
        """Of all of them together."""
        counted = list(charges)
        return cls(sum(charge.seconds for charge in counted), sum((charge.cost for charge in counted), Decimal(0)))


class Bill:
    """The charges of an endpoint, in a file of JSON lines that outlives it.

    A `start` line is written when a stretch begins and a `stop` line with its charge when it ends, so that the file
    tells what was running when the endpoint was killed, and a file beside it until when. A disk that takes no lines
    stops nobody: they are kept, and written when it does.

    Args:
        path: where it stands; made if there is none.
        price: US dollars a second of one worker; None where it is not known.

    Raises:
        DamagedBill: one line naming the file and the line in it.
    """

    def __init__(self, path: Path, price: Decimal | None = None) -> None:
        self.price = None if price is None else format(price, "f")
        self._running: dict[str, Moment] = {}
        self._unwritten = bytearray()
        self._marked = -MARK_S
        path.parent.mkdir(parents=True, exist_ok=True)
        self._seen = path.with_suffix(".seen")
        found = _read(path)
        found.last = max(found.last, _read_seen(self._seen))
        self._charges = found.charges
        self._file = path.open("ab", buffering=0)
        for charge in found.unfinished():
            self._book(charge)
        self._earlier = len(self._charges)

    def start(self, worker: str, now: Moment | None = None) -> None:
        """The worker costs from now on."""
        assert worker not in self._running
        began = self._running[worker] = now or Moment.now()
        self._write({"event": "start", "worker": worker, "at": stamp(began.wall_s), "price": self.price})

    def stop(self, worker: str, why: str, now: Moment | None = None) -> None:
        """The worker costs no more; that of one that costs nothing anyhow is no error."""
        if (began := self._running.pop(worker, None)) is not None:
            self._book(self._charge(worker, began, (now or Moment.now()).monotonic_s, why))

    def charges(self, now: float | None = None) -> list[Charge]:
        """All there are, also of earlier endpoints here; those that run are as if they ended now (monotonic s)."""
        at = time.monotonic() if now is None else now
        return [*self._charges, *(self._charge(worker, began, at, "") for worker, began in self._running.items())]

    def so_far(self, now: float | None = None) -> Total:
        """What this endpoint has cost since it came up."""
        return Total.of(self.charges(now)[self._earlier :])

    def mark(self, now: Moment | None = None) -> None:
        """What runs still runs: if the endpoint is killed, it is billed up to now. May be called often."""
        now = now or Moment.now()
        if now.monotonic_s < self._marked + MARK_S:
            return
        self._marked = now.monotonic_s
        self._flush()
        if self._running:
            with suppress(OSError):
                self._seen.write_text(stamp(now.wall_s))

    def close(self) -> None:
        """Let go of the file."""
        self._flush()
        self._file.close()

    def _charge(self, worker: str, began: Moment, at: float, why: str) -> Charge:
        return Charge(worker, began.wall_s, round(1000 * (at - began.monotonic_s)), self.price, why)

    def _book(self, charge: Charge) -> None:
        self._charges.append(charge)
        self._write(charge.as_dict())

    def _write(self, line: Mapping[str, Any]) -> None:
        full = bool(self._unwritten)
        self._unwritten += json.dumps(line).encode() + b"\n"
        if not self._flush() and not full:
            _log.error("%s: charges cannot be written, and are kept until they can", self._file.name)

    def _flush(self) -> bool:
        """Write what is to be written; whether all of it was."""
        with suppress(OSError):
            while self._unwritten:
                del self._unwritten[: self._file.write(self._unwritten)]
        return not self._unwritten


@dataclass(slots=True)
class _Found:
    """What a file holds: charges, the start lines without an end, the last moment it tells of (seconds since 1970)."""

    charges: list[Charge]
    running: dict[str, Mapping[str, Any]]
    last: float = 0.0

    def take(self, line: Mapping[str, Any]) -> None:
        if line["event"] == "start":
            self.running[line["worker"]] = line
            self.last = _seconds(line["at"])
        else:
            self.charges.append(Charge.of(line))
            self.running.pop(line["worker"], None)
            self.last = self.charges[-1].ended

    def unfinished(self) -> list[Charge]:
        """What ran when the endpoint was killed, up to the last moment that is known of."""
        return [
            Charge(worker, began, max(0, round(1000 * (self.last - began))), line["price"], LOST)
            for worker, line in self.running.items()
            for began in [_seconds(line["at"])]
        ]


def _read(path: Path) -> _Found:
    """What the file holds, without a last line that was torn, which is cut off."""
    found = _Found([], {})
    if not path.exists():
        return found
    written = path.read_bytes()
    whole = written[: written.rfind(b"\n") + 1]
    if whole != written:
        with path.open("r+b") as file:
            file.truncate(len(whole))
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            found.take(json.loads(line))
        except (ValueError, KeyError, TypeError):
            raise DamagedBill(f"the bill {path} cannot be read, line {number}; move it away to begin anew") from None
    return found


def _read_seen(path: Path) -> float:
    """When something was last seen to run, in seconds since 1970; 0 where that is not known."""
    try:
        return _seconds(path.read_text())
    except (OSError, ValueError):
        return 0.0


def _seconds(written: str) -> float:
    return datetime.fromisoformat(written).timestamp()
