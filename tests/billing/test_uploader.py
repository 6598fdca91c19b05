"""Segments come to the ledger, whatever the server does meanwhile, and nothing is confirmed that is not there."""

from __future__ import annotations

import logging
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from handler.billing import bucket_access, uploader
from handler.billing.bucket import BucketStore
from handler.billing.folder_store import FolderStore
from handler.billing.journal import Journal
from handler.billing.segment import ledger_key
from handler.billing.store import Store
from handler.billing.uploader import Uploader
from tests.billing.conftest import new_bucket
from tests.billing.faulty_s3 import Answer, Fault, FaultyS3
from tests.billing.segments import fill, read_back, record_ids, records, sealed
from tests.billing.servers import S3Server

SOON_S = 60.0


@pytest.fixture(autouse=True)
def log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.INFO, logger="pilotlight"):
        yield


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries follow quickly, and are told once."""
    monkeypatch.setattr(uploader, "LONGEST_PAUSE_S", 0.05)
    monkeypatch.setattr(uploader, "HURRIED_PAUSE_S", 0.05)
    monkeypatch.setattr(uploader, "REMIND_S", 3600.0)


def told(caplog: pytest.LogCaptureFixture, store: Store) -> list[tuple[str, str]]:
    """Level and text of what was logged about a store; the uploaders of other tests go on trying theirs."""
    return [(entry.levelname, entry.message) for entry in caplog.records if entry.message.startswith(store.place)]


def wait_for(condition: Callable[[], object], within_s: float = SOON_S) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def wait_for_answers(store: BucketStore, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the store wait for so long."""
    monkeypatch.setattr(bucket_access, "READ_TIMEOUT_S", seconds)
    store.renew()


def test_all_that_is_sealed_comes_to_the_ledger(server: S3Server, tmp_path: Path) -> None:
    store, journal = new_bucket(), fill(tmp_path)
    segments = sealed(journal)
    bringing = Uploader(store, journal)
    assert bringing.flush(SOON_S)
    wait_for(lambda: read_back(store) == {ledger_key(raw): raw for raw in segments})
    assert journal.sealed() == []
    status = bringing.status()
    assert (status.trouble, status.waiting, status.uploaded, status.attempts_failed) == (None, 0, 4, 0)
    assert status.bytes == sum(stored.size for stored in store.keys())  # noqa: SIM118


def test_a_folder_does_as_well(tmp_path: Path) -> None:
    store, journal = FolderStore(tmp_path / "ledger"), fill(tmp_path / "journal")
    segments = sealed(journal)
    assert Uploader(store, journal).flush(SOON_S)
    assert read_back(store) == {ledger_key(raw): raw for raw in segments}


def test_what_is_sealed_later_is_brought_when_told(tmp_path: Path) -> None:
    store, journal = FolderStore(tmp_path / "ledger"), Journal(tmp_path / "journal", "boot")
    bringing = Uploader(store, journal)
    bringing.start()
    time.sleep(0.05)
    journal = bringing._journal = fill(tmp_path / "journal")
    bringing.wake()
    wait_for(lambda: not journal.sealed())
    assert len(read_back(store)) == 4


def test_before_the_start_nothing_is_touched(tmp_path: Path) -> None:
    journal = fill(tmp_path / "journal")
    bringing = Uploader(FolderStore(tmp_path / "ledger"), journal)
    bringing.wake()
    time.sleep(0.1)
    assert not (tmp_path / "ledger").exists()
    assert bringing.status().waiting == 4


