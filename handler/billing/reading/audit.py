"""Does a ledger add up? Its lines, chain by chain, against what each of them says of the others."""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal

from handler.billing.lines import Line
from handler.billing.price import Price
from handler.billing.segment import LedgerKey

ProblemKind = Literal[
    "name", "gzip", "digest", "torn", "checksum", "content", "range", "order", "gap", "conflict", "conservation",
    "cost", "unclosed",
]
"""`docs/billing.md` describes each."""

SILENCE = timedelta(minutes=2)
"""A life of which nothing is heard for longer has ended: a worker that lives brings a segment every ten seconds; its
store may be slow, and clocks differ."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What does not fit.

    Attributes:
        where: an object's key, a chain, or a worker's life.
    """

    kind: ProblemKind
    where: str
    detail: str


@dataclass(slots=True)
class _Chain:
    """What is known of an epoch's lines so far.

    Attributes:
        next: number of the line that comes next.
        base: number of the line to which the first of `checksums` belongs: those of the last object alone, because
            none that comes later begins before it.
        ms: of phases, with what missing lines held.
        missing: ranges of lines, until an `open` line tells their time.
        whole: whether none was missing up to where that was last looked at.
        closed: whether the epoch has its rounding.
        newest: when its last line was written.
    """

    next: int = 1
    base: int = 1
    checksums: array[int] = field(default_factory=lambda: array("I"))
    ms: int = 0
    missing: list[tuple[int, int]] = field(default_factory=list)
    whole: bool = True
    closed: bool = False
    newest: datetime | None = None
    open_interval_ms: int = 10_000

    def miss(self, seq: int) -> None:
        """The lines up to this one are not there."""
        if seq > self.next:
            self.missing.append((self.next, seq - 1))
            self.next = seq

    def fill(self, seq: int, checksum: int) -> bool:
        """A line has come after later ones; False where it was not missing."""
        for place, (first, last) in enumerate(self.missing):
            if first <= seq <= last:
                rest = ((first, seq - 1), (seq + 1, last))
                self.missing[place : place + 1] = [(low, high) for low, high in rest if low <= high]
                if seq >= self.base:
                    self.checksums[seq - self.base] = checksum
                return True
        return False


@dataclass(slots=True)
class _Life:
    """A process and its epochs: requests may begin in one and end in another."""

    chains: set[str] = field(default_factory=set)
    epochs: set[int] = field(default_factory=set)
    execution_ms: int = 0
    shares_ms: int = 0


