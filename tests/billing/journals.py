"""A worker's books and journal under a clock that the test sets, and what is to be found in the ledger afterwards."""

from __future__ import annotations

import gzip
import time
from collections import Counter
from decimal import Decimal
from pathlib import Path

from handler.billing.books import Books, Entry
from handler.billing.identity import Identity
from handler.billing.journal import MEMORY, Journal
from handler.billing.lines import Asked, Line, Lines, Outcome
from handler.billing.price import Price
from handler.billing.recovery import Recovered, recover
from handler.billing.segment import decode, parse_key, split
from handler.billing.store import Store
from handler.epochs import Epoch, Moment

BOOT = "20261121T102224-3f9a1c2b"
WALL_S = 1_795_256_544.123
LATER_S = WALL_S + 86_400
"""The worker's beginning, and a day after it, in seconds since 1970."""

AGE_S = 30.0
"""Three open intervals."""

STAMP = "2026-11-21T10:22:24.123Z"
OPENING = {"kind": "open", "written": STAMP, "epoch_ms": 0, "wall_ahead_ms": 0, "in_flight": []}
ROUNDING = {"kind": "phase", "written": STAMP, "phase": "rounding", "ms": 0}


class Worker:
    """A worker's life, in seconds since it began."""

    def __init__(self, root: Path, boot: str = BOOT, memory: int = MEMORY) -> None:
        identity = Identity("abc123", "pod-1", boot, "NVIDIA GeForce RTX 4090")
        price = Price(Decimal("0.00031"), date="2026-06-08")
        self.journal = Journal(root, boot, memory)
        self.journal.begin_chain(0)
        self.books = Books(
            Epoch(0, "fresh", Moment(WALL_S, 0.0)), lambda epoch: Lines(identity, epoch, "demo", price)
        )
        self.entries: dict[str, Entry] = {}

    def enter(self, name: str, at_s: float) -> None:
        self.entries[name] = self.books.enter(Asked(name, "warm"), at_s)

    def leave(self, name: str, at_s: float) -> None:
        self.books.leave(self.entries[name], Outcome("stop", output_tokens=7), at_s)

    def flush(self, at_s: float) -> None:
        self.journal.append([*self._opening(at_s), *self.books.cut(at_s)])

    def segment(self, at_s: float) -> None:
        """Write what there is, and seal it."""
        self.flush(at_s)
        assert self.journal.seal()

    def close(self, at_s: float) -> None:
        self.journal.append([*self._opening(at_s), *self.books.close(at_s)])
        self.journal.seal()

    def kill(self) -> None:
        """As SIGKILL would, leave everything as it is: the kernel lets go of the lock."""
        self.journal._abandon()

    def _opening(self, at_s: float) -> list[Line]:
        return [] if self.journal.segment_bytes else [self.books.opening(at_s, WALL_S + at_s)]


def killed_worker(root: Path, boot: str = BOOT) -> Path:
    """The folder of one killed amid work: a confirmed segment, a sealed one, and an open one of two batches."""
    worker = Worker(root, boot)
    worker.books.enter_state("idle", 1.5)
    worker.enter("a", 2.0)
    worker.segment(3.0)
    worker.journal.confirm(worker.journal.sealed()[0])
    worker.enter("b", 3.25)
    worker.leave("a", 4.5)
    worker.segment(5.0)
    worker.enter("c", 5.1)
    worker.flush(6.001)
    worker.leave("b", 6.5)
    worker.flush(7.77)
    worker.kill()
    return root / boot


def lines_in(store: Store) -> list[Line]:
    """Every line of every object, which must be called as its content says."""
    lines = []
    for stored in store.keys(""):
        assert parse_key(stored.key) is not None
        for raw in split(gzip.decompress(store.get(stored.key))):
            line = decode(raw)
            assert line is not None
            lines.append(line)
    return lines


def journalled(folder: Path) -> list[Line]:
    """Every whole line that stands in a journal's folder."""
    found = [decode(raw) for path in sorted(folder.glob("*.*")) for raw in split(path.read_bytes())]
    return [line for line in found if line is not None]


def check_accounts(lines: list[Line]) -> Counter[str]:
    """Closed epochs are whole seconds, execution belongs to requests, no id names two lines. Milliseconds by phase."""
    ids = Counter(line["id"] for line in lines)
    assert ids.most_common(1)[0][1] == 1
    phases: Counter[str] = Counter()
    for line in lines:
        if line["kind"] == "phase":
            phases[line["phase"]] += line["ms"]
    assert sum(phases.values()) % 1000 == 0
    assert phases["execution"] == sum(line["execution_ms"] for line in lines if line["kind"] == "request")
    assert all(line["execution_ms"] >= 0 for line in lines if line["kind"] == "request")
    return phases


def idle(ms: int = 1000) -> Line:
    return {"kind": "phase", "written": STAMP, "phase": "idle", "ms": ms, "warmup": None}


def a_journal(root: Path, **options: int) -> Journal:
    journal = Journal(root, BOOT, **options)
    assert journal.begin_chain(0)
    return journal


def a_segment(journal: Journal, *lines: Line) -> Path:
    journal.append([OPENING, *lines])
    assert journal.seal()
    return journal.sealed()[-1]


def recover_later(root: Path, store: Store) -> Recovered:
    [recovered] = recover(root, store, AGE_S, time.time() + LATER_S)
    return recovered
