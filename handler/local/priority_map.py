"""Keys in the order of their priorities, each of which may change or go at any time."""

from __future__ import annotations

import heapq
from typing import Any, Final, Generic, TypeVar

K = TypeVar("K", bound=str)
P = TypeVar("P", int, float)

_SLACK: Final = 64
"""How many outdated entries the heap may hold, beside as many as are in force, before it is built anew."""


class PriorityMap(Generic[K, P]):
    """A map from keys to priorities; the least comes first, of equal ones the least key. All is O(log n)."""

    def __init__(self) -> None:
        self._priorities: dict[K, P] = {}
        self._heap: list[tuple[Any, K]] = []

    def __len__(self) -> int:
        return len(self._priorities)

    def set(self, key: K, priority: P) -> None:
        """Add a key, or move it."""
        self._priorities[key] = priority
        heapq.heappush(self._heap, (priority, key))
        if len(self._heap) > 2 * len(self._priorities) + _SLACK:
            self._heap = [(priority, key) for key, priority in self._priorities.items()]
            heapq.heapify(self._heap)

    def drop(self, key: K) -> None:
        """Take a key out, if it is in."""
        self._priorities.pop(key, None)

    def least(self) -> tuple[P, K] | None:
        """The first (priority, key); None when empty."""
        while self._heap:
            priority, key = self._heap[0]
            if self._priorities.get(key) == priority:
                return priority, key
            heapq.heappop(self._heap)
        return None

    def pop(self) -> K | None:
        """Take out the first key; None when empty."""
        first = self.least()
        if first is None:
            return None
        self.drop(first[1])
        return first[1]
