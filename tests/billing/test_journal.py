"""What `append` has taken is on the disk, or in memory and said so; the uploader is given whole segments, once each."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import random
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from handler.billing.journal import Journal
from handler.billing.journal_folder import take
from handler.billing.journal_place import find_root
from handler.billing.lines import Line
from handler.billing.segment import SegmentName, read_segment, seq_of
from tests.billing.journals import BOOT, Worker, journalled

STAMP = "2026-11-21T10:22:24.123Z"
OPENING = {"kind": "open", "written": STAMP, "epoch_ms": 0, "wall_ahead_ms": 0, "in_flight": []}
ROUNDING = {"kind": "phase", "written": STAMP, "phase": "rounding", "ms": 0}


def idle(ms: int = 1000) -> Line:
    return {"kind": "phase", "written": STAMP, "phase": "idle", "ms": ms, "warmup": None}


def a_journal(root: Path, **options: int) -> Journal:
    journal = Journal(root, BOOT, **options)
    assert journal.begin_chain(0)
    return journal


def a_segment(journal: Journal, *lines: Line) -> Path:
    journal.append([OPENING, *lines])
    assert journal.seal()
    return journal.sealed()[-1]


def files(root: Path) -> list[str]:
    return sorted(path.suffix for path in (root / BOOT).iterdir())


class TestWhatIsWritten:
    def test_lines_are_on_the_disk_when_append_returns(self, tmp_path: Path) -> None:
        journal = a_journal(tmp_path)
        journal.append([OPENING, idle(5)])
        journal.append([idle(7)])
        assert [line.get("ms") for line in journalled(tmp_path / BOOT)] == [None, 5, 7]

    def test_lines_are_numbered_from_1_within_a_chain(self, tmp_path: Path) -> None:
        journal = a_journal(tmp_path)
        a_segment(journal, idle())
        a_segment(journal, idle())
        ids = [line["id"] for line in journalled(tmp_path / BOOT)]
        chain = ids[0].removesuffix("-1")
        assert chain.startswith(f"{BOOT}-0.")
        assert ids == [f"{chain}-{seq}" for seq in (1, 2, 3, 4)]

    def test_each_epoch_has_its_own_chain(self, tmp_path: Path) -> None:
        journal = a_journal(tmp_path)
        journal.append([OPENING, idle()])
        assert journal.begin_chain(1)
        journal.append([OPENING, idle()])
        first, second = (line["id"] for line in journalled(tmp_path / BOOT) if line["kind"] == "open")
        assert first.startswith(f"{BOOT}-0.")
        assert second.startswith(f"{BOOT}-1.")
        assert second.endswith("-1")
        assert files(tmp_path) == ["", ".jsonl", ".open"]

    def test_two_of_one_snapshot_draw_different_chains(self, tmp_path: Path) -> None:
        nonces = set()
        for clone in range(8):
            journal = a_journal(tmp_path / str(clone))
            path = a_segment(journal, idle())
            name = SegmentName.parse(path.name)
            assert name is not None
            nonces.add(name.nonce)
        assert len(nonces) > 1

    def test_a_batch_begins_a_segment_only_when_there_is_none(self, tmp_path: Path) -> None:
        journal = a_journal(tmp_path)
        assert journal.segment_bytes == 0
        journal.append([OPENING, idle()])
        assert journal.segment_bytes == sum(path.stat().st_size for path in (tmp_path / BOOT).glob("*.open"))
        journal.seal()
        assert journal.segment_bytes == 0

    def test_a_process_that_is_killed_while_it_appends_leaves_every_line_it_was_told_of(self, tmp_path: Path) -> None:
        code = (
            "import sys; from pathlib import Path; from tests.billing.test_journal import *\n"
            "journal = a_journal(Path(sys.argv[1]))\n"
            "for batch in range(10**6):\n"
            "    journal.append([OPENING] * (journal.segment_bytes == 0) + [idle(batch)] * 20)\n"
            "    print(journal._chain.seq, flush=True)\n"
            "    if batch % 5 == 4: journal.seal()\n"
        )
        with subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(random.uniform(0.0, 0.2))
            process.kill()
            told = int(process.stdout.read().split("\n")[-2])
        found = sorted(seq_of(line) for line in journalled(tmp_path / BOOT))
        assert found == list(range(1, len(found) + 1))
        assert len(found) >= told


class TestSegments:
    def test_a_sealed_segment_is_called_by_its_first_and_last_line(self, tmp_path: Path) -> None:
        journal = a_journal(tmp_path)
        assert a_segment(journal, idle(), idle()).name.endswith("-00000001-00000003.jsonl")
        assert a_segment(journal, idle()).name.endswith("-00000004-00000005.jsonl")

    def test_the_oldest_comes_first(self, tmp_path: Path) -> None:
        journal = a_journal(tmp_path)
        paths = [a_segment(journal, idle())]
        journal.begin_chain(1)
        paths += [a_segment(journal, idle()) for _ in range(3)]
        assert journal.sealed() == paths

    def test_nothing_but_an_open_line_is_not_worth_a_segment(self, tmp_path: Path) -> None:
        journal = a_journal(tmp_path)
        assert not journal.seal()
        journal.append([OPENING])
        assert not journal.seal()
        assert journal.sealed() == []

    def test_the_newest_confirmed_segment_stays(self, tmp_path: Path) -> None:
        journal = a_journal(tmp_path)
        first, second, third = (a_segment(journal, idle(ms)) for ms in (1, 2, 3))
        journal.confirm(first)
        assert journal.sealed() == [second, third]
        assert first.with_suffix(".done").exists()
        journal.confirm(second)
        assert not first.with_suffix(".done").exists()
        assert second.with_suffix(".done").exists()

    def test_confirming_out_of_order_keeps_the_newest_too(self, tmp_path: Path) -> None:
        journal = a_journal(tmp_path)
        first, second = (a_segment(journal, idle(ms)) for ms in (1, 2))
        journal.confirm(second)
        journal.confirm(first)
        assert files(tmp_path) == ["", ".done"]
        assert second.with_suffix(".done").exists()

    def test_confirming_twice_is_no_matter(self, tmp_path: Path) -> None:
        journal = a_journal(tmp_path)
        path = a_segment(journal, idle())
        journal.confirm(path)
        journal.confirm(path)
        assert path.with_suffix(".done").exists()

    def test_one_thread_writes_while_another_takes_away(self, tmp_path: Path) -> None:
        journal = a_journal(tmp_path)
        taken: list[int] = []
        done = threading.Event()

        def upload() -> None:
            while not (done.is_set() and not journal.sealed()):
                for path in journal.sealed():
                    taken.extend(seq_of(line) for line in read_segment(path)[0])
                    journal.confirm(path)

        uploader = threading.Thread(target=upload, daemon=True)
        uploader.start()
        for ms in range(200):
            journal.append([OPENING, idle(ms)])
            assert journal.seal()
        done.set()
        uploader.join()
        assert taken == list(range(1, 401))
        assert files(tmp_path) == ["", ".done"]


class TestTheEnd:
    def test_a_closed_life_that_the_ledger_has_leaves_nothing(self, tmp_path: Path) -> None:
        journal = a_journal(tmp_path)
        journal.confirm(a_segment(journal, idle(), ROUNDING))
        assert journal.close()
        assert list(tmp_path.iterdir()) == []

    def test_what_the_ledger_has_not_stays(self, tmp_path: Path) -> None:
        journal = a_journal(tmp_path)
        a_segment(journal, idle(), ROUNDING)
        assert not journal.close()
        assert files(tmp_path) == ["", ".jsonl"]

    def test_an_epoch_that_is_not_closed_stays(self, tmp_path: Path) -> None:
        journal = a_journal(tmp_path)
        journal.confirm(a_segment(journal, idle()))
        assert not journal.close()
        assert files(tmp_path) == ["", ".done"]

    def test_a_clone_s_lines_stay(self, tmp_path: Path) -> None:
        first, second = a_journal(tmp_path), a_journal(tmp_path / "elsewhere")
        first.confirm(a_segment(first, idle(), ROUNDING))
        second_path = a_segment(second, idle())
        shutil.copy(second_path, tmp_path / BOOT / second_path.with_suffix(".done").name)
        assert not first.close()
        assert (tmp_path / BOOT / second_path.with_suffix(".done").name).exists()


class TestOthers:
    def test_a_journal_that_others_have_recovered_begins_anew(self, tmp_path: Path) -> None:
        journal = a_journal(tmp_path)
        journal.append([OPENING, idle(1)])
        assert journal.intact
        taken = take(tmp_path / BOOT)
        assert not journal.intact
        assert not journal.begin_chain(1)
        journal.append([OPENING, idle(2)])
        assert journal.intact
        assert [line.get("ms") for line in journalled(taken)] == [None, 1]
        assert [line.get("ms") for line in journalled(tmp_path / BOOT)] == [None, 2]

    def test_a_folder_that_goes_while_the_worker_writes_is_made_anew_and_no_id_is_used_twice(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        journal = a_journal(tmp_path)
        journal.append([OPENING, idle(1)])
        before = {line["id"] for line in journalled(tmp_path / BOOT)}
        shutil.rmtree(tmp_path / BOOT)
        assert journal.segment_bytes == 0
        journal.append([OPENING, idle(2)])
        after = journalled(tmp_path / BOOT)
        assert [line.get("ms") for line in after] == [None, 2]
        assert not before & {line["id"] for line in after}
        assert "removed, or recovered" in caplog.text

    def test_lines_that_somebody_else_wrote_to_the_segment_are_left_alone(self, tmp_path: Path) -> None:
        journal = a_journal(tmp_path)
        journal.append([OPENING, idle(1)])
        [path] = (tmp_path / BOOT).glob("*.open")
        with path.open("ab") as file:
            file.write(b"a clone's\n")
        assert not journal.intact
        journal.append([OPENING, idle(2)])
        assert path.read_bytes().endswith(b"a clone's\n")
        assert sorted(line.get("ms", 0) for line in journalled(tmp_path / BOOT)) == [0, 0, 1, 2]


@contextmanager
def small_files(size: int) -> Iterator[None]:
    """The kernel lets this process write no file beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 64 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    may_mount = os.geteuid() == 0 and shutil.which("mount")
    if not may_mount or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("a disk of its own takes the right to mount one")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def fill(disk: Path) -> Path:
    """Leave no room on a disk, by a file that takes all of it."""
    ballast = disk / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(b"\0" * 4096)
    return ballast


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
