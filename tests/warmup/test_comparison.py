"""The comparison's table and promises, on cells worked by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.warm_policies import HOURS, Cell, bars, put_table, summed, table

CELLS = [
    Cell("a", 0, 10, "idle:5", 100, 90, 200, 100, 3), Cell("a", 1, 10, "cron:08:00-18:00", 100, 112, 200, 150, 1),
    Cell("b", 0, 10, "always", 100, 104, 104, 104, 0),
]


def test_shares_are_of_the_best() -> None:
    assert [cell.more for cell in CELLS] == pytest.approx([-0.1, 0.12, 0.04])
    assert summed(CELLS[:2]) == pytest.approx(0.01)
    assert summed(CELLS[:2], "fixed_300") == pytest.approx(202 / 400 - 1)


def test_what_does_not_hold_is_told() -> None:
    missed = [bar.what for bar in bars(CELLS) if not bar.holds]
    assert missed == [
        "b: more than the best, summed", "a at 1: more than the best", "traces with at least 15 % less than fixed:300",
        "traces with at least 15 % less than idle:5",
    ]


def test_the_table_shows_losses_as_it_shows_wins() -> None:
    first, second = table(CELLS).splitlines()[2:]
    assert first == "| a | 10 | -10.0 % idle:5 | **+12.0 %** 08-18 h | +1.0 % | -49.5 % | -19.2 % |"
    assert second == "| b | 10 | +4.0 % always | **+4.0 %** | +0.0 % | +0.0 % |"


def test_every_stretch_of_whole_hours_is_tried() -> None:
    assert len(HOURS) == len(set(HOURS)) == 24 * 23


def test_the_table_goes_between_its_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    marks = ("<!-- table: python -m benchmarks.warm_policies -->", "<!-- end of the table -->")
    page.write_text("\n".join(["before", marks[0], "old", marks[1], "after"]))
    put_table(page, "new")
    put_table(page, "newer")
    assert page.read_text().splitlines()[0] == "before"
    assert page.read_text().splitlines()[-1] == "after"
    assert "newer" in page.read_text()
    assert "old" not in page.read_text()
