"""How long a report over a ledger takes, held against DuckDB's own count of the same lines.

    python -m benchmarks.ledger_report --ledgers /var/tmp/ledgers 100000 1000000 3000000 10000000

Each figure is of a process of its own; the kinds take turns. The promise: by day and tenant, deduplicated, in at most
twice the time of `count(*)`, below 2 GB.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

from benchmarks.bars import Bar, at_most
from benchmarks.machine import describe
from handler.billing.reading.compaction import compact_days
from handler.billing.reading.contract import as_fields
from handler.billing.reading.ledger import open_ledger
from handler.billing.reading.objects import find_files
from handler.billing.reading.report import make_report
from handler.billing.reading.views import COLUMNS
from tests.billing.ledgers import Shape, make_ledger

RESULTS = Path(__file__).parent / "results" / "ledger_report.json"
FIGURE = Path(__file__).parent.parent / "docs" / "figures" / "ledger_report.svg"
KINDS = ("count", "count_auto", "report", "parquet")
"""DuckDB's count with the columns given and with its own guess of them; the report over objects and over Parquet."""

_MOST_RATIO, _MOST_BYTES = 2.0, 2e9
_LINEAR = 1.25
"""How much longer a line may take in the largest ledger than in one of a million lines."""


def shape(requests: int) -> Shape:
    """Objects of 1 MiB, of which 2 % have their first half in another object as well."""
    return Shape(requests, per_object=1_500, per_batch=250, workers=20, tenants=50, days=5, repeated=0.02)


def measure_one(kind: str, ledger: Path) -> dict[str, float]:
    """Seconds and peak memory of one kind, in this process; `ledger` has `objects` and `parquet` in it."""
    import duckdb  # Both sides need it: its import is no part of either's time.

    began = time.perf_counter()
    if kind in ("report", "parquet"):
        with open_ledger(str(ledger / {"report": "objects"}.get(kind, kind))) as opened:
            lines = as_fields(make_report(opened, ["day", "tenant"]))["requests"]
    else:
        files = [str(file.path) for file in find_files(ledger / "objects")]
        given = f"format = 'newline_delimited', columns = {COLUMNS}"
        source = f"read_json({files}, {given})" if kind == "count" else f"read_json_auto({files})"
        [lines] = duckdb.connect().execute(f"SELECT count(*) FROM {source}").fetchone() or (0,)
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "told": lines}


def in_own_process(kind: str, ledger: Path) -> dict[str, float]:
    """The same, in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.ledger_report", "--one", kind, "--ledgers", str(ledger)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def prepare(ledger: Path, requests: int) -> None:
    """Write the ledger and the same as Parquet, unless they are there."""
    if not (ledger / "objects").exists():
        make_ledger(ledger / "objects", shape(requests), processes=2)
    if not (ledger / "parquet").exists():
        objects = str(ledger / "objects")
        days = sorted({file.day for file in find_files(ledger / "objects") if file.day})
        for _ in compact_days(objects, [*days, days[-1] + timedelta(days=1)], ledger / "parquet"):
            pass


def measure(ledgers: Path, requests: Sequence[int], runs: int) -> list[dict[str, Any]]:
    """All kinds and sizes in turns: whatever else the machine does meets them all."""
    found: dict[tuple[int, str], list[dict[str, float]]] = {(size, kind): [] for size in requests for kind in KINDS}
    for run in range(runs):
        for (size, kind), measured in found.items():
            measured.append(in_own_process(kind, ledgers / str(size)))
            print(f"{size:>10,} run {run} {kind:<10} {measured[-1]['seconds']:.2f} s", file=sys.stderr)
    return [
        {"requests": size, "lines": found[size, "count"][0]["told"], **extent(ledgers / str(size)),
         **{kind: summary(found[size, kind]) for kind in KINDS}}
        for size in requests
    ]


def extent(ledger: Path) -> dict[str, int]:
    """How many objects it has, and their bytes."""
    files, parquet = ([file.path for file in find_files(ledger / form)] for form in ("objects", "parquet"))
    return {
        "objects": len(files), "bytes": sum(path.stat().st_size for path in files),
        "parquet_bytes": sum(path.stat().st_size for path in parquet),
    }


def summary(measured: Sequence[dict[str, float]]) -> dict[str, Any]:
    """The middle, the spread, and the most memory."""
    seconds = [one["seconds"] for one in measured]
    return {
        "median_s": statistics.median(seconds), "lowest_s": min(seconds), "highest_s": max(seconds),
        "peak_bytes": max(one["peak_bytes"] for one in measured), "runs": seconds,
    }


def bars(sizes: Sequence[dict[str, Any]]) -> list[Bar]:
    """The promises, of the largest ledger."""
    last = sizes[-1]
    ratio = last["report"]["median_s"] / last["count"]["median_s"]
    told = f"{last['requests']:,} requests"
    held = [
        at_most(f"{told}: report over count(*)", ratio, _MOST_RATIO),
        at_most(f"{told}: bytes of memory", last["report"]["peak_bytes"], _MOST_BYTES),
    ]
    middle = next((size for size in sizes[:-1] if size["requests"] >= 1_000_000), None)
    if middle is not None:
        a_line = [size["report"]["median_s"] / size["requests"] for size in (middle, last)]
        what = f"{told}: time of a line over that among {middle['requests']:,}"
        held.append(at_most(what, a_line[1] / a_line[0], _LINEAR))
    return held


def draw(sizes: Sequence[dict[str, Any]], file: Path) -> None:
    """Seconds by requests, with what twice the count would be."""
    from benchmarks.plot import Curve
    from benchmarks.plot import draw as draw_curves

    requests = [size["requests"] for size in sizes]
    names = {"count": "DuckDB: count(*)", "report": "report by day and tenant", "parquet": "the same over Parquet"}
    curves = {
        name: Curve(
            requests, [size[kind]["median_s"] for size in sizes],
            [(size[kind]["lowest_s"], size[kind]["highest_s"]) for size in sizes],
        )
        for kind, name in names.items()
    }
    twice = Curve(requests, [_MOST_RATIO * size["count"]["median_s"] for size in sizes], dashed=True)
    draw_curves(file, "Report over a ledger", "request lines", "seconds", {**curves, "twice count(*)": twice})


def main() -> None:
    """Make the ledgers that are not there yet, and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("requests", type=int, nargs="*", default=[100_000, 1_000_000])
    parser.add_argument("--ledgers", type=Path, required=True, help="where the ledgers are, or are written")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--one", choices=KINDS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure_one(arguments.one, arguments.ledgers)))
        return
    requests = sorted(arguments.requests)
    for size in requests:
        prepare(arguments.ledgers / str(size), size)
    told = measure(arguments.ledgers, requests, arguments.runs)
    held = bars(told)
    fields = {**describe(), "bars": [asdict(bar) for bar in held], "sizes": told}
    arguments.out.write_text(json.dumps(fields, indent=1) + "\n")
    draw(told, FIGURE)
    for bar in held:
        print(f"{'holds' if bar.holds else 'DOES NOT HOLD'}: {bar.what} {bar.measured:.4g} (at most {bar.bar:.4g})")


if __name__ == "__main__":
    main()
