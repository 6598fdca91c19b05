"""`histogram`: the hybrid histogram policy of Shahrad et al., "Serverless in the Wild" (USENIX ATC 2020), section 4.2.

Idle times are counted in bins; the worker is unloaded, and loaded again before most of them end. It was made for memory
that is cheap: where the counts tell nothing, a worker is kept for four hours.

The paper publishes neither the number of idle times that is too few nor the share out of bounds that is too high; 10
and 0.5 are what its replications use. For idle times out of bounds the paper fits an ARIMA model; here the median of
the last ten stands in its place, with the paper's margins.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from warmup.plan import LONGEST_IDLE_S, PLATFORM_IDLE_S, SHORTEST_IDLE_S, Plan
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
        self._known, self._last, self._reach = 0, 0.0, 0.0

    def goes_on(self, history: History) -> bool:
        """Whether a history is the one known with more behind it."""
        known = self._known
        return len(history) >= known and (known == 0 or float(history.arrivals[known - 1]) == self._last)

    def learn(self, history: History) -> None:
        """Take in what is new."""
        import numpy as np

        known, self._known = self._known, len(history)
        arrivals, services = history.arrivals[known:], history.services[known:]
        if not arrivals.size:
            return
        reach = np.maximum.accumulate(np.concatenate([[self._reach if known else -np.inf], arrivals + services]))
        gaps = arrivals - reach[:-1]
        self._last, self._reach = float(arrivals[-1]), float(reach[-1])
        self.count(gaps[(gaps > 0) & (gaps < np.inf)])

    def count(self, gaps: Floats) -> None:
        """Take in idle times in seconds, the oldest first."""
        import numpy as np

        within = gaps < RANGE_S
        self.bins += np.bincount((gaps[within] / BIN_S).astype(np.int64), minlength=BINS)
        self.beyond += int(gaps.size - within.sum())
        self.latest = [*self.latest, *gaps[~within].tolist()][-PREDICTED_FROM:]

    def window(self) -> Window:
        """What follows from them."""
        counted = int(self.bins.sum()) + self.beyond
        if counted >= FEWEST and self.beyond > MOST_OUT_OF_BOUNDS * counted:
            predicted = median(self.latest)
            return Window(PREDICTED_HEAD * predicted, PREDICTED_TAIL * predicted)
        if counted < FEWEST or self.bins.std() < LEAST_SPREAD * self.bins.mean():
            return Window(0.0, RANGE_S)
        head, tail = percentile_bin(self.bins, HEAD_PERCENT), percentile_bin(self.bins, TAIL_PERCENT) + 1
        return Window(HEAD_MARGIN * head * BIN_S, TAIL_MARGIN * tail * BIN_S)


def kept(seconds: float, until: float) -> Plan:
    """A worker stays for so long. Beyond the longest idle timeout min workers hold it, at the usual timeout."""
    if seconds <= LONGEST_IDLE_S:
        return Plan(max(SHORTEST_IDLE_S, seconds), until=until)
    return Plan(prewarm=((PLATFORM_IDLE_S, seconds),), until=until)


def percentile_bin(counts: NDArray[np.int64], percent: int) -> int:
    """The bin in which a percentile lies, rounded down."""
    import numpy as np

    return int(np.searchsorted(np.cumsum(counts) * 100, percent * counts.sum()))
