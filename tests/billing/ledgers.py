"""Synthetic ledgers: lives of loaded workers, line for line as they write them, and what a reader must find in them."""

from __future__ import annotations

import json
import random
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property, reduce
from pathlib import Path
from typing import Any

from handler.billing.identity import Identity
from handler.billing.lines import Asked, Line, Lines, Outcome, Spent
from handler.billing.meter import Amount, largest_remainder
from handler.billing.price import Price
from handler.billing.segment import compress, encode, ledger_key
from handler.epochs import Epoch, Moment

BEGAN_S = 1_795_219_200
"""2026-11-21T00:00:00Z."""
DAY_S = 86_400
SPANS = [
    {"name": "interpreter", "start_s": 0.0, "end_s": 0.031, "thread": "MainThread", "detail": {}},
    {"name": "import torch", "start_s": 0.031, "end_s": 2.214, "thread": "import torch", "detail": {}},
    {"name": "weights", "start_s": 0.4, "end_s": 3.1, "thread": "weights", "detail": {"bytes": 2_400_000_000}},
]

_OUTCOME = ("queue_ms", "first_token_ms", "prompt_tokens", "cached_tokens", "output_tokens")


@dataclass(frozen=True)
class Shape:
    """What a ledger is to hold.

    Attributes:
        requests: request lines, spread evenly over objects, workers and days.
        per_object: request lines an object; 1,500 make 1 MiB, at which the journal seals a segment.
        per_batch: requests that end in each second of work.
        repeated: share of the objects whose first half lies in another object as well.
        price: None where no price is known.
        began_s: when the first worker began, in seconds since 1970.
        unclosed: how many of the workers were killed, and nobody has closed their epochs yet.
    """

    requests: int = 2_000
    per_object: int = 100
    per_batch: int = 20
    workers: int = 4
    endpoints: int = 2
    days: float = 3.0
    tenants: int = 7
    repeated: float = 0.1
    price: str | None = "0.00031"
    unclosed: int = 1
    seed: int = 0
    began_s: int = BEGAN_S


@dataclass
class Truth:
    """What the ledger holds, each line once.

    Attributes:
        ms: milliseconds by phase.
        by_day_and_tenant: of users' requests, by the day of their arrival.
        warmup_ms: milliseconds by phase of what is marked as a warm-up.
    """

    objects: int = 0
    repeated: int = 0
    lines: int = 0
    requests: int = 0
    warmups: int = 0
    output_tokens: int = 0
    ms: Counter[str] = field(default_factory=Counter)
    warmup_ms: Counter[str] = field(default_factory=Counter)
    by_day_and_tenant: Counter[tuple[str, str | None]] = field(default_factory=Counter)

    def __add__(self, other: Truth) -> Truth:
        return Truth(**{name: getattr(self, name) + getattr(other, name) for name in vars(self)})


def make_ledger(folder: Path, shape: Shape, processes: int = 1) -> Truth:
    """Write a ledger below `folder`, which is made, and give what it holds."""
    lives = [(folder, shape, worker) for worker in range(shape.workers)]
    if processes == 1:
        truths = [_write_life(*life) for life in lives]
    else:
        with ProcessPoolExecutor(processes) as pool:
            truths = list(pool.map(_write_life, *zip(*lives, strict=True)))
    return reduce(Truth.__add__, truths)


def write_object(folder: Path, lines: Sequence[bytes]) -> Path:
    """One object with these lines, under the name that follows from them."""
    raw = b"".join(lines)
    path = folder / ledger_key(raw)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(compress(raw))
    return path


class _Template:
    """A kind of line whose fields are filled in quickly.

    Args:
        line: names for values, like `%(ms)d`, stand in it as the JSON text's own strings.
    """

    def __init__(self, line: Line) -> None:
        text = json.dumps({"id": "%(id)s", **line}, ensure_ascii=False, separators=(",", ":"))
        for name in ("execution_ms", "duration_ms", *_OUTCOME):
            text = text.replace(f'"%({name})d"', f"%({name})d")
        for name in ("cost", "tenant", "warmup"):
            text = text.replace(f'"%({name})s"', f"%({name})s")
        self._text = text[:-1]

    def fill(self, values: dict[str, Any]) -> bytes:
        text = (self._text % values).encode()
        return b'%b,"crc":"%08x"}\n' % (text, zlib.crc32(text))


