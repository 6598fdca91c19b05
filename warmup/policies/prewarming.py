"""Whether to stop the worker and start it again shortly before the next request is due."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, NamedTuple

from warmup.plan import SHORTEST_IDLE_S

if TYPE_CHECKING:
    from warmup.costs import Costs
    from warmup.history import Floats, History

_RECENT = 512
"""Idle times that are looked at: enough for a rhythm, few enough to follow when it changes."""

_FEWEST = 20
_HEADS, _TAILS = (0.0, 0.02, 0.05, 0.1, 0.25), (0.5, 0.75, 0.9, 0.98, 1.0)
_FIRST_S = (SHORTEST_IDLE_S, 5.0, 20.0, 60.0)
_MARGIN, _MARGIN_S = 0.05, 1.0
"""Of a stretch, and in seconds, put on at both ends: the next idle times lie somewhat beyond those that were seen."""

_SURE = 2.0
"""Standard errors by which it must have been cheaper on idle times that it was not made from."""


class Stretch(NamedTuple):
    """Stopped after `first` seconds of idle time, started at `start`, stopped again at `stop`."""

    first: float
    start: float
    stop: float


def rhythm(history: History, costs: Costs, keep_s: float) -> Stretch | None:
    """The stretch to pre-warm, or None where keeping the worker for `keep_s` is as good.

    It is made from the older half of the recent idle times and judged on the newer. Where too many are over before a
    worker that was stopped could be back there is none, as it would begin where the first quarter of them ends.
    """
    import numpy as np

    gaps = history.last(4 * _RECENT).gaps()[-_RECENT:]
    back_s = _FIRST_S[0] + _MARGIN_S + costs.starts.cold.mean
    if gaps.size < _FEWEST or np.count_nonzero(gaps <= back_s) > _HEADS[-1] * gaps.size + 2:
        return None
    older, newer = gaps[: gaps.size // 2], gaps[gaps.size // 2:]
    made = _best(older, costs)
    if made is None:
        return None
    start_s, weight = costs.starts.cold.mean, costs.wait_value
    kept = np.minimum(newer, keep_s) + np.where(newer > keep_s, start_s * (1 + weight), 0.0)
    gained = kept - losses(newer, made, start_s, weight)
    return _best(gaps, costs) if gained.sum() > _SURE * np.sqrt((gained**2).sum()) else None


def losses(gaps: Floats, stretch: Stretch, start_s: float, wait_value: float) -> Floats:
    """What each idle time costs, in seconds of the worker: idle seconds, the start, and waiting for it."""
    import numpy as np

    first, start, stop = stretch
    cold = start_s * (1 + wait_value)
    left = np.maximum(0.0, start + start_s - gaps)
    inside = gaps - start + left * (1 + wait_value)
    after = np.where(gaps < start, cold, np.where(gaps < stop, inside, stop - start + cold))
    return np.where(gaps <= first, gaps, first + after)


def _best(gaps: Floats, costs: Costs) -> Stretch | None:
    """The cheapest of the stretches that begin and end where idle times do."""
    import numpy as np

    heads, tails = np.split(np.quantile(gaps, (*_HEADS, *_TAILS)), [len(_HEADS)])
    start_s = costs.starts.cold.mean
    found = []
    for head, tail in product(heads.tolist(), tails.tolist()):
        margin = _MARGIN * (tail - head) + _MARGIN_S
        start, stop = head - margin - start_s, tail + margin
        for first in (first for first in _FIRST_S if first < start < stop):
            stretch = Stretch(first, start, stop)
            found.append((float(losses(gaps, stretch, start_s, costs.wait_value).sum()), stretch))
    return min(found)[1] if found else None
