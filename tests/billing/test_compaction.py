"""Days of a ledger as Parquet: each line once, the same file each time, and readable as a ledger."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path

import duckdb
import pytest

from handler.billing.reading.compaction import Compacted, DayNotOver, choose_days, compact, compact_days
from handler.billing.reading.ledger import LedgerNotFound, open_ledger
from handler.billing.reading.report import make_report
from handler.billing.store import open_store
from tests.billing.lives import Worker, random_life, short_life

FRIDAY, SATURDAY, SUNDAY = (date(2026, 11, day) for day in (20, 21, 22))
LATER = date(2026, 12, 24)


def over_midnight() -> Worker:
    """A segment that was begun on one day and ended on the next."""
    worker = Worker("owl", began="2026-11-20T23:59:50Z")
    worker.ready(4)
    worker.flush(5)
    worker.seal()
    worker.leave(worker.enter(6), 7)
    worker.flush(8)
    worker.flush(12)
    worker.seal()
    worker.close(20)
    return worker


@pytest.fixture
def place(tmp_path: Path) -> str:
    store = open_store(str(tmp_path / "ledger"))
    for worker in (over_midnight(), short_life(), random_life(7)):
        worker.bring_to(store)
        for segment in worker.segments[:2]:
            replace(segment, lines=segment.lines[: -(-len(segment.lines) // 2)]).bring_to(store)
    return store.place


def all_ids(place: str) -> list[str]:
    with open_ledger(place) as ledger:
        return sorted(name for (name,) in ledger.execute("SELECT id FROM lines").fetchall())


def test_every_line_is_in_one_day_once(place: str, tmp_path: Path) -> None:
    days = choose_days(open_store(place), None, None, today=LATER)
    assert days == [FRIDAY, SATURDAY, SUNDAY]
    done = list(compact_days(place, days, tmp_path / "out"))
    assert [day.day for day in done] == [FRIDAY, SATURDAY]
    query = f"SELECT id, written::DATE FROM read_parquet('{tmp_path}/out/*/*.parquet')"
    found = duckdb.execute(query).fetchall()
    assert sorted(name for name, _ in found) == all_ids(place)
    assert {day for _, day in found} == {FRIDAY, SATURDAY}
    assert sum(day.lines for day in done) == len(found)


def test_the_files_are_a_ledger_that_tells_the_same(place: str, tmp_path: Path) -> None:
    list(compact_days(place, choose_days(open_store(place), None, None, today=LATER), tmp_path / "out"))
    for period in ((None, None), (FRIDAY, FRIDAY), (SATURDAY, SATURDAY)):
        with open_ledger(place, *period) as ledger, open_ledger(str(tmp_path / "out"), *period) as compacted:
            objects, parquet = make_report(ledger, ["day", "tenant"]), make_report(compacted, ["day", "tenant"])
            assert replace(parquet, place=objects.place, objects=objects.objects) == objects


def test_the_day_is_a_partition_for_any_engine(place: str, tmp_path: Path) -> None:
    done = compact(place, SATURDAY, tmp_path / "out")
    assert done is not None
    assert done.path == tmp_path / "out" / "dt=2026-11-21" / "2026-11-21.parquet"
    assert done.bytes == done.path.stat().st_size
    query = f"SELECT DISTINCT dt FROM read_parquet('{tmp_path}/out/*/*.parquet', hive_partitioning = true)"
    assert duckdb.execute(query).fetchall() == [(SATURDAY,)]


def test_doing_it_again_changes_nothing(place: str, tmp_path: Path) -> None:
    first = compact(place, FRIDAY, tmp_path / "out")
    assert first is not None
    content = first.path.read_bytes()
    assert compact(place, FRIDAY, tmp_path / "out") == first
    assert first.path.read_bytes() == content
    assert [path.name for path in first.path.parent.iterdir()] == ["2026-11-20.parquet"]


def test_what_came_late_is_in_it_the_next_time(place: str, tmp_path: Path) -> None:
    before = compact(place, FRIDAY, tmp_path / "out")
    short_life(Worker("late")).bring_to(open_store(place))
    after = compact(place, FRIDAY, tmp_path / "out")
    assert before is not None
    assert after is not None
    assert after.lines == before.lines + 19


def test_the_objects_stay(place: str, tmp_path: Path) -> None:
    before = list(open_store(place).keys("usage/"))
    compact(place, FRIDAY, tmp_path / "out")
    assert list(open_store(place).keys("usage/")) == before


def test_a_day_without_lines_has_no_file(place: str, tmp_path: Path) -> None:
    assert compact(place, SUNDAY, tmp_path / "out") is None
    assert list((tmp_path / "out").iterdir()) == []


def test_a_day_that_is_not_over_is_refused_unless_told(place: str) -> None:
    store = open_store(place)
    for since, until in ((None, SATURDAY), (SATURDAY, None), (None, SUNDAY)):
        with pytest.raises(DayNotOver, match="2026-11-21 is not over"):
            choose_days(store, since, until, today=SATURDAY)
    assert choose_days(store, None, None, today=SATURDAY) == [FRIDAY]
    assert choose_days(store, None, None, today=SATURDAY, unfinished=True) == [FRIDAY, SATURDAY]
    assert choose_days(store, SATURDAY, SATURDAY, today=SUNDAY) == [SATURDAY]


def test_an_object_that_cannot_be_unpacked_is_left_out_and_named(place: str, tmp_path: Path) -> None:
    broken = next(Path(place.removeprefix("file://")).rglob("*.gz"))
    broken.write_bytes(b"rotten")
    done = compact(place, FRIDAY, tmp_path / "out")
    assert isinstance(done, Compacted)
    assert done.skipped == (broken.name,)


def test_a_ledger_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LedgerNotFound):
        compact(str(tmp_path / "nowhere"), FRIDAY, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.parquet"))