class Audit:
    """Takes a ledger's lines in the order of their objects' keys, and keeps of them one object's checksums a chain.

    Args:
        report: is called with each problem.

    Attributes:
        counts: lines by kind, those that came again, those that are missing, and the milliseconds they held.
    """

    def __init__(self, report: Callable[[Problem], object]) -> None:
        self._report = report
        self._chains: defaultdict[str, _Chain] = defaultdict(_Chain)
        self._lives: defaultdict[tuple[str, str], _Life] = defaultdict(_Life)
        self.counts: Counter[str] = Counter()

    def begin_object(self, key: LedgerKey) -> None:
        """The lines that follow are this object's."""
        chain = self._chains[key.chain]
        life = self._lives[key.worker, key.boot]
        life.chains.add(key.chain)
        life.epochs.add(key.name.epoch)
        if key.name.first < chain.base:
            self._report(Problem("order", key.chain, f"line {key.name.first} comes in a later hour than {chain.base}"))
        elif key.name.first < chain.next:
            del chain.checksums[: key.name.first - chain.base]
            chain.base = key.name.first
        else:
            chain.miss(key.name.first)
            chain.base, chain.checksums = key.name.first, array("I")

    def take(self, key: LedgerKey, seq: int, checksum: int, line: Line) -> None:
        """A whole line, by its number in its chain; its number is not below that of the line before it in the object.

        Raises:
            LookupError, TypeError, ValueError, ArithmeticError: the line is not of the ledger's form.
        """
        chain = self._chains[key.chain]
        if seq >= chain.next:
            # Lines that are missing within an object must still have their place.
            chain.checksums.extend([0] * (seq - chain.next) + [checksum])
            chain.miss(seq)
            chain.next = seq + 1
        elif not chain.fill(seq, checksum):
            self._compare(key, chain, seq, checksum)
            return
        self._count(key, chain, line)

    def finish(self, now: datetime) -> None:
        """No more lines: look at how epochs and lives ended."""
        for name, chain in self._chains.items():
            self._settle_missing(name, chain, None)
            if not chain.closed:
                self._judge_open(name, chain, now)
        for (worker, boot), life in self._lives.items():
            self._judge_life(f"{worker}/{boot}", life)
        self.counts["epochs"] = len(self._chains)
        self.counts["lives"] = len(self._lives)

    def _compare(self, key: LedgerKey, chain: _Chain, seq: int, checksum: int) -> None:
        self.counts["repeated_lines"] += 1
        place = seq - chain.base
        if place >= 0 and chain.checksums[place] != checksum:
            self._report(Problem("conflict", str(key), f"line {seq} is in another object with other content"))

    def _count(self, key: LedgerKey, chain: _Chain, line: Line) -> None:
        kind = line["kind"]
        written = datetime.fromisoformat(line["written"]).astimezone(UTC)
        chain.newest = max(chain.newest or written, written)
        self.counts["lines"] += 1
        if kind == "open":
            self._check_open(key, chain, line["epoch_ms"])
        elif kind == "phase":
            self._count_phase(key, chain, line)
        elif kind == "request":
            self._count_request(key, chain, line)
        elif kind == "start":
            chain.open_interval_ms = int(line["open_interval_ms"])

    def _check_open(self, key: LedgerKey, chain: _Chain, epoch_ms: int) -> None:
        if chain.missing:
            self._settle_missing(key.chain, chain, epoch_ms - chain.ms)
        elif epoch_ms != chain.ms:
            detail = f"{epoch_ms} ms of the epoch should come before it; there are {chain.ms} ms"
            self._report(Problem("conservation", str(key), detail))
        chain.ms = epoch_ms

    def _settle_missing(self, name: str, chain: _Chain, ms: int | None) -> None:
        if not chain.missing:
            return
        ranges = ", ".join(str(first) if first == last else f"{first} to {last}" for first, last in chain.missing)
        held = "" if ms is None else f"; with them {ms} ms"
        self.counts["missing_lines"] += sum(last - first + 1 for first, last in chain.missing)
        self.counts["missing_ms"] += ms or 0
        chain.missing.clear()
        chain.whole = False
        self._report(Problem("gap", name, f"missing lines: {ranges}{held}"))

    def _count_phase(self, key: LedgerKey, chain: _Chain, line: Line) -> None:
        ms = int(line["ms"])
        if ms < 0:
            raise ValueError(f"{ms} ms are no time")
        self._check_cost(key, line, ms)
        if chain.closed:
            self._report(Problem("conservation", str(key), "time comes after the end of its epoch"))
        chain.ms += ms
        if line["phase"] == "execution":
            self._lives[key.worker, key.boot].execution_ms += ms
        if line["phase"] == "rounding":
            self._close(key, chain, ms)

    def _close(self, key: LedgerKey, chain: _Chain, rounding_ms: int) -> None:
        chain.closed = True
        if rounding_ms > 999:
            self._report(Problem("conservation", str(key), f"{rounding_ms} ms are more than rounding up takes"))
        if not chain.missing and chain.ms % 1000:
            self._report(Problem("conservation", key.chain, f"{chain.ms} ms are billed: no whole seconds"))

    def _count_request(self, key: LedgerKey, chain: _Chain, line: Line) -> None:
        ms = int(line["execution_ms"])
        self.counts["requests"] += 1
        self._check_cost(key, line, ms)
        self._lives[key.worker, key.boot].shares_ms += ms

    def _check_cost(self, key: LedgerKey, line: Line, ms: int) -> None:
        cost = Price.of(line).cost(ms)
        if cost != line["cost"]:
            detail = f"{line['id']}: {ms} ms at {line['price']} cost {cost}, not {line['cost']}"
            self._report(Problem("cost", str(key), detail))

    def _judge_open(self, name: str, chain: _Chain, now: datetime) -> None:
        silence = max(SILENCE, timedelta(milliseconds=3 * chain.open_interval_ms))
        if chain.newest is None or now - chain.newest < silence:
            self.counts["living"] += 1
            return
        ended, lost_s = f"{chain.newest:%Y-%m-%dT%H:%M:%SZ}", chain.open_interval_ms / 1000
        detail = f"ended after {ended} without being closed: at most its last {lost_s:g} s are missing"
        self._report(Problem("unclosed", name, detail))

    def _judge_life(self, where: str, life: _Life) -> None:
        absent = max(life.epochs) + 1 - len(life.epochs)
        if absent:
            self._report(Problem("gap", where, f"{absent} of its {max(life.epochs) + 1} epochs have no lines"))
        chains = [self._chains[name] for name in life.chains]
        over = life.shares_ms - life.execution_ms
        whole = all(chain.whole for chain in chains)
        if whole and (over > 0 or (over and all(chain.closed for chain in chains))):
            detail = f"requests have {life.shares_ms} ms of {life.execution_ms} ms of execution"
            self._report(Problem("conservation", where, detail))


def one_of_each(problems: list[Problem]) -> Iterator[Problem]:
    """The first problem of each kind, which tells how many more there are like it."""
    like: Counter[ProblemKind] = Counter(problem.kind for problem in problems)
    seen: set[ProblemKind] = set()
    for problem in problems:
        if problem.kind not in seen:
            seen.add(problem.kind)
            more = like[problem.kind] - 1
            yield Problem(problem.kind, problem.where, problem.detail + (f" (and {more} more)" if more else ""))
