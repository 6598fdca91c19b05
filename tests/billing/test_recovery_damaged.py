"""What is torn or damaged in a killed worker's journal costs nothing but itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from handler.billing.folder_store import FolderStore
from handler.billing.recovery import Recovered
from handler.billing.segment import read_segment, split
from handler.billing.store import StoredObject
from tests.billing.journals import (
    BOOT,
    Worker,
    check_accounts,
    journalled,
    killed_worker,
    lines_in,
    recover_later,
)


class Memory:
    """A ledger for a moment."""

    place = "memory"

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    def put(self, key: str, body: bytes) -> bool:
        return self.objects.setdefault(key, body) is body

    def keys(self, under: str = "") -> Iterator[StoredObject]:
        return (StoredObject(key, len(body)) for key, body in self.objects.items() if key.startswith(under))

    def get(self, key: str) -> bytes:
        return self.objects[key]

    def renew(self) -> None:
        """There is no connection."""


class TestTornAndDamaged:
    def test_a_tail_torn_anywhere_is_cut(self, tmp_path: Path) -> None:
        worker = Worker(tmp_path / "journal")
        worker.enter("a", 0.5)
        worker.flush(1.0)
        worker.leave("a", 1.5)
        worker.flush(2.25)
        worker.kill()
        [path] = (tmp_path / "journal" / BOOT).glob("*.open")
        raw = path.read_bytes()
        *_, last = split(raw)
        assert b'"kind":"request"' in last
        for cut in range(len(raw) - len(last), len(raw)):
            folder = tmp_path / "torn" / BOOT
            folder.mkdir(parents=True)
            (folder / path.name).write_bytes(raw[:cut])
            store = Memory()
            assert recover_later(folder.parent, store) == Recovered(BOOT, 1, len(lines_in(store)), closed=True)
            assert not folder.exists()
            assert check_accounts(lines_in(store)) == {"boot": 500 + 750, "execution": 1_000, "rounding": 750}

    @settings(max_examples=40, deadline=None)
    @given(st.data())
    def test_a_segment_cut_anywhere_keeps_its_whole_lines_and_balances(self, data: st.DataObject) -> None:
        with TemporaryDirectory() as elsewhere:
            folder = killed_worker(Path(elsewhere, "journal"))
            [path] = folder.glob("*.open")
            raw = path.read_bytes()
            path.write_bytes(raw[: data.draw(st.integers(0, len(raw)))])
            [confirmed] = folder.glob("*.done")
            before = read_segment(confirmed)[0]
            ids = {line["id"] for line in journalled(folder)} - {line["id"] for line in before}
            store = FolderStore(Path(elsewhere, "ledger"))
            assert recover_later(folder.parent, store).closed
            lines = lines_in(store)
            assert ids <= {line["id"] for line in lines}
            check_accounts([*before, *lines])

    def test_a_damaged_line_costs_no_other_and_its_segment_is_kept(self, root: Path, store: FolderStore) -> None:
        folder = killed_worker(root)
        [path] = folder.glob("*.jsonl")
        raw = list(split(path.read_bytes()))
        damaged = [*raw[:1], raw[1].replace(b"phase", b"phrase", 1), *raw[2:]]
        path.write_bytes(b"".join(damaged))
        [confirmed] = folder.glob("*.done")
        whole = {line["id"] for line in journalled(folder)} - {line["id"] for line in read_segment(confirmed)[0]}
        recovered = recover_later(root, store)
        assert (recovered.damaged, recovered.segments) == (1, 2)
        assert recovered.skipped == f"{path.name} has damaged lines: 1"
        [kept] = root.glob("*/*.damaged")
        assert kept.read_bytes() == b"".join(damaged)
        assert whole <= {line["id"] for line in lines_in(store)}

    def test_a_wholly_damaged_segment_is_kept_and_told_of_each_time(self, root: Path, store: FolderStore) -> None:
        folder = killed_worker(root)
        [path] = folder.glob("*.jsonl")
        path.write_bytes(b"\0" * 500 + b"\n")
        assert recover_later(root, store).damaged == 1
        [kept] = root.glob("*/*.damaged")
        assert kept.read_bytes() == b"\0" * 500 + b"\n"
        again = recover_later(root, store)
        assert again.skipped is not None
        assert kept.name in again.skipped
        assert kept.exists()

    def test_a_segment_without_its_open_line_is_closed_by_the_one_before(self, root: Path, store: FolderStore) -> None:
        folder = killed_worker(root)
        [confirmed] = folder.glob("*.done")
        before = read_segment(confirmed)[0]
        [path] = folder.glob("*.open")
        path.write_bytes(b"x" + path.read_bytes())
        assert recover_later(root, store).closed
        assert sum(check_accounts([*before, *lines_in(store)]).values()) == 8_000

    def test_files_of_others_are_left(self, root: Path, store: FolderStore) -> None:
        folder = killed_worker(root)
        (folder / "notes.txt").write_text("mine")
        recovered = recover_later(root, store)
        assert recovered.closed
        assert recovered.skipped is not None
        assert recovered.skipped.endswith("holds notes.txt")
        [kept] = root.glob("*/notes.txt")
        assert sorted(path.name for path in kept.parent.iterdir()) == ["lock", "notes.txt"]
