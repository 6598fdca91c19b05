"""What `learned` costs beside the best policy that hindsight would have chosen.

    python -m benchmarks.warm_policies --json benchmarks/results/warm_policies.json --table docs/warmer.md

Each trace is cut in half by time. `learned` sees the first half and, as the second goes on, what has come so far;
the others need nothing to learn, and of them the best on the second half is chosen once that is over, for each wait
value anew.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import Progress

from benchmarks.bars import Bar, at_least, at_most
from benchmarks.machine import describe
from warmup.costs import Costs
from warmup.history import History
from warmup.policy import parse_policy
from warmup.simulate.generate import bursty, diurnal, heavy_tailed, poisson, stretched, thinned
from warmup.simulate.outcome import Outcome, Period, carry_out
from warmup.simulate.traces import read_trace
from warmup.simulate.traffic import Traffic

if TYPE_CHECKING:
    from warmup.history import Floats

RESULTS = Path(__file__).parent / "results" / "warm_policies.json"
TRACES = Path(__file__).parent.parent.parent / "shared" / "traces"

WAIT_VALUES = (0.0, 1.0, 5.0, 20.0, 50.0)
GRID = (
    *(f"idle:{seconds}" for seconds in (5, 30, 60, 300, 1200, 3600)),
    *(f"fixed:{seconds}" for seconds in (60, 300, 600)),
    "histogram", "always",
)
HOURS = tuple(f"cron:{start:02}:00-{stop:02}:00" for start, stop in permutations(range(24), 2))
"""Every stretch of whole hours of the day, in UTC."""

_SERVICE_S, _PRICE = 3.0, 1.0
"""COLDSTART's experiment: 3 s a request, 20 s a start (the default). The price only scales the score."""

_PER_HOUR, _HOURS = 12.0, 28 * 24.0
"""Of the generated traces: four weeks with twelve requests an hour, at which no keep-alive time is plainly best."""

_SUM_BAR, _CELL_BAR, _GAIN_BAR = 0.03, 0.10, 0.15
_BEGIN, _END = "<!-- table: python -m benchmarks.warm_policies -->", "<!-- end of the table -->"


@dataclass(frozen=True, slots=True)
class Cell:
    """A trace at one wait value; scores in seconds of the worker."""

    trace: str
    wait_value: float
    requests: int
    best: str
    best_score: float
    learned: float
    fixed_300: float
    idle_5: float
    cold_starts: int

    @property
    def more(self) -> float:
        """The share by which `learned` costs more than the best; negative where it costs less."""
        return self.learned / self.best_score - 1


def listed(folder: Path, seed: int) -> Iterator[tuple[str, Floats]]:
    """The traces that the promise names."""
    for name in ("code", "conv"):
        times, _ = read_trace(folder / f"azure_llm_2023_{name}.csv")
        for factor in (24, 72, 168):
            yield f"Azure {name} x{factor}", stretched(times, factor)
    hourly, _ = read_trace(folder / "burstgpt1_hourly_derived.csv", seed)
    for rate in (1, 10, 100):
        yield f"BurstGPT, {rate} an hour", thinned(hourly, rate, seed + 1)
    makers: dict[str, Callable[..., Floats]] = {
        "Poisson": poisson, "diurnal": diurnal, "bursty": bursty, "heavy-tailed": heavy_tailed,
    }
    for name, make in makers.items():
        yield name, make(_PER_HOUR, _HOURS, seed)


def unlisted(folder: Path, seed: int) -> Iterator[tuple[str, Floats]]:
    """Traces that nothing was tried on while `learned` was made."""
    import numpy as np

    for name in ("code", "conv"):
        times, _ = read_trace(folder / f"azure_llm_2023_{name}.csv")
        yield f"Azure {name} x336, one in four", thinned(stretched(times, 336), times.size / 4 / 336, seed)
    hourly, _ = read_trace(folder / "burstgpt1_hourly_derived.csv", seed)
    yield "BurstGPT, 3 an hour", thinned(hourly, 3, seed)
    yield "BurstGPT, 30 an hour", thinned(hourly, 30, seed)
    yield "Poisson, 60 an hour", poisson(60, _HOURS, seed)
    yield "Poisson, 1 an hour", poisson(1, 2 * _HOURS, seed)
    yield "diurnal, 60 an hour", diurnal(60, _HOURS, seed)
    yield "bursty, 4 an hour", bursty(4, _HOURS, seed, busy_s=900, quiet_s=20000, ratio=500)
    yield "heavy-tailed, 30 an hour", heavy_tailed(30, _HOURS, seed, shape=1.2)
    chance = np.random.default_rng(seed)
    yield "a job every 15 minutes", np.sort(np.arange(0, _HOURS * 3600, 900.0) + chance.normal(0, 2, int(_HOURS * 4)))


