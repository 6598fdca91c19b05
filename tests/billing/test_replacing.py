"""What a command writes is there whole or not at all, and a place that cannot be written is known before the work."""

from __future__ import annotations

import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from handler.billing.command import app
from handler.billing.reading.compaction import compact
from handler.billing.reading.ledger import LedgerNotFound
from handler.billing.replacing import replacing, replacing_text
from tests.handler.processes import ROOT

NOWHERE = "/is/not/there"
WRITERS = [["report", "--html"], ["export", "--format", "focus", "--out"]]


def bill(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments, catch_exceptions=False)


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_what_was_there_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("old")
    with replacing_text(path) as file:
        file.write("new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert names(tmp_path) == ["page.html"]


def test_a_failure_leaves_what_was_there_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError), replacing_text(path) as file:
        file.write("half\udc00")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["page.html"]


def test_a_draft_that_is_taken_back_replaces_nothing(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("old")
    with replacing(path) as draft:
        draft.unlink()
    assert path.read_text() == "old"


def test_a_link_goes_on_to_point_to_what_is_written(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "page.html")
    with replacing_text(tmp_path / "link") as file:
        file.write("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "page.html").read_text() == "new"


def test_who_might_read_it_may_and_nobody_else(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.touch(0o600)
    with replacing_text(path) as file:
        file.write("new")
    assert path.stat().st_mode & 0o777 == 0o600


def test_output_that_goes_to_a_file_is_not_replaced_under_those_who_write_it_too(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path\n"
        "from handler.billing.replacing import replacing_text\n"
        "with replacing_text(Path('/dev/stdout')) as file: file.write('new')\n"
    )
    (tmp_path / "out").write_text("before, ")
    with (tmp_path / "out").open("a") as out:
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=out, check=True)
        out.write(", after")
    assert (tmp_path / "out").read_text() == "before, new, after"


def test_a_device_is_written_as_it_is() -> None:
    with replacing_text(Path("/dev/null")) as file:
        file.write("new")
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize("writer", WRITERS, ids=" ".join)
def test_a_command_that_fails_leaves_no_file(writer: list[str], tmp_path: Path) -> None:
    with pytest.raises(LedgerNotFound):
        bill(*writer, str(tmp_path / "out"), "--from", NOWHERE)
    assert names(tmp_path) == []


@pytest.mark.parametrize("writer", WRITERS, ids=" ".join)
def test_a_place_that_cannot_be_written_is_known_before_the_reading(writer: list[str], tmp_path: Path) -> None:
    out = str(tmp_path / "no folder" / "out")
    with pytest.raises(FileNotFoundError) as raised:
        bill(*writer, out, "--from", NOWHERE)
    assert raised.value.filename == out


def test_a_day_that_cannot_be_compacted_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(LedgerNotFound):
        compact(NOWHERE, date(2026, 11, 20), tmp_path / "parquet")
    assert names(tmp_path / "parquet") == []
