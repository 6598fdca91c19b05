"""How long a plan that is learnt from the past is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from warmup.history import History

_PART = 1 / 12
_SHORTEST_S, _LONGEST_S = 300.0, 86400.0


def renewal(history: History, now: float) -> float:
    """When to learn anew: once there is a twelfth more to learn from, at least once a day."""
    known_s = now - history.began if len(history) else 0.0
    return now + min(_LONGEST_S, max(_SHORTEST_S, known_s * _PART))
