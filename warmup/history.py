"""The arrivals so far: what a policy knows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from warmup.errors import InvalidTrace

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class History:
    """Requests of users, in the order of their arrival; pings are none. Made by `History.of`.

    Attributes:
        arrivals: seconds since 1970 in UTC, ascending.
        services: for each, the seconds of work it took a warm worker.
        began: since when arrivals are known, in seconds since 1970; no later than the first.
    """

    arrivals: Floats
    services: Floats
    began: float

    @classmethod
    def of(
        cls, arrivals: Iterable[float] | Floats, services: Iterable[float] | Floats | float = 0.0
    ) -> History:
        """A history of arrivals in any order, known since the first of them.

        Args:
            services: seconds, one for each arrival or one for all.

        Raises:
            InvalidTrace: a number is not finite, a service time is negative, or there are not as many of them.
        """
        import numpy as np

        came, took = _floats(arrivals), _floats(services)
        if not (np.isfinite(came).all() and np.isfinite(took).all() and (took >= 0).all()):
            raise InvalidTrace("arrivals and service times must be finite numbers, and service times not negative")
        if took.ndim == 0:
            took = np.broadcast_to(took, came.shape)
        if took.shape != came.shape:
            raise InvalidTrace(f"{came.size} arrivals and {took.size} service times: there must be one for each")
        if (came[1:] < came[:-1]).any():
            order = np.argsort(came, kind="stable")
            came, took = came[order], took[order]
        return cls(came, took, float(came[0]) if came.size else 0.0)

    def __len__(self) -> int:
        return int(self.arrivals.size)

    def before(self, moment: float) -> History:
        """What came before a moment; a view, nothing is copied."""
        count = int(self.arrivals.searchsorted(moment))
        return History(self.arrivals[:count], self.services[:count], self.began)

    def since(self, moment: float) -> History:
        """What came at a moment and after it; a view, nothing is copied."""
        count = int(self.arrivals.searchsorted(moment))
        return History(self.arrivals[count:], self.services[count:], max(moment, self.began))

    def last(self, count: int) -> History:
        """The last so many; a view, nothing is copied."""
        first = max(0, len(self) - count)
        return History(self.arrivals[first:], self.services[first:], self.began)

    def reach(self) -> Floats:
        """By when all up to each are done, in seconds since 1970, had every request found a warm worker at once."""
        import numpy as np

        ends = self.arrivals + self.services
        if (ends[1:] < ends[:-1]).any():  # Seldom, and a look costs a tenth of the running maximum.
            ends = np.maximum.accumulate(ends)
        return ends

    def gaps(self) -> Floats:
        """Idle seconds before each arrival but the first, had every request found a warm worker at once.

        The time from the end of all earlier work to the arrival; where work was still going on there is no gap, and
        none is given.
        """
        gaps = self.arrivals[1:] - self.reach()[:-1]
        return gaps[gaps > 0]


def _floats(values: Any) -> Floats:
    import numpy as np

    given = values if isinstance(values, np.ndarray | float | int) else list(values)
    return np.asarray(given, np.float64)
