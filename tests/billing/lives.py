"""Lives of workers, kept by the real books at times that a test sets, and brought to a store as the real segments."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path

from handler.billing.books import Books, Entry
from handler.billing.identity import Identity
from handler.billing.lines import Asked, Line, Lines, Outcome
from handler.billing.price import Price
from handler.billing.reading.ledger import Ledger, open_ledger
from handler.billing.segment import compress, encode, ledger_key, record_id
from handler.billing.store import Store, open_store
from handler.epochs import Epoch, Moment

PRICE = Price(Decimal("0.00031"), "flex", "2026-06-08")
START_FACTS = {"spans": [], "region": "EU-RO-1", "version": "0.1.0", "journal": "disk", "open_interval_ms": 10_000}


@dataclass
class Segment:
    """What a worker has sealed.

    Attributes:
        first: number of its first line.
    """

    boot: str
    chain: str
    first: int
    lines: list[Line]

    def raw(self) -> bytes:
        numbered = enumerate(self.lines, self.first)
        return b"".join(encode(line, record_id(self.boot, self.chain, seq)) for seq, line in numbered)

    def bring_to(self, store: Store) -> str:
        """Put it where it goes, and give its key."""
        raw = self.raw()
        key = ledger_key(raw)
        store.put(key, compress(raw))
        return key


class Worker:
    """A life, in seconds since it began.

    Args:
        began: when, in UTC.
    """

    def __init__(
        self, name: str = "worker1", endpoint: str = "ep1", began: str = "2026-11-20T22:00:00Z", price: Price = PRICE,
        gpu: str | None = "NVIDIA GeForce RTX 4090",
    ) -> None:
        self.began_s = datetime.fromisoformat(began).timestamp()
        self.boot = f"{began[:19].replace('-', '').replace(':', '')}-{random.Random(name).getrandbits(32):08x}"
        identity = Identity(endpoint, name, self.boot, gpu, 1, "EU-RO-1")
        self.lines_of = lambda epoch: Lines(identity, epoch, "demo", price)
        self.epoch = Epoch(0, "fresh", Moment(self.began_s, 0.0))
        self.books = Books(self.epoch, self.lines_of)
        self.first = 1
        self.batch: list[Line] = []
        self.segments: list[Segment] = []
        self.asked = 0
        self.is_first = True

    def ready(self, at: float) -> None:
        self.books.ready(at)
        self._begin(at)
        self.batch.append(self.books.start(at, ready_ms=int(1000 * at), **START_FACTS))

    def enter(self, at: float, *, warmup: bool = False, tenant: str | None = None, job: str | None = None) -> Entry:
        self.asked += 1
        kind = self.epoch.start_kind if self.is_first else "warm"
        self.is_first = False
        return self.books.enter(Asked(f"{self.boot}-r{self.asked}", kind, warmup, job, tenant), at)

    def leave(self, entry: Entry, at: float) -> None:
        self.books.leave(entry, Outcome("stop", 3, 40, 12, 0, 30), at)

    def flush(self, at: float) -> None:
        self._begin(at)
        self.batch += self.books.cut(at)

    def seal(self) -> None:
        self.segments.append(Segment(self.boot, self._chain, self.first, self.batch))
        self.first += len(self.batch)
        self.batch = []

    def close(self, at: float) -> None:
        self.books.enter_state("drain", at - 0.25)
        self._begin(at)
        self.batch += self.books.close(at)
        self.seal()

    def freeze(self, at: float, until: float) -> None:
        """Closes the epoch and opens the next; `until`: when it goes on."""
        self._begin(at)
        self.batch += self.books.close(at)
        self.seal()
        self.epoch = Epoch(self.epoch.number + 1, "restored", Moment(self.began_s + until, until))
        self.books.turn(self.epoch, was_recovered=False)
        self.first, self.is_first = 1, True
        self._begin(until)
        self.batch.append(self.books.start(until, ready_ms=0, **START_FACTS))

    def bring_to(self, store: Store) -> list[str]:
        return [segment.bring_to(store) for segment in self.segments]

    @property
    def _chain(self) -> str:
        return f"{self.epoch.number}.{0xA000 + self.epoch.number:04x}"

    def _begin(self, at: float) -> None:
        if not self.batch:
            self.batch.append(self.books.opening(at, self.began_s + at))


def short_life(worker: Worker | None = None) -> Worker:
    """Boots, serves a warm-up and two users, and ends after 20.4 s in four segments."""
    worker = worker or Worker()
    worker.ready(4.321)
    worker.flush(5.0)
    worker.seal()
    warmup = worker.enter(5.5, warmup=True)
    worker.leave(warmup, 5.9)
    one = worker.enter(6.0, tenant="acme", job="job-1")
    worker.flush(7.0)
    worker.seal()
    two = worker.enter(7.2, tenant="Zoë, & Söhne")
    worker.leave(one, 8.7)
    worker.leave(two, 9.1)
    worker.flush(10.0)
    worker.seal()
    worker.close(20.4)
    return worker


def random_life(seed: int) -> Worker:
    """Requests that overlap, freezes, and segments of all sizes."""
    draw = random.Random(seed)
    worker = Worker(f"random{seed}")
    at = draw.uniform(1, 9)
    worker.ready(at)
    flying: list[Entry] = []
    for _ in range(draw.randrange(5, 120)):
        at += draw.expovariate(4)
        step = draw.random()
        if step < 0.4:
            flying.append(worker.enter(at, warmup=draw.random() < 0.2, tenant=draw.choice([None, "a", "b"])))
        elif step < 0.7 and flying:
            worker.leave(flying.pop(draw.randrange(len(flying))), at)
        elif step < 0.9:
            worker.flush(at)
            if draw.random() < 0.5:
                worker.seal()
        elif step < 0.93:
            worker.freeze(at, at + 100)
            at += 100
    for entry in flying:
        worker.leave(entry, at)
    worker.close(at + 3)
    return worker


def ledger_of(folder: Path, *workers: Worker) -> Ledger:
    """A ledger that has these lives."""
    store = open_store(str(folder / "ledger"))
    for worker in workers:
        worker.bring_to(store)
    return open_ledger(store.place)
