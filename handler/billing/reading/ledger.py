"""A ledger opened for queries, wherever it lies."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from engine.errors import PilotlightError
from handler.billing.reading.mirror import Progress, bring, unseen
from handler.billing.reading.objects import OBJECTS, PARQUET, LedgerFile, Period, contested, find_files
from handler.billing.reading.views import create_views
from handler.billing.reading.whole import is_whole
from handler.billing.reading.words import damaged_lines
from handler.billing.store import open_store

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_MEMORY = "1GB"
"""What DuckDB may hold; the rest goes to the disk. The report of 10 million requests needs a fraction of it."""

_MOST_THREADS = 8
"""Each reads a file of its own through buffers of about 64 MB."""


class LedgerNotFound(PilotlightError):
    """There is no ledger at the place that was named."""


class LedgerUnreadable(PilotlightError):
    """The ledger's files are there and cannot be read."""


class Ledger(AbstractContextManager["Ledger"]):
    """A ledger's lines, each once, under the views that `reading/views.py` describes. For one thread.

    Objects that cannot be unpacked are left out, and `skipped` names them. That is found out by the first query that
    reads them.

    Attributes:
        place: as its user would name it.
        period: what the views `phases`, `requests` and `starts` are limited to.
        skipped: files that are left out: none of their lines is in any view.
    """

    def __init__(self, place: str, files: Sequence[LedgerFile], period: Period) -> None:
        import duckdb

        self.place = place
        self.period = period
        self.skipped: list[Path] = []
        self._careful = False
        self._files = [file for file in files if file.day is None or period.may_hold(file.day)]
        self._scratch = tempfile.TemporaryDirectory(prefix="pilotlight-ledger-")
        self._duckdb: DuckDBPyConnection = duckdb.connect(config={
            "memory_limit": _MEMORY, "threads": min(_MOST_THREADS, os.cpu_count() or 1),
            "temp_directory": self._scratch.name, "preserve_insertion_order": False,
            "autoinstall_known_extensions": False, "autoload_known_extensions": False,
        })
        self._make_views()

    @property
    def objects(self) -> int:
        """How many files are read."""
        return len(self._files)

    def execute(self, query: str, parameters: Any = None) -> DuckDBPyConnection:
        """Run a query and give what its rows are fetched from, as DuckDB's connection does.

        Raises:
            LedgerUnreadable: what cannot be read is no single object's fault.
        """
        import duckdb

        try:
            return self._duckdb.execute(query, parameters)
        except (duckdb.IOException, duckdb.InvalidInputException) as error:
            if self._careful:
                raise LedgerUnreadable(f"{self.place} cannot be read: {str(error).splitlines()[0]}") from error
            self._be_careful()
            return self.execute(query, parameters)

    def left_out(self) -> list[str]:
        """What is in no view, a line each: objects that cannot be unpacked, and damaged lines."""
        [(damaged,)] = self.execute("SELECT count(*) FROM all_lines WHERE kind IS NULL").fetchall()
        objects = [f"left out, as it cannot be unpacked: {path.name}" for path in self.skipped]
        return [*objects, *([damaged_lines(damaged)] if damaged else [])]

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._duckdb.close()
        self._scratch.cleanup()

    def __enter__(self) -> Self:
        return self

    def _make_views(self) -> None:
        """Views of the files as they are now known to be."""
        shared = contested(self._files)
        paths = [file.path for file in self._files]
        clean = [path for path in paths if path not in shared]
        self._duckdb.execute(create_views(clean, sorted(shared), self.period, self._careful))

    def _be_careful(self) -> None:
        """Look at every file: no view reads broken ones from now on, and any line may be what it likes."""
        self._careful = True
        with ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1)) as pool:
            whole = list(pool.map(is_whole, [file.path for file in self._files]))
        broken = [file.path for file, good in zip(self._files, whole, strict=True) if not good]
        self.skipped += broken
        self._files = [file for file in self._files if file.path not in set(broken)]
        self._make_views()


def open_ledger(
    place: str, since: date | None = None, until: date | None = None, progress: Progress = unseen
) -> Ledger:
    """Open a ledger for queries.

    Args:
        place: `s3://BUCKET/PREFIX`, `file://FOLDER`, a folder, also one that holds only a part of a ledger, or Parquet
            files in a folder, or one of them.
        since: the first day, or a moment; default: the ledger's beginning.
        until: the last day, or the moment before which it ends; default: the ledger's end.
        progress: shows how far the objects of a bucket have come to this machine.

    Raises:
        LedgerNotFound: there is no such place.
        PilotlightError: it cannot be read.
    """
    if find_spec("duckdb") is None:
        raise LedgerUnreadable("reading a ledger needs duckdb, which a worker's image is without: pip install duckdb")
    period = Period.of(since, until)
    store = open_store(place)
    if store.place.startswith("s3://"):
        return Ledger(store.place, bring(store, period, progress), period)
    folder = Path(store.place.removeprefix("file://"))
    if not folder.is_dir() and not (folder.is_file() and folder.name.endswith((OBJECTS, PARQUET))):
        raise LedgerNotFound(f"there is no ledger at {folder}; --from names another place")
    return Ledger(str(folder), find_files(folder), period)
