"""Arrivals and how long starts and requests took, from the ledger."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from warmup.costs import Restores, Seconds
from warmup.errors import InvalidTrace
from warmup.history import History

if TYPE_CHECKING:
    from handler.billing.reading.ledger import Ledger

_REQUESTS = """
SELECT epoch_us("at") / 1e6, greatest(0, coalesce(duration_ms, 0) - coalesce(queue_ms, 0)) / 1e3
FROM requests WHERE NOT coalesce(warmup, false) ORDER BY 1
"""
_STARTS = """
SELECT start_kind, ready_ms / 1e3, epoch_us("at") / 1e6 - coalesce(
    (SELECT max(epoch_us(r."at") / 1e6 + coalesce(r.duration_ms, 0) / 1e3) FROM requests r
     WHERE r.endpoint IS NOT DISTINCT FROM starts.endpoint AND r."at" < starts."at"), '-infinity'::DOUBLE)
FROM starts WHERE ready_ms IS NOT NULL
"""


@dataclass(frozen=True, slots=True)
class Learnt:
    """What a ledger says.

    Attributes:
        cold: how long boots took; None where there was none.
        restores: None where there were none.
    """

    history: History
    cold: Seconds | None
    restores: Restores | None


def learn(ledger: Ledger) -> Learnt:
    """Users' requests and starts of an opened ledger.

    Raises:
        InvalidTrace: it has no request of a user.
    """
    requests = ledger.execute(_REQUESTS).fetchall()
    if not requests:
        raise InvalidTrace(f"{ledger.place} has no requests of users")
    starts = ledger.execute(_STARTS).fetchall()
    cold = tuple(ready for kind, ready, _ in starts if kind == "fresh")
    history = History.of([at for at, _ in requests], [took for _, took in requests])
    return Learnt(history, Seconds(cold) if cold else None, restores_of(starts))


def restores_of(starts: list[tuple[str, float, float]]) -> Restores | None:
    """How often a start was a restore, by the idle time before it: kind, seconds until ready, idle seconds."""
    restored = tuple(ready for kind, ready, _ in starts if kind == "restored")
    if not restored:
        return None
    return Restores.counted(Seconds(restored), ((idle, kind == "restored") for kind, _, idle in starts))
