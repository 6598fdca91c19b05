"""Notices that the process was frozen and resumed, by a thread that ticks once a second and asks where the time went.

A late tick alone says little: on a busy machine the thread waits for a core, and beside a thread that holds the
interpreter it waits for that. Both leave traces in the thread's own accounts, and a freeze leaves none. The process's
CPU time would not do: a process that shares its cores with many may be given a hundredth of one (seen: 0.9 s in 94),
and one frozen amid its work has just used all of them.
"""

from __future__ import annotations

import logging
import resource
import sys
import threading
import time
from typing import Final, NamedTuple

from handler.epochs import Epochs, Moment, StartKind

TICK_S: Final = 1.0
"""Between two looks at the clocks."""

FREEZE_S: Final = 3.0
"""The shortest freeze that counts: time that no account has, or by which the wall clock has got ahead."""

JUDGEMENT_S: Final = 0.2
"""How long a request that finds the tick overdue waits for it, before it goes on as if nothing had happened."""

_log = logging.getLogger("pilotlight.restore")


class Reading(NamedTuple):
    """The clocks and accounts at a tick, in seconds.

    Attributes:
        now: on the wall clock and the monotonic one.
        cpu_s: CPU time of the whole process.
        waited_s: how long the ticking thread has waited for a core and for the interpreter, while it was running.
    """

    now: Moment
    cpu_s: float
    waited_s: float


def was_frozen(before: Reading, after: Reading) -> bool:
    """Whether the process was frozen, or moved to another machine, between two ticks.

    - Monotonic and CPU time never run backwards in one process on one machine.
    - A stopped process's clocks all go on: the gap is then neither waiting for a core nor for the interpreter. Waits
      are known to some per cent, so that a freeze is what takes up over half of the gap.
    - A snapshot may keep the monotonic clock and the pace of the ticks, and only the wall clock is ahead. A wall clock
      that is behind was set by somebody: no freeze turns it back.
    """
    elapsed = after.now.monotonic_s - before.now.monotonic_s
    if elapsed < 0 or after.cpu_s < before.cpu_s:
        return True
    unaccounted = elapsed - (after.waited_s - before.waited_s)
    if unaccounted > max(FREEZE_S, elapsed / 2):
        return True
    return _ahead(before.now, after.now) > FREEZE_S


def looks_frozen(before: Moment, now: Moment) -> bool:
    """Whether there may have been a freeze, from the clocks alone."""
    return not 0 <= now.monotonic_s - before.monotonic_s <= FREEZE_S or _ahead(before, now) > FREEZE_S


def read_accounts() -> Reading:
    """The clocks and the calling thread's accounts as of now."""
    switches = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
    # Who waits for the interpreter wakes this often to ask for it again (take_gil in CPython's ceval_gil.c).
    for_interpreter = switches * sys.getswitchinterval()
    return Reading(Moment.now(), time.process_time(), for_interpreter + _waited_for_core())


def _waited_for_core() -> float:
    """Seconds this thread could have run but had no core; 0 where the kernel does not count them.

    The second number in schedstat: Linux, Documentation/scheduler/sched-stats.rst.
    """
    try:
        with open("/proc/thread-self/schedstat") as file:  # noqa: PTH123 (every second, and pathlib takes longer)
            return int(file.read().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


class RestoreWatch:
    """Ticks from `start` to the process's end, and begins a new epoch at each restore.

    Attributes:
        epochs: where they are begun.
    """

    def __init__(self, epochs: Epochs) -> None:
        self.epochs = epochs
        self._last: Reading | None = None
        self._overdue = threading.Event()
        self._ticked = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="restore watch", daemon=True)

    def start(self) -> None:
        """Begin to tick. Call it once."""
        self._thread.start()

    @property
    def start_kind(self) -> StartKind:
        """What a request finds that begins now."""
        self.catch_up()
        return self.epochs.start_kind

    def take_start_kind(self) -> StartKind:
        """The same, for a request that does begin: those after it find the worker warm."""
        self.catch_up()
        return self.epochs.take_start_kind()

    def catch_up(self) -> bool:
        """Wait for the tick if it is overdue: after a freeze a request may come before the thread has noticed.

        Gives whether it came, so that every freeze up to now is an epoch.
        """
        seen = self._last
        if seen is None or not looks_frozen(seen.now, Moment.now()):
            return True
        with self._ticked:
            self._overdue.set()
            return self._ticked.wait_for(lambda: self._last is not seen, JUDGEMENT_S)

    def _run(self) -> None:
        self._last = read_accounts()
        while True:
            self._overdue.wait(TICK_S)
            self._overdue.clear()
            self._tick(self._last, read_accounts())

    def _tick(self, before: Reading, after: Reading) -> None:
        if was_frozen(before, after):
            epoch = self.epochs.begin(before.now, after.now)
            _log.info(
                "restored from a freeze: epoch %d; %.1f s have passed on the wall clock, %.1f s on the monotonic",
                epoch.number, after.now.wall_s - before.now.wall_s, after.now.monotonic_s - before.now.monotonic_s,
            )
        with self._ticked:
            self._last = after
            self._ticked.notify_all()


def _ahead(before: Moment, after: Moment) -> float:
    """Seconds by which the wall clock has run ahead of the monotonic one."""
    return (after.wall_s - before.wall_s) - (after.monotonic_s - before.monotonic_s)
