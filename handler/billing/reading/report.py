"""The report: where the seconds and the money went."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from engine.percentiles import Percentiles
from handler.billing.reading.figures import Boot, Group, Key, Report, Work
from handler.billing.reading.ledger import Ledger
from handler.billing.reading.summary import NEWEST_BOOTS, summarise

OF_REQUESTS = {"tenant", "start_kind"}
"""What only a request has; in a report by one of these, time between requests is a group of its own."""

_TEXT = {"hour": "strftime(by_hour, '%Y-%m-%dT%H:00:00Z')", "day": "strftime(by_day, '%Y-%m-%d')"}

_TIME = "warmup, coalesce(sum(ms), 0), sum(cost), coalesce(sum(unpriced_ms), 0)"
_WORK = """
coalesce(sum(named) FILTER (NOT warmup), 0), coalesce(sum(lines) FILTER (warmup), 0), coalesce(sum(lost), 0),
coalesce(sum(nameless), 0),
coalesce(sum(prompt_tokens) FILTER (NOT warmup), 0), coalesce(sum(cached_tokens) FILTER (NOT warmup), 0),
coalesce(sum(output_tokens) FILTER (NOT warmup), 0)
"""

_BOOTS = """
WITH newest AS (
    SELECT unnest(flatten(list(boots))) AS boot FROM marked WHERE kind = 'start'
), costs AS (
    SELECT life AS chain, sum(cost) AS cost FROM marked WHERE phase = 'boot' GROUP BY ALL
)
SELECT boot.worker, boot.began, boot.ready_ms, cost, boot.spans FROM newest LEFT JOIN costs ON chain = boot.chain
ORDER BY boot.began DESC, boot.chain LIMIT ?
"""

_UNCLOSED = """
SELECT count(*) FROM (
    SELECT life FROM sums WHERE kind = 'phase' GROUP BY life
    HAVING bool_or(inside) AND NOT bool_or(phase = 'rounding') AND (?::TIMESTAMP IS NULL OR max(newest) < ?::TIMESTAMP)
)
"""


def make_report(ledger: Ledger, by: Sequence[str] = (), hourly: bool = False) -> Report:
    """Read the ledger once and add it up.

    Args:
        by: keys of `reading/summary.py`; the groups are their combinations.
        hourly: whether to tell of each hour.
    """
    summarise(ledger, dict.fromkeys((*by, *(["hour"] if hourly else []))))
    return Report(
        place=ledger.place, by=tuple(by), whole=next(iter(_groups(ledger, ())), Group(())),
        cold_starts=_starts(ledger, "fresh"), restores=_starts(ledger, "restored"),
        groups=_groups(ledger, by) if by else [], hours=_groups(ledger, ["hour"]) if hourly else [],
        queue_ms=_percentiles(ledger, "queue_ms"), first_token_ms=_percentiles(ledger, "first_token_ms"),
        boots=_boots(ledger), unclosed_epochs=_unclosed(ledger), objects=ledger.objects,
        skipped=[path.name for path in ledger.skipped],
        damaged_lines=_number(ledger, "SELECT sum(lines) FROM sums WHERE delay IS NULL AND kind IS NULL"),
    )


def _groups(ledger: Ledger, by: Sequence[str]) -> list[Group]:
    """Time and work by these keys. Where these are of requests, execution is told by the requests' shares of it.

    What then remains of a worker's time has no request: also execution for requests that have not ended yet, less what
    ended ones had had before the period or the hour in which it is told.
    """
    groups: dict[Key, Group] = {}
    keys = "".join(f"{_TEXT.get(key, f'by_{key}')}, " for key in by)
    shared = OF_REQUESTS.isdisjoint(by)

    def group(key: Key, no_request: bool = False) -> Group:
        return groups.setdefault(key, Group(key, no_request))

    for *key, phase, warmup, ms, cost, unpriced in _rows(ledger, f"{keys} phase, {_TIME}", "phase"):
        group(_without_request(by, key), not shared).add(phase, warmup, ms, cost, unpriced)
    for *key, warmup, ms, cost, unpriced, done in _rows(ledger, f"{keys} {_TIME}, [{_WORK}]", "request"):
        group(tuple(key)).work.add(Work(*done))
        if not shared:
            group(tuple(key)).add("execution", warmup, ms, cost, unpriced)
            rest = group(_without_request(by, key), no_request=True)
            rest.add("execution", warmup, -ms, None if cost is None else -cost, -unpriced)
    told = [one for one in groups.values() if not one.no_request or any(one.spending.ms.values())]
    return sorted(told, key=_by_time if {"hour", "day"} & set(by) else _by_size)


def _without_request(by: Sequence[str], key: Sequence[str | None]) -> Key:
    return tuple(None if name in OF_REQUESTS else part for name, part in zip(by, key, strict=True))


def _by_time(group: Group) -> Any:
    return [(part is None, part or "") for part in group.key]


def _by_size(group: Group) -> Any:
    """The dearest first, what has no request last."""
    return group.no_request, -(group.spending.cost or 0), -group.spending.total_ms, _by_time(group)


def _rows(ledger: Ledger, selected: str, kind: str) -> list[tuple[Any, ...]]:
    return ledger.execute(f"SELECT {selected} FROM marked WHERE kind = '{kind}' GROUP BY ALL").fetchall()


def _number(ledger: Ledger, query: str, parameters: Sequence[object] = ()) -> int:
    [value] = ledger.execute(query, parameters).fetchone() or (0,)
    return int(value or 0)


def _starts(ledger: Ledger, start_kind: str) -> int:
    return _number(ledger, "SELECT sum(lines) FROM marked WHERE kind = 'start' AND start_kind = ?", [start_kind])


def _boots(ledger: Ledger) -> list[Boot]:
    rows = ledger.execute(_BOOTS, [NEWEST_BOOTS]).fetchall()
    return [Boot(worker, began, ready_ms, cost, _spans(spans)) for worker, began, ready_ms, cost, spans in rows]


def _spans(text: str | None) -> list[dict[str, Any]]:
    """A boot's timeline, without what is no span."""
    told = json.loads(text or "[]")
    return [span for span in told if _is_span(span)] if isinstance(told, list) else []


