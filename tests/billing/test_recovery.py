"""What a killed worker left is brought to the ledger once, whole and closed, whoever recovers it and however often."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from handler.billing.folder_store import FolderStore
from handler.billing.recovery import Recovered, recover
from handler.billing.segment import read_segment
from handler.billing.store import StoreTrouble
from tests.billing.journals import (
    AGE_S,
    BOOT,
    LATER_S,
    WALL_S,
    Worker,
    check_accounts,
    journalled,
    killed_worker,
    lines_in,
    recover_later,
)


def contents(store: FolderStore) -> dict[str, bytes]:
    return {stored.key: store.get(stored.key) for stored in store.keys("")}


def everything(folder: Path, store: FolderStore) -> dict[str, bytes]:
    """What recovering a copy of the folder brings, and the confirmed segment that was there before it."""
    with TemporaryDirectory() as elsewhere:
        copy = Path(elsewhere, "journal", folder.name)
        shutil.copytree(folder, copy)
        reference = FolderStore(Path(elsewhere, "ledger"))
        recover_later(copy.parent, reference)
        return contents(reference)


class TestAKilledWorker:
    def test_every_line_reaches_the_ledger_and_the_epoch_is_closed(self, root: Path, store: FolderStore) -> None:
        folder = killed_worker(root)
        ids = {line["id"] for line in journalled(folder)}
        [confirmed] = folder.glob("*.done")
        ids_before = {line["id"] for line in read_segment(confirmed)[0]}
        recovered = recover_later(root, store)
        lines = lines_in(store)
        assert ids - ids_before <= {line["id"] for line in lines}
        assert recovered == Recovered(BOOT, segments=2, lines=len(lines), closed=True)
        assert list(root.iterdir()) == []

    def test_the_books_balance(self, root: Path, store: FolderStore) -> None:
        [confirmed] = killed_worker(root).glob("*.done")
        before = read_segment(confirmed)[0]
        recover_later(root, store)
        phases = check_accounts([*before, *lines_in(store)])
        assert sum(phases.values()) == 8_000
        assert phases["rounding"] == 230

    def test_requests_in_flight_are_lost_with_their_time(self, root: Path, store: FolderStore) -> None:
        killed_worker(root)
        recover_later(root, store)
        reasons = {line["request"]: line["finish_reason"] for line in lines_in(store) if line["kind"] == "request"}
        assert reasons == {"a": "stop", "b": "stop", "c": "lost", None: "lost"}

    def test_the_numbers_go_on(self, root: Path, store: FolderStore) -> None:
        folder = killed_worker(root)
        recover_later(root, store)
        numbers = sorted(int(line["id"].rpartition("-")[2]) for line in lines_in(store))
        assert numbers == list(range(numbers[0], numbers[-1] + 1))
        assert not folder.exists()

    def test_a_closed_epoch_is_brought_as_it_is(self, root: Path, store: FolderStore) -> None:
        worker = Worker(root)
        worker.close(3.3)
        worker.kill()
        lines = journalled(root / BOOT)
        assert recover_later(root, store).closed
        assert lines_in(store) == lines

    def test_one_killed_between_two_segments_is_closed_by_a_segment_of_its_own(
        self, root: Path, store: FolderStore
    ) -> None:
        worker = Worker(root)
        worker.enter("a", 0.5)
        worker.segment(2.3)
        worker.journal.confirm(worker.journal.sealed()[0])
        worker.kill()
        before = journalled(root / BOOT)
        recovered = recover_later(root, store)
        added = lines_in(store)
        assert [line["kind"] for line in added] == ["open", "request", "request", "phase"]
        assert recovered == Recovered(BOOT, segments=1, lines=4, closed=True)
        assert check_accounts([*before, *added])["rounding"] == 700
        assert added[0]["epoch_ms"] == 2_300
        assert [(flight["request"], flight["execution_ms"]) for flight in added[0]["in_flight"]] == [
            ("a", 0), (None, 1_800)
        ]

    def test_one_killed_right_after_an_open_line_is_closed_by_the_segment_before(
        self, root: Path, store: FolderStore
    ) -> None:
        worker = Worker(root)
        worker.enter("a", 0.5)
        worker.segment(2.3)
        worker.journal.confirm(worker.journal.sealed()[0])
        before = journalled(root / BOOT)
        worker.journal.append(worker._opening(2.3))
        worker.kill()
        assert recover_later(root, store).closed
        assert check_accounts([*before, *lines_in(store)])["rounding"] == 700

    def test_chains_of_clones_are_each_closed(self, root: Path, store: FolderStore) -> None:
        first = Worker(root)
        first.flush(1.3)
        first.kill()
        second = Worker(root)
        second.flush(1.8)
        second.kill()
        assert recover_later(root, store).closed
        roundings = [line["ms"] for line in lines_in(store) if line.get("phase") == "rounding"]
        assert sorted(roundings) == [200, 700]

    def test_a_folder_without_lines_goes_when_it_is_old(self, root: Path, store: FolderStore) -> None:
        (root / BOOT).mkdir(parents=True)
        [young] = recover(root, store, AGE_S, (root / BOOT).stat().st_mtime)
        assert young.skipped == "its worker may live, it was heard of 0 s ago"
        assert recover_later(root, store).skipped is None
        assert list(root.iterdir()) == []

    def test_there_may_be_no_root(self, root: Path, store: FolderStore) -> None:
        assert recover(root, store, AGE_S) == []


class TestALivingWorker:
    def test_a_young_journal_is_left_alone(self, root: Path, store: FolderStore) -> None:
        folder = killed_worker(root)
        os.utime(folder / "lock", (WALL_S, WALL_S))
        [left] = recover(root, store, AGE_S, WALL_S + 7.77 + 29.9)
        assert left.skipped == "its worker may live, it was heard of 30 s ago"
        [gone] = recover(root, store, AGE_S, WALL_S + 7.77 + 30.1)
        assert gone.skipped is None

    def test_a_sign_of_life_without_lines_counts(self, root: Path, store: FolderStore) -> None:
        folder = killed_worker(root)
        os.utime(folder / "lock", (WALL_S + 100, WALL_S + 100))
        [left] = recover(root, store, AGE_S, WALL_S + 129)
        assert left.skipped is not None
        assert folder.exists()

    def test_a_frozen_process_keeps_its_journal_and_goes_on_with_it(self, root: Path, store: FolderStore) -> None:
        code = (
            "import sys; from tests.billing.journals import *\n"
            "worker = Worker(Path(sys.argv[1])); worker.flush(1.0); print('ready', flush=True)\n"
            "sys.stdin.readline(); worker.close(2.5)\n"
        )
        with subprocess.Popen(
            [sys.executable, "-c", code, root], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            process.send_signal(signal.SIGSTOP)
            assert recover_later(root, store).skipped == "a process on this machine holds it"
            process.send_signal(signal.SIGCONT)
            process.communicate("\n")
        assert recover_later(root, store).skipped is None
        assert check_accounts(lines_in(store))["rounding"] == 500

    def test_a_worker_that_was_frozen_elsewhere_meanwhile_does_not_write_to_what_was_recovered(
        self, root: Path, store: FolderStore
    ) -> None:
        worker = Worker(root)
        worker.flush(1.3)
        assert worker.journal._folder is not None
        worker.journal._folder.release()  # The lock of another machine is not seen here.
        recover_later(root, store)
        worker.journal._folder._lock = os.open(root, os.O_RDONLY)
        assert not worker.journal.begin_chain(1)
        worker.close(4.7)
        worker.kill()
        recover_later(root, store)
        lines = lines_in(store)
        assert len({line["id"] for line in lines}) == len(lines)
        assert sorted(line["ms"] for line in lines if line.get("phase") == "rounding") == [300, 700]


class Crash(BaseException):
    """Nothing is done after it, as after SIGKILL."""


class Faulty(FolderStore):
    """A ledger that fails from a given object on."""

    def __init__(self, folder: Path, after: int, failure: BaseException) -> None:
        super().__init__(folder)
        self._left = after
        self._failure = failure

    def put(self, key: str, body: bytes) -> bool:
        if self._left == 0:
            raise self._failure
        self._left -= 1
        return super().put(key, body)


class TestAgainAndAgain:
    @pytest.mark.parametrize("after", [0, 1])
    def test_one_that_crashes_half_way_is_followed_by_another_who_writes_the_same(
        self, tmp_path: Path, root: Path, store: FolderStore, after: int
    ) -> None:
        reference = everything(killed_worker(root), store)
        with pytest.raises(Crash):
            recover_later(root, Faulty(tmp_path / "ledger", after, Crash()))
        # The folder is no worker's any more: there is nothing to wait for.
        [recovered] = recover(root, store, AGE_S, WALL_S)
        assert recovered == Recovered(BOOT, 2, recovered.lines, closed=True)
        assert contents(store) == reference
        assert list(root.iterdir()) == []

    @pytest.mark.parametrize("removed", [1, 2])
    def test_one_that_crashes_while_it_removes_is_followed_by_another_who_writes_the_same(
        self, root: Path, store: FolderStore, removed: int
    ) -> None:
        folder = killed_worker(root)
        reference = everything(folder, store)
        for path in sorted(folder.glob("0*"))[:removed]:
            path.unlink()
        recover_later(root, store)
        assert contents(store).items() <= reference.items()
        assert max(reference, key=lambda key: key.rpartition("/")[2]) in contents(store)

    def test_a_ledger_that_refuses_leaves_the_journal_and_the_others_go_on(
        self, tmp_path: Path, root: Path, store: FolderStore
    ) -> None:
        reference = everything(killed_worker(root), store)
        killed_worker(root, BOOT + "b")
        ledger = Faulty(tmp_path / "ledger", 1, StoreTrouble("the bucket says no", refused=True))
        first, second = recover(root, ledger, AGE_S, time.time() + LATER_S)
        assert first == Recovered(BOOT, 1, first.lines, closed=False, skipped="the bucket says no")
        assert second.skipped == "the bucket says no"
        first, second = recover(root, store, AGE_S, WALL_S)
        assert (first.closed, second.closed) == (True, True)
        assert contents(store).items() >= reference.items()
        assert list(root.iterdir()) == []

    @pytest.mark.parametrize("locks", [True, False])
    def test_two_processes_at_once(self, tmp_path: Path, root: Path, store: FolderStore, locks: bool) -> None:
        folders = [killed_worker(root, f"{BOOT}-{number}") for number in range(8)]
        reference: dict[str, bytes] = {}
        for folder in folders:
            reference |= everything(folder, store)
        code = (
            "import sys, time, fcntl; from tests.billing.test_recovery import *\n"
            "def none(*arguments): raise OSError(37, 'No locks available')\n"
            f"if not {locks}: fcntl.flock = none\n"
            "print('ready', flush=True); sys.stdin.readline()\n"
            "for recovered in recover(Path(sys.argv[1]), FolderStore(sys.argv[2]), 30.0, time.time() + LATER_S):\n"
            "    print(recovered.skipped, flush=True)\n"
        )
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", code, root, tmp_path / "ledger"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
            for _ in range(2)
        ]
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        told = [process.communicate(timeout=100) for process in processes]
        assert [process.returncode for process in processes] == [0, 0], told
        assert contents(store) == reference
        recover(root, store, AGE_S, time.time() + LATER_S)
        assert contents(store) == reference
        assert list(root.iterdir()) == []
        assert {reason for out, _ in told for reason in out.split("\n") if reason} <= {
            "None", "a process on this machine holds it", "somebody else is recovering it, or has removed it"
        }

    def test_one_who_looks_in_as_the_folder_goes_is_no_trouble(
        self, root: Path, store: FolderStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        killed_worker(root)
        remove = Path.rmdir

        def looked_into(folder: Path) -> None:
            (folder / "lock").touch()
            remove(folder)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "rmdir", looked_into)
            left = recover_later(root, store)
        assert (left.in_use, left.skipped) == (True, "somebody else is recovering it, or has removed it")
        assert recover_later(root, store).skipped is None
        assert list(root.iterdir()) == []

    def test_a_file_that_grows_meanwhile_is_kept(self, tmp_path: Path, root: Path) -> None:
        folder = killed_worker(root)
        [path] = folder.glob("*.open")

        class Late(FolderStore):
            def put(self, key: str, body: bytes) -> bool:
                for late in root.glob(f"*/{path.name}"):
                    with late.open("ab") as file:
                        file.write(b"more\n")
                return super().put(key, body)

        recovered = recover_later(root, Late(tmp_path / "ledger"))
        assert recovered.skipped == f"{path.name} has changed meanwhile"
        assert list(root.glob(f"*/{path.name}"))
