"""A bar on standard error for work that is measured in bytes, where somebody can see it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

Advance = Callable[[int], object]
"""Told of bytes that are done with; from any thread."""

Progress = Callable[[str, int], AbstractContextManager[Advance]]
"""Opens a display of a task: what it is, and how many bytes it has."""


def unseen(what: str, total: int) -> AbstractContextManager[Advance]:
    """A display that nobody sees."""
    return nullcontext(lambda count: None)


@contextmanager
def byte_progress(what: str, total: int) -> Iterator[Advance]:
    """Draw a bar while the block runs; gives what advances it."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    console, hidden = Console(stderr=True), not sys.stderr.isatty()
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=hidden, transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda count: progress.advance(task, count)
