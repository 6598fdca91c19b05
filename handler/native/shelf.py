"""Results on disk, as long as nobody has accepted them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

KEPT_S: Final = 86_400.0
"""A result older than this is thrown away: the platform forgets a job after 24 hours unless told otherwise."""

_log = logging.getLogger("pilotlight.worker")


@dataclass(frozen=True, slots=True)
class Result:
    """A job's result.

    Attributes:
        body: as it is sent.
        explains: whether it only says why the true one could not be delivered.
    """

    job: str
    body: bytes
    explains: bool = False


class Shelf:
    """One worker's results, a file each. Where the folder cannot be written they are in memory alone, which is logged.

    A file is not synced: it is to outlive the process, and a machine that goes down takes its disk with it. On a
    network volume the server has it once it is closed.

    Args:
        folder: of this worker alone; made when it is needed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._said = False

    def keep(self, result: Result) -> None:
        """Write it, whole or not at all."""
        path = self._path(result.job)
        passing = path.with_suffix(".new")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            passing.write_bytes(json.dumps({"job": result.job}).encode() + b"\n" + result.body)
            passing.replace(path)
        except OSError as error:
            self._say(error)

    def drop(self, job: str) -> None:
        """Forget it; one that is not here is no error."""
        with contextlib.suppress(OSError):
            self._path(job).unlink(missing_ok=True)

    def load(self) -> list[Result]:
        """What an earlier process of this worker has left, the oldest first."""
        try:
            files = sorted(self._folder.glob("*.json"), key=os.path.getmtime)
        except OSError:
            return []
        return [found for file in files if (found := _read(file)) is not None]

    def _path(self, job: str) -> Path:
        return self._folder / f"{hashlib.sha256(job.encode()).hexdigest()[:32]}.json"

    def _say(self, error: OSError) -> None:
        if not self._said:
            _log.warning("results cannot be kept in %s (%s): until accepted they are in memory", self._folder, error)
            self._said = True


def shelf_folder(journals: Path, endpoint: str, worker: str) -> Path:
    """Beside the journals: on the network volume if there is one, which outlives the worker."""
    return journals.with_name("results") / quote(endpoint, safe="") / quote(worker, safe="")


def _read(file: Path) -> Result | None:
    """The result in a file; None if it is too old, or not one of ours."""
    try:
        if time.time() - file.stat().st_mtime > KEPT_S:
            file.unlink()
            return None
        head, _, body = file.read_bytes().partition(b"\n")
        return Result(str(json.loads(head)["job"]), body)
    except (OSError, ValueError, KeyError, TypeError) as error:
        _log.warning("%s holds no result: %s", file, error)
        return None
