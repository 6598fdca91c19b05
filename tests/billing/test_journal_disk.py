"""A disk that takes no lines: they wait, in order, and that is said. And where the journal is, so that one does."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from handler.billing.journal import Journal
from handler.billing.journal_place import find_root
from handler.billing.segment import read_segment, seq_of
from tests.billing.journals import BOOT, OPENING, ROUNDING, Worker, a_journal, a_segment, idle, journalled
from tests.disks import fill, small_files
from tests.disks import small_disk as disk_of


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with disk_of(tmp_path / "disk", 64 << 10) as disk:
        yield disk


class TestADiskThatRefuses:
    def test_lines_wait_in_memory_and_are_written_in_order_once_it_takes_them(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        journal = a_journal(tmp_path)
        journal.append([OPENING, idle(0)])
        with small_files(1000):
            for ms in range(1, 50):
                journal.append([idle(ms)])
            assert journal.trouble == f"cannot write {tmp_path / BOOT}: File too large"
            assert not journal.seal()
            [path] = (tmp_path / BOOT).glob("*.open")
            assert read_segment(path)[1] == path.stat().st_size <= 1000
            assert journal.segment_bytes == path.stat().st_size + journal.waiting_bytes
        journal.append([idle(50)])
        assert journal.trouble is None
        assert journal.waiting_bytes == 0
        assert journal.seal()
        assert [line.get("ms") for line in read_segment(journal.sealed()[0])[0]] == [None, *range(51)]
        assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]
        assert journal.lost_lines == 0

    def test_beyond_the_bound_the_newest_lines_are_lost_and_counted_aloud(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        journal = a_journal(tmp_path, memory=2000)
        journal.append([OPENING, idle(0)])
        with small_files(300):
            for ms in range(1, 200):
                journal.append([idle(ms)])
            assert journal.waiting_bytes <= 2000
        journal.append([idle(200)])
        written = journalled(tmp_path / BOOT)
        kept = len(written) - 2
        assert [line.get("ms") for line in written] == [None, *range(kept), 200]
        assert journal.lost_lines == 200 - kept
        assert seq_of(written[-1]) == 202  # The gap shows what is lost.
        losses = [record.getMessage() for record in caplog.records if "are lost" in record.getMessage()]
        assert [int(text.split()[1]) for text in losses] == [1, 10, 100]

    def test_lines_that_did_not_reach_the_disk_itself_are_written_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(_: int) -> None:
            raise OSError(errno.EIO, "Input/output error")

        journal = a_journal(tmp_path)
        journal.append([OPENING, idle(0)])
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", broken)
            journal.append([idle(1)])
            assert journal.trouble == f"cannot write {tmp_path / BOOT}: Input/output error"
            assert [line.get("ms") for line in journalled(tmp_path / BOOT)] == [None, 0]
        journal.append([idle(2)])
        assert [line.get("ms") for line in journalled(tmp_path / BOOT)] == [None, 0, 1, 2]

    def test_an_epoch_that_waits_goes_to_its_own_segment(self, tmp_path: Path) -> None:
        journal = a_journal(tmp_path)
        with small_files(100):
            journal.append([OPENING, idle(1), ROUNDING])
            assert journal.begin_chain(1)
            assert journal.segment_bytes == 0
            journal.append([OPENING, idle(2)])
        journal.append([idle(3)])
        journal.seal()
        first, second = (read_segment(path)[0] for path in journal.sealed())
        assert [line.get("ms") for line in first] == [None, 1, 0]
        assert [line.get("ms") for line in second] == [None, 2, 3]

    def test_a_full_disk(self, small_disk: Path) -> None:
        journal = a_journal(small_disk)
        sent = 0
        while journal.trouble is None:
            journal.append([OPENING] * (sent == 0) + [idle(sent + count) for count in range(20)])
            sent += 20
        assert journal.trouble.endswith("No space left on device")
        journal.append([idle(sent)])
        assert not journal.seal()
        [path] = (small_disk / BOOT).glob("*.open")
        assert read_segment(path)[1] == path.stat().st_size
        subprocess.run(["mount", "-o", "remount,size=256k", small_disk], check=True)
        journal.append([idle(sent + 1)])
        assert journal.trouble is None
        assert [line.get("ms") for line in read_segment(path)[0]] == [None, *range(sent + 2)]

    def test_a_disk_that_is_full_from_the_beginning(self, small_disk: Path) -> None:
        ballast = fill(small_disk)
        journal = a_journal(small_disk)
        journal.append([OPENING, idle(1)])
        assert journal.trouble is not None
        ballast.unlink()
        journal.append([idle(2)])
        assert journal.trouble is None
        assert [line.get("ms") for line in journalled(small_disk / BOOT)] == [None, 1, 2]

    def test_a_disk_that_can_only_be_read(self, small_disk: Path) -> None:
        journal = a_journal(small_disk)
        path = a_segment(journal, idle(1))
        journal.append([OPENING, idle(2)])
        subprocess.run(["mount", "--bind", small_disk, small_disk], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", small_disk], check=True)
        assert not journal.seal()
        assert journal.trouble == f"cannot write {small_disk / BOOT}: Read-only file system"
        journal.confirm(path)
        assert journal.sealed() == [path]
        subprocess.run(["umount", small_disk], check=True)
        journal.append([idle(3)])
        assert journal.trouble is None
        assert journal.seal()
        assert [line.get("ms") for line in read_segment(journal.sealed()[1])[0]] == [None, 2, 3]

    def test_a_root_that_cannot_be_made_is_trouble_and_no_error(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        journal = Journal(tmp_path / "file", BOOT)
        assert journal.begin_chain(0)
        journal.append([OPENING, idle(1), ROUNDING])
        assert journal.trouble == f"cannot write {tmp_path / 'file' / BOOT}: Not a directory"
        assert journal.sealed() == []
        (tmp_path / "file").unlink()
        journal.append([])
        assert journal.trouble is None
        assert len(journalled(tmp_path / "file" / BOOT)) == 3

    def test_what_still_waits_at_the_end_is_counted_as_lost(self, tmp_path: Path) -> None:
        journal = a_journal(tmp_path)
        with small_files(10):
            journal.append([OPENING, idle(), ROUNDING])
            assert not journal.close()
        assert journal.lost_lines == 3


def test_a_worker_whose_disk_is_full_still_gives_a_sign_of_life(tmp_path: Path) -> None:
    worker = Worker(tmp_path)
    worker.flush(1.0)
    lock = tmp_path / BOOT / "lock"
    os.utime(lock, (0, 0))
    worker.flush(2.0)
    assert lock.stat().st_mtime == 0
    with small_files(10):
        worker.flush(3.0)
    assert time.time() - lock.stat().st_mtime < 60


class TestThePlace:
    def test_the_volume_where_there_is_one(self, tmp_path: Path) -> None:
        assert find_root(None, {}, tmp_path) == (tmp_path / "pilotlight/journal", "volume", None)

    def test_the_home_where_there_is_none(self, tmp_path: Path) -> None:
        place = find_root(None, {"HOME": str(tmp_path)}, tmp_path / "none")
        assert place == (tmp_path / ".local/state/pilotlight/journal", "disk", None)

    def test_the_home_is_where_the_desktop_says(self, tmp_path: Path) -> None:
        place = find_root(None, {"XDG_STATE_HOME": str(tmp_path), "HOME": "/nowhere"}, tmp_path / "none")
        assert place == (tmp_path / "pilotlight/journal", "disk", None)

    def test_the_setting_first(self, tmp_path: Path) -> None:
        assert find_root(tmp_path / "mine", {}, tmp_path / "volume").root == tmp_path / "mine"
        assert find_root(tmp_path / "mine", {}, tmp_path).kind == "volume"
        assert find_root(tmp_path / "mine", {}, tmp_path / "volume").kind == "disk"

    def test_what_cannot_be_written_is_passed_over_and_said(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        place = find_root(tmp_path / "file", {"HOME": str(tmp_path)}, tmp_path / "none")
        assert place.root == tmp_path / ".local/state/pilotlight/journal"
        assert place.note == f"{tmp_path / 'file'} cannot be written (File exists): the journal is in {place.root}"

    def test_a_full_volume_is_passed_over(self, small_disk: Path, tmp_path: Path) -> None:
        fill(small_disk)
        place = find_root(None, {"HOME": str(tmp_path)}, small_disk)
        assert place.kind == "disk"
        assert place.note is not None
        assert "(No space left on device)" in place.note

    def test_trying_leaves_nothing_behind(self, tmp_path: Path) -> None:
        assert list(find_root(tmp_path / "mine", {}).root.iterdir()) == []
