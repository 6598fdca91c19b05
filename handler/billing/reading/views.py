"""The ledger's lines as DuckDB sees them: their columns, and the views that queries are written over."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from handler.billing.reading.objects import PARQUET, Period

HOUR_MS = 3_600_000

_MONEY = "DECIMAL(38,18)"
"""Exact: a price of 15 decimals, times milliseconds, over 1000."""

COLUMNS = {
    "id": "VARCHAR", "kind": "VARCHAR", "at": "TIMESTAMP", "written": "TIMESTAMP", "endpoint": "VARCHAR",
    "worker": "VARCHAR", "boot": "VARCHAR", "epoch": "BIGINT",
    "start_kind": "VARCHAR", "ready_ms": "BIGINT", "spans": "JSON", "region": "VARCHAR", "version": "VARCHAR",
    "journal": "VARCHAR", "open_interval_ms": "BIGINT",
    "phase": "VARCHAR", "ms": "BIGINT", "warmup": "BOOLEAN",
    "request": "VARCHAR", "job": "VARCHAR", "tenant": "VARCHAR", "finish_reason": "VARCHAR", "queue_ms": "BIGINT",
    "first_token_ms": "BIGINT", "duration_ms": "BIGINT", "execution_ms": "BIGINT", "prompt_tokens": "BIGINT",
    "cached_tokens": "BIGINT", "output_tokens": "BIGINT",
    "model": "VARCHAR", "gpu": "VARCHAR", "gpu_count": "BIGINT", "price": "VARCHAR", "price_kind": "VARCHAR",
    "price_date": "VARCHAR", "cost": _MONEY,
    "epoch_ms": "BIGINT", "wall_ahead_ms": "BIGINT", "in_flight": "JSON", "crc": "VARCHAR",
}
"""Every field that a line of any kind has, and its type here. Moments are UTC.

All are named in every reading, though a query may need one: with one named, DuckDB 2.0 took ten times as long to read a
million lines as with all. What a query does not use it does not unpack.
"""

CHAIN = "rtrim(rtrim(id, '0123456789'), '-')"
"""A line's chain, which is its id without the number. What is read of every line is best computed of few."""

_WHOLE = """
CASE kind
    WHEN 'phase' THEN "at" IS NOT NULL AND ms >= 0 AND phase IN ('boot', 'execution', 'idle', 'drain', 'rounding')
    WHEN 'request' THEN "at" IS NOT NULL AND execution_ms >= 0 AND warmup IS NOT NULL
        AND start_kind IN ('fresh', 'restored', 'warm')
    WHEN 'start' THEN "at" IS NOT NULL AND ready_ms >= 0 AND worker IS NOT NULL
    ELSE true
END
"""
"""Whether a line has what every reader takes for granted in one of its kind. It is no checksum: `reading/verify.py`
looks at those, which takes several times as long as a report."""

_PRICE = "CASE WHEN isfinite(TRY_CAST(price AS DOUBLE)) THEN price END"
"""Any other text is no price."""

_LARGEST_LINE = 16 << 20
"""Bytes. A line that lists what is in flight grows with it; each file being read has a buffer of about twice this."""

_VIEWS = """
CREATE OR REPLACE TEMP VIEW lines AS SELECT * REPLACE ({price} AS price) FROM all_lines WHERE kind IS NOT NULL;
CREATE OR REPLACE TEMP VIEW marks AS
    SELECT chain, bool_or(warmup) AS mark FROM lines
    WHERE kind = 'request' AND start_kind <> 'warm' GROUP BY chain;
CREATE OR REPLACE TEMP VIEW phases AS
    SELECT lines.* REPLACE (coalesce(warmup, mark, false) AS warmup) FROM lines LEFT JOIN marks USING (chain)
    WHERE kind = 'phase' AND {within};
CREATE OR REPLACE TEMP VIEW requests AS SELECT * FROM lines WHERE kind = 'request' AND {within};
CREATE OR REPLACE TEMP VIEW starts AS SELECT * FROM lines WHERE kind = 'start' AND {within};
"""


def create_views(clean: Sequence[Path], contested: Sequence[Path], period: Period, careful: bool = False) -> str:
    """SQL that makes the views `all_lines`, `lines`, `phases`, `requests` and `starts`.

    `all_lines` has every line once, the whole of every file; a damaged one has no kind: one that cannot be read as
    JSON, or lacks what its kind must have. `chain` is a line's epoch, in one process's life.

    Args:
        clean: files whose lines stand nowhere else.
        contested: files whose lines may stand in several of them.
        careful: also where a file does not begin with a line of JSON. Without it files are shared among threads better
            (DuckDB 2.0 on two cores: a seventh less time), and such a file is an error.
    """
    parts = [f"SELECT * FROM {_read(clean, careful)}"] if clean else []
    if contested:
        parts.append(f"SELECT DISTINCT ON (id) * FROM {_read(contested, careful)} ORDER BY id, crc")
    if not parts:
        nothing = ", ".join(f'NULL::{kind} AS "{name}"' for name, kind in COLUMNS.items())
        parts = [f"SELECT {nothing} WHERE false"]
    every = " UNION ALL ".join(f"({part})" for part in parts)
    told = f"* REPLACE (CASE WHEN {_WHOLE} THEN kind END AS kind), {CHAIN} AS chain"
    made = f"CREATE OR REPLACE TEMP VIEW all_lines AS SELECT {told} FROM ({every}) AS every;"
    return made + _VIEWS.format(within=within(period), price=_PRICE)


def within(period: Period) -> str:
    """A condition on `at`: that it lies within the period."""
    bounds = ((period.since, ">="), (period.until, "<"))
    return " AND ".join(f"\"at\" {sign} TIMESTAMP '{bound}'" for bound, sign in bounds if bound) or "true"


def by_hours(stretches: str) -> str:
    """SQL that splits stretches of time among hours, by the millisecond.

    Args:
        stretches: a query with `start`, in milliseconds since 1970, and `ms`, more than 0. The answer has the same
            columns, with `ms` those of the `hour`, which is counted from 1970.
    """
    of_hour = f"least(start + ms, (hour + 1) * {HOUR_MS}) - greatest(start, hour * {HOUR_MS})"
    hours = f"range(start // {HOUR_MS}, (start + ms - 1) // {HOUR_MS} + 1)"
    return f"SELECT * REPLACE ({of_hour} AS ms) FROM (SELECT *, unnest({hours}) AS hour FROM ({stretches}))"


def _read(files: Sequence[Path], careful: bool) -> str:
    """A table function over files of one kind."""
    names = "[" + ", ".join(_quoted(str(file)) for file in files) + "]"
    if files[0].name.endswith(PARQUET):
        columns = ", ".join(f'"{name}"::{kind} AS "{name}"' for name, kind in COLUMNS.items())
        return f"(SELECT {columns} FROM read_parquet({names}, union_by_name = true))"
    form = "newline_delimited" if careful else "auto"
    types = ", ".join(f"{_quoted(name)}: {_quoted(kind)}" for name, kind in COLUMNS.items())
    return (
        f"read_json({names}, format = '{form}', compression = 'gzip', ignore_errors = true, "
        f"hive_partitioning = false, maximum_object_size = {_LARGEST_LINE}, columns = {{{types}}})"
    )


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
