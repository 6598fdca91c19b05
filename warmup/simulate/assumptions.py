"""What the figures of a replay rest on, for those who reckon them again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from warmup.plan import PLATFORM_IDLE_S

if TYPE_CHECKING:
    from warmup.costs import Costs
    from warmup.history import History
    from warmup.simulate.outcome import Period
    from warmup.simulate.scaling import Fleet

_CONVENTIONS = {
    "cold_start": "a start that at least one user's request waited for; those that queue behind it are not counted",
    "billed_s": "each life of a worker, its start and its idle time included, rounded up to a second",
    "waited_s": "all users' waiting for starts; waiting for a worker that is busy is not counted",
    "ping": "at each multiple of its seconds since 1970, not since the first request; starts a worker if none is up",
    "beginning": "no worker is up, but where the policy holds one or would have left one after the training part",
    "end": "the last worker is billed until its idle timeout ends; one that min workers hold, 5 s after the last work",
}


def assumptions(history: History, costs: Costs, period: Period, fleet: Fleet) -> dict[str, Any]:
    """As `--json` prints them. Times that are drawn or measured stand with their mean."""
    starts, served = costs.starts, history.since(period.begin)
    return {
        "cold_seconds": round(starts.cold.mean, 6),
        "restored_seconds": None if starts.restores is None else round(starts.restores.seconds.mean, 6),
        "service_seconds": round(float(served.services.mean()), 6),
        "ping_seconds": costs.ping_s,
        "platform_idle_seconds": PLATFORM_IDLE_S,
        "price": costs.price,
        "wait_value": costs.wait_value,
        "workers_max": fleet.workers_max,
        "at_once": "all" if fleet.at_once is None else fleet.at_once,
        "begin_s": period.begin,
        "end_s": period.until,
        **_CONVENTIONS,
    }
