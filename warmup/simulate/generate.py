"""Arrivals to order, and traces made thinner or longer. The same seed gives the same arrivals."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from warmup.history import Floats

_DAY_S = 86400.0


def poisson(per_hour: float, hours: float, seed: int) -> Floats:
    """Users who know nothing of each other."""
    import numpy as np

    chance = np.random.default_rng(seed)
    return np.sort(chance.random(chance.poisson(per_hour * hours)) * hours * 3600)


def diurnal(per_hour: float, hours: float, seed: int, least: float = 0.02) -> Floats:
    """Nights and days: the rate swings around `per_hour` over 24 hours; at midnight it is least, at `least` of that."""
    import numpy as np

    chance = np.random.default_rng(seed)
    times = np.sort(chance.random(chance.poisson(2 * per_hour * hours)) * hours * 3600)
    share = np.maximum(least, (1 - np.cos(2 * math.pi * times / _DAY_S)) / 2)
    return times[chance.random(times.size) < share]


def bursty(
    per_hour: float, hours: float, seed: int, busy_s: float = 300.0, quiet_s: float = 2700.0, ratio: float = 200.0
) -> Floats:
    """A Poisson process whose rate is switched by chance between busy and quiet (Markov-modulated).

    Args:
        per_hour: the mean over both.
        busy_s: mean seconds of a busy stretch, and `quiet_s` of a quiet one.
        ratio: of the busy rate to the quiet one.
    """
    import numpy as np

    chance = np.random.default_rng(seed)
    pairs = math.ceil(hours * 3600 / (busy_s + quiet_s) * 3) + 50
    lengths = chance.exponential([busy_s, quiet_s], (pairs, 2))
    quiet_rate = per_hour / 3600 * (busy_s + quiet_s) / (ratio * busy_s + quiet_s)
    counts = chance.poisson(lengths * np.array([ratio * quiet_rate, quiet_rate]))
    starts = np.concatenate([[0.0], np.cumsum(lengths.ravel())[:-1]])
    times = np.repeat(starts, counts.ravel()) + chance.random(counts.sum()) * np.repeat(lengths.ravel(), counts.ravel())
    return np.sort(times[times < hours * 3600])


def heavy_tailed(per_hour: float, hours: float, seed: int, shape: float = 1.5) -> Floats:
    """Gaps of a Pareto distribution (Lomax): most are short, some very long; variance is infinite below shape 2."""
    import numpy as np

    chance = np.random.default_rng(seed)
    scale = 3600 / per_hour * (shape - 1)
    times = np.cumsum(chance.pareto(shape, math.ceil(per_hour * hours * 3) + 1000) * scale)
    return times[times < hours * 3600]


def stretched(times: Floats, factor: float) -> Floats:
    """The same pattern over a longer time."""
    return times[0] + (times - times[0]) * factor if times.size else times


def thinned(times: Floats, per_hour: float, seed: int) -> Floats:
    """As many an hour on the average, each arrival kept by the same chance.

    A trace that has fewer is given back as it is.
    """
    import numpy as np

    hours = (times[-1] - times[0]) / 3600 if times.size else 0.0
    keep = per_hour * hours / max(1, times.size)
    return times[np.random.default_rng(seed).random(times.size) < keep]
