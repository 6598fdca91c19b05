"""The report as people see it: the command, the table, the page."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from decimal import Decimal
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from handler.billing.command import app, parse_keys
from handler.billing.reading.figures import Report
from handler.billing.reading.html import page
from handler.billing.reading.ledger import open_ledger
from handler.billing.reading.report import make_report
from handler.billing.reading.summary import KEYS
from handler.billing.reading.table import show
from handler.billing.reading.words import dollars, duration
from tests.billing.journals import BOOT, Worker
from tests.billing.ledgers import Shape, Truth, make_ledger
from tests.billing.test_report import Life

ROOT = Path(__file__).parents[2]
SHAPE = Shape(requests=300, per_object=30)
EVIL = "<script>alert(1)</script>\x1b[2J&\"'"
VOID = {"meta", "line", "rect", "circle"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Truth]:
    folder = tmp_path_factory.mktemp("ledger")
    return folder, make_ledger(folder, SHAPE)


def read(place: Path, *by: str) -> Report:
    with open_ledger(str(place)) as ledger:
        return make_report(ledger, by, hourly=True)


def drawn(report: Report, width: int = 120) -> str:
    console = Console(file=StringIO(), width=width, force_terminal=False)
    show(report, console)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def bill(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["report", *arguments], catch_exceptions=False)


class Tags(HTMLParser):
    """Collects tags, attributes and text, and holds that every tag is closed in its turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.addresses: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.addresses += [value or "" for name, value in attributes if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_command_tells_cost_phases_and_groups(made: tuple[Path, Truth]) -> None:
    done = bill("--from", str(made[0]), "--by", "tenant")
    assert done.exit_code == 0
    assert f"{made[1].requests:,} requests" in done.stdout.splitlines()[0]
    assert {"idle", "boot", "no request", "no tenant", "tenant-001"} <= set(re.split(r"  +|\n", done.stdout))


def test_json_is_one_object_and_nothing_else(made: tuple[Path, Truth]) -> None:
    command = "import sys; from handler.billing.command import app; app(sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", command, "report", "--by", "day,tenant", "--by", "model", "--json"],
        capture_output=True, text=True, check=True, cwd=ROOT,
        env=os.environ | {"PILOTLIGHT_LEDGER": f"file://{made[0]}"},
    )
    fields = json.loads(done.stdout)
    assert fields["requests"] == made[1].requests
    assert fields["by"] == ["day", "tenant", "model"]
    assert "epoch not closed" in done.stderr


def test_a_period_is_given_by_days_or_moments(made: tuple[Path, Truth]) -> None:
    some = bill("--from", str(made[0]), "--since", "2026-11-22", "--until", "2026-11-22T18:00", "--json")
    assert 0 < json.loads(some.stdout)["requests"] < made[1].requests


@pytest.mark.parametrize("arguments", [["--by", "day,colour"], ["--by", ","], ["--since", "yesterday"],
                                       ["--until", "2026-11-20", "--since", "2026-11-21"]])
def test_bad_usage_is_told_and_ends_with_2(made: tuple[Path, Truth], arguments: list[str]) -> None:
    done = bill("--from", str(made[0]), *arguments)
    assert done.exit_code == 2
    assert arguments[0] in done.stderr


def test_the_command_knows_every_key() -> None:
    assert parse_keys(["day, tenant", "start-kind", "day"]) == ("day", "tenant", "start_kind")
    assert set(parse_keys([",".join(KEYS)])) == set(KEYS)


