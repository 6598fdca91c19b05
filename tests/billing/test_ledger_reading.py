"""A ledger opened for queries: every line once, wherever it lies and whatever is wrong with some of it."""

from __future__ import annotations

import gzip
import json
import shutil
from collections import Counter
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from engine.errors import InvalidConfig
from handler.billing.identity import Identity
from handler.billing.lines import Asked, Lines, Outcome, Spent
from handler.billing.price import Price
from handler.billing.reading.ledger import Ledger, LedgerNotFound, open_ledger
from handler.billing.reading.objects import LedgerFile, contested, find_files
from handler.billing.segment import decode, encode, split
from handler.epochs import Epoch, Moment
from tests.billing.ledgers import BEGAN_S, Shape, Truth, make_ledger, write_object

SHAPE = Shape(requests=600, per_object=30, repeated=0.5)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Truth]:
    folder = tmp_path_factory.mktemp("ledger")
    return folder, make_ledger(folder, SHAPE)


@pytest.fixture
def own(made: tuple[Path, Truth], tmp_path: Path) -> Path:
    """The same ledger, to be damaged."""
    return Path(shutil.copytree(made[0], tmp_path / "own"))


def number(ledger: Ledger, query: str) -> int:
    [value] = ledger.execute(query).fetchone() or (None,)
    return int(value)


