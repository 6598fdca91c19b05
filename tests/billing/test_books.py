"""A worker's life as lines: all of it once, whatever happens in it."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal

from hypothesis import given, settings
from hypothesis import strategies as st

from handler.billing.books import Books, Entry
from handler.billing.closing import closing_lines
from handler.billing.identity import Identity
from handler.billing.lines import Asked, Line, Lines, Outcome
from handler.billing.price import Price
from handler.epochs import Epoch, Moment

WORKER = Identity("endpoint", "worker", "boot", gpu="NVIDIA H200")
PRICE = Price(Decimal("0.00155"), "flex", "2026-06-08")
FIRST = Epoch(0, "fresh", Moment(1_800_000_000.0, 100.0))
STOP = Outcome("stop", 1, 2, 10, 0, 5)


def lines_of(epoch: Epoch) -> Lines:
    return Lines(WORKER, epoch, "demo", PRICE)


def make_books(epoch: Epoch = FIRST) -> Books:
    return Books(epoch, lines_of)


def phase_ms(lines: list[Line]) -> Counter[str]:
    counted: Counter[str] = Counter()
    for line in lines:
        if line["kind"] == "phase":
            counted[line["phase"]] += line["ms"]
    return counted


def shares(lines: list[Line]) -> int:
    return sum(line["execution_ms"] for line in lines if line["kind"] == "request")


def test_a_request_line_says_who_asked_what_came_of_it_and_what_it_cost() -> None:
    books = make_books()
    books.ready(101.5)
    asked = Asked("cmpl-1", "fresh", job="job-1", tenant="acme")
    entry = books.enter(asked, 102.0)
    books.leave(entry, STOP, 104.5)
    [line] = [line for line in books.cut(105.0) if line["kind"] == "request"]
    assert line == {
        "kind": "request", "at": "2027-01-15T08:00:02.000Z", "written": "2027-01-15T08:00:05.000Z",
        "endpoint": "endpoint", "worker": "worker", "boot": "boot", "epoch": 0,
        "request": "cmpl-1", "start_kind": "fresh", "warmup": False, "job": "job-1", "tenant": "acme",
        "finish_reason": "stop", "queue_ms": 1, "first_token_ms": 2, "prompt_tokens": 10, "cached_tokens": 0,
        "output_tokens": 5, "duration_ms": 2500, "execution_ms": 2500, "model": "demo", "gpu": "NVIDIA H200",
        "gpu_count": 1, "price": "0.00155", "price_kind": "flex", "price_date": "2026-06-08", "cost": "0.003875",
    }


def test_an_epoch_ends_with_what_fills_its_last_second() -> None:
    books = make_books()
    books.ready(101.0)
    lines = books.close(103.25)
    assert lines[-1]["phase"] == "rounding"
    assert phase_ms(lines) == {"boot": 1000, "idle": 2250, "rounding": 750}


def test_a_request_ends_once() -> None:
    books = make_books()
    entry = books.enter(Asked("a", "fresh"), 101.0)
    books.leave(entry, STOP, 102.0)
    books.leave(entry, Outcome("abort"), 103.0)
    lines = books.cut(104.0) + books.cut(105.0)
    assert [line["finish_reason"] for line in lines if line["kind"] == "request"] == ["stop"]


def test_steps_of_the_wall_clock_move_no_stamp_and_are_told() -> None:
    books = make_books()
    opening = books.opening(110.0, wall_s=1_800_000_010.0 + 3600)
    assert opening["wall_ahead_ms"] == 3_600_000
    assert opening["written"] == "2027-01-15T08:00:10.000Z"


def test_a_request_that_is_frozen_goes_on_in_the_next_epoch() -> None:
    books = make_books()
    entry = books.enter(Asked("a", "fresh"), 101.0)
    before = books.close(103.0)
    second = Epoch(1, "restored", Moment(1_800_009_000.0, 9_100.0), Moment(1_800_000_003.0, 103.0))
    books.turn(second, was_recovered=False)
    books.leave(entry, STOP, 9_101.5)
    after = books.close(9_102.0)
    assert phase_ms(before) == {"boot": 1000, "execution": 2000, "rounding": 0}
    assert phase_ms(after) == {"execution": 1500, "boot": 500, "rounding": 0}
    assert shares(after) == 3500


def test_what_another_worker_has_booked_as_lost_is_not_booked_again() -> None:
    books = make_books()
    entry = books.enter(Asked("a", "fresh"), 100.0)
    books.cut(103.0)
    books.turn(Epoch(1, "restored", Moment(1_800_009_000.0, 9_100.0), Moment(1_800_000_003.0, 103.0)), True)
    books.leave(entry, STOP, 9_101.0)
    assert shares(books.close(9_102.0)) == 1000


def test_an_epoch_that_others_have_closed_is_rounded_once_and_the_time_since_is_in_another() -> None:
    books = make_books()
    books.ready(101.0)
    entry = books.enter(Asked("a", "fresh"), 102.0)
    segment = [books.opening(100.0, 0.0), *books.cut(102.25)]
    taken = segment + closing_lines(segment)
    books.settle()
    [opening] = books.go_on(Epoch(1, "fresh", books.settled_to), 103.0, 0.0, [])
    books.leave(entry, STOP, 104.0)
    rest = books.close(104.75)
    assert phase_ms(taken) == {"boot": 1000, "idle": 1000, "execution": 250, "rounding": 750}
    assert phase_ms(rest) == {"execution": 1750, "idle": 750, "rounding": 500}
    assert (opening["epoch"], opening["epoch_ms"], opening["at"]) == (1, 0, "2027-01-15T08:00:02.250Z")
    began = {line["phase"]: line["at"][20:] for line in rest if line["kind"] == "phase"}
    assert began == {"execution": "250Z", "idle": "000Z", "rounding": "750Z"}
    assert (shares(taken), shares(rest)) == (250, 1750)


def test_what_never_came_to_the_disk_is_told_in_the_epoch_after_the_one_that_was_taken() -> None:
    books = make_books()
    books.ready(101.0)
    entry = books.enter(Asked("a", "fresh"), 102.0)
    segment = [books.opening(100.0, 0.0), *books.cut(102.25)]
    books.settle()
    taken = segment + closing_lines(segment)
    books.leave(entry, STOP, 103.0)
    waits = books.cut(103.5)
    opening, *moved = books.go_on(Epoch(1, "fresh", books.settled_to), 104.0, 0.0, waits)
    rest = [*moved, *books.close(104.75)]
    assert phase_ms(taken) == {"boot": 1000, "idle": 1000, "execution": 250, "rounding": 750}
    assert phase_ms(rest) == {"execution": 750, "idle": 1750, "rounding": 500}
    assert (shares(taken), shares(rest)) == (250, 750)
    assert {line["epoch"] for line in (opening, *rest)} == {1}
    assert (opening["epoch_ms"], opening["at"]) == (0, "2027-01-15T08:00:02.250Z")
    assert [Decimal(line["cost"]) for line in rest if line["kind"] == "request"] == [Decimal("0.0011625")]


Step = tuple[str, float, int]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["enter", "leave", "abort", "cut", "wait", "ready", "drain", "freeze", "look", "take"]),
        st.floats(0, 20), st.integers(0, 9),
    ),
    max_size=80,
)


class Life:
    """A random life, and what it wrote, epoch by epoch."""

    def __init__(self) -> None:
        self.books = make_books()
        self.now = FIRST.began.monotonic_s
        self.epoch = FIRST
        self.lines: list[Line] = []
        self.entries: dict[int, Entry] = {}
        self.requests = 0
        self.segment = [self.books.opening(self.now, 0.0)]
        self.waits: list[Line] = []

    def play(self, steps: list[Step]) -> None:
        for what, seconds, number in steps:
            self.now += seconds
            self.do(what, number)

    def do(self, what: str, number: int) -> None:
        books, entry = self.books, self.entries.get(number)
        match what:
            case "enter" if entry is None:
                self.requests += 1
                self.entries[number] = books.enter(Asked(f"r{self.requests}", "warm", number % 3 == 0), self.now)
            case "leave" | "abort" if entry is not None:
                books.leave(entry, STOP if what == "leave" else Outcome("abort"), self.now)
                del self.entries[number]
            case "cut":
                self.write(books.cut(self.now))
            case "wait":
                self.waits += books.cut(self.now)
            case "ready":
                books.ready(self.now)
            case "drain":
                books.enter_state("drain", self.now)
            case "freeze":
                self.freeze(number)
            case "take" if any(line["kind"] == "phase" for line in self.segment):
                self.take()
            case "look":
                self.write([])
                self.segment = [books.opening(self.now, 1_800_000_000.0 + 100 * number)]

    def freeze(self, number: int) -> None:
        """Frozen for a while, and restored where the clocks say something else."""
        left = Moment(0.0, self.now)
        self.write(self.books.close(left.monotonic_s))
        self.now = 50.0 * number
        self.epoch = Epoch(self.epoch.number + 1, "restored", Moment(1_900_000_000.0 - number, self.now), left)
        self.books.turn(self.epoch, was_recovered=False)
        self.segment = [self.books.opening(self.now, 0.0)]

    def take(self) -> None:
        """Others take the journal while the worker runs, and close its epoch."""
        self.lines += closing_lines(self.segment)
        self.epoch = Epoch(self.epoch.number + 1, self.epoch.start_kind, self.books.settled_to)
        opening, *moved = self.books.go_on(self.epoch, self.now, 0.0, self.waits)
        self.segment, self.waits = [opening], moved

    def write(self, lines: list[Line]) -> None:
        """Bring them to the disk, behind those that wait for it."""
        lines, self.waits = self.waits + lines, []
        self.lines += lines
        self.segment += lines
        self.books.settle()


@settings(max_examples=200, deadline=None)
@given(STEPS)
def test_every_millisecond_of_a_life_is_in_one_line(steps: list[Step]) -> None:
    life = Life()
    life.play(steps)
    for entry in life.entries.values():
        life.books.leave(entry, Outcome("abort"), life.now)
    life.write(life.books.close(life.now))
    counted = phase_ms(life.lines)
    assert counted["execution"] == shares(life.lines)
    own = [line for line in life.lines if line["kind"] == "request" and line["finish_reason"] != "lost"]
    assert len(own) == life.requests
    for number in range(life.epoch.number + 1):
        phases = [line for line in life.lines if line["kind"] == "phase" and line["epoch"] == number]
        assert sum(line["ms"] for line in phases) % 1000 == 0
        assert [line["phase"] == "rounding" for line in phases] == [False] * (len(phases) - 1) + [True]
        assert 0 <= phases[-1]["ms"] <= 999
    for line in life.lines:
        spent = line["ms"] if line["kind"] == "phase" else line["execution_ms"]
        assert Decimal(line["cost"]) == Decimal("0.00155") * spent / 1000


@settings(max_examples=200, deadline=None)
@given(STEPS)
def test_a_killed_worker_s_newest_segment_tells_how_to_close_its_epoch(steps: list[Step]) -> None:
    life = Life()
    life.play(steps)
    closing = closing_lines(life.segment)
    if not any(line["kind"] == "phase" for line in life.segment):
        assert closing == []
        return
    written = life.lines + closing
    ms = [line["ms"] for line in written if line["kind"] == "phase" and line["epoch"] == life.epoch.number]
    assert sum(ms) % 1000 == 0
    assert phase_ms(written)["execution"] == shares(written)
    assert closing_lines(life.segment + closing) == []
