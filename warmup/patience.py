"""How far long work has come: nothing while it is quick, then a bar on a terminal, or a line in a log."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Final

PATIENCE_S: Final = 2.0
"""After which somebody who waits wonders."""

_log = logging.getLogger("pilotlight.warmer")


@contextmanager
def patient(what: str, total: int, clock: Callable[[], float] = time.monotonic) -> Iterator[Callable[[int], None]]:
    """Give what is told that so many more of the total are done.

    Args:
        what: the total's unit, such as objects of the ledger.
        clock: in seconds.
    """
    with ExitStack() as shown:
        began, done = clock(), 0
        show: Callable[[int], None] | None = None

        def advance(count: int) -> None:
            nonlocal done, show
            done += count
            if show is not None:
                show(count)
            elif clock() - began >= PATIENCE_S and done < total:
                show = shown.enter_context(_bar(what, total)) if sys.stderr.isatty() else _said(what, total, done)
                show(done)

        yield advance


def _bar(what: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
    from handler.billing.options import display

    return display(False)(what, total)


def _said(what: str, total: int, done: int) -> Callable[[int], None]:
    _log.info("reading %d %s; %d are read", total, what, done)
    return lambda count: None