class _Life:
    """One worker's only epoch: it boots, is now busy and now idle, and drains."""

    def __init__(self, shape: Shape, worker: int) -> None:
        self.shape = shape
        self.random = random.Random(shape.seed * 10_007 + worker)
        self.began_s = shape.began_s + 60 * worker
        boot = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime(self.began_s))}-{worker:08x}"
        self.identity = Identity(
            f"endpoint-{worker % shape.endpoints}", f"worker{worker:04d}", boot, "L4", 1, "EU-RO-1"
        )
        self.chain = f"{boot}-0.{self.random.getrandbits(16):04x}"
        price = Price(None if shape.price is None else Decimal(shape.price), "flex", "2026-06-08")
        moment = Moment(self.began_s, 0.0)
        self.price = price
        self.lines = Lines(self.identity, Epoch(0, "fresh", moment), "demo", price)
        self.truth = Truth()
        self.now = 0
        self.seq = 0
        self.mark: bool | None = None
        self.killed = worker < shape.unclosed

    @cached_property
    def request_template(self) -> _Template:
        said: list[Any] = ["%(start_kind)s", "%(warmup)s", "%(job)s", "%(tenant)s"]
        asked = Asked("chatcmpl-%(request)032x", *said)
        numbers: Any = {name: f"%({name})d" for name in Outcome._fields if name != "finish_reason"}
        outcome = Outcome("stop", **numbers)
        line = self.lines.request("", "", asked, outcome, Spent(0, 0))
        spent = {"duration_ms": "%(duration_ms)d", "execution_ms": "%(execution_ms)d"}
        return _Template(line | spent | {"at": "%(at)s", "written": "%(written)s", "cost": "%(cost)s"})

    def objects(self) -> Iterator[list[bytes]]:
        """The lines of each segment, in order."""
        shape = self.shape
        count = max(1, round(shape.requests / shape.per_object / shape.workers))
        step_ms = int(shape.days * DAY_S * 1000 / count)
        for number in range(count):
            segment = [self._open()]
            if number == 0:
                segment += self._boot()
            rest = shape.per_object
            while rest > 0:
                segment += self._batch(min(rest, shape.per_batch))
                rest -= shape.per_batch
            last = number == count - 1
            until = self.now + 700 if last else (number + 1) * step_ms
            segment.append(self._phase("idle", until))
            if last and not self.killed:
                segment += [self._phase("drain", self.now + 333), self._phase("rounding", self.now + -self.now % 1000)]
            yield segment

    def _record(self) -> str:
        self.seq += 1
        self.truth.lines += 1
        return f"{self.chain}-{self.seq}"

    def _open(self) -> bytes:
        return encode(self.lines.open(self.lines.stamp(self.now), self.now, 0, []), self._record())

    def _phase(self, phase: Any, until: int, warmup: bool | None = None) -> bytes:
        mark = self.mark if warmup is None else warmup
        ms = max(0, until - self.now)
        line = self.lines.phase(self.lines.stamp(self.now + ms), Amount(phase, mark, self.now, ms))
        self.now += ms
        self.truth.ms[phase] += ms
        if mark or (mark is None and self._first_is_warmup):
            self.truth.warmup_ms[phase] += ms
        return encode(line, self._record())

    @property
    def _first_is_warmup(self) -> bool:
        return int(self.identity.worker[-4:]) % 2 == 1

    def _boot(self) -> list[bytes]:
        boot = self._phase("boot", 4_321)
        facts = {"ready_ms": 4_321, "spans": SPANS, "region": "EU-RO-1", "version": "0.1.0", "journal": "disk",
                 "open_interval_ms": 10_000}
        start = encode(self.lines.start(self.lines.stamp(self.now), **facts), self._record())
        return [start, boot, self._phase("idle", self.now + 1_234)]

    def _batch(self, count: int) -> list[bytes]:
        """A second of work, or what a batch has to itself: the time's lines, then the requests that ended in it."""
        first, warmup = self.mark is None, self.mark is None and self._first_is_warmup
        began, ms = self.now, self.random.randrange(900, 1_000)
        weights = [self.random.random() for _ in range(count)]
        scale = ms / sum(weights)
        shares = largest_remainder([weight * scale for weight in weights], ms)
        self.mark = False
        lines = []
        if warmup:
            lines.append(self._phase("execution", began + shares[0], True))
        lines.append(self._phase("execution", began + ms))
        written = self.lines.stamp(self.now)
        for number, share in enumerate(shares):
            lines.append(self._request(began, written, share, first and number == 0, warmup and number == 0))
        return lines

    def _request(self, began: int, written: str, share: int, is_first: bool, warmup: bool) -> bytes:
        draw = self.random.random
        tenant_number = int(draw() * (self.shape.tenants + 1))
        tenant = f"tenant-{tenant_number:03d}" if tenant_number else None
        queue_ms, output_tokens = int(draw() * 40), int(draw() * 255) + 1
        at = self.lines.stamp(began)
        cost = self.price.cost(share)
        self.truth.requests += not warmup
        self.truth.warmups += warmup
        if not warmup:
            self.truth.by_day_and_tenant[at[:10], tenant] += 1
            self.truth.output_tokens += output_tokens
        return self.request_template.fill({
            "id": self._record(), "at": at, "written": written, "request": self.random.getrandbits(128),
            "start_kind": "fresh" if is_first else "warm", "warmup": "true" if warmup else "false",
            "job": f"job-{self.seq}-e1", "tenant": f'"{tenant}"' if tenant else "null", "queue_ms": queue_ms,
            "first_token_ms": queue_ms + 12 + int(draw() * 200),
            "prompt_tokens": int(draw() * 900) + 1, "cached_tokens": 0, "output_tokens": output_tokens,
            "duration_ms": 900 + int(draw() * 100), "execution_ms": share,
            "cost": "null" if cost is None else f'"{cost}"',
        })


def _write_life(folder: Path, shape: Shape, worker: int) -> Truth:
    life = _Life(shape, worker)
    for lines in life.objects():
        write_object(folder, lines)
        life.truth.objects += 1
        if life.random.random() < shape.repeated:
            write_object(folder, lines[: max(1, len(lines) // 2)])
            life.truth.repeated += 1
    return life.truth
