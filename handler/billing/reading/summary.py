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
SELECT {selected} kind, phase, warmup, start_kind, life, inside, queue_ms, first_token_ms,
    grouping(kind) = 0 AND grouping(life) = 0 AS is_sum,
    count(*) AS lines, count(request) AS named, count(request) FILTER (finish_reason = 'lost') AS lost,
    count(*) FILTER (finish_reason = 'lost' AND request IS NULL) AS nameless,
    sum(time_ms) AS ms, sum(cost) AS cost, sum(time_ms) FILTER (cost IS NULL) AS unpriced_ms,
    sum(prompt_tokens) AS prompt_tokens, sum(cached_tokens) AS cached_tokens, sum(output_tokens) AS output_tokens,
    max("at") FILTER (kind = 'phase') AS newest,
    max_by(boot_told, "at", {boots}) FILTER (boot_told IS NOT NULL) AS boots
FROM (
    SELECT *, {keys} coalesce(ms, execution_ms) AS time_ms, {within} AS inside,
        CASE WHEN kind = 'phase' OR kind = 'request' AND start_kind <> 'warm' THEN {chain} END AS life,
        CASE WHEN kind = 'start' AND start_kind = 'fresh' AND {within}
            THEN {{chain: {chain}, worker: worker, began: "at", ready_ms: ready_ms, spans: spans}} END AS boot_told
    FROM all_lines WHERE kind IS DISTINCT FROM 'open'
)
GROUP BY GROUPING SETS (
    ({grouped} kind, phase, warmup, start_kind, life, inside),
    (kind, warmup, start_kind, inside, queue_ms), (kind, warmup, start_kind, inside, first_token_ms)
);
CREATE OR REPLACE TEMP VIEW marked AS
SELECT sums.* REPLACE (coalesce(warmup, mark, false) AS warmup) FROM sums LEFT JOIN (
    SELECT life, bool_or(warmup) AS mark FROM sums
    WHERE is_sum AND kind = 'request' AND start_kind <> 'warm' GROUP BY life
) USING (life) WHERE is_sum AND inside
"""


def summarise(ledger: Ledger, keys: Collection[str]) -> None:
    """Make the table `sums` and the view `marked` of it.

    `marked` has the sums within the ledger's period, by `by_` and each of the keys, kind, phase, warm-up and start
    kind; its `life` is the epoch, for lines of time and first requests. `sums` has besides, where not `is_sum`, how
    many requests had each `queue_ms` and each `first_token_ms`.
    """
    names = [f"by_{key}" for key in keys]
    query = _PASS.format(
        keys=" ".join(f"{KEYS[key]} AS by_{key}," for key in keys), selected=" ".join(f"{name}," for name in names),
        grouped=" ".join(f"{name}," for name in names), within=within(ledger.period), boots=NEWEST_BOOTS,
        chain=CHAIN,
    )
    ledger.execute(query)
