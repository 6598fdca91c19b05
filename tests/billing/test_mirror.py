"""A bucket's ledger on this machine: fetched once, whole, and no more of it than is asked for."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from handler.billing.folder_store import FolderStore
from handler.billing.reading.ledger import open_ledger
from handler.billing.reading.mirror import bring, cache_folder
from handler.billing.reading.objects import Period
from handler.billing.store import StoredObject, StoreTrouble
from tests.billing.conftest import new_bucket
from tests.billing.ledgers import Shape, Truth, make_ledger
from tests.billing.servers import S3Server

SHAPE = Shape(requests=200, per_object=10, workers=2, days=8.0, repeated=0.2, began_s=1_748_736_000)
"""From 2025-06-01: a bucket has no objects of days to come."""


class Counted(FolderStore):
    """A folder that counts what is fetched from it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.fetched: list[str] = []
        self.listed = 0

    def get(self, key: str) -> bytes:
        self.fetched.append(key)
        return super().get(key)

    def keys(self, under: str = "") -> Iterator[StoredObject]:
        self.listed += 1
        return super().keys(under)


@pytest.fixture
def made(tmp_path: Path) -> tuple[Counted, Truth]:
    truth = make_ledger(tmp_path / "store", SHAPE)
    return Counted(tmp_path / "store"), truth


@pytest.fixture
def cache(tmp_path: Path) -> dict[str, str]:
    return {"XDG_CACHE_HOME": str(tmp_path / "cache")}


def test_objects_are_fetched_once(made: tuple[Counted, Truth], cache: dict[str, str]) -> None:
    store, truth = made
    files = bring(store, Period(), environment=cache)
    assert len(files) == len(store.fetched) == truth.objects + truth.repeated
    assert all(file.key is not None for file in files)
    assert bring(store, Period(), environment=cache) == files
    assert len(store.fetched) == len(files)


def test_a_new_object_is_all_that_is_fetched_next_time(made: tuple[Counted, Truth], cache: dict[str, str]) -> None:
    store, _ = made
    bring(store, Period(), environment=cache)
    store.fetched.clear()
    place = "usage/v1/dt=2026-12-01/hr=00/endpoint=e/worker=w/boot=b"
    new = f"{place}/seq=000.abcd-00000001-00000002-0123456789abcdef.jsonl.gz"
    store.put(new, b"new")
    bring(store, Period(), environment=cache)
    assert store.fetched == [new]


def test_a_file_cut_short_is_fetched_again(made: tuple[Counted, Truth], cache: dict[str, str]) -> None:
    store, _ = made
    files = bring(store, Period(), environment=cache)
    whole = files[0].path.read_bytes()
    files[0].path.write_bytes(whole[:-1])
    store.fetched.clear()
    bring(store, Period(), environment=cache)
    assert (len(store.fetched), files[0].path.read_bytes()) == (1, whole)


def test_only_days_around_the_period_are_fetched(made: tuple[Counted, Truth], cache: dict[str, str]) -> None:
    store, _ = made
    day = date(2025, 6, 5)
    bring(store, Period.of(day, day), environment=cache)
    fetched = {key[len("usage/v1/dt="):][:10] for key in store.fetched}
    assert fetched == {"2025-06-04", "2025-06-05", "2025-06-06"}
    store.fetched.clear()
    bring(store, Period.of(date(2025, 6, 7), None), environment=cache)
    assert {key[len("usage/v1/dt="):][:10] for key in store.fetched} == {"2025-06-07", "2025-06-08"}


def test_a_long_period_is_not_listed_day_by_day(made: tuple[Counted, Truth], cache: dict[str, str]) -> None:
    store, _ = made
    files = bring(store, Period.of(date(1970, 1, 1), None), environment=cache)
    assert (len(files), store.listed) == (len(bring(Counted(store._root), Period(), environment=cache)), 1)


def test_what_is_no_ledger_s_is_not_fetched(made: tuple[Counted, Truth], cache: dict[str, str]) -> None:
    store, _ = made
    store.put("usage/v1/readme.txt", b"x")
    store.put("model.bin", b"x")
    bring(store, Period(), environment=cache)
    assert {"usage/v1/readme.txt", "model.bin"}.isdisjoint(store.fetched)


def test_parquet_files_are_a_ledger_too_but_none_is_written_outside(tmp_path: Path, cache: dict[str, str]) -> None:
    class Names(Counted):
        def keys(self, under: str = "") -> Iterator[StoredObject]:
            names = ("dt=2026-11-21/2026-11-21.parquet", "../../escaped.parquet", "/escaped.parquet", "a//b.parquet")
            return (StoredObject(name, 4) for name in names if name.startswith(under))

        def get(self, key: str) -> bytes:
            return b"PAR1"

    [file] = bring(Names(tmp_path), Period(), environment=cache)
    assert (file.day, file.path.read_bytes()) == (date(2026, 11, 21), b"PAR1")


def test_a_store_that_says_no_is_asked_once(tmp_path: Path, cache: dict[str, str]) -> None:
    make_ledger(tmp_path / "store", SHAPE)

    class Refuses(FolderStore):
        asked = 0

        def get(self, key: str) -> bytes:
            if key == next(self.keys("usage/")).key:
                return super().get(key)
            Refuses.asked += 1
            raise StoreTrouble("no", refused=True)

    @contextmanager
    def slowly_shown(what: str, total: int) -> Iterator[Any]:
        """What was fetched is looked at late."""
        yield lambda count: time.sleep(0.3)

    with pytest.raises(StoreTrouble, match=r"^no$"):
        bring(Refuses(tmp_path / "store"), Period(), slowly_shown, cache)
    assert Refuses.asked <= 8, "what has begun ends; the rest is not asked for"
    assert len(list((tmp_path / "cache").rglob("*.*"))) == 1


def test_a_passing_trouble_is_tried_again(made: tuple[Counted, Truth], cache: dict[str, str]) -> None:
    store, truth = made

    class Stumbles(Counted):
        def get(self, key: str) -> bytes:
            body = super().get(key)
            if self.fetched.count(key) == 1:
                raise StoreTrouble("a moment, please", refused=False)
            return body

    stumbling = Stumbles(Path(store.place.removeprefix("file://")))
    assert len(bring(stumbling, Period(), environment=cache)) == truth.objects + truth.repeated


def test_progress_tells_of_every_object(made: tuple[Counted, Truth], cache: dict[str, str]) -> None:
    seen: list[Any] = []

    @contextmanager
    def shown(what: str, total: int) -> Iterator[Any]:
        seen.append((what, total))
        yield seen.append

    store, truth = made
    bring(store, Period(), shown, cache)
    count = truth.objects + truth.repeated
    assert seen == [("objects", count), *[1] * count]


def test_ledgers_of_different_servers_are_kept_apart() -> None:
    one, other = ({"AWS_ENDPOINT_URL_S3": f"http://{host}", "XDG_CACHE_HOME": "/c"} for host in ("a", "b"))
    assert len({cache_folder("s3://b/p", one), cache_folder("s3://b/p", other), cache_folder("s3://b/q", one)}) == 3


def test_a_bucket_reads_as_the_folder_does(
    moto: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    truth = make_ledger(tmp_path / "store", SHAPE)
    folder, store = FolderStore(tmp_path / "store"), new_bucket()
    for found in folder.keys():  # noqa: SIM118 (no dictionary)
        store.put(found.key, folder.get(found.key))
    with open_ledger(store.place) as ledger:
        [lines] = ledger.execute("SELECT count(*) FROM lines").fetchone() or (0,)
        assert (lines, ledger.place) == (truth.lines, store.place)
