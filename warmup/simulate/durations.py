"""How long starts and requests take, from what a user writes: `20`, `lognormal:20,0.3`, or a file of seconds."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING

from warmup.costs import LONGEST_S, Seconds
from warmup.errors import InvalidSetting

if TYPE_CHECKING:
    from warmup.history import Floats

_QUANTILES = 1000
_MOST_SIGMA = 10.0
"""At 10 one time in a thousand is e^30 times the median: no start is like that."""


def parse_seconds(text: str) -> Seconds:
    """Seconds: a number, `lognormal:MEDIAN,SIGMA`, or a file with a number a line, each as likely.

    Raises:
        InvalidSetting: it is none of these.
    """
    if text.startswith("lognormal:"):
        return _lognormal(text)
    try:
        return Seconds.constant(float(text))
    except ValueError:
        pass
    if not Path(text).is_file():
        raise InvalidSetting(f"{text}: write seconds, lognormal:MEDIAN,SIGMA, or a file with seconds a line")
    return _from_file(Path(text))


def spread(seconds: Seconds, count: int, seed: int) -> Floats:
    """So many values, drawn."""
    import numpy as np

    return seconds.at(np.random.default_rng(seed).random(count))


def _lognormal(text: str) -> Seconds:
    try:
        median, sigma = (float(part) for part in text.partition(":")[2].split(","))
    except ValueError:
        median = sigma = math.nan
    if not (0 < median <= LONGEST_S and 0 <= sigma <= _MOST_SIGMA):
        raise InvalidSetting(f"{text}: write lognormal:MEDIAN,SIGMA, as in lognormal:20,0.3")
    normal = NormalDist(math.log(median), sigma or 1e-12)
    return Seconds(tuple(math.exp(normal.inv_cdf((step + 0.5) / _QUANTILES)) for step in range(_QUANTILES)))


def _from_file(path: Path) -> Seconds:
    values = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if line.strip():
            try:
                values.append(float(line))
            except ValueError:
                raise InvalidSetting(f"{path}, line {number}: {line.strip()} is no number of seconds") from None
    if not values:
        raise InvalidSetting(f"{path} has no seconds in it")
    return Seconds(tuple(values))
