"""How long ten policies over a million arrivals take, held against a Python loop over the arrivals that does nothing.

    python -m benchmarks.warm_simulator

The promise: at most twenty times that loop, all ten together, reading no file. The loop is over a list, which Python
is quickest at; over the array in which the arrivals lie it takes longer, and stands beside it. `learned` and
`histogram` make their plans anew as they would in service.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.bars import at_most
from benchmarks.machine import describe
from warmup.costs import Costs
from warmup.history import History
from warmup.policy import parse_policy
from warmup.simulate.generate import bursty, diurnal, poisson
from warmup.simulate.outcome import Period, carry_out
from warmup.simulate.traffic import Traffic

if TYPE_CHECKING:
    from warmup.history import Floats

RESULTS = Path(__file__).parent / "results" / "warm_simulator.json"
POLICIES = (
    "never", "always", "idle:30", "idle:60", "idle:300", "fixed:300", "fixed:600",
    "cron:Mon-Fri 08:00-18:00 Europe/Berlin", "histogram", "learned",
)
_ARRIVALS, _BAR = 1_000_000, 20.0
_HOURS = 28 * 24.0


def traces() -> dict[str, Floats]:
    """A million arrivals of each kind, in four weeks."""
    makers = {"Poisson": poisson, "diurnal": diurnal, "bursty": bursty}
    return {name: make(1.2 * _ARRIVALS / _HOURS, _HOURS, 0)[:_ARRIVALS] for name, make in makers.items()}


def loop(arrivals: Sequence[float] | Floats) -> None:
    """Once over them, in Python."""
    for _ in arrivals:
        pass


def replay(times: Floats, spent: dict[str, float]) -> None:
    """All policies, from the bare arrivals; notes what each took."""
    began = time.perf_counter()
    history = History.of(times, 3.0)
    traffic, period, costs = Traffic.of(history), Period.of(history), Costs(0.00031, 5)
    spent["made ready"] = time.perf_counter() - began
    for text in POLICIES:
        began = time.perf_counter()
        carry_out(parse_policy(text), history, traffic, costs, period)
        spent[text] = time.perf_counter() - began


def timed(act: Callable[[], None]) -> float:
    """Seconds."""
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def measure(times: Floats, runs: int) -> dict[str, Any]:
    """The loop and the replay in turns."""
    arrivals = times.tolist()
    loops: list[float] = []
    array_loops: list[float] = []
    replays: list[float] = []
    spent: dict[str, float] = {}
    for _ in range(runs):
        loops.append(timed(lambda: loop(arrivals)))
        array_loops.append(timed(lambda: loop(times)))
        replays.append(timed(lambda: replay(times, spent)))
    ratio = statistics.median(replays) / statistics.median(loops)
    return {
        "arrivals": len(arrivals), "loop_s": loops, "array_loop_s": array_loops, "replay_s": replays, "ratio": ratio,
        "ratio_to_array_loop": statistics.median(replays) / statistics.median(array_loops), "last_run_s": dict(spent),
    }


def main() -> None:
    """Measure, and say whether it holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    found = {}
    for name, times in traces().items():
        found[name] = measure(times, arguments.runs)
        told = f"{found[name]['ratio']:.1f} times the loop over a list"
        print(f"{name}: {told}, {found[name]['ratio_to_array_loop']:.1f} over an array", file=sys.stderr)
    held = [at_most(f"{name}: ten policies over the loop", one["ratio"], _BAR) for name, one in found.items()]
    fields = {**describe(), "bars": [asdict(bar) for bar in held], "traces": found}
    arguments.out.write_text(json.dumps(fields, indent=1) + "\n")
    for bar in held:
        print(f"{'holds' if bar.holds else 'DOES NOT HOLD'}: {bar.what} {bar.measured:.1f} (at most {bar.bar:g})")


if __name__ == "__main__":
    main()
