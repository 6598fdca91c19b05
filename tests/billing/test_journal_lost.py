"""A journal that is taken away while its worker lives: what is lost is what was taken, and everybody is told."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import httpx
import pytest

from handler.billing.bookkeeper import Bookkeeper, Pace
from handler.billing.folder_store import FolderStore
from handler.billing.identity import Identity
from handler.billing.journal import Journal
from handler.billing.journal_folder import take
from handler.billing.lines import Asked, Line, Lines, Outcome
from handler.billing.price import Price
from handler.billing.reading.verify import verify
from handler.billing.recovery import recover_journal
from handler.billing.uploader import Uploader
from handler.epochs import Epochs, Moment
from tests.billing.journals import BOOT, OPENING, a_journal, a_segment, idle, journalled
from tests.billing.serving import Places, end, in_ledger, recording, requests_of
from tests.disks import small_files
from tests.handler.processes import eventually

NEVER = Pace(1000.0)
"""Nothing is written but when a test says so."""

LONG_S = 60.0
"""For a ledger to have all of it, on a slow disk too."""


class Keeping:
    """A bookkeeper with a real journal, and a folder for a ledger in which its boot is already."""

    def __init__(self, folder: Path) -> None:
        self.root, self.store = folder / "journal", FolderStore(folder / "ledger")
        self.epochs = Epochs(Moment.now())
        self.journal = Journal(self.root, BOOT)
        identity, price = Identity("ep1", "pod-1", BOOT), Price(Decimal("0.00031"))
        self.keeper = Bookkeeper(
            self.journal, Uploader(self.store, self.journal), self.epochs,
            lambda epoch: Lines(identity, epoch, "demo", price), NEVER, {"open_interval_ms": 10_000}, lambda: True,
        )
        self.keeper.ready(5, [])
        assert eventually(lambda: self.keeper.status.uploaded == 1)

    @property
    def folder(self) -> Path:
        return self.root / BOOT

    def serve(self, name: str) -> None:
        """A request of a few milliseconds, in the journal when this returns."""
        entry = self.keeper.enter(Asked(name, "warm"))
        time.sleep(0.005)
        self.keeper.leave(entry, Outcome("stop", 1, 2, 3, 0, 5))
        self.keeper._flush()

    def recover_elsewhere(self) -> None:
        """What a worker on another machine does, which does not see this one's lock."""
        assert self.journal._folder is not None
        self.journal._folder.release()
        recovered = recover_journal(self.folder, self.store, 0.0, time.time() + 86_400)
        assert recovered.skipped is None
        self.journal._folder._lock = os.open(self.root, os.O_RDONLY)


@pytest.fixture
def keeping(tmp_path: Path) -> Iterator[Keeping]:
    keeping = Keeping(tmp_path)
    yield keeping
    keeping.keeper.close(0.0)


def remove(keeping: Keeping) -> None:
    shutil.rmtree(keeping.folder)


def empty(keeping: Keeping) -> None:
    for path in keeping.folder.iterdir():
        path.unlink()


def phases(lines: list[Line], epoch: int) -> Counter[str]:
    """Milliseconds by phase."""
    counted: Counter[str] = Counter()
    for line in lines:
        if line["kind"] == "phase" and line["epoch"] == epoch:
            counted[line["phase"]] += line["ms"]
    return counted


@pytest.mark.parametrize("take", [remove, empty, Keeping.recover_elsewhere])
def test_the_worker_writes_on_in_an_epoch_of_its_own(keeping: Keeping, take: Callable[[Keeping], None]) -> None:
    keeping.serve("before")
    take(keeping)
    keeping.serve("after")
    keeping.serve("again")
    assert keeping.keeper.close(LONG_S)
    own = [line for line in in_ledger(keeping.store) if line["epoch"] == 1]
    assert requests_of(own) == {"after": 1, "again": 1}
    assert keeping.epochs.current.number == 1
    assert phases(own, 1)["execution"] > 0


@pytest.mark.parametrize("take", [remove, empty, Keeping.recover_elsewhere])
def test_it_is_said_in_the_log_and_counted(
    keeping: Keeping, take: Callable[[Keeping], None], caplog: pytest.LogCaptureFixture
) -> None:
    keeping.serve("before")
    take(keeping)
    keeping.serve("after")
    assert keeping.keeper.status.journals_lost == 1
    assert keeping.keeper.status.standing == "ok"
    told = [record for record in caplog.records if "has been removed, or recovered" in record.getMessage()]
    assert [(record.levelname, str(keeping.folder) in record.getMessage()) for record in told] == [("ERROR", True)]


def test_an_epoch_that_others_have_closed_is_rounded_once_and_the_ledger_is_whole(keeping: Keeping) -> None:
    keeping.serve("before")
    keeping.recover_elsewhere()
    keeping.serve("after")
    assert keeping.keeper.close(LONG_S)
    assert_whole(keeping, {0, 1})


def test_a_request_in_flight_has_its_time_on_both_sides_once(keeping: Keeping) -> None:
    entry = keeping.keeper.enter(Asked("long", "warm"))
    keeping.serve("before")
    keeping.recover_elsewhere()
    keeping.serve("after")
    keeping.keeper.leave(entry, Outcome("stop"))
    assert keeping.keeper.close(LONG_S)
    ends = {line["epoch"]: line["finish_reason"] for line in in_ledger(keeping.store) if line.get("request") == "long"}
    assert ends.get(1) == "stop"
    assert verify(keeping.store).problems == ()


