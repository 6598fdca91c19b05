"""`verify` finds what is wrong with a ledger, names the place, and finds nothing in one that is whole."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from handler.billing.closing import closing_lines
from handler.billing.price import Price
from handler.billing.reading.audit import Problem
from handler.billing.reading.verify import Verification, verify
from handler.billing.segment import compress, ledger_key
from handler.billing.store import Store, open_store
from tests.billing.lives import Segment, Worker, random_life, short_life

LATER = datetime(2026, 11, 22, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path))


def problems(store: Store, now: datetime = LATER) -> list[Problem]:
    return list(verify(store, now=now).problems)


def test_a_whole_ledger_has_no_problems_and_is_counted(store: Store) -> None:
    short_life().bring_to(store)
    found = verify(store, now=LATER)
    assert found == Verification((), {
        "objects": 4, "lines": 19, "requests": 3, "lives": 1, "epochs": 1, "living": 0, "repeated_lines": 0,
        "missing_lines": 0, "missing_ms": 0,
    })
    assert found.ok


@pytest.mark.parametrize("seed", range(12))
def test_lives_with_freezes_and_overlapping_requests_add_up(store: Store, seed: int) -> None:
    random_life(seed).bring_to(store)
    assert problems(store) == []


def test_a_ledger_without_prices_adds_up(store: Store) -> None:
    short_life(Worker(price=Price())).bring_to(store)
    assert problems(store) == []


def test_progress_is_told(store: Store) -> None:
    short_life().bring_to(store)
    seen: list[int] = []
    verify(store, seen.append, LATER)
    assert sum(seen) == 4


def test_a_missing_segment_is_named_by_its_lines_and_the_time_they_held(store: Store) -> None:
    worker = short_life()
    missing = worker.segments.pop(1)
    worker.bring_to(store)
    found = verify(store, now=LATER)
    held = sum(line["ms"] for line in missing.lines if line["kind"] == "phase")
    assert held == 2_000
    assert found.problems == (
        Problem("gap", f"{worker.boot}-{missing.chain}", "missing lines: 5 to 10; with them 2000 ms"),
    )
    assert (found.counts["missing_lines"], found.counts["missing_ms"]) == (6, 2_000)


def test_a_missing_beginning_is_found(store: Store) -> None:
    worker = short_life()
    worker.segments = worker.segments[2:]
    worker.bring_to(store)
    [problem] = problems(store)
    assert problem.detail == "missing lines: 1 to 10; with them 7000 ms"


def test_an_epoch_of_which_nothing_came_is_found(store: Store) -> None:
    worker = Worker()
    worker.ready(1)
    worker.freeze(5, 50)
    worker.freeze(55, 90)
    worker.close(99)
    worker.segments = [segment for segment in worker.segments if not segment.chain.startswith("1.")]
    worker.bring_to(store)
    assert problems(store) == [Problem("gap", f"worker1/{worker.boot}", "1 of its 3 epochs have no lines")]


def test_what_comes_twice_is_counted_and_harmless(store: Store) -> None:
    worker = short_life()
    worker.bring_to(store)
    for number, segment in enumerate(worker.segments):
        replace(segment, lines=segment.lines[: 1 + number]).bring_to(store)
    found = verify(store, now=LATER)
    assert found.ok
    assert found.counts["repeated_lines"] == 1 + 2 + 3
    assert found.counts["lines"] == 19


def test_the_same_line_with_other_content_is_a_problem(store: Store) -> None:
    worker = short_life()
    worker.bring_to(store)
    segment = worker.segments[1]
    other = [line | {"tenant": "mallory"} if line["kind"] == "request" else line for line in segment.lines]
    key = replace(segment, lines=other).bring_to(store)
    [problem] = problems(store)
    assert problem.kind == "conflict"
    assert problem.where in (key, segment.bring_to(store))
    assert "line 10 " in problem.detail


def test_a_worker_that_was_killed_is_told_from_one_that_lives(store: Store) -> None:
    worker = short_life()
    worker.segments.pop()
    worker.bring_to(store)
    just_now = datetime(2026, 11, 20, 22, 0, 15, tzinfo=UTC)
    living = verify(store, now=just_now)
    assert (living.ok, living.counts["living"]) == (True, 1)
    assert problems(store) == [
        Problem(
            "unclosed", f"{worker.boot}-0.a000",
            "ended after 2026-11-20T22:00:10Z without being closed: at most its last 10 s are missing",
        )
    ]


def test_a_worker_that_was_killed_and_recovered_adds_up(store: Store) -> None:
    worker = Worker()
    worker.ready(4.321)
    worker.enter(5, tenant="acme")
    worker.flush(7)
    worker.seal()
    worker.enter(8)
    worker.flush(9)
    worker.batch += closing_lines(worker.batch)
    worker.seal()
    worker.bring_to(store)
    assert problems(store) == []


def tampered(segment: Segment, change: Callable[[bytes], bytes]) -> tuple[str, bytes]:
    """The key of what was written, and what is there instead."""
    raw = segment.raw()
    return ledger_key(raw), compress(change(raw))


@pytest.mark.parametrize(
    ("change", "kinds"),
    [
        (lambda raw: raw.replace(b'"ms":1000', b'"ms":2000'), {"digest", "checksum", "range", "gap"}),
        (lambda raw: raw[:-20], {"digest", "torn", "range", "gap"}),
        (lambda raw: raw + b"\n", {"digest", "checksum"}),
        (lambda raw: b"", {"digest", "range", "gap"}),
        (lambda raw: raw.partition(b"\n")[2], {"digest", "range", "gap"}),
    ],
)
def test_content_that_was_changed_is_found(
    store: Store, change: Callable[[bytes], bytes], kinds: set[str]
) -> None:
    worker = short_life()
    key, body = tampered(worker.segments.pop(1), change)
    worker.bring_to(store)
    store.put(key, body)
    found = problems(store)
    assert {problem.kind for problem in found} == kinds
    assert {problem.where for problem in found} <= {key, f"{worker.boot}-0.a000"}


@pytest.mark.parametrize("body", [b"no gzip", b"\x1f\x8b", gzip.compress(b"x" * 1000, mtime=0)[:-9]])
def test_an_object_that_cannot_be_unpacked_is_found(store: Store, body: bytes) -> None:
    worker = short_life()
    key = ledger_key(worker.segments.pop().raw())
    worker.bring_to(store)
    store.put(key, body)
    assert [problem.kind for problem in problems(store) if problem.where == key] == ["gzip"]


def test_a_checksum_that_is_right_does_not_hide_a_wrong_cost(store: Store) -> None:
    worker = short_life()
    line = worker.segments[1].lines[-1]
    assert line["kind"] == "request"
    line["cost"] = str(Decimal(line["cost"]) * 2)
    key = worker.bring_to(store)[1]
    [problem] = problems(store)
    assert (problem.kind, problem.where) == ("cost", key)


def test_a_request_with_another_share_breaks_conservation(store: Store) -> None:
    worker = short_life()
    line = worker.segments[2].lines[-1]
    line["execution_ms"] += 1
    line["cost"] = cost_of(line)
    worker.bring_to(store)
    assert problems(store) == [
        Problem("conservation", f"worker1/{worker.boot}", "requests have 3501 ms of 3500 ms of execution")
    ]


def test_time_that_was_taken_out_of_a_phase_breaks_conservation(store: Store) -> None:
    worker = short_life()
    line = next(line for line in worker.segments[0].lines if line["kind"] == "phase")
    line["ms"] -= 1
    line["cost"] = cost_of(line)
    keys = worker.bring_to(store)
    [problem] = problems(store)
    assert (problem.kind, problem.where) == ("conservation", keys[1])
    assert "5000 ms" in problem.detail
    assert "4999 ms" in problem.detail


def test_an_epoch_that_is_not_whole_seconds_breaks_conservation(store: Store) -> None:
    worker = short_life()
    line = worker.segments[-1].lines[-1]
    assert line["phase"] == "rounding"
    line["ms"] += 1
    line["cost"] = cost_of(line)
    worker.bring_to(store)
    assert [problem.kind for problem in problems(store)] == ["conservation"]


def test_time_after_the_end_breaks_conservation(store: Store) -> None:
    worker = short_life()
    worker.segments[-1].lines.append(worker.segments[-1].lines[-1])
    worker.bring_to(store)
    assert problems(store)[0].detail.startswith("time comes after the end of its epoch")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ms": -5}, "-5 ms are no time"), ({"ms": "many"}, "many"), ({"ms": None}, "NoneType"),
        ({"price": "cheap"}, "ConversionSyntax"), ({"written": "yesterday"}, "yesterday"),
        ({"worker": "other"}, "its worker is other"), ({"epoch": 7}, "its epoch is 7"),
    ],
)
def test_a_line_of_another_form_is_found(store: Store, change: dict[str, object], said: str) -> None:
    worker = short_life()
    worker.segments[2].lines[1].update(change)
    worker.bring_to(store)
    content = [problem for problem in problems(store) if problem.kind == "content"]
    assert len(content) == 1
    assert said in content[0].detail


def test_a_line_without_a_field_is_found(store: Store) -> None:
    worker = short_life()
    del worker.segments[2].lines[1]["ms"]
    worker.bring_to(store)
    assert "it has no 'ms'" in " ".join(problem.detail for problem in problems(store))


def test_an_object_with_a_strange_name_is_found(store: Store) -> None:
    short_life().bring_to(store)
    store.put("usage/v1/dt=2026-11-20/notes.txt", b"hello")
    assert problems(store) == [Problem("name", "usage/v1/dt=2026-11-20/notes.txt", "no key of the ledger")]


def test_an_object_with_anothers_name_is_found(store: Store) -> None:
    one, other = short_life(), short_life(Worker("worker2"))
    store.put(ledger_key(one.segments[0].raw()), compress(other.segments[0].raw()))
    kinds = {problem.kind for problem in problems(store)}
    assert {"digest", "content", "range"} <= kinds


def test_a_thousand_damaged_lines_of_an_object_are_one_problem(store: Store) -> None:
    worker = Worker()
    worker.ready(1)
    for second in range(1_000):
        worker.flush(2 + second)
    worker.seal()
    key, body = tampered(worker.segments[0], lambda raw: raw.replace(b'"idle"', b'"lazy"'))
    store.put(key, body)
    damaged = [problem for problem in problems(store) if problem.kind == "checksum"]
    assert len(damaged) == 1
    assert "(and 999 more)" in damaged[0].detail


def test_a_copy_fills_in_what_a_damaged_object_lacks(store: Store) -> None:
    worker = short_life()
    segment = worker.segments[1]
    whole = segment.bring_to(store)
    store.put(whole.replace(f"{segment.first + 5:08d}-", "00000009-"), compress(segment.raw()[:-20]))
    worker.bring_to(store)
    found = verify(store, now=LATER)
    assert "gap" not in {problem.kind for problem in found.problems}
    assert found.counts["requests"] == 3


def cost_of(line: dict[str, object]) -> str | None:
    return Price.of(line).cost(line.get("ms", line.get("execution_ms")))  # type: ignore[arg-type]

