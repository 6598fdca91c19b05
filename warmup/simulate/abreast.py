"""Several workers over the same arrivals, side by side: each stays for another time after its last work.

The walk is that of replay.py, for all workers at once: what may start one is laid out worker after worker, before it
the life that stands; after the last start of one worker the walk comes to the life of the next.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from warmup.simulate.draws import draws
from warmup.simulate.replay import JUST_S, hop

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from warmup.costs import Costs
    from warmup.history import Floats
    from warmup.simulate.traffic import Traffic

    Indices = NDArray[np.int64]

_LONG_AGO_S = -1e10
"""When the worker of whom nothing is known did nothing: no worker stays three hundred years."""


class Several(NamedTuple):
    """Lives of several workers: those of the first, then of the second, each in order. The last of each may go on.

    Attributes:
        first: the row with which each worker's begin; of other length than the rest.
        worker: whose, counted from 0.
        began: when it started, in seconds since 1970, and `stopped` when it stops if nothing more comes.
        asked: when the first work came.
        waited: seconds that users waited for its start.
    """

    first: Indices
    worker: Indices
    began: Floats
    stopped: Floats
    asked: Floats
    waited: Floats


class Abreast:
    """Workers that stay for `stays` seconds after their last work, ascending; carried from stretch to stretch."""

    def __init__(self, costs: Costs, stays: Floats) -> None:
        import numpy as np

        self._costs = costs
        self._stays = stays
        self._worked = np.full(stays.size, _LONG_AGO_S)
        self._began = self._worked + stays
        self._waited = np.zeros(stays.size)

    def advance(self, traffic: Traffic, count: int) -> Several:
        """Serve the first arrivals of those that come next; all lives of that stretch."""
        import numpy as np

        if not count:
            worker = np.arange(self._stays.size)
            return Several(worker, worker, self._began, self._worked + self._stays, self._began, self._waited)
        walk = _Walk(traffic, count, self._costs, self._stays, self._worked)
        chain, worked = walk.solve()
        worker, began, waited = walk.worker[chain], walk.times[chain], walk.waits(chain)
        first = chain.searchsorted(walk.first)
        began[first], waited[first] = self._began, self._waited
        last = np.append(first[1:], chain.size) - 1
        self._began, self._worked, self._waited = began[last], worked[last], waited[last]
        return Several(first, worker, began, worked + self._stays[worker], began, waited)


class _Walk:
    """The starts of all workers.

    Attributes:
        worker: of each place: first the life that stands, then what may start another.
        times: when that comes; of the life that stands it says nothing.
        first: the places of the lives that stand.
    """

    def __init__(self, traffic: Traffic, count: int, costs: Costs, stays: Floats, before: Floats) -> None:
        import numpy as np

        self._traffic, self._starts, self._stays, self._before = traffic, costs.starts, stays, before
        heads = traffic.heads_within(0, count, stays[0] + JUST_S)
        outlasted = stays.searchsorted(np.append(np.inf, traffic.gaps[heads] - JUST_S)).astype(np.int8)
        may = outlasted > np.arange(stays.size, dtype=np.int8)[:, None]
        counts = outlasted.size - np.cumsum(np.bincount(outlasted))[:-1]
        self.first = np.cumsum(counts) - counts
        self.worker = np.repeat(np.arange(stays.size), counts)
        self._places = heads[np.flatnonzero(may) - self.worker * outlasted.size - 1]
        self.times = traffic.times[self._places]
        self._idle_since = self.times - traffic.gaps[self._places]
        self._idle_since[self.first + 1] = before
        self._over = float(traffic.reach[count - 1])
        self._lay_out(traffic.times[0], traffic.times[count - 1])

    def _lay_out(self, begin: np.float64, end: np.float64) -> None:
        """One axis for all workers, so that one search is for all: the times of one, then of the next."""
        import numpy as np

        length = end - begin
        self._origins = begin - np.arange(self._stays.size) * (length + 2)
        self._axis = self.times - self._origins[self.worker]
        self._axis[self.first] = begin - 1 - self._origins
        self._ends = self._axis[self.first] + length + 1.5

    def solve(self) -> tuple[Indices, Floats]:
        """The places of the lives, those that stand and those that begin; and when the work of each ends."""
        import numpy as np

        if self._starts.is_constant:
            self._start_all(np.float64(self._starts.cold.values[0]))
            return self._follow()
        chance, gaps = draws(self.times, 0), self.times - self._idle_since
        while True:
            self._start_all(self._starts.draw(chance, gaps))
            chain, worked = self._follow()
            real = self.times[chain[1:]] - worked[:-1]
            if np.array_equal(real, gaps[chain[1:]]):
                return chain, worked
            gaps[chain[1:]] = real

    def _start_all(self, length: Floats | np.float64) -> None:
        """For all that may: when the worker would be ready, and until when it would have work."""
        import numpy as np

        self._ready = self.times + length
        own = self._traffic.services[self._places]
        if self._traffic.service is None:
            own = np.maximum(own, self._traffic.longest(self._places, self._ready))
        self._worked = self._ready + own
        self._worked[self.first] = self._before

    def _follow(self) -> tuple[Indices, Floats]:
        """The lives that come to be, and when the work of each ends."""
        import numpy as np

        stops = self._worked + (self._stays + JUST_S - self._origins)[self.worker]
        stops[self.first] = np.maximum(stops[self.first], self._axis[self.first])
        after = self._axis.searchsorted(np.minimum(stops, self._ends[self.worker]), side="right")
        chain = hop(after, 0)
        over = np.append(self._idle_since[chain[1:]], self._over)
        over[chain[1:].searchsorted(self.first[1:])] = self._over
        return chain, np.maximum(self._worked[chain], over)

    def waits(self, chain: Indices) -> Floats:
        """Seconds that users wait for each of these."""
        return self._traffic.waits(self._places[chain], self._ready[chain])[0]
