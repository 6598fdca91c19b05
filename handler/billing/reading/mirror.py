"""A bucket's ledger on this machine: its objects never change, so each is fetched once."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, date, datetime
from pathlib import Path
from threading import Event
from typing import Final

from handler.billing.reading.objects import OBJECTS, PARQUET, LedgerFile, Period
from handler.billing.segment import UNDER, parse_key
from handler.billing.store import Store, StoredObject, StoreTrouble

Progress = Callable[[str, int], AbstractContextManager[Callable[[int], object]]]
"""Opens a display of a task: of what, and how many; gives what is told of those that are done, on any thread."""

_THREADS: Final = 8
"""An object takes a round trip and few bytes: several at once hide the trips."""

_ATTEMPTS: Final = 3

_MOST_DAYS: Final = 100
"""Days that are listed one by one, each a round trip; of a longer period all is listed, a thousand objects a trip."""


def unseen(what: str, total: int) -> AbstractContextManager[Callable[[int], object]]:
    """A display that nobody sees."""
    return nullcontext(lambda count: None)


def bring(
    store: Store, period: Period, progress: Progress = unseen, environment: Mapping[str, str] = os.environ
) -> list[LedgerFile]:
    """Have the objects of a period here, and give their files. What an earlier call has brought is not fetched again.

    Raises:
        StoreTrouble: the store cannot be read.
    """
    folder = cache_folder(store.place, environment)
    wanted = {folder / found.key: found for found in _wanted(store, period)}
    missing = [(path, found) for path, found in wanted.items() if not _is_here(path, found)]
    given_up = Event()
    with progress("objects", len(missing)) as advance, ThreadPoolExecutor(_THREADS) as pool:
        fetched = [pool.submit(_fetch, store, found.key, path, given_up) for path, found in missing]
        try:
            for task in fetched:
                task.result()
                advance(1)
        except BaseException:  # Also an interrupt: what has not begun need not.
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [LedgerFile.at(path) for path in wanted]


def cache_folder(place: str, environment: Mapping[str, str] = os.environ) -> Path:
    """Where a bucket's objects are kept: a folder of the user's, by XDG's specification."""
    server = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL") or ""
    digest = hashlib.sha256(f"{server} {place}".encode()).hexdigest()[:16]
    root = environment.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111 (knows no home, too)
    return Path(root, "pilotlight", "ledger", digest)


def _wanted(store: Store, period: Period) -> Iterable[StoredObject]:
    """The ledger's objects that may have lines of the period; Parquet files where there is no object."""
    days = list(period.days(datetime.now(UTC).date()) or ())
    listed_by_day = period.since is not None and len(days) <= _MOST_DAYS
    folders = [f"{UNDER}dt={day}/" for day in days] if listed_by_day else [UNDER]
    objects = [found for folder in folders for found in store.keys(folder) if _is_wanted(found, period)]
    return objects or [found for found in store.keys() if _is_parquet(found.key)]  # noqa: SIM118 (no dictionary)


def _is_wanted(found: StoredObject, period: Period) -> bool:
    key = parse_key(found.key) if found.key.endswith(OBJECTS) else None
    return key is not None and period.may_hold(date.fromisoformat(key.date))


def _is_parquet(key: str) -> bool:
    """Whether it is a Parquet file that stays within the folder it is brought to, whoever named it."""
    return key.endswith(PARQUET) and {"", ".", ".."}.isdisjoint(key.split("/"))


def _is_here(path: Path, found: StoredObject) -> bool:
    try:
        return path.stat().st_size == found.size
    except OSError:
        return False


def _fetch(store: Store, key: str, path: Path, given_up: Event) -> None:
    """Write an object's file, whole or not at all; nothing once another could not be had."""
    if given_up.is_set():
        return
    try:
        body = _get(store, key)
    except StoreTrouble:
        given_up.set()
        raise
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{secrets.token_hex(8)}.partial")
    try:
        partial.write_bytes(body)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _get(store: Store, key: str) -> bytes:
    for _ in range(_ATTEMPTS - 1):
        try:
            return store.get(key)
        except StoreTrouble as trouble:
            if trouble.refused:
                raise
    return store.get(key)
