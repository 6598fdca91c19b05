"""All that a report needs, from one pass over the lines: sums by what is asked for, and how often each delay came."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from handler.billing.reading.ledger import Ledger
from handler.billing.reading.views import CHAIN, within

KEYS: Final = {
    "hour": "date_trunc('hour', \"at\")", "day": "date_trunc('day', \"at\")", "endpoint": "endpoint", "model": "model",
    "worker": "worker", "start_kind": "start_kind",
    "tenant": "CASE WHEN kind = 'request' THEN coalesce(tenant, '') END",
}
"""What a report can be divided by, and how a line tells it."""

NEWEST_BOOTS: Final = 10

_PASS = """
CREATE OR REPLACE TEMP TABLE sums AS
WITH told AS (
    SELECT *, {keys} coalesce(ms, execution_ms) AS time_ms, {within} AS inside,
        CASE WHEN kind = 'phase' OR kind = 'request' AND start_kind <> 'warm' THEN {chain} END AS life,
        CASE WHEN kind = 'start' AND start_kind = 'fresh' AND {within}
            THEN {{chain: {chain}, worker: worker, began: "at", ready_ms: ready_ms, spans: spans}} END AS fresh
    FROM all_lines WHERE kind IS DISTINCT FROM 'open'
)
SELECT {names} kind, phase, warmup, start_kind, life, inside,
    count(*) AS lines, count(request) AS named, count(request) FILTER (finish_reason = 'lost') AS lost,
    count(*) FILTER (finish_reason = 'lost' AND request IS NULL) AS nameless,
    sum(time_ms) AS ms, sum(cost) AS cost, sum(time_ms) FILTER (cost IS NULL) AS unpriced_ms,
    sum(prompt_tokens) AS prompt_tokens, sum(cached_tokens) AS cached_tokens, sum(output_tokens) AS output_tokens,
    max("at") FILTER (kind = 'phase') AS newest, max_by(fresh, "at", {boots}) FILTER (fresh IS NOT NULL) AS boots
FROM told GROUP BY {names} kind, phase, warmup, start_kind, life, inside
UNION ALL BY NAME
SELECT 'queue_ms' AS delay, start_kind, queue_ms AS delay_ms, count(*) AS lines FROM told
WHERE inside AND kind = 'request' AND NOT warmup AND queue_ms IS NOT NULL GROUP BY start_kind, queue_ms
UNION ALL BY NAME
SELECT 'first_token_ms' AS delay, start_kind, first_token_ms AS delay_ms, count(*) AS lines FROM told
WHERE inside AND kind = 'request' AND NOT warmup AND first_token_ms IS NOT NULL GROUP BY start_kind, first_token_ms;
CREATE OR REPLACE TEMP VIEW marked AS
SELECT sums.* REPLACE (coalesce(warmup, mark, false) AS warmup) FROM sums LEFT JOIN (
    SELECT life, bool_or(warmup) AS mark FROM sums
    WHERE kind = 'request' AND start_kind <> 'warm' GROUP BY life
) USING (life) WHERE delay IS NULL AND inside
"""
"""DuckDB reads the files once and gives each chunk of lines to all three: grouping sets would do so too, but compute
every sum in each of them. A chain is cut from the id of those lines alone that need it."""


def summarise(ledger: Ledger, keys: Collection[str]) -> None:
    """Make the table `sums` and the view `marked` of it.

    `marked` has the sums within the ledger's period, by `by_` and each of the keys, kind, phase, warm-up and start
    kind; its `life` is the epoch, for lines of time and first requests. `sums` has besides, where `delay` names one,
    how many of the users' requests took so many `delay_ms`, by start kind.
    """
    query = _PASS.format(
        keys=" ".join(f"{KEYS[key]} AS by_{key}," for key in keys), names=" ".join(f"by_{key}," for key in keys),
        within=within(ledger.period), boots=NEWEST_BOOTS, chain=CHAIN,
    )
    ledger.execute(query)