def compare(name: str, times: Floats, advance: Callable[[], None]) -> Iterator[Cell]:
    """A trace at all wait values."""
    history = History.of(times, _SERVICE_S)
    period = Period.of(history, 0.5)
    traffic = Traffic.of(history.since(period.begin))
    replay = partial(carry_out, history=history, traffic=traffic, period=period)
    done: Mapping[str, Outcome] = {
        text: replay(parse_policy(text), costs=Costs(_PRICE, 0.0)) for text in (*GRID, *HOURS)
    }
    for value in WAIT_VALUES:
        costs = Costs(_PRICE, value)
        scores = {text: outcome.score(costs) for text, outcome in done.items()}
        best = min(scores, key=scores.__getitem__)
        learned = replay(parse_policy("learned"), costs=costs)
        yield Cell(
            name, value, learned.requests, best, scores[best], learned.score(costs), scores["fixed:300"],
            scores["idle:5"], learned.cold_starts,
        )
        advance()


def by_trace(cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    """The cells of each trace."""
    names = dict.fromkeys(cell.trace for cell in cells)
    return {name: [cell for cell in cells if cell.trace == name] for name in names}


def summed(cells: Sequence[Cell], other: str = "best_score") -> float:
    """By what share `learned` costs more than something else, summed over wait values."""
    return sum(cell.learned for cell in cells) / sum(getattr(cell, other) for cell in cells) - 1


def bars(cells: Sequence[Cell]) -> list[Bar]:
    """The promises."""
    traces = by_trace(cells)
    held = [at_most(f"{name}: more than the best, summed", summed(found), _SUM_BAR) for name, found in traces.items()]
    held += [
        at_most(f"{cell.trace} at {cell.wait_value:g}: more than the best", cell.more, _CELL_BAR) for cell in cells
    ]
    for other in ("fixed_300", "idle_5"):
        better = sum(summed(found, other) <= -_GAIN_BAR for found in traces.values())
        what = f"traces with at least 15 % less than {other.replace('_', ':')}"
        held.append(at_least(what, better, len(traces) // 2 + 1))
    return held


def table(cells: Sequence[Cell]) -> str:
    """Markdown: a row a trace, a column a wait value."""
    head = " | ".join(f"{value:g}" for value in WAIT_VALUES)
    lines = [
        f"| trace | requests | {head} | sum | vs fixed:300 | vs idle:5 |", "|---" * (len(WAIT_VALUES) + 5) + "|",
    ]
    for name, found in by_trace(cells).items():
        shown = " | ".join(f"{_share(cell.more, _CELL_BAR)} {_short(cell.best)}" for cell in found)
        others = " | ".join(_share(summed(found, other)) for other in ("fixed_300", "idle_5"))
        lines.append(f"| {name} | {found[0].requests:,} | {shown} | {_share(summed(found), _SUM_BAR)} | {others} |")
    return "\n".join(lines)


def _share(more: float, bar: float = float("inf")) -> str:
    told = f"{100 * more:+.1f} %"
    return f"**{told}**" if more > bar else told


def _short(policy: str) -> str:
    if not policy.startswith("cron"):
        return policy
    return policy.removeprefix("cron:").replace(":00", "") + " h"


def put_table(page: Path, text: str) -> None:
    """The table into a page, between its marks."""
    before, _, rest = page.read_text(encoding="utf-8").partition(_BEGIN)
    _, _, after = rest.partition(_END)
    page.write_text(f"{before}{_BEGIN}\n\n{text}\n\n{_END}{after}", encoding="utf-8")


def measure(traces: Sequence[tuple[str, Floats]]) -> list[Cell]:
    """All of them, with a bar on standard error."""
    with Progress(*Progress.get_default_columns(), console=Console(stderr=True)) as bar:
        task = bar.add_task("cells", total=len(traces) * len(WAIT_VALUES))
        return [cell for name, times in traces for cell in compare(name, times, lambda: bar.advance(task))]


def main() -> None:
    """Compare, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=Path, default=TRACES, help="the folder with Azure's and BurstGPT's")
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--table", type=Path, help="a page that has the table between its marks")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--unlisted", action="store_true", help="other traces instead")
    arguments = parser.parse_args()
    make = unlisted if arguments.unlisted else listed
    cells = measure(list(make(arguments.traces, arguments.seed)))
    held = bars(cells)
    told = [asdict(cell) | {"more": cell.more} for cell in cells]
    fields = {**describe(), "bars": [asdict(bar) for bar in held], "cells": told}
    arguments.json.write_text(json.dumps(fields, indent=1) + "\n")
    if arguments.table:
        put_table(arguments.table, table(cells))
    print(table(cells))
    for bar in held:
        if not bar.holds:
            print(f"DOES NOT HOLD: {bar.what} {bar.measured:.4g} ({bar.bar:.4g})")
    print(f"{sum(bar.holds for bar in held)} of {len(held)} hold")


if __name__ == "__main__":
    main()
