"""Segments of workers' lives, made as workers make them."""

from __future__ import annotations

import gzip
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path

from handler.billing.identity import Identity
from handler.billing.journal import Journal
from handler.billing.lines import Asked, Line, Lines, Outcome, Spent
from handler.billing.meter import Amount
from handler.billing.price import Price
from handler.billing.segment import decode, split
from handler.billing.store import Store
from handler.epochs import Epoch, Moment

BEGAN_S = 1_795_219_200.0


def identity(worker: int = 0) -> Identity:
    return Identity("ep/1 ü", f"worker-{worker:03d}", f"20261121T000000-{worker:08x}", "NVIDIA A40")


def lines(worker: int, segment: int, requests: int = 10) -> list[Line]:
    """One segment's lines: how it opens, ten seconds of work, and the requests that ended."""
    epoch = Epoch(0, "fresh", Moment(BEGAN_S, 0.0))
    of_worker = Lines(identity(worker), epoch, "demo", Price(Decimal("0.00034"), date="2026-06-08"))
    began, ended = segment * 10_000, segment * 10_000 + 10_000
    at, until = of_worker.stamp(began), of_worker.stamp(ended)
    made = [of_worker.open(at, began, 0, []), of_worker.phase(until, Amount("execution", False, began, 10_000))]
    draw = random.Random(worker * 1000 + segment)
    for number in range(requests):
        asked = Asked(f"request-{worker}-{segment}-{number}", "warm", tenant=draw.choice(["ä", "b", None]))
        outcome = Outcome("stop", 1, 20, draw.randrange(2000), 0, draw.randrange(500))
        made.append(of_worker.request(until, at, asked, outcome, Spent(500, 10_000 // requests)))
    return made


def fill(root: Path, worker: int = 0, segments: int = 4) -> Journal:
    """A worker's journal with so many sealed segments."""
    journal = Journal(root, identity(worker).boot)
    journal.begin_chain(0)
    for number in range(segments):
        journal.append(lines(worker, number))
        journal.seal()
    return journal


def sealed(journal: Journal) -> list[bytes]:
    """The sealed segments' bytes."""
    return [path.read_bytes() for path in journal.sealed()]


def record_ids(segment: bytes) -> list[str]:
    """The ids of a segment's lines, each of which must be whole."""
    found = [decode(raw) for raw in split(segment)]
    assert None not in found
    return [line["id"] for line in found if line]


def read_back(store: Store) -> dict[str, bytes]:
    """Every segment of a store by its key."""
    keys = [stored.key for stored in store.keys()]  # noqa: SIM118 (no dictionary)
    with ThreadPoolExecutor(16) as pool:
        return dict(zip(keys, map(gzip.decompress, pool.map(store.get, keys)), strict=True))


def records(store: Store) -> Counter[str]:
    """How often each record is in the store."""
    return Counter(record for segment in read_back(store).values() for record in record_ids(segment))
