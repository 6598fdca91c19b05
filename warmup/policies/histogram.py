"""`histogram`: the hybrid histogram policy of Shahrad et al., "Serverless in the Wild" (USENIX ATC 2020), section 4.2.

Idle times are counted in bins; the worker is unloaded, and loaded again before most of them end. It was made for memory
that is cheap: where the counts tell nothing, a worker is kept for four hours.

The paper publishes neither the number of idle times that is too few nor the share out of bounds that is too high; 10
and 0.5 are what its replications use. For idle times out of bounds the paper fits an ARIMA model; here the median of
the last ten stands in its place, with the paper's margins.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from warmup.plan import SHORTEST_IDLE_S, Plan, kept
from warmup.policies.renewal import renewal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from warmup.costs import Costs
    from warmup.history import Floats, History

BIN_S, BINS = 60.0, 240
RANGE_S = BIN_S * BINS
"""Four hours; longer idle times are out of bounds."""

LEAST_SPREAD = 2.0
"""Of the bins' counts: standard deviation over mean. Below it the histogram is not representative."""

HEAD_PERCENT, TAIL_PERCENT = 5, 99
HEAD_MARGIN, TAIL_MARGIN = 0.9, 1.1
FEWEST, MOST_OUT_OF_BOUNDS = 10, 0.5
PREDICTED_FROM, PREDICTED_HEAD, PREDICTED_TAIL = 10, 0.85, 1.15


@dataclass(frozen=True, slots=True)
class Window:
    """Stopped until `start`, up until `stop`: seconds of idle time. A start of 0 means that it is not stopped."""

    start: float
    stop: float


class Histogram:
    """Pre-warms by a histogram of idle times. The object keeps what follows from the history last asked about."""

    name = "histogram"

    def __init__(self) -> None:
        self._counts = Counts()

    def plan(self, history: History, now: float, costs: Costs) -> Plan:
        if not self._counts.goes_on(history):
            self._counts = Counts()
        self._counts.learn(history)
        window = self._counts.window()
        until = renewal(history, now)
        if window.start <= SHORTEST_IDLE_S:
            return kept(window.stop, until)
        return Plan(SHORTEST_IDLE_S, prewarm=((window.start, window.stop),), until=until)


class Counts:
    """Idle times by minutes, from more and more arrivals.

    Attributes:
        bins: how many idle times, shape [240].
        beyond: how many were out of bounds, and `latest` the last of them, in seconds.
    """

    def __init__(self) -> None:
        import numpy as np

        self.bins = np.zeros(BINS, np.int64)
        self.beyond = 0
        self.latest: list[float] = []
        self._known, self._last, self._reach = 0, 0.0, -math.inf

    def goes_on(self, history: History) -> bool:
        """Whether a history is the one known with more behind it."""
        known = self._known
        return len(history) >= known and (known == 0 or float(history.arrivals[known - 1]) == self._last)

    def learn(self, history: History) -> None:
        """Take in what is new."""
        import numpy as np

        new = history.last(len(history) - self._known)
        if not len(new):
            return
        reach = np.maximum(new.reach(), self._reach)
        self.count(new.arrivals - np.concatenate([[self._reach if self._known else new.arrivals[0]], reach[:-1]]))
        self._known, self._last, self._reach = len(history), float(new.arrivals[-1]), float(reach[-1])

    def count(self, gaps: Floats) -> None:
        """Take in idle times in seconds, the oldest first; those that are none, where work was still going on, count
        for nothing."""
        import numpy as np

        counts = np.bincount((np.clip(gaps, 0.0, RANGE_S) / BIN_S).astype(np.int64), minlength=BINS + 1)
        counts[0] -= np.count_nonzero(gaps <= 0)
        self.bins += counts[:-1]
        self.beyond += int(counts[-1])
        if counts[-1]:
            self.latest = [*self.latest, *gaps[gaps >= RANGE_S].tolist()][-PREDICTED_FROM:]

    def window(self) -> Window:
        """What follows from them."""
        within = int(self.bins.sum())
        counted = within + self.beyond
        if counted >= FEWEST and self.beyond > MOST_OUT_OF_BOUNDS * counted:
            predicted = median(self.latest)
            return Window(PREDICTED_HEAD * predicted, PREDICTED_TAIL * predicted)
        if counted < FEWEST or BINS * int(self.bins @ self.bins) / within**2 - 1 < LEAST_SPREAD**2:
            return Window(0.0, RANGE_S)
        head, tail = percentile_bin(self.bins, HEAD_PERCENT), percentile_bin(self.bins, TAIL_PERCENT) + 1
        return Window(HEAD_MARGIN * head * BIN_S, TAIL_MARGIN * tail * BIN_S)


def percentile_bin(counts: NDArray[np.int64], percent: int) -> int:
    """The bin in which a percentile lies, rounded down."""
    import numpy as np

    return int(np.searchsorted(np.cumsum(counts) * 100, percent * counts.sum()))
