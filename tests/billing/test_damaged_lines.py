"""A line that lacks what lines of its kind have is left out and counted; it ends no reading."""

from __future__ import annotations

import gzip
import json
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from handler.billing.reading.contract import as_fields
from handler.billing.reading.figures import Report, exact_json
from handler.billing.reading.focus import Account, NoPrice, write_focus
from handler.billing.reading.html import page
from handler.billing.reading.ledger import open_ledger
from handler.billing.reading.reconcile import booked_hours
from handler.billing.reading.report import make_report
from handler.billing.reading.table import show
from tests.billing.ledgers import Shape, make_ledger

SHAPE = Shape(requests=40, per_object=40, per_batch=10, workers=1, repeated=0, unclosed=0)
DAMAGE = [
    ("phase", '"phase":"', '"phase":"x'), ("phase", '"phase":', '"phrase":'), ("phase", '"ms":', '"mz":'),
    ("phase", '"ms":', '"ms":-'), ("phase", '"at":"2026', '"at":"2O26'), ("request", '"execution_ms":', '"execution":'),
    ("request", '"start_kind":"', '"start_kind":"x'), ("request", '"warmup":false', '"warmup":null'),
    ("request", '"at":"2026', '"at":"2O26'), ("start", '"ready_ms":', '"ready":'), ("start", '"worker":', '"maker":'),
    ("start", '"at":"', '"at":"never '),
]


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    make_ledger(tmp_path, SHAPE)
    return tmp_path


def damage(ledger: Path, kind: str, old: str, new: str) -> None:
    """Change the last line of this kind in the ledger's only object, whose checksums then do not hold."""
    [path] = ledger.rglob("*.gz")
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    number = max(number for number, line in enumerate(lines) if f'"kind":"{kind}"' in line and old in line)
    lines[number] = lines[number].replace(old, new, 1)
    path.write_bytes(gzip.compress("".join(f"{line}\n" for line in lines).encode()))


def read(ledger: Path) -> Report:
    with open_ledger(str(ledger)) as opened:
        return make_report(opened, ["day", "tenant"], hourly=True)


@pytest.mark.parametrize(("kind", "old", "new"), DAMAGE)
def test_it_is_left_out_of_every_reading_and_counted(ledger: Path, kind: str, old: str, new: str) -> None:
    whole = read(ledger)
    damage(ledger, kind, old, new)
    report = read(ledger)
    assert (whole.damaged_lines, report.damaged_lines) == (0, 1)
    assert json.loads(exact_json(as_fields(report)))["damaged_lines"] == 1
    console = Console(file=StringIO(), width=200)
    show(report, console)
    assert isinstance(console.file, StringIO)
    for text in (page(report), console.file.getvalue()):
        assert "1 line left out as damaged" in text
    with open_ledger(str(ledger)) as opened:
        booked_hours(opened)
        write_focus(opened, StringIO(), Account())
        assert opened.left_out() == ["1 line left out as damaged: see pilotlight bill verify"]


def test_a_price_that_is_none_leaves_the_seconds_without_one(ledger: Path) -> None:
    damage(ledger, "phase", '"price":"0.', '"price":"O.')
    with open_ledger(str(ledger)) as opened:
        assert None in {hour.price for hour in booked_hours(opened)}
        with pytest.raises(NoPrice):
            write_focus(opened, StringIO(), Account())


@pytest.mark.parametrize(("old", "new"), [('"spans":[', '"spans":"","is":['), ('"start_s":', '"start":'),
                                          ('"end_s":2.214', '"end_s":"2.214"'), ('{"name":"weights"', '{"name":7')])
def test_a_boot_is_told_without_what_is_no_span(ledger: Path, old: str, new: str) -> None:
    damage(ledger, "start", old, new)
    report = read(ledger)
    [boot] = report.boots
    assert len(boot.spans) < 3
    assert as_fields(report)["cold_starts"] == 1
    assert boot.worker in page(report)
