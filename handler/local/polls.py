"""Long polls: questions of workers that are held until there is something to answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Final, TypeVar

RETIRED_S: Final = 0.5
"""How long a poll of a retired worker is held: it is to come to its end, but not to ask in a hot loop."""

T = TypeVar("T")


class Polls:
    """Holds polls and wakes them in their order, one for each thing there is to fetch.

    A poll that is woken looks for itself; one that is gone by then wakes the next.

    Args:
        retired: workers that get nothing more. Whoever adds one wakes its polls.
    """

    def __init__(self, retired: Collection[str]) -> None:
        self._retired = retired
        self._waiting: dict[asyncio.Future[None], str] = {}

    async def until(self, worker_id: str, look: Callable[[], list[T]], seconds: float) -> list[T]:
        """What `look` finds, as soon as it finds something; nothing if it does not in time."""
        clock = asyncio.get_running_loop().time
        end = clock() + (min(seconds, RETIRED_S) if worker_id in self._retired else seconds)
        while not (found := look()) and (left := end - clock()) > 0:
            await self._wait(worker_id, left)
            end = clock() if worker_id in self._retired else end
        return found

    def wake(self, worker_id: str | None = None) -> None:
        """Wake the first poll, or all those of one worker."""
        for woken, owner in list(self._waiting.items()):
            if worker_id in (None, owner):
                woken.set_result(None)
                del self._waiting[woken]
                if worker_id is None:
                    return

    async def _wait(self, worker_id: str, seconds: float) -> None:
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[woken] = worker_id
        try:
            await asyncio.wait((woken,), timeout=seconds)
        except asyncio.CancelledError:
            if woken.done():
                self.wake()
            raise
        finally:
            self._waiting.pop(woken, None)