def test_what_a_worker_that_was_cut_off_could_not_write_is_in_the_epoch_after(keeping: Keeping) -> None:
    entry = keeping.keeper.enter(Asked("long", "warm"))
    keeping.serve("before")
    with small_files(10):
        keeping.serve("meanwhile")
        keeping.keeper.leave(entry, Outcome("stop"))
        keeping.keeper._flush()
        assert keeping.journal.waiting_bytes
    keeping.recover_elsewhere()
    keeping.serve("after")
    assert keeping.keeper.close(LONG_S)
    lines = in_ledger(keeping.store)
    ends = {(line["request"], line["epoch"]): line["finish_reason"] for line in lines if line["kind"] == "request"}
    assert ends.items() >= {("before", 0): "stop", ("meanwhile", 1): "stop", ("long", 1): "stop"}.items()
    assert keeping.keeper.status.lost_lines == 0
    assert_whole(keeping, {0, 1})


def test_a_freeze_that_is_noticed_as_the_books_are_written_finds_them_closed_once(keeping: Keeping) -> None:
    keeping.serve("before")
    with keeping.keeper._writing:
        noticing = threading.Thread(target=keeping.epochs.begin, args=(Moment.now(), Moment.now()))
        noticing.start()
        assert eventually(lambda: keeping.epochs.current.number == 1)
        keeping.recover_elsewhere()
        keeping.serve("after")
        assert keeping.epochs.divide(keeping.keeper._books.epoch, Moment.now()) is None
    noticing.join()
    keeping.serve("later")
    keeping.recover_elsewhere()
    keeping.serve("last")
    assert keeping.keeper.close(LONG_S)
    assert requests_of(in_ledger(keeping.store)) == dict.fromkeys(["before", "after", "later", "last"], 1)
    assert_whole(keeping, {0, 1, 2})


def assert_whole(keeping: Keeping, epochs: set[int]) -> None:
    """Every epoch is closed, once, on a whole second, and its requests have its execution."""
    lines = in_ledger(keeping.store)
    assert epochs_of(lines) == epochs
    for epoch in epochs:
        assert sum(phases(lines, epoch).values()) % 1000 == 0
        assert [line["epoch"] for line in lines if line.get("phase") == "rounding"].count(epoch) == 1
        shares = [line["execution_ms"] for line in lines if line["kind"] == "request" and line["epoch"] == epoch]
        assert phases(lines, epoch)["execution"] == sum(shares)
    assert verify(keeping.store).problems == ()


def test_of_what_was_removed_nothing_but_that_is_missing(keeping: Keeping) -> None:
    keeping.serve("before")
    remove(keeping)
    keeping.serve("after")
    assert keeping.keeper.close(LONG_S)
    lines = in_ledger(keeping.store)
    assert requests_of(lines) == {"after": 1}
    assert [line["epoch"] for line in lines if line.get("phase") == "rounding"] == [1]
    [problem] = verify(keeping.store, now=datetime.now(UTC) + timedelta(days=1)).problems
    assert (problem.kind, problem.where.rpartition(".")[0]) == ("unclosed", f"{BOOT}-0")


def test_a_server_whose_journal_is_removed_serves_on_and_says_so(tmp_path: Path) -> None:
    places = Places.below(tmp_path)
    with recording(places) as server, server.client() as client:
        shutil.rmtree(places.journal, ignore_errors=True)  # The server writes meanwhile.
        body = {"model": "demo", "prompt": "Count", "max_tokens": 4}
        answered = [client.post("/v1/completions", json=body).raise_for_status().json()["id"]]
        assert eventually(lambda: client.get("/health").json()["billing"]["journals_lost"] > 0)
        answered.append(client.post("/v1/completions", json=body).raise_for_status().json()["id"])
        assert journals_lost(client) >= 1
        end(server, places)
        assert "has been removed, or recovered" in server.output
    lines = in_ledger(places.store)
    assert requests_of(lines) == dict.fromkeys(answered, 1)
    assert [line["epoch"] for line in lines if line.get("phase") == "rounding"] == [max(epochs_of(lines))]


def epochs_of(lines: list[Line]) -> set[int]:
    return {line["epoch"] for line in lines}


def journals_lost(client: httpx.Client) -> float:
    [line] = [line for line in client.get("/metrics").text.splitlines() if line.startswith("pilotlight_journals_lost_")]
    return float(line.rpartition(" ")[2])


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

    def test_lines_that_wait_when_the_folder_goes_are_given_back(self, tmp_path: Path) -> None:
        journal = a_journal(tmp_path)
        journal.append([OPENING, idle(1)])
        with small_files(10):
            journal.append([OPENING, idle(2)])
        shutil.rmtree(tmp_path / BOOT)
        assert journal.give_up() == [idle(2)]
        journal.begin_anew(1)
        journal.append([OPENING, idle(3)])
        assert [(line["id"].split("-")[2][0], line.get("ms")) for line in journalled(tmp_path / BOOT)] == [
            ("1", None), ("1", 3)
        ]
        assert (journal.lost_lines, journal.losses, journal.waiting_bytes) == (0, 1, 0)

    def test_a_folder_that_was_emptied_is_not_the_worker_s_any_more(self, tmp_path: Path) -> None:
        journal = a_journal(tmp_path)
        a_segment(journal, idle(1))
        for path in (tmp_path / BOOT).iterdir():
            path.unlink()
        assert not journal.intact

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
