"""What was spent on warming, and what it bought: the ledger against what would have been without."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from warmup.costs import Costs
from warmup.learning import Digest
from warmup.state import State

if TYPE_CHECKING:
    from warmup.places import Place
    from warmup.settings import Settings


@dataclass(frozen=True, slots=True)
class Bought:
    """The last days of the ledger, and the same arrivals had nobody warmed (the simulator's `never`).

    Attributes:
        days: how many are looked at.
        cold_starts: starts that a user's request waited for; `without` as they would have been.
        waited_s: seconds that those who caused them waited.
        warmup_s: billed seconds that the ledger marks as warm-ups.
    """

    days: float
    requests: int
    cold_starts: int
    cold_starts_without: int
    waited_s: float
    waited_s_without: float
    warmup_s: float

    @property
    def avoided(self) -> int:
        """Cold starts that users did not see; less than none where there were more of them."""
        return self.cold_starts_without - self.cold_starts

    @property
    def saved_s(self) -> float:
        """Seconds that users did not wait."""
        return self.waited_s_without - self.waited_s


def bought(digest: Digest, settings: Settings, now: float, days: float) -> Bought | None:
    """What warming has bought; None where nobody came."""
    from warmup.policies.never import Never
    from warmup.simulate.outcome import Period, carry_out
    from warmup.simulate.traffic import Traffic

    since = now - 86400 * days
    history = digest.history().since(since)
    if not len(history):
        return None
    traffic = Traffic.of(history)
    costs = Costs(digest.price or 0.0, settings.wait_value, digest.starts(settings.cold_seconds))
    without = carry_out(Never(), history, traffic, costs, Period.of(history))
    cold = [name for name, at in digest.cold.items() if at >= since]
    first = time.strftime("%Y-%m-%d", time.gmtime(since))
    waited = sum(digest.boots[name][1] for name in cold if name in digest.boots)
    return Bought(
        days, len(history), len(cold), without.cold_starts, waited,
        without.waited_s, sum(seconds for day, seconds in digest.warmup_s.items() if day >= first),
    )


def status(settings: Settings, place: Place, state: State, digest: Digest, now: float, days: float) -> dict[str, Any]:
    """All that `pilotlight warm status` shows."""
    lease, spending = state.lease, state.spending.at(now, state.ping_booked)
    found = bought(digest, settings, now, days)
    return {
        "endpoint": settings.endpoint, "state": place.name, "policy": state.policy or settings.policy, "why": state.why,
        "stopped": settings.stop or place.is_stopped(), "dry_run": settings.dry_run,
        "holder": None if lease is None or lease.until < now else lease.holder,
        "last_look_s": None if state.seen is None else round(now - state.seen, 3),
        "held": {name: value for name, value in asdict(state.touched).items() if value is not None},
        "pings": state.pings, "floors": state.floors,
        "spent": {
            "today": round(spending.today, 6), "month": round(spending.this_month, 6), "ever": round(spending.ever, 6),
            "budget_day": _finite(settings.budget_day), "budget_month": _finite(settings.budget_month),
        },
        "bought": None if found is None else {
            **asdict(found), "cold_starts_avoided": found.avoided, "waiting_saved_s": round(found.saved_s, 3),
        },
    }


def lines(shown: dict[str, Any]) -> list[tuple[str, str]]:
    """The same for a person."""
    spent, found = shown["spent"], shown["bought"]
    held = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in shown["held"].items()) or "nothing"
    rows = [
        ("endpoint", shown["endpoint"]), ("policy", f"{shown['policy']}{'; ' + shown['why'] if shown['why'] else ''}"),
        ("kill switch", "ON: nothing is done" if shown["stopped"] else "off"),
        ("dry run", "yes: nothing is really done" if shown["dry_run"] else "no"),
        ("acts", shown["holder"] or "nobody"),
        ("last look", "never" if shown["last_look_s"] is None else f"{shown['last_look_s']:.0f} s ago"),
        ("set", held), ("done", f"{shown['pings']} pings, workers held {shown['floors']} times"),
        ("today", f"at most ${spent['today']:.4f} of {_budget(spent['budget_day'])}"),
        ("this month", f"at most ${spent['month']:.4f} of {_budget(spent['budget_month'])}"),
    ]
    if found is None:
        return [*rows, ("bought", "no users in the ledger yet")]
    return [
        *rows,
        ("users", f"{found['requests']} requests in {found['days']:g} days"),
        ("cold starts", f"{found['cold_starts']} seen; without the warmer {found['cold_starts_without']}"),
        ("waiting saved", f"{found['waiting_saved_s']:.1f} s"),
        ("warm-up", f"{found['warmup_s']:.1f} billed seconds in the ledger"),
    ]


def _budget(dollars: float | None) -> str:
    return "no budget" if dollars is None else f"${dollars:.2f}"


def _finite(dollars: float) -> float | None:
    return dollars if dollars != float("inf") else None
