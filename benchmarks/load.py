"""How the engine behaves under load, on the model it is given: `python -m benchmarks.load MODEL --json FILE`.

Four parts, each under five minutes at the 135m shape (`--part` runs one): `concurrency`, output tokens a second at 1 to
128 requests at once; `long-prompt`, what a 4,000-token prompt does to those that decode; `shared-prefix`, what a prefix
already computed saves; `latency`, percentiles at 50, 80 and 95 % of the highest load. `--check` exits 1 when a bar is
missed. The model needs a context above 4,000 tokens: `python -m benchmarks.make_model FOLDER --context 8192`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.load_clients import all_at_once, arrive, random_jobs, saturate
from benchmarks.load_steps import Stage, long_prompt, shared_prefix
from benchmarks.machine import describe
from benchmarks.plot import Curve, draw
from engine.boot import Booted, boot_core
from engine.config import EngineConfig
from engine.engine import Engine

PARTS = ("concurrency", "long-prompt", "shared-prefix", "latency")
LOADS = (0.5, 0.8, 0.95)
FALL_NOISE = 0.03
"""A median this much under the best of fewer requests is the clock's noise and not a fall."""
LEAST_GAIN_AT_32, MOST_STEPS_A_GAP, LEAST_PREFIX_GAIN = 8.0, 1.2, 4.0


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured; lengths in tokens, ranges inclusive.

    Attributes:
        levels: requests at once.
        long: length of the prompt that arrives among `others` that decode.
        requests: that find the highest load, and arrive at each share of it.
        clients: that together make the highest load.
    """

    repeats: int = 3
    levels: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128)
    level_prompt: int = 32
    level_output: int = 64
    long: int = 4000
    others: int = 8
    prefix: int = 1000
    own: int = 32
    requests: int = 160
    clients: int = 32
    prompt: tuple[int, int] = (16, 128)
    output: tuple[int, int] = (16, 96)


QUICK = Sizes(
    repeats=1, levels=(1, 2, 4), level_output=8, long=1200, prefix=256, requests=12, clients=4, prompt=(8, 32),
    output=(4, 16),
)
"""To see that all of it runs; the figures mean nothing."""


def measure(model: Path, dtype: str, parts: Sequence[str], sizes: Sizes) -> dict[str, Any]:
    """Every part's figures, on one booted engine with its deferred work done."""
    config = EngineConfig(str(model), device="cpu", dtype=dtype, prefix_caching=True)  # type: ignore[arg-type]
    booted = boot_core(config)
    booted.core.finish_deferred()
    found = {"plan": asdict(booted.plan), "sizes": asdict(sizes), **_stepwise(booted, parts, sizes)}
    if {"concurrency", "latency"} & set(parts):
        found |= asyncio.run(_with_clients(booted, parts, sizes))
    return found


def _stepwise(booted: Booted, parts: Sequence[str], sizes: Sizes) -> dict[str, Any]:
    """The parts that drive the core by hand."""
    stage, found = Stage(booted), dict[str, Any]()
    if "long-prompt" in parts:
        found["long-prompt"] = long_prompt(stage, sizes.long, sizes.others, sizes.repeats)
    if "shared-prefix" in parts:
        found["shared-prefix"] = shared_prefix(stage, sizes.prefix, sizes.own, 2 * sizes.repeats + 1)
    return found


async def _with_clients(booted: Booted, parts: Sequence[str], sizes: Sizes) -> dict[str, Any]:
    """The parts that load the engine through its public edge."""
    engine, chance, found = Engine(booted.core, booted.model, booted.plan), random.Random(0), dict[str, Any]()
    engine.start()
    if "concurrency" in parts:
        found["concurrency"] = await concurrency(engine, sizes, chance)
    if "latency" in parts:
        found["latency"] = await latency(engine, sizes, chance)
    await asyncio.to_thread(engine.stop)
    return found


async def concurrency(engine: Engine, sizes: Sizes, chance: random.Random) -> list[dict[str, Any]]:
    """Output tokens a second at each level; the levels take turns."""
    rates: dict[int, list[float]] = {level: [] for level in sizes.levels}
    prompt, output = (sizes.level_prompt,) * 2, (sizes.level_output,) * 2
    for _ in range(sizes.repeats):
        for level in sizes.levels:
            jobs = random_jobs(chance, level, engine.model.vocab_size, prompt, output)
            rates[level].append(await all_at_once(engine, jobs))
    return [
        {"requests": level, "output_tokens_per_s": statistics.median(found), "runs": found}
        for level, found in rates.items()
    ]


async def latency(engine: Engine, sizes: Sizes, chance: random.Random) -> dict[str, Any]:
    """The highest load, and the percentiles at shares of it."""
    def jobs() -> Any:
        return random_jobs(chance, sizes.requests, engine.model.vocab_size, sizes.prompt, sizes.output)

    highest = await saturate(engine, jobs(), sizes.clients)
    loads = [{"load": load, **await arrive(engine, jobs(), load * highest, chance)} for load in LOADS]
    return {"highest_requests_per_s": highest, "clients": sizes.clients, "loads": loads}


def missed(found: Mapping[str, Any]) -> list[str]:
    """What misses its bar, a line each; of the parts that were measured."""
    problems = falls(found.get("concurrency", ()))
    long, prefix = found.get("long-prompt"), found.get("shared-prefix")
    if long and long["ratio"] > MOST_STEPS_A_GAP:
        problems.append(f"a long prompt raises the others' gap to {long['ratio']:.2f} budgeted steps")
    if prefix and prefix["ratio"] < LEAST_PREFIX_GAIN:
        problems.append(f"a shared prefix cuts the first token's time {prefix['ratio']:.1f} times")
    return problems


