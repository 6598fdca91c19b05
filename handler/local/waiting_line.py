"""Who is next."""

from __future__ import annotations

from handler.local.job import Job
from handler.local.priority_map import PriorityMap


class WaitingLine:
    """Jobs in the order of submission, those of low priority behind all others.

    A job that comes back from a lost worker was submitted before those that wait, so it is at the front.
    """

    def __init__(self) -> None:
        self._usual: PriorityMap[str, int] = PriorityMap()
        self._low: PriorityMap[str, int] = PriorityMap()

    def __len__(self) -> int:
        return len(self._usual) + len(self._low)

    @property
    def low_priority(self) -> int:
        """How many of low priority wait."""
        return len(self._low)

    def add(self, job: Job) -> None:
        """Wait."""
        self._of(job).set(job.id, job.number)

    def drop(self, job: Job) -> None:
        """Wait no longer."""
        self._of(job).drop(job.id)

    def pop(self) -> str | None:
        """The id of the next one, which waits no longer; None when nobody waits."""
        return self._usual.pop() or self._low.pop()

    def first_usual(self) -> str | None:
        """The id of the first one that is not of low priority; None without any."""
        first = self._usual.least()
        return None if first is None else first[1]

    def _of(self, job: Job) -> PriorityMap[str, int]:
        return self._low if job.asked.policy.low_priority else self._usual
