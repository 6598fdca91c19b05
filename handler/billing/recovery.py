"""Brings to the ledger what killed workers left in their journals, and closes their epochs.

What is brought follows from what is on the disk alone. Two who recover one journal at the same time, or one after
another that was killed half-way, write the same objects; nothing is removed before the ledger has it.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Final

from handler.billing.closing import closing_lines
from handler.billing.journal_folder import HeldElsewhere, all_segments, boot_of, hold, is_taken, remove_empty, take
from handler.billing.lines import Line
from handler.billing.remains import Remains, last_sign, read
from handler.billing.segment import OPEN, SegmentName, compress, encode, ledger_key, record_id
from handler.billing.store import Store, StoreTrouble

DAMAGED: Final = ".damaged"
"""Behind the name of a segment with lines that could not be read. Whoever has looked at it may delete it."""

_FLIGHT: Final = ("request", "job", "tenant", "warmup", "execution_ms")

_log = logging.getLogger("pilotlight.journal")


@dataclass(frozen=True, slots=True)
class Recovered:
    """What became of one worker's journal.

    Attributes:
        segments: in the ledger now that may not have been there before; `lines` is how many lines they have.
        closed: whether each epoch in the folder has its end in the ledger.
        damaged: lines that could not be read; their segments are kept.
        skipped: why the folder is still there, in one line; None where it is gone.
        in_use: whether that is because its worker, or somebody who recovers it, is at it: nothing is wrong.
    """

    boot: str
    segments: int = 0
    lines: int = 0
    closed: bool = False
    damaged: int = 0
    skipped: str | None = None
    in_use: bool = False


def journals(root: Path) -> list[Path]:
    """The folders of all journals; none where there is no such root.

    Raises:
        OSError: it cannot be read.
    """
    return sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []


def recover(root: Path, store: Store, older_than_s: float, now: float | None = None) -> list[Recovered]:
    """Recover the journals of all workers that have not been heard of for so long.

    Args:
        now: seconds since 1970; default: the present.

    Raises:
        OSError: the root cannot be read.
    """
    return [recover_journal(folder, store, older_than_s, now) for folder in journals(root)]


def recover_journal(folder: Path, store: Store, older_than_s: float, now: float | None = None) -> Recovered:
    """Recover one journal, unless its worker may live. What goes wrong is told in the answer.

    Args:
        older_than_s: how long there must have been no line. A folder that others have begun to recover can be at once.
        now: seconds since 1970; default: the present.
    """
    result = Recovered(boot_of(folder))
    try:
        silent_s = (time.time() if now is None else now) - last_sign(folder)
        if silent_s < older_than_s and not is_taken(folder):
            return _in_use(result, f"its worker may live, it was heard of {silent_s:.0f} s ago")
        lock = hold(folder)
        try:
            return _Recovery(take(folder), store).run()
        finally:
            os.close(lock)
    except HeldElsewhere:
        return _in_use(result, "a process on this machine holds it")
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTEMPTY):  # It has gone, or somebody looks in just as it is to go.
            return _in_use(result, "somebody else is recovering it, or has removed it")
        reason = f"it cannot be recovered: {error.strerror or error}"
    except Exception:  # Whatever is wrong with one journal, the others are to be recovered, and the worker to boot.
        _log.exception("%s cannot be recovered", folder)
        reason = "its lines cannot be understood; the log says more"
    return replace(result, skipped=reason)


def _in_use(result: Recovered, reason: str) -> Recovered:
    return replace(result, skipped=reason, in_use=True)


class _Recovery:
    """One journal's way to the ledger. The folder is this worker's no more."""

    def __init__(self, folder: Path, store: Store) -> None:
        self._folder = folder
        self._store = store
        self._brought: list[Remains] = []
        self._result = Recovered(boot_of(folder), closed=True)

    def run(self) -> Recovered:
        """Bring everything, then remove it. Raises OSError as reading and removing do."""
        try:
            for _, chain in groupby(all_segments(self._folder), lambda segment: segment[1].chain):
                self._bring_chain(list(chain))
        except StoreTrouble as trouble:
            return replace(self._result, closed=False, skipped=str(trouble))
        return replace(self._result, skipped=self._clear())

    def _bring_chain(self, chain: list[tuple[Path, SegmentName]]) -> None:
        """Bring an epoch's segments, and what closes it behind them."""
        before: list[Line] = []
        *earlier, newest = chain
        for path, name in earlier:
            segment = self._read(path, name)
            self._bring(segment, segment.raw)
            before = segment.lines
        segment = self._read(*newest)
        account = _account([*before, *segment.lines])
        closing = closing_lines(account) if account else []
        if segment.path.suffix == OPEN and segment.lines:
            self._bring(segment, segment.raw + _encoded(closing, segment))
        else:
            self._bring(segment, segment.raw)
            self._put(_encoded([_opening(account, closing), *closing], segment) if closing else b"")
        self._result = replace(self._result, closed=self._result.closed and bool(account))

    def _read(self, path: Path, name: SegmentName) -> Remains:
        segment = read(path, name)
        self._brought.append(replace(segment, raw=b"", lines=[]))
        return segment

    def _bring(self, segment: Remains, raw: bytes) -> None:
        if not segment.is_done:
            self._put(raw)
            self._result = replace(self._result, damaged=self._result.damaged + segment.damaged)

    def _put(self, raw: bytes) -> None:
        if raw:
            self._store.put(ledger_key(raw), compress(raw))
            count = self._result.lines + raw.count(b"\n")
            self._result = replace(self._result, segments=self._result.segments + 1, lines=count)

    def _clear(self) -> str | None:
        """Remove what was brought, oldest first, so that what closes an epoch is there to the last. Why the rest stays.

        A segment with damaged lines is kept, for somebody to look at.
        """
        kept = []
        for segment in self._brought:
            if segment.has_changed():
                kept.append(f"{segment.path.name} has changed meanwhile")
            elif segment.damaged and not segment.is_done:
                kept.append(f"{segment.path.name} has damaged lines: {segment.damaged}")
                segment.path.rename(segment.path.with_name(segment.path.name + DAMAGED))
            else:
                segment.path.unlink()
        if kept:
            _log.error("%s is kept, though all that can be read is in the ledger: %s", self._folder, "; ".join(kept))
            return "; ".join(kept)
        others = remove_empty(self._folder)
        return f"{self._folder} holds {', '.join(others)}" if others else None


