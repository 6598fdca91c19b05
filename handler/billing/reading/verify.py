"""Is the ledger whole? Every object, every line, and what they add up to."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime

from handler.billing.lines import Line
from handler.billing.reading.audit import Audit, Problem, ProblemKind, one_of_each
from handler.billing.segment import UNDER, LedgerKey, decode, parse_key, seq_of, split
from handler.billing.store import Store

_AHEAD = 32
"""Objects that are fetched at once: each takes a round trip, and is a megabyte at most."""
_COUNTS = (
    "objects", "lines", "requests", "lives", "epochs", "living", "repeated_lines", "missing_lines", "missing_ms",
)


@dataclass(frozen=True, slots=True)
class Verification:
    """What was found.

    Attributes:
        counts: objects, lines and requests once each; epochs, and how many of them are still `living`; lines that
            came again, and those that are missing, with the milliseconds they held as far as later lines tell.
    """

    problems: tuple[Problem, ...]
    counts: dict[str, int]

    @property
    def ok(self) -> bool:
        return not self.problems


def verify(
    store: Store, advance: Callable[[int], None] = lambda count: None, now: datetime | None = None
) -> Verification:
    """Read a whole ledger. Memory grows with workers' lives, not with lines.

    Args:
        advance: is told of each object.
        now: epochs whose newest line is only just older are living.

    Raises:
        StoreTrouble: an object cannot be fetched.
    """
    problems: list[Problem] = []
    audit = Audit(problems.append)
    objects = 0
    for key, body in _fetched(store):
        found = len(problems)
        _read_object(key, body, audit, problems.append)
        problems[found:] = one_of_each(problems[found:])
        objects += 1
        advance(1)
    audit.finish(now or datetime.now(UTC))
    counts = audit.counts + Counter(objects=objects)
    return Verification(tuple(problems), {name: counts[name] for name in _COUNTS})


def _fetched(store: Store) -> Iterator[tuple[str, bytes]]:
    """Every object in the order of the keys, a few of them ahead of time."""
    with ThreadPoolExecutor(_AHEAD, "fetch") as pool:
        coming: deque[tuple[str, Future[bytes]]] = deque()
        for stored in store.keys(UNDER):
            coming.append((stored.key, pool.submit(store.get, stored.key)))
            if len(coming) >= _AHEAD:
                yield _arrived(coming)
        while coming:
            yield _arrived(coming)


def _arrived(coming: deque[tuple[str, Future[bytes]]]) -> tuple[str, bytes]:
    key, body = coming.popleft()
    return key, body.result()


def _read_object(name: str, body: bytes, audit: Audit, report: Callable[[Problem], object]) -> None:
    key = parse_key(name)
    if key is None:
        report(Problem("name", name, "no key of the ledger"))
        return
    try:
        raw = gzip.decompress(body)
    except (OSError, EOFError, zlib.error) as error:
        report(Problem("gzip", name, f"cannot be unpacked: {error}"))
        return
    if hashlib.sha256(raw).hexdigest()[:16] != key.sha:
        report(Problem("digest", name, "its content is not what its name says"))
    audit.begin_object(key)
    seen = _take_lines(key, raw, audit, report)
    _check_range(key, seen, report)


def _take_lines(key: LedgerKey, raw: bytes, audit: Audit, report: Callable[[Problem], object]) -> list[int]:
    """Give the object's whole lines to the audit, and their numbers back."""
    seen: list[int] = []
    for number, text in enumerate(split(raw), 1):
        line = decode(text) if text.endswith(b"\n") else None
        if line is None:
            kind: ProblemKind = "checksum" if text.endswith(b"\n") else "torn"
            report(Problem(kind, str(key), f"line {number} of the object is damaged"))
            continue
        try:
            seq = _number(key, line)
            if seen and seq <= seen[-1]:
                raise ValueError(f"{line['id']} comes after {seen[-1]}")
            audit.take(key, seq, zlib.crc32(text), line)
            seen.append(seq)
        except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
            report(Problem("content", str(key), f"line {number} of the object: {_say(error)}"))
    return seen


def _number(key: LedgerKey, line: Line) -> int:
    """A line's number in its chain, once its envelope is what the key says."""
    said = {"endpoint": key.endpoint, "worker": key.worker, "boot": key.boot, "epoch": key.name.epoch}
    for name, value in said.items():
        if line[name] != value:
            raise ValueError(f"its {name} is {line[name]}, not the key's")
    if line["id"].rpartition("-")[0] != key.chain:
        raise ValueError(f"{line['id']} is of another chain than the key's")
    seq = seq_of(line)
    if not key.name.first <= seq <= (key.name.last or 0):
        raise ValueError(f"{line['id']} is outside the key's range")
    return seq


def _check_range(key: LedgerKey, seen: Sequence[int], report: Callable[[Problem], object]) -> None:
    first, last = key.name.first, key.name.last
    assert last is not None
    absent = last - first + 1 - len(seen)
    if absent:
        report(Problem("range", str(key), f"{absent} of the lines {first} to {last} are not in it"))


def _say(error: Exception) -> str:
    return f"it has no {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