def falls(levels: Sequence[Mapping[str, Any]]) -> list[str]:
    """Where more requests give fewer tokens a second, or 32 not enough more than one."""
    problems, best = [], 0.0
    for level in levels:
        rate = level["output_tokens_per_s"]
        if rate < best * (1 - FALL_NOISE):
            problems.append(f"{level['requests']} requests: {rate:.1f} tokens/s, fewer requests gave {best:.1f}")
        best = max(best, rate)
    rates = {level["requests"]: level["output_tokens_per_s"] for level in levels}
    if {1, 32} <= rates.keys() and (gain := rates[32] / rates[1]) < LEAST_GAIN_AT_32:
        problems.append(f"32 requests give {gain:.1f} times the tokens/s of one")
    return problems


def concurrency_table(levels: Sequence[Mapping[str, Any]]) -> Table:
    """Output tokens a second by requests at once."""
    drawn = Table("requests at once", "output tokens/s (median)", "lowest", "highest", "times one")
    for level in levels:
        rates = [level["output_tokens_per_s"], min(level["runs"]), max(level["runs"])]
        gain = rates[0] / levels[0]["output_tokens_per_s"]
        drawn.add_row(str(level["requests"]), *(f"{rate:.1f}" for rate in rates), f"{gain:.2f}")
    return drawn


def latency_table(found: Mapping[str, Any]) -> Table:
    """Milliseconds to the first token and between tokens."""
    title = f"highest load {found['highest_requests_per_s']:.2f} requests/s"
    drawn = Table("load", "requests/s", *(f"{kind} {p}, ms" for kind in ("first", "next") for p in _NAMES), title=title)
    for load in found["loads"]:
        shares = f"{load['load']:.0%}", f"{load['requests_per_s']:.2f}"
        drawn.add_row(*shares, *_row(load["ttft_s"]), *_row(load["itl_s"]))
    return drawn


_NAMES = ("p50", "p95", "p99")


def _row(of: Mapping[str, float]) -> list[str]:
    return [f"{1000 * of[name]:.0f}" for name in _NAMES]


def long_prompt_table(found: Mapping[str, Any]) -> Table:
    """Milliseconds between the others' tokens, and of the prompt's own steps."""
    title = f"{found['prompt_tokens']} tokens arrive among {found['others']}, {found['token_budget']} a step"
    drawn = Table("what", *(f"{name}, ms" for name in _NAMES), title=title)
    drawn.add_row("others' gaps, before", *_row(found["quiet_itl_s"]))
    drawn.add_row("others' gaps, until its first token", *_row(found["itl_s"]))
    drawn.add_row("a full step, alone: mean", f"{1000 * found['budgeted_step_s']['mean']:.0f}")
    drawn.add_row("a full step, alone: its deepest", f"{1000 * found['budgeted_step_s']['deepest']:.0f}")
    drawn.add_row("longest gap in deepest full steps", f"{found['ratio']:.2f}")
    return drawn


def shared_prefix_table(found: Mapping[str, Any]) -> Table:
    """Milliseconds to the first token."""
    drawn = Table("prefix", "first token, ms (median)", "lowest", "highest", title=f"{found['ratio']:.1f} times")
    for name in ("new", "shared"):
        times = found[f"{name}_s"]
        figures = (statistics.median(times), min(times), max(times))
        drawn.add_row(f"{found['prefix_tokens']} tokens, {name}", *(f"{1000 * figure:.1f}" for figure in figures))
    return drawn


TABLES: dict[str, Callable[[Any], Table]] = {
    "concurrency": concurrency_table, "long-prompt": long_prompt_table, "shared-prefix": shared_prefix_table,
    "latency": latency_table,
}


def plot(levels: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Output tokens a second over requests at once."""
    requests = [level["requests"] for level in levels]
    rates = [level["output_tokens_per_s"] for level in levels]
    curves = {
        "measured": Curve(requests, rates, [(min(level["runs"]), max(level["runs"])) for level in levels]),
        "one request's times their number": Curve(requests, [rates[0] * number for number in requests], dashed=True),
    }
    draw(file, "Throughput by requests at once", "requests at once", "output tokens a second", curves)


def main() -> None:
    """Read the command line, measure, print, write, check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--dtype", choices=["auto", "float32", "bfloat16"], default="auto")
    parser.add_argument("--json", type=Path, help="write the figures to this file; parts already there are kept")
    parser.add_argument("--plot", type=Path, help="write the concurrency curve to this SVG file")
    parser.add_argument("--quick", action="store_true", help="a few small requests, to see that it runs")
    parser.add_argument("--check", action="store_true", help="exit 1 when a bar is missed")
    arguments = parser.parse_args()
    found = measure(arguments.model, arguments.dtype, arguments.part, QUICK if arguments.quick else Sizes())
    console = Console(width=140)
    console.print(f"kernels {found['plan']['kernels']}, {found['plan']['dtype']}, {found['plan']['threads']} threads")
    for part in arguments.part:
        console.print(TABLES[part](found[part]))
    problems = missed(found)
    for problem in problems:
        print(problem, file=sys.stderr)
    if arguments.json:
        before = json.loads(arguments.json.read_text()) if arguments.json.exists() else {}
        arguments.json.write_text(json.dumps({**before, **describe(), **found}, indent=1) + "\n")
    if arguments.plot and "concurrency" in found:
        plot(found["concurrency"], arguments.plot)
    sys.exit(1 if arguments.check and problems else 0)


if __name__ == "__main__":
    main()
