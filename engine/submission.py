"""How events get from the engine's thread to the event loops that wait for them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from engine.request import Event


@dataclass(slots=True, eq=False)
class Submission:
    """A request on its way; read it with `Engine.stream`.

    Attributes:
        choices: events with `finish` set that will come, one a choice.
        living: choices that the engine has not ended yet; the engine's thread alone changes it.
    """

    id: str
    prompt_tokens: int
    choices: int
    living: int
    outbox: Outbox
    _events: deque[Event] = field(default_factory=deque)
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def unread(self) -> int:
        """Events that have come and were not read."""
        return len(self._events)

    def put(self, event: Event) -> None:
        """Add an event; only from the submission's own event loop."""
        self._events.append(event)
        self._arrived.set()

    async def get(self) -> Event:
        """The next event, waiting for it."""
        while not self._events:
            self._arrived.clear()
            await self._arrived.wait()
        return self._events.popleft()


class Outbox:
    """Events for the submissions of one event loop.

    However many wait, the loop is woken once until it has taken them. To wake it for each step would starve it: a loop
    reads its wake-ups until none is left, and gets the interpreter back later than a quick step brings the next.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[tuple[Submission, Event]] = deque()
        self._woken = False

    @property
    def closed(self) -> bool:
        """Whether nobody will take events from here any more."""
        return self._loop.is_closed()

    def send(self, deliveries: Iterable[tuple[Submission, Event]]) -> None:
        """Hand over from the engine's thread.

        Raises:
            RuntimeError: the loop is closed.
        """
        if self._loop.is_closed():
            raise RuntimeError("the event loop is closed")
        self._waiting.extend(deliveries)
        if not self._woken:
            # Set before the call, cleared before the loop looks: whatever was added before the look is taken by it.
            self._woken = True
            self._loop.call_soon_threadsafe(self._take)

    def _take(self) -> None:
        self._woken = False
        while self._waiting:
            submission, event = self._waiting.popleft()
            submission.put(event)
