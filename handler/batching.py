"""Pieces of text gathered by time, for a transport where each send costs a round trip."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import TypeVar

T = TypeVar("T")


async def batched(source: AsyncGenerator[T], window_s: float) -> AsyncGenerator[list[T]]:
    """The items of `source` in lists: the first at once, then what has come, at most one list in `window_s` seconds.

    The source is read on while the consumer is busy with a list, so what comes meanwhile is in the next one. The last
    list is not held back: at the source's end it is given at once. An exception of the source is raised after the
    items before it.
    """
    queue: asyncio.Queue[T | None] = asyncio.Queue()
    reader = asyncio.create_task(_read(source, queue))
    clock = asyncio.get_running_loop().time
    try:
        ended = False
        while not ended:
            items = [await queue.get()]
            while not queue.empty():
                items.append(queue.get_nowait())
            ended = items[-1] is None
            due = clock() + window_s
            if given := [item for item in items if item is not None]:
                yield given
            if not ended:
                await asyncio.wait({reader}, timeout=due - clock())
        await reader
    finally:
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)


async def _read(source: AsyncGenerator[T], queue: asyncio.Queue[T | None]) -> None:
    """Move the source into the queue; None marks its end."""
    try:
        async for item in source:
            queue.put_nowait(item)
    finally:
        queue.put_nowait(None)
        await source.aclose()
