"""Cold starts: `python -m benchmarks.cold_start --json FILE`.

From exec to the first byte of the first token, beside OpenVINO GenAI and transformers; the memory it takes until then;
and how fast the weights come in, beside `dd` and other loaders. Every run is a fresh process in a lane that was
prepared and then probed, the sides in turns, so that a slow minute of the machine meets all of them. Environments and
models, and what others convert these to, are made on the first run and kept. `--quick` is a tiny shape and our own
sides alone; `--check` fails when a promise does not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from benchmarks import cold_memory
from benchmarks.cold_bars import bars, different_tokens, rate_rows, token_rows
from benchmarks.cold_models import Model, convert, find
from benchmarks.cold_rates import DD, ENVIRONMENTS, LOADERS, load
from benchmarks.cold_tables import bar_table, memory_table, rate_table, token_table
from benchmarks.cold_tokens import OURS, PEERS, first_token
from benchmarks.environments import CACHE, interpreter
from benchmarks.machine import describe
from engine.lanes import Lane

Figures = dict[str, Any]
Run = Callable[[Model, Lane, str], Figures]

LANES: tuple[Lane, ...] = ("resident", "weights-cold")
PARTS = ("tokens", "memory", "loaders")


def measure(
    what: str, models: Sequence[Model], sides: Sequence[str], rounds: int, run: Run, warm_up: int = 1
) -> list[Figures]:
    """Every run's figures, the sides in turns.

    Args:
        warm_up: rounds that are not counted: OpenVINO compiles in its first, and libraries come from storage.
    """
    turns = [(model, lane, side) for model in models for lane in LANES for side in sides]
    planned = [(number, turn) for number in range(-warm_up, rounds) for turn in turns]
    runs = []
    for number, turn in track(planned, what, console=Console(stderr=True)):
        figures = run(*turn)
        if number >= 0:
            runs.append(figures | {"round": number, "load_average": os.getloadavg()[0]})
    return runs


def measure_part(part: str, arguments: argparse.Namespace, interpreters: Mapping[str, Path]) -> list[Figures]:
    """Every run's figures of one part of the benchmark."""
    models = [find(name, arguments.folder) for name in arguments.models]
    rounds, warm_up = arguments.rounds, 0 if arguments.quick else 1
    if part == "tokens":
        if "openvino" in interpreters:
            for model in models:
                convert(model, interpreters["openvino"])
        return measure("first tokens", models, arguments.sides, rounds, lambda model, lane, side: first_token(
            side, model, lane, interpreters
        ), warm_up)
    if part == "memory":
        own = interpreters.get(OURS, Path(sys.executable))
        return measure("memory", models, [OURS], 1, lambda model, lane, _: cold_memory.measure(model, lane, own), 0)
    return measure("loaders", models, arguments.loaders, rounds, lambda model, lane, loader: load(
        loader, model, lane, interpreters
    ), warm_up)


def needed(arguments: argparse.Namespace) -> set[str]:
    """The environments of the sides and loaders that take part."""
    sides = {PEERS[side][0] for side in arguments.sides if side != OURS} if "tokens" in arguments.parts else set()
    if not arguments.quick:
        sides.add(OURS)
    loaders = {ENVIRONMENTS[loader] for loader in arguments.loaders if loader != DD}
    return sides | ({name for name in loaders if name} if "loaders" in arguments.parts else set())


def report(figures: Figures) -> Figures:
    """The runs with what they come to."""
    tokens, rates = token_rows(figures.get("tokens", [])), rate_rows(figures.get("loaders", []))
    promises = [asdict(bar) for bar in bars(tokens, figures.get("memory", []), rates)]
    summary = {"tokens": tokens, "loaders": rates, "different_tokens": different_tokens(figures.get("tokens", []))}
    return figures | {"summary": summary, "bars": promises}


def show(figures: Figures) -> None:
    """Print what was measured."""
    console, summary = Console(), figures["summary"]
    for table, rows in (
        (token_table, summary["tokens"]), (memory_table, figures.get("memory", [])), (rate_table, summary["loaders"]),
        (bar_table, figures["bars"]),
    ):
        if rows:
            console.print(table(rows))
    for name in summary["different_tokens"]:
        console.print(f"another token than ours: {name}")


def main() -> None:
    """Read the command line, measure, print and write."""
    arguments = read_arguments()
    interpreters = {name: interpreter(name, arguments.envs) for name in sorted(needed(arguments))}
    kept = json.loads(arguments.json.read_text()) if arguments.json and arguments.json.exists() else {}
    found = {part: measure_part(part, arguments, interpreters) for part in arguments.parts}
    figures = report({part: kept[part] for part in PARTS if part in kept} | describe() | found)
    show(figures)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    if arguments.check and not all(bar["holds"] for bar in figures["bars"]):
        sys.exit(1)


def read_arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sides, models = [OURS, *PEERS], ["135m", "demo", "tiny"]
    parser.add_argument("--sides", nargs="+", choices=sides, metavar="SIDE", help=", ".join(sides))
    parser.add_argument("--loaders", nargs="+", choices=LOADERS, metavar="LOADER", help=", ".join(LOADERS))
    parser.add_argument("--models", nargs="+", choices=models, metavar="MODEL", help=", ".join(models))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what the others say stays in FILE")
    parser.add_argument("--rounds", type=int, help="counted ones; 5, or 1 with --quick")
    parser.add_argument("--folder", type=Path, default=CACHE.parent / "cold_start", help="where models are kept")
    parser.add_argument("--envs", type=Path, default=CACHE, help="where the peers' environments are kept")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every run's figures here")
    parser.add_argument("--quick", action="store_true", help="a tiny shape, no peers that must be installed")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a promise does not hold")
    arguments = parser.parse_args()
    quick = arguments.quick
    own = [name for name in LOADERS if ENVIRONMENTS.get(name) is None]
    arguments.sides = arguments.sides or ([OURS] if quick else sides)
    arguments.loaders = arguments.loaders or (own if quick else list(LOADERS))
    arguments.models = arguments.models or (["tiny"] if quick else ["135m", "demo"])
    arguments.rounds = arguments.rounds or (1 if quick else 5)
    arguments.folder, arguments.envs = arguments.folder.resolve(), arguments.envs.resolve()
    return arguments


if __name__ == "__main__":
    main()
