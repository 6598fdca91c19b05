"""The journal of a worker's lines: on the disk before anyone relies on them, in segments that the uploader takes away.

Nothing here raises what a disk can do. While it takes no lines they wait in memory, and the worker serves on.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from handler.billing.journal_folder import Folder, HeldElsewhere, remove_empty, segments
from handler.billing.lines import Line
from handler.billing.open_segment import OpenSegment
from handler.billing.segment import DONE, OPEN, SEALED, SegmentName, decode, encode, record_id

MEMORY: Final = 64 * 2**20
"""Bytes of lines that may wait for the disk: about 100,000 requests."""

_AT_ONCE: Final = 2**20
"""Bytes written at a time of what has waited, so that a disk with a little room takes what fits."""

_log = logging.getLogger("pilotlight.journal")


@dataclass(slots=True)
class _Chain:
    """The lines of one epoch.

    Attributes:
        seq: the last one's number.
        unsealed: bytes that are in no sealed segment yet.
        closed: they end with the epoch's rounding.
    """

    epoch: int
    nonce: str
    seq: int = 0
    unsealed: int = 0
    closed: bool = False

    @property
    def name(self) -> str:
        return SegmentName(self.epoch, self.nonce, 1).chain


class _Waiting(NamedTuple):
    """A line that is not on the disk yet."""

    chain: _Chain
    seq: int
    raw: bytes


class Journal:
    """Writes one boot's lines. One thread appends and seals, another may list and confirm.

    Args:
        root: the folder of all journals.
        boot: names this one's folder.
        memory: bytes of lines that may wait while the disk takes none; beyond it the newest are lost, and counted.

    Attributes:
        trouble: why lines wait, in one line; None while all are on the disk.
        lost_lines: how many had no room in memory.
        losses: how often the folder was removed, or recovered by others, while this process wrote it.
    """

    def __init__(self, root: Path, boot: str, memory: int = MEMORY) -> None:
        self.trouble: str | None = None
        self.lost_lines = 0
        self.losses = 0
        self._path = root / boot
        self._boot = boot
        self._memory = memory
        self._lock = threading.Lock()
        self._folder: Folder | None = None
        self._segment: OpenSegment | None = None
        self._chain = _Chain(0, secrets.token_hex(2))
        self._ours = {self._chain.name}
        self._waiting: deque[_Waiting] = deque()
        self._waiting_bytes = 0
        self._loud_at = 1

    @property
    def folder(self) -> Path:
        """Where it is kept."""
        return self._path

    @property
    def segment_bytes(self) -> int:
        """What the next batch is added to, on the disk or in memory.

        0 where the batch begins a segment, so that its first line has to be an `open` line.
        """
        with self._lock:
            return self._chain.unsealed if self._is_intact() else 0

    @property
    def waiting_bytes(self) -> int:
        """What is in memory, because the disk does not take it."""
        return self._waiting_bytes

    @property
    def intact(self) -> bool:
        """Whether nobody has recovered or removed what this journal has written."""
        with self._lock:
            return self._is_intact()

    def begin_chain(self, epoch: int) -> bool:
        """Number the lines from 1 again, for another epoch, and say whether the journal was still intact.

        Where others have recovered it, the epoch before is closed, and what waits of it is lost.
        """
        with self._lock:
            intact = self._is_intact()
            if intact:
                self._seal(at_least=1)
            else:
                self._lose_folder()
                self._lose_waiting()
            self._begin(epoch)
            self._write_waiting()
            return intact

    @property
    def has_written(self) -> bool:
        """Whether a line of the epoch has ever come to the disk."""
        with self._lock:
            return self._chain.seq > sum(line.chain is self._chain for line in self._waiting)

    def give_up(self) -> list[Line]:
        """Let go of a folder that is gone, and give the epoch's lines that were never in it, without `open` lines.

        Whoever has it may have numbered lines of his own behind those that are there. What waits of an epoch before is
        lost.
        """
        with self._lock:
            waiting = [decode(line.raw) for line in self._waiting if line.chain is self._chain]
            self._lose_folder()
            self._lose_waiting(but=len(waiting))
            return [_unnumbered(line) for line in waiting if line is not None and line["kind"] != "open"]

    def begin_anew(self, epoch: int) -> None:
        """Go on in a new folder, with another epoch."""
        with self._lock:
            self._begin(epoch)

    def append(self, lines: Sequence[Line]) -> None:
        """Write a batch, so that it outlives the process and the machine. What the disk refuses waits in memory."""
        with self._lock:
            if not self._is_intact():
                self._lose_folder()
                self._begin(self._chain.epoch)
            for line in lines:
                self._enqueue(line)
            self._write_waiting()

    def seal(self) -> bool:
        """Close the open segment, unless it has only its `open` line, or lines wait for it. Whether it was closed."""
        with self._lock:
            return self._seal(at_least=2)

    def sealed(self) -> list[Path]:
        """What the uploader is to bring to the ledger, oldest first."""
        try:
            return [path for path, name in segments(self._path, SEALED) if name.chain in self._ours]
        except OSError:
            return []

    def confirm(self, path: Path) -> None:
        """The ledger has this segment. The newest such one stays: if the worker is killed, it tells how to close."""
        try:
            with contextlib.suppress(FileNotFoundError):
                path.rename(path.with_suffix(DONE))
            ours = [done for done, name in segments(self._path, DONE) if name.chain in self._ours]
            for done in ours[:-1]:
                done.unlink(missing_ok=True)
        except OSError as error:
            _log.warning("cannot confirm %s: %s", path, error.strerror)

    def close(self) -> bool:
        """Let go of the folder. It goes too where the ledger has all of it; otherwise it is there to be recovered."""
        with self._lock:
            if self._waiting:
                self._write_waiting()
            self._seal(at_least=1)
            removed = self._remove_if_done()
            self._abandon()
            self._lose_waiting()
            return removed

    def _remove_if_done(self) -> bool:
        """Remove the folder unless the ledger lacks something of it, or a clone of this process has its lines there."""
        if self._folder is None or not self._is_intact() or self._waiting or not self._chain.closed:
            return False
        try:
            there = segments(self._path, OPEN, SEALED, DONE)
            if any(path.suffix != DONE or name.chain not in self._ours for path, name in there):
                return False
            for path, _ in there:
                path.unlink()
            return not remove_empty(self._path)
        except OSError:
            return False

    def _is_intact(self) -> bool:
        try:
            folder = self._folder is None or self._folder.is_ours()
            return folder and (self._segment is None or self._segment.is_ours())
        except OSError:  # A disk that does not answer has not lost anything yet.
            return True

    def _lose_folder(self) -> None:
        self.losses += 1
        _log.error("%s has been removed, or recovered by another worker: the journal begins anew", self._path)
        self._abandon()

    def _abandon(self) -> None:
        if self._segment is not None:
            self._segment.close()
        if self._folder is not None:
            self._folder.release()
        self._segment = self._folder = None

    def _begin(self, epoch: int) -> None:
        self._chain = _Chain(epoch, secrets.token_hex(2))
        self._ours.add(self._chain.name)

    def _enqueue(self, line: Line) -> None:
        chain = self._chain
        chain.seq += 1
        chain.closed = chain.closed or line.get("phase") == "rounding"
        raw = encode(line, record_id(self._boot, chain.name, chain.seq))
        self._waiting.append(_Waiting(chain, chain.seq, raw))
        self._waiting_bytes += len(raw)
        chain.unsealed += len(raw)

    def _write_waiting(self) -> None:
        try:
            if self._folder is None:
                self._folder = Folder(self._path)
            while self._waiting:
                self._write_some(self._folder.path)
        except OSError as error:
            self._suffer(f"cannot write {self._path}: {error.strerror or error}")
        except HeldElsewhere:
            self._suffer(f"another process writes {self._path}")
        else:
            self._recover()

    def _write_some(self, folder: Path) -> None:
        """Bring the oldest lines that wait to the segment that they belong to."""
        chain, first, _ = self._waiting[0]
        some: list[_Waiting] = []
        size = 0
        for line in self._waiting:
            if line.chain is not chain or size >= _AT_ONCE:
                break
            some.append(line)
            size += len(line.raw)
        segment = self._segment_of(folder, SegmentName(chain.epoch, chain.nonce, first))
        segment.append([line.raw for line in some], some[-1].seq)
        for _ in some:
            self._waiting.popleft()
        self._waiting_bytes -= size

    def _segment_of(self, folder: Path, name: SegmentName) -> OpenSegment:
        if self._segment is not None and self._segment.name.chain != name.chain:
            self._segment.seal()
            self._segment = None
        if self._segment is None:
            self._segment = OpenSegment(folder, name)
        return self._segment

    def _seal(self, at_least: int) -> bool:
        """Close the open segment if it has so many lines, and none wait for it."""
        if self._segment is None or self._segment.count < at_least or self._waiting:
            return False
        try:
            self._segment.seal()
        except OSError as error:
            self._suffer(f"cannot write {self._path}: {error.strerror or error}")
            return False
        self._segment = None
        self._chain.unsealed = 0
        return True

    def _suffer(self, trouble: str) -> None:
        if self.trouble is None:
            _log.error("journal: %s; lines wait in memory", trouble)
        self.trouble = trouble
        if self._folder is not None:
            self._folder.give_sign()
        excess = 0
        while self._waiting_bytes > self._memory:
            chain, _, raw = self._waiting.pop()
            self._waiting_bytes -= len(raw)
            chain.unsealed -= len(raw)
            excess += 1
        self._count_lost(excess)

    def _recover(self) -> None:
        if self.trouble is not None:
            _log.warning("journal: %s is written again, nothing waits; %d lines were lost", self._path, self.lost_lines)
        self.trouble = None

    def _lose_waiting(self, but: int = 0) -> None:
        """Forget what waits, `but` so many lines that stand elsewhere now."""
        lost = len(self._waiting) - but
        self._waiting.clear()
        self._waiting_bytes = 0
        self._count_lost(lost)

    def _count_lost(self, count: int) -> None:
        """Loud at the first, and at each tenfold."""
        self.lost_lines += count
        if self.lost_lines >= self._loud_at:
            _log.error("journal: %d lines are lost, which had no room on the disk nor in memory", self.lost_lines)
            self._loud_at = 10 ** len(str(self.lost_lines))


def _unnumbered(line: Line) -> Line:
    return {name: value for name, value in line.items() if name != "id"}