def test_a_page_that_cannot_be_written_is_known_before_the_reading(made: tuple[Path, Truth], tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere"):
        bill("--from", "/is/not/there", "--html", str(tmp_path / "nowhere" / "page.html"))


def test_amounts_keep_the_digits_that_tell_something() -> None:
    amounts = ["0", "0.000000155", "0.0123", "0.99", "1", "1234.567", "-2.5"]
    told = [dollars(Decimal(amount)) for amount in amounts]
    assert told == ["$0", "$0.000000155", "$0.0123", "$0.990", "$1.00", "$1,234.57", "-$2.50"]
    assert dollars(None) == "-"
    durations = [duration(ms) for ms in (1, 59_999, 3_600_000, 90_000_000)]
    assert durations == ["0.001 s", "59.999 s", "1 h 00 min", "1 d 01 h"]


def test_an_unknown_cost_is_told_with_what_to_do(tmp_path: Path) -> None:
    make_ledger(tmp_path, replace(SHAPE, price=None))
    report = read(tmp_path, "day")
    for text in (drawn(report), page(report)):
        assert "cost not known" in text
        assert "PILOTLIGHT_PRICE" in text
        assert "$" not in text.replace("PILOTLIGHT_PRICE", "")


def test_an_empty_ledger_has_a_table_and_a_page(tmp_path: Path) -> None:
    report = read(tmp_path, "day", "tenant")
    assert "$0 for 0.000 s" in drawn(report)
    assert "there are no objects" in drawn(report)
    assert Tags(page(report)).open == []


@pytest.mark.parametrize("width", [40, 80, 120, 250])
def test_no_line_of_the_table_is_wider_than_the_terminal(made: tuple[Path, Truth], width: int) -> None:
    text = drawn(read(made[0], "day", "tenant"), width)
    assert max(len(line) for line in text.splitlines()) <= width


def test_a_table_of_80_columns_cuts_no_figure(made: tuple[Path, Truth]) -> None:
    assert "…" not in drawn(read(made[0], "day", "tenant"), 80)


def test_the_page_is_whole_and_needs_nothing_else(made: tuple[Path, Truth]) -> None:
    text = page(read(made[0], "day", "tenant"))
    tags = Tags(text)
    assert tags.open == []
    assert "script" not in tags.seen
    assert tags.addresses == []
    assert "http" not in text.replace("http-equiv", "")
    for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ElementTree.fromstring(svg)
    assert {"Cost over time, by phase", "Output tokens over time", "no request"} <= set(re.split(r"[<>]", text))


def test_names_are_text_in_the_table_and_on_the_page(tmp_path: Path) -> None:
    life = Life(tenant=EVIL).phase("idle", 1000).phase("execution", 1000).request(1000, arrived=1000)
    report = read(life.write(tmp_path), "tenant")
    text = page(report)
    assert "<script" not in text
    assert "<script>alert(1)</script>?[2J&\"'" in Tags(text).text
    assert "\x1b" not in drawn(report, 200) + text


def test_long_periods_are_drawn_by_days(tmp_path: Path) -> None:
    make_ledger(tmp_path / "short", replace(SHAPE, days=1.0))
    make_ledger(tmp_path / "long", replace(SHAPE, days=8.0))
    assert "11-21 00:00</text>" in page(read(tmp_path / "short"))
    assert "2026-11-22</text>" in page(read(tmp_path / "long"))


def test_one_clock_that_was_wrong_makes_no_page_of_empty_days(tmp_path: Path) -> None:
    Life("b").phase("idle", 1000).write(tmp_path)
    make_ledger(tmp_path, replace(SHAPE, began_s=0))
    text = page(read(tmp_path))
    assert "1970-01-01</text>" in text
    assert text.count("2026-11-21: ") == 3
    assert text.count("<title>") < 30


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """The journal of a worker that was killed while it had a request."""
    worker = Worker(tmp_path / "journals")
    worker.enter("r1", 1.0)
    worker.flush(4.5)
    worker.kill()
    return tmp_path / "journals" / BOOT


def recover(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["recover", *arguments], catch_exceptions=False)


def test_a_killed_workers_journal_is_brought_to_the_ledger(killed: Path, tmp_path: Path) -> None:
    ledger = str(tmp_path / "ledger")
    done = recover(str(killed.parent), "--to", ledger, "--older-than", "0")
    assert (done.exit_code, BOOT in done.stdout) == (0, True)
    assert not killed.exists()
    fields = json.loads(bill("--from", ledger, "--json").stdout)
    assert (fields["seconds"]["total"], fields["lost_requests"], fields["unclosed_epochs"]) == (5.0, 1, 0)


def test_one_journal_can_be_named_and_json_tells_what_became_of_it(killed: Path, tmp_path: Path) -> None:
    done = recover(str(killed), "--to", str(tmp_path / "ledger"), "--older-than", "0", "--json")
    [journal] = json.loads(done.stdout)["journals"]
    assert (journal["boot"], journal["closed"], journal["skipped"]) == (BOOT, True, None)


def test_a_journal_that_was_just_written_to_is_left_alone_and_nothing_is_wrong(killed: Path, tmp_path: Path) -> None:
    just_now = time.time() + 3600
    os.utime(killed / "lock", (just_now, just_now))
    done = recover(str(killed.parent), "--to", str(tmp_path / "ledger"))
    assert (done.exit_code, "may live" in done.stdout) == (0, True)
    [journal] = json.loads(recover(str(killed.parent), "--to", str(tmp_path / "ledger"), "--json").stdout)["journals"]
    assert journal["in_use"]
    assert killed.exists()


def test_a_journal_that_cannot_be_recovered_is_a_failure(killed: Path, tmp_path: Path) -> None:
    (tmp_path / "ledger").write_text("no folder")
    done = recover(str(killed), "--to", str(tmp_path / "ledger"), "--older-than", "0")
    assert (done.exit_code, f"{BOOT}: left as it is" in done.stdout) == (1, True)