def _is_span(told: object) -> bool:
    if not isinstance(told, dict) or not isinstance(told.get("name"), str):
        return False
    return all(isinstance(told.get(name), int | float) for name in ("start_s", "end_s"))


def _unclosed(ledger: Ledger) -> int:
    """Epochs without their last line; those that go on beyond the period are no matter of the period."""
    return _number(ledger, _UNCLOSED, [ledger.period.until] * 2)


def _percentiles(ledger: Ledger, delay: str) -> dict[str, Percentiles]:
    """Of users' requests, by start kind."""
    query = "SELECT start_kind, delay_ms, lines FROM sums WHERE delay = ? ORDER BY delay_ms"
    counts: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for start_kind, value, count in ledger.execute(query, [delay]).fetchall():
        counts[start_kind].append((value, count))
    return {kind: weighted_percentiles(counts.get(kind, [])) for kind in ("fresh", "restored", "warm")}


def weighted_percentiles(counts: Sequence[tuple[int, int]]) -> Percentiles:
    """The percentiles of values of which each is there so many times, interpolated as `engine.percentiles` does.

    Args:
        counts: value and how often, by ascending value.
    """
    return Percentiles(p50=_at(counts, 0.50), p95=_at(counts, 0.95), p99=_at(counts, 0.99))


def _at(counts: Sequence[tuple[int, int]], share: float) -> float | None:
    if not counts:
        return None
    below, part = divmod(share * (sum(count for _, count in counts) - 1), 1)
    lower, upper = _nth(counts, int(below)), _nth(counts, int(below) + 1)
    return lower * (1 - part) + upper * part


def _nth(counts: Sequence[tuple[int, int]], place: int) -> int:
    """The value at a place of the whole row, or the last."""
    for value, count in counts:
        place -= count
        if place < 0:
            return value
    return counts[-1][0]