@pytest.mark.parametrize(
    ("fault", "refused"),
    [
        (Answer(500, "InternalError"), False),
        (Answer(503, "SlowDown"), False),
        (Answer(409, "ConditionalRequestConflict"), False),
        (Answer(403, "AccessDenied"), True),
        (Answer(404, "NoSuchBucket"), True),
        (Answer(403, "SignatureDoesNotMatch"), True),
        ("cut", False),
        ("cut after", False),
        ("hang", False),
        ("nonsense", False),
        ("blank", True),
    ],
    ids=str,
)
def test_through_a_fault_nothing_is_confirmed_and_after_it_all_is_there_once(
    fault: Fault, refused: bool, faulty: FaultyS3, quick: None, tmp_path: Path, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store, journal = new_bucket(), fill(tmp_path, segments=12)
    segments, before = sealed(journal), journal.sealed()
    bringing = Uploader(store, journal)
    if fault == "hang":
        wait_for_answers(store, 1.0, monkeypatch)
    faulty.fail(fault)
    bringing.start()
    wait_for(lambda: bringing.status().attempts_failed >= 3)
    status = bringing.status()
    assert status.trouble is not None
    assert store.place in status.trouble
    assert status.refused is refused
    assert status.since is not None
    assert (status.waiting, status.uploaded, journal.sealed()) == (12, 0, before)
    faulty.fail(None)
    assert bringing.flush(SOON_S)
    assert bringing.status().trouble is None
    wait_for_answers(store, SOON_S, monkeypatch)
    assert records(store) == dict.fromkeys((record for raw in segments for record in record_ids(raw)), 1)
    failed, *more, over = told(caplog, store)
    assert not more or fault == "hang", "only there is the patience so short that a slow answer is trouble again"
    assert failed[0] == ("ERROR" if refused else "WARNING")
    assert "works again after" in over[1]


def test_a_bucket_that_is_made_later_gets_everything(moto: S3Server, quick: None, tmp_path: Path) -> None:
    store, journal = BucketStore("made-later"), fill(tmp_path)
    bringing = Uploader(store, journal)
    bringing.start()
    wait_for(lambda: bringing.status().attempts_failed)
    assert not bringing.flush(0.1)
    assert "404 NoSuchBucket" in str(bringing.status().trouble)
    store._client.create_bucket(Bucket="made-later")
    assert bringing.flush(SOON_S)
    assert len(read_back(store)) == 4


def test_a_server_that_fails_at_random_gets_everything_once(faulty: FaultyS3, quick: None, tmp_path: Path) -> None:
    store, journal = new_bucket(), fill(tmp_path, segments=20)
    segments = sealed(journal)
    faults: list[Fault | None] = ["cut after", Answer(503, "SlowDown"), None, "cut", None, Answer(500, "x"), "cut amid"]
    draw = random.Random(7)
    faulty.rule = lambda method, path, headers: draw.choice(faults)
    bringing = Uploader(store, journal)
    assert bringing.flush(SOON_S)
    faulty.fail(None)
    assert bringing.status().attempts_failed > 0
    assert records(store) == dict.fromkeys((record for raw in segments for record in record_ids(raw)), 1)


def test_after_a_flush_the_status_has_all_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, journal = FolderStore(tmp_path / "ledger"), fill(tmp_path / "journal", segments=1)
    confirm, confirmed = journal.confirm, threading.Event()

    def confirm_slowly(segment: Path) -> None:
        confirm(segment)
        confirmed.set()
        time.sleep(0.3)

    monkeypatch.setattr(journal, "confirm", confirm_slowly)
    bringing = Uploader(store, journal)
    bringing.start()
    assert confirmed.wait(SOON_S)
    assert bringing.flush(SOON_S)
    assert bringing.status().uploaded == 1


def test_flush_gives_up_when_its_time_is_up(
    faulty: FaultyS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, journal = new_bucket(), fill(tmp_path)
    wait_for_answers(store, 3600.0, monkeypatch)
    faulty.fail("hang")
    began = time.monotonic()
    assert not Uploader(store, journal).flush(0.4)
    assert 0.4 <= time.monotonic() - began < SOON_S
    assert len(journal.sealed()) == 4


def test_flush_breaks_off_a_long_pause_and_retries_quickly(
    faulty: FaultyS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random, "uniform", lambda least, most: most)
    monkeypatch.setattr(uploader, "FIRST_PAUSE_S", 3600.0)
    monkeypatch.setattr(uploader, "LONGEST_PAUSE_S", 3600.0)
    store, journal = new_bucket(), fill(tmp_path)
    faulty.fail(Answer(503, "SlowDown"))
    bringing = Uploader(store, journal)
    bringing.start()
    wait_for(lambda: bringing.status().attempts_failed == 1)
    with ThreadPoolExecutor(1) as pool:
        flushed = pool.submit(bringing.flush, SOON_S)
        wait_for(lambda: bringing.status().attempts_failed >= 3)
        faulty.fail(None)
        assert flushed.result()


def test_news_of_segments_do_not_shorten_a_pause(
    faulty: FaultyS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random, "uniform", lambda least, most: 3600.0)
    store, journal = new_bucket(), fill(tmp_path)
    faulty.fail(Answer(503, "SlowDown"))
    bringing = Uploader(store, journal)
    bringing.start()
    wait_for(lambda: bringing.status().attempts_failed == 1)
    for _ in range(100):
        bringing.wake()
    assert bringing.status().attempts_failed == 1
    bringing.renew()
    wait_for(lambda: bringing.status().attempts_failed == 2)


def test_pauses_grow_to_a_minute_and_are_drawn_from_nothing_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[float, float]] = []

    def draw(least: float, most: float) -> float:
        if threading.current_thread() is threading.main_thread():  # Not the uploaders that other tests have left.
            drawn.append((least, most))
        return least

    monkeypatch.setattr(random, "uniform", draw)
    bringing = Uploader(FolderStore(tmp_path), Journal(tmp_path, "boot"))
    for _ in range(2000):
        bringing._pause()
    assert [most for _, most in drawn[:9]] == [0.5, 1, 2, 4, 8, 16, 32, 60, 60]
    assert set(drawn[7:]) == {(0, 60.0)}


def test_a_segment_that_cannot_be_read_does_not_stop_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store, journal = FolderStore(tmp_path / "ledger"), fill(tmp_path / "journal", segments=12)
    whole, damaged = sealed(journal), journal.sealed()[3]
    damaged.write_bytes(whole[3][:-20])
    bringing = Uploader(store, journal)
    bringing.start()
    began = time.monotonic()
    assert not bringing.flush(SOON_S)
    assert time.monotonic() - began < SOON_S
    assert journal.sealed() == [damaged]
    assert len(read_back(store)) == 11
    bringing.flush(0.1)
    assert [entry.message for entry in caplog.records if str(damaged) in entry.message] == [
        f"{damaged} cannot be read and is not in the ledger: AssertionError"
    ]
    damaged.write_bytes(whole[3])
    bringing.wake()
    wait_for(lambda: not journal.sealed())
    assert len(read_back(store)) == 12


def test_trouble_that_lasts_is_told_once_a_minute(
    tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "ledger").write_text("a file where the folder should be")
    store = FolderStore(tmp_path / "ledger")
    bringing = Uploader(store, fill(tmp_path / "journal"))
    bringing.start()
    wait_for(lambda: bringing.status().attempts_failed > 10)
    assert len(told(caplog, store)) == 1
    monkeypatch.setattr(uploader, "REMIND_S", 0.0)
    wait_for(lambda: len(told(caplog, store)) > 2)
    assert {level for level, _ in told(caplog, store)} == {"ERROR"}
    assert "segments that wait in the journal: 4" in told(caplog, store)[0][1]
    (tmp_path / "ledger").unlink()
    assert bringing.flush(SOON_S)


def test_with_the_server_down_memory_stays_where_it_is(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.billing.waiting_segments", str(tmp_path)],
        capture_output=True, text=True, check=True, timeout=100,
    )
    grown_mib, segments, attempts = map(float, done.stdout.split())
    assert segments == 3000
    assert attempts >= 20
    assert grown_mib < 8


def test_of_a_backlog_several_go_at_once(
    faulty: FaultyS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    under_way: set[str] = set()
    several = threading.Event()

    def meets_another(method: str, path: str, headers: dict[str, str]) -> None:
        under_way.add(path)
        if len(under_way) > 1:
            several.set()
        several.wait(SOON_S)

    store, journal = new_bucket(), fill(tmp_path, segments=20)
    wait_for_answers(store, 3600.0, monkeypatch)
    faulty.rule = meets_another
    bringing = Uploader(store, journal)
    bringing.start()
    assert several.wait(SOON_S / 2), "each waits for the one before"
    assert bringing.flush(SOON_S)


def typed(store: Store) -> Store:
    """For the type checker: both are stores."""
    return store


def test_both_stores_are_stores(tmp_path: Path) -> None:
    assert typed(FolderStore(tmp_path)).place == f"file://{tmp_path}"
    assert typed(BucketStore("bucket")).place == "s3://bucket"