def _account(lines: list[Line]) -> list[Line]:
    """The lines from which an epoch can be closed: from the last `open` line that time follows; empty without one."""
    time_follows = False
    for position in range(len(lines) - 1, -1, -1):
        kind = lines[position]["kind"]
        time_follows = time_follows or kind == "phase"
        if kind == "open" and time_follows:
            return lines[position:]
    return []


def _opening(account: list[Line], closing: list[Line]) -> Line:
    """The `open` line of a segment that has nothing but what closes its epoch."""
    opening = account[0]
    envelope = {name: closing[-1][name] for name in ("at", "written", "endpoint", "worker", "boot", "epoch")}
    total = opening["epoch_ms"] + sum(line["ms"] for line in account if line["kind"] == "phase")
    flights = [{name: line[name] for name in _FLIGHT} for line in closing[:-1]]
    fields = {"epoch_ms": total, "wall_ahead_ms": opening["wall_ahead_ms"], "in_flight": flights}
    return {"kind": "open", **envelope, **fields}


def _encoded(lines: list[Line], after: Remains) -> bytes:
    """Lines that go on where a segment ends."""
    ids = (record_id(line["boot"], after.name.chain, after.last + count) for count, line in enumerate(lines, 1))
    return b"".join(map(encode, lines, ids))
