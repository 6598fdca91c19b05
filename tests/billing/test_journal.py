"""What `append` has taken is on the disk, or in memory and said so; the uploader is given whole segments, once each."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

from handler.billing.segment import SegmentName, read_segment, seq_of
from tests.billing.journals import BOOT, OPENING, ROUNDING, a_journal, a_segment, idle, journalled


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
            first = process.stdout.readline()
            time.sleep(random.uniform(0.0, 0.2))
            process.kill()
            told = int((first + process.stdout.read()).split("\n")[-2])
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
