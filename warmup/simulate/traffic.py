"""Arrivals made ready to be replayed often: what no policy changes is computed once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from warmup.plan import SHORTEST_IDLE_S

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from warmup.history import Floats, History


@dataclass(frozen=True, slots=True, eq=False)
class Traffic:
    """Requests of users in order, shape [requests] each.

    Attributes:
        times: seconds since 1970.
        services: seconds of work for a warm worker; all are served at once, as continuous batching does.
        reach: by when all up to here would be done, had each found a warm worker.
        gaps: idle seconds before each, had each found a warm worker; infinity before the first.
        sums: of the times since the first, up to but without each; one longer than the others.
        service: what all services are, where they are the same.
        heads: places of those whose gap is longer than the shortest idle timeout, ascending: no other can find a
            worker stopped, whatever the plan.
    """

    times: Floats
    services: Floats
    reach: Floats
    gaps: Floats
    sums: Floats
    service: float | None
    heads: NDArray[np.int64]

    @classmethod
    def of(cls, history: History) -> Traffic:
        import numpy as np

        times, services = history.arrivals, history.services
        same = bool(services.size) and bool((services == services[0]).all())
        reach = history.reach()
        gaps = np.empty_like(times)
        gaps[:1] = np.inf
        np.subtract(times[1:], reach[:-1], out=gaps[1:])
        sums = np.zeros(times.size + 1)
        if times.size:
            np.subtract(times, times[0], out=sums[1:])
            np.cumsum(sums[1:], out=sums[1:])
        heads = np.flatnonzero(gaps > SHORTEST_IDLE_S)
        return cls(times, services, reach, gaps, sums, float(services[0]) if same else None, heads)

    def __len__(self) -> int:
        return int(self.times.size)

    def heads_within(self, first: int, after: int, stays: float) -> NDArray[np.int64]:
        """The first place, and those up to `after` (without) with a longer gap than a worker stays."""
        import numpy as np

        low, high = self.heads.searchsorted([first + 1, after])
        heads = self.heads[low:high]
        if stays > SHORTEST_IDLE_S:
            heads = heads[self.gaps[heads] > stays]
        return np.concatenate([np.arange(first, min(after, first + 1)), heads])

    def waits(self, first: NDArray[np.int64], ready: Floats) -> tuple[Floats, NDArray[np.int64]]:
        """Seconds that users wait for workers that are ready at `ready`, from request `first` on, and how many do."""
        after = self.times.searchsorted(ready)
        origin = self.times[0] if len(self) else 0.0
        count = after - first
        return count * (ready - origin) - (self.sums[after] - self.sums[first]), count

    def longest(self, first: NDArray[np.int64], ready: Floats) -> Floats:
        """The longest service among those who wait so; 0 where nobody does."""
        import numpy as np

        if self.service is not None:
            some_wait = (first < len(self)) & (self.times.take(first, mode="clip") < ready)
            return np.where(some_wait, self.service, 0.0)
        after = self.times.searchsorted(ready)
        found = np.zeros(first.size)
        some = np.flatnonzero(after > first)
        if some.size:
            edges = np.stack([first[some], after[some]], 1).ravel()
            padded = np.append(self.services, 0.0)
            found[some] = np.maximum.reduceat(padded, edges)[::2]
        return found
