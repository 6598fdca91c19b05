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


class Forecasts:
    """Held-out choice among the ways: every hour each is judged by what its choice cost, before it learns of the hour.

    Args:
        options: how many things are chosen among.
        times: how many of them, the first ones, are keep-alive times in ascending order.
    """

    def __init__(self, options: int, times: int) -> None:
        import numpy as np

        self._times = times
        self._sums = [np.zeros((way.season, options)) for way in WAYS]
        self._totals = np.zeros((len(WAYS), options))
        self._fades = np.array([[0.5 ** (1 / way.half_life)] for way in WAYS])
        self._products = np.zeros((options, options))
        self._gained, self._squares = np.zeros(len(WAYS)), np.zeros(len(WAYS))
        self.hours = 0

    def learn(self, hour: int, losses: Floats) -> None:
        """Take in an hour that is over.

        Args:
            hour: hours since 1970.
            losses: of each keep-alive time, in seconds of the worker.
        """
        import numpy as np

        choices = _longest_least(np.stack([self._expected(way, hour) for way in range(len(WAYS))]))
        gained = losses[choices[0]] - losses[choices]
        self._gained = _FADE * self._gained + gained
        self._squares = _FADE * self._squares + gained**2
        self._products += np.outer(losses, losses)
        self._totals = self._totals * self._fades + losses
        for way, sums, fade in zip(WAYS, self._sums, self._fades, strict=True):
            if way.season > 1:
                np.multiply(sums, fade, out=sums)
                sums[hour % way.season] += losses
        self.hours += 1

    def choose(self, way: int, hour: int) -> int:
        """The keep-alive time, by its place, that a way would take for an hour."""
        return int(_longest_least(self._expected(way, hour)[None])[0])

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
        [least] = _longest_least(total[None])
        squares = products.diagonal() - 2 * products[least] + products[least, least]
        if least >= self._times:
            return int(least)
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
    """The place of the least in each row; of equals the last: that time has then met no gap that it did not outlast."""
    import numpy as np

    least = losses.min(1, keepdims=True)
    near = losses <= least + _EQUAL * np.abs(least)
    return near.shape[1] - 1 - near[:, ::-1].argmax(1)