def objects(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.gz"))


def one_line(ms: int, seq: int = 1, boot: str = "b") -> bytes:
    lines = Lines(Identity("e", "w", boot), Epoch(0, "fresh", Moment(BEGAN_S, 0.0)), "demo", Price())
    outcome, spent = Outcome("stop", 1, 2, 3, 4, 5), Spent(ms, ms)
    line = lines.request(lines.stamp(0), lines.stamp(0), Asked(f"r{seq}", "warm"), outcome, spent)
    return encode(line, f"{boot}-0.abcd-{seq}")


def test_synthetic_lines_are_the_workers_own(made: tuple[Path, Truth]) -> None:
    raw = [line for path in objects(made[0]) for line in split(gzip.decompress(path.read_bytes()))]
    decoded = [decode(line) for line in raw]
    assert None not in decoded
    request = next(line for line in raw if b'"kind":"request"' in line)
    assert list(json.loads(request)) == list(json.loads(one_line(1)))


def test_every_line_is_read_once_though_objects_overlap(made: tuple[Path, Truth]) -> None:
    folder, truth = made
    assert truth.repeated > 3
    with open_ledger(str(folder)) as ledger:
        assert ledger.objects == truth.objects + truth.repeated
        assert number(ledger, "SELECT count(*) FROM lines") == truth.lines
        assert number(ledger, "SELECT count(*) FROM requests") == truth.requests + truth.warmups
        assert number(ledger, "SELECT count(*) FROM starts") == SHAPE.workers


def test_only_objects_that_overlap_are_compared_line_by_line(made: tuple[Path, Truth]) -> None:
    folder, truth = made
    assert len(contested(find_files(folder))) == 2 * truth.repeated


def test_the_same_range_twice_with_different_content_counts_once(tmp_path: Path) -> None:
    write_object(tmp_path, [one_line(10)])
    write_object(tmp_path, [one_line(20)])
    write_object(tmp_path, [one_line(40, boot="other")])
    assert len(objects(tmp_path)) == 3
    with open_ledger(str(tmp_path)) as ledger:
        assert number(ledger, "SELECT count(*) FROM requests") == 2


def test_an_object_within_a_larger_one_overlaps_it_whatever_lies_between(tmp_path: Path) -> None:
    lines = [one_line(1, seq) for seq in range(1, 10)]
    for part in (lines, lines[:2], lines[4:6], lines[8:]):
        write_object(tmp_path, part)
    with open_ledger(str(tmp_path)) as ledger:
        assert number(ledger, "SELECT sum(execution_ms) FROM requests") == 9


def test_a_part_of_a_ledger_is_a_ledger(made: tuple[Path, Truth]) -> None:
    part = made[0] / "usage" / "v1" / "dt=2026-11-22"
    ids = {json.loads(line)["id"] for path in objects(part) for line in split(gzip.decompress(path.read_bytes()))}
    with open_ledger(str(part)) as ledger:
        assert 0 < number(ledger, "SELECT count(*) FROM lines") == len(ids) < made[1].lines


def test_files_whose_folders_were_left_behind_are_compared_by_line(made: tuple[Path, Truth], tmp_path: Path) -> None:
    for path in objects(made[0]):
        shutil.copy(path, tmp_path / f"{path.parent.name} {path.name}")
    with open_ledger(str(tmp_path)) as ledger:
        assert number(ledger, "SELECT count(*) FROM lines") == made[1].lines


def test_warmups_are_known_for_time_before_the_first_request(made: tuple[Path, Truth]) -> None:
    with open_ledger(str(made[0])) as ledger:
        rows = ledger.execute("SELECT phase, sum(ms) FROM phases WHERE warmup GROUP BY ALL").fetchall()
        assert Counter(dict(rows)) == made[1].warmup_ms
        assert number(ledger, "SELECT count(*) FROM phases WHERE warmup IS NULL") == 0


def test_a_period_keeps_what_began_in_it_and_reads_little_else(made: tuple[Path, Truth]) -> None:
    folder, truth = made
    day = date(2026, 11, 23)
    with open_ledger(str(folder), since=day, until=day) as ledger:
        assert number(ledger, "SELECT count(*) FROM requests") == sum(
            count for (when, _), count in truth.by_day_and_tenant.items() if when == str(day)
        )
        assert ledger.objects < truth.objects


def test_a_moment_ends_a_period_and_a_zone_is_heeded(made: tuple[Path, Truth]) -> None:
    moment = datetime.fromisoformat("2026-11-22T01:00:00+01:00")
    with open_ledger(str(made[0]), until=moment) as ledger:
        newest = ledger.execute('SELECT max("at") FROM requests').fetchone()
    assert newest is not None
    assert newest[0].replace(tzinfo=UTC) < moment


@pytest.mark.parametrize("damage", ["cut short", "no gzip", "empty"])
def test_an_object_that_cannot_be_unpacked_is_left_out_and_named(own: Path, damage: str) -> None:
    victim = objects(own)[-1]
    content = victim.read_bytes()
    lost = len(gzip.decompress(content).splitlines())
    victim.write_bytes({"cut short": content[: len(content) // 2], "no gzip": b"hello", "empty": b""}[damage])
    with open_ledger(str(own)) as ledger:
        read = number(ledger, "SELECT count(*) FROM lines")
        assert [path.name for path in ledger.skipped] == [victim.name]
    shutil.rmtree(own / "usage", ignore_errors=True)
    truth = make_ledger(own, SHAPE)
    assert truth.lines - lost <= read < truth.lines


def test_what_a_broken_object_had_twice_is_read_from_the_other(own: Path) -> None:
    with open_ledger(str(own)) as ledger:
        whole = number(ledger, "SELECT count(*) FROM lines")
    names = {path: LedgerFile.at(path).key for path in contested(find_files(own))}
    shorter = min(names, key=lambda path: path.stat().st_size)
    shorter.write_bytes(b"")
    with open_ledger(str(own)) as ledger:
        assert number(ledger, "SELECT count(*) FROM lines") == whole
        assert [path.name for path in ledger.skipped] == [shorter.name]


@pytest.mark.parametrize("first", [True, False], ids=["the first", "the last"])
def test_a_line_that_is_no_json_is_a_line_without_a_kind(own: Path, first: bool) -> None:
    with open_ledger(str(own)) as ledger:
        whole = number(ledger, "SELECT count(*) FROM lines")
    victim = objects(own)[-1]
    content = gzip.decompress(victim.read_bytes())
    victim.write_bytes(gzip.compress(b"not json\n" + content if first else content + b"not json\n"))
    with open_ledger(str(own)) as ledger:
        assert number(ledger, "SELECT count(*) FROM all_lines WHERE kind IS NULL") == 1
        assert number(ledger, "SELECT count(*) FROM lines") == whole
        assert ledger.skipped == []


def test_an_empty_folder_is_an_empty_ledger(tmp_path: Path) -> None:
    with open_ledger(str(tmp_path)) as ledger:
        assert number(ledger, "SELECT count(*) FROM phases") == 0


def test_a_place_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(LedgerNotFound, match="nowhere"):
        open_ledger(f"file://{tmp_path}/nowhere")


def test_parquet_files_read_as_the_objects_do(made: tuple[Path, Truth], tmp_path: Path) -> None:
    query = "SELECT kind, phase, tenant, count(*), sum(ms), sum(cost) FROM lines GROUP BY ALL ORDER BY ALL"
    with open_ledger(str(made[0])) as ledger:
        expected = ledger.execute(query).fetchall()
        for day in ("2026-11-21", "2026-11-22", "2026-11-23", "2026-11-24"):
            some = f"SELECT * EXCLUDE (chain) FROM lines WHERE written::DATE = DATE '{day}'"
            ledger.execute(f"COPY ({some}) TO '{tmp_path}/usage-{day}.parquet' (FORMAT parquet)")
    with open_ledger(str(tmp_path)) as ledger:
        assert ledger.execute(query).fetchall() == expected
    shutil.copy(tmp_path / "usage-2026-11-22.parquet", tmp_path / "once more 2026-11-22.parquet")
    with open_ledger(str(tmp_path)) as ledger:
        assert ledger.execute(query).fetchall() == expected


def test_a_period_beyond_all_ledgers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="9999"):
        open_ledger(str(tmp_path), until=date.max)


def test_names_with_quotes_are_only_names(tmp_path: Path) -> None:
    place = tmp_path / "it's; DROP 'x"
    write_object(place, [one_line(10, boot="o'boot")])
    with open_ledger(str(place)) as ledger:
        assert number(ledger, "SELECT count(*) FROM requests") == 1
