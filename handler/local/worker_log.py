"""A worker's log as RunPod's management API streams it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from handler.local.worker import Worker

LOOK_S: Final = 0.25
"""How often there is looked for new lines."""
BEAT_S: Final = 15.0
"""The longest silence: a comment tells that the stream is still there."""
BACKFILL_BYTES: Final = 8 << 20
"""No more than that is read of what was written before."""


async def log_events(worker: Worker, tail: int) -> AsyncIterator[str]:
    """Server-sent events: the last `tail` lines, and then each as it is written, until the worker has ended.

    A line's `ts` is when it was read: the log itself does not say when it was written.
    """
    log, silent_since = _Follower(worker.log, tail), time.monotonic()
    while True:
        ended = worker.over.is_set()
        for line in log.fresh():
            yield _event(line)
            silent_since = time.monotonic()
        if ended:
            return
        if time.monotonic() - silent_since > BEAT_S:
            yield ": still here\n\n"
            silent_since = time.monotonic()
        await asyncio.sleep(LOOK_S)


class _Follower:
    """Reads whole lines from where it has come to."""

    def __init__(self, path: Path, tail: int) -> None:
        self._path = path
        self._tail: int | None = tail
        self._at = 0

    def fresh(self) -> Iterator[str]:
        """The lines since the last time; the first time the last `tail` ones."""
        written = self._read()
        whole = written[: written.rfind(b"\n") + 1]
        self._at += len(whole)
        lines = whole.decode(errors="replace").splitlines()
        if self._tail is not None:
            lines, self._tail = lines[max(0, len(lines) - self._tail) :], None
        return iter(lines)

    def _read(self) -> bytes:
        """What there is from here on; nothing while the worker has not been started."""
        try:
            with self._path.open("rb") as file:
                if self._tail is not None:
                    self._at = max(0, file.seek(0, 2) - BACKFILL_BYTES)
                file.seek(self._at)
                return file.read()
        except FileNotFoundError:
            return b""


def _event(line: str) -> str:
    told = {"source": "container", "line": line, "ts": datetime.now(UTC).isoformat().replace("+00:00", "Z")}
    return f"data: {json.dumps(told)}\n\n"
