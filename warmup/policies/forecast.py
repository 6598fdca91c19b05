"""Which keep-alive time an hour will want, by several ways of looking back; the one that did best is believed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from warmup.history import Floats

_SURE = 2.0
"""How many of its own standard errors a way must have been better than looking back on everything, to be believed.
Two is the usual bar; COLDSTART's experiment: an hour-of-day table was better about as often as worse, usually by 1
to 2 %."""

_EQUAL = 1e-9
"""Sums of the same seconds in another order differ by less."""

_JUDGED_OVER = 28 * 24.0
"""Half-life, in hours, of what a way has done: four weeks, so that each day of the week is in it several times."""

_FADE = 0.5 ** (1 / _JUDGED_OVER)


@dataclass(frozen=True, slots=True)
class Way:
    """A way of looking back.

    Attributes:
        half_life: hours after which an hour counts half.
        season: hours after which things come again; 1 where the hour is no matter.
    """

    half_life: float
    season: int = 1


WAYS = (
    Way(float("inf")), Way(7 * 24.0), Way(48.0), Way(12.0), Way(4.0),
    Way(28 * 24.0, 24), Way(7 * 24.0, 24), Way(28 * 24.0, 168),
)
"""All of the past, which is believed until another proves better; a week, days, hours; by hour of day or week."""

_PRIOR_HOURS = 2.0
"""How many hours of the overall mean each hour of the day or week begins with."""


_AT_ONCE = min(way.season for way in WAYS if way.season > 1)
"""Hours that are taken in at once: no two of them are the same in any season."""


class Forecasts:
    """Held-out choice among the ways: every hour each is judged by what its choice cost, before it learns of the hour.

    Args:
        options: how many things are chosen among.
        times: how many of them, the first ones, are keep-alive times in ascending order.
    """

    def __init__(self, options: int, times: int) -> None:
        import numpy as np

        self._times = times
        self._sums = {place: np.zeros((way.season, options)) for place, way in enumerate(WAYS) if way.season > 1}
        self._totals = np.zeros((len(WAYS), options))
        fades = np.array([[[0.5 ** (1 / way.half_life)]] for way in WAYS])
        back = np.subtract.outer(np.arange(_AT_ONCE + 1), np.arange(_AT_ONCE + 1))
        self._decays = np.tril(fades ** np.maximum(back, 0))  # Of what came so many hours ago, for each way.
        self._products = np.zeros((options, options))
        self._gained, self._squares = np.zeros(len(WAYS)), np.zeros(len(WAYS))
        self.hours = 0

    def learn(self, first: int, losses: Floats) -> None:
        """Take in hours that are over, one after the other.

        Args:
            first: the first of them, in hours since 1970.
            losses: of each keep-alive time, in seconds of the worker; shape [hours, options].
        """
        for start in range(0, len(losses), _AT_ONCE):
            self._judge(first + start, losses[start:start + _AT_ONCE])

    def _judge(self, first: int, losses: Floats) -> None:
        """The same for no more hours than the shortest season has."""
        import numpy as np

        count = len(losses)
        spent = losses[np.arange(count), _longest_least(self._take_in(first, losses))]
        gained, fades = spent[0] - spent, _FADE ** np.arange(count - 1.0, -1.0, -1.0)
        self._gained = _FADE**count * self._gained + gained @ fades
        self._squares = _FADE**count * self._squares + gained**2 @ fades
        self._products += losses.T @ losses

    def _take_in(self, first: int, losses: Floats) -> Floats:
        """What each way expected of each hour before it knew of it; shape [ways, hours, options]."""
        import numpy as np

        count = len(losses)
        known = np.empty((len(WAYS), count + 1, losses.shape[1]))
        known[:, 0], known[:, 1:] = self._totals, losses
        totals = self._decays[:, : count + 1, : count + 1] @ known
        expected, self._totals = totals[:, :count], totals[:, count]
        hours = np.arange(count)
        for way, sums in self._sums.items():
            season, decays = WAYS[way].season, self._decays[way, : count + 1, : count + 1, None]
            rows = (first + hours) % season
            expected[way] *= _PRIOR_HOURS / np.maximum(season, self.hours + hours)[:, None]
            expected[way] += sums[rows] * decays[:count, 0]
            np.multiply(sums, decays[count, 0], out=sums)
            sums[rows] += losses * decays[count, 1:]
        self.hours += count
        return expected

    def choose(self, way: int, hour: int) -> int:
        """The keep-alive time, by its place, that a way would take for an hour."""
        return int(_longest_least(self._expected(way, hour)))

    def _expected(self, way: int, hour: int) -> Floats:
        """Losses of each time in hours like this one, as a way has them; in proportion."""
        season, total = WAYS[way].season, self._totals[way]
        if season == 1:
            return total
        return self._sums[way][hour % season] + total * (_PRIOR_HOURS / max(season, self.hours))

    def middle(self, running: Floats) -> int:
        """The place of the keep-alive time in the middle of those that all of the past leaves in doubt.

        Where little is known the cheapest so far may be so by chance. So each counts by how many standard errors it was
        dearer, hour by hour: z of them as exp(-z^2). On the listed traces weights from exp(-z^2 / 2) to exp(-2 z^2)
        differ by less than a per cent of the sums, but for Azure's code x24; see docs/warmer.md.

        Args:
            running: losses of the hour that is not over.
        """
        import numpy as np

        total, products = self._totals[0] + running, self._products + np.outer(running, running)
        least = int(_longest_least(total))
        squares = products.diagonal() - 2 * products[least] + products[least, least]
        if least >= self._times:
            return least
        errors = (total - total[least]) / np.sqrt(np.maximum(squares, 1e-9))
        belief = np.cumsum(np.exp(-(errors[: self._times] ** 2)))
        return int(belief.searchsorted(belief[-1] / 2))

    @property
    def best(self) -> int:
        """The way that is believed."""
        import numpy as np

        proved = self._gained > _SURE * np.sqrt(self._squares)
        return int(np.where(proved, self._gained, 0.0).argmax())


def _longest_least(losses: Floats) -> NDArray[np.int64]:
    """The place of the least along the last axis; of equals the last: that time has then met no gap that it did not
    outlast."""
    import numpy as np

    least = losses.min(-1, keepdims=True)
    near = losses <= least + _EQUAL * np.abs(least)
    return near.shape[-1] - 1 - near[..., ::-1].argmax(-1)
