"""What a queue is given in place of its clock and of its record."""

from __future__ import annotations

import json
from collections.abc import Iterable

from handler.local.record import Entry


class Memory:
    """A record that outlives its queue. What it holds has been JSON."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def write(self, entry: Entry) -> None:
        self.entries.append(json.loads(json.dumps(entry)))

    async def written(self) -> None:
        pass

    def wants_rewriting(self) -> bool:
        return False

    def rewrite(self, entries: Iterable[Entry]) -> None:
        self.entries = list(entries)


class Time:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now
