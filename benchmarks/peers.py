"""Pilotlight beside its peers on the same requests: `python -m benchmarks.peers`.

Makes the model (135 million parameters, random bfloat16 weights) and the workload (24 requests of 64 to 384 prompt and
32 to 128 output tokens), and for every peer a virtual environment that is kept. Each side runs in a fresh process, the
sides in turns, so that a slow minute of the machine meets all of them; seconds count from the first submission to the
last token. Prints a table of medians and writes every run's figures as JSON.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.environments import CACHE, interpreter
from benchmarks.machine import describe
from benchmarks.make_model import SHAPES, make_model
from benchmarks.make_workload import make_workload

HERE = Path(__file__).parent
OURS = "pilotlight"


@dataclass(frozen=True, slots=True)
class Peer:
    """A side that is not ours.

    Attributes:
        environment: the virtual environment it runs in.
        arguments: what its script is given besides what every script is given.
        converts: whether it reads the model in a form of its own, made on its first run.
    """

    environment: str
    arguments: tuple[str, ...] = ()
    converts: bool = False

    @property
    def script(self) -> Path:
        """The command that runs it, in its environment."""
        return HERE / f"peer_{self.environment}.py"


PEERS = {
    "openvino": Peer("openvino", converts=True),
    "openvino-u8-cache": Peer("openvino", ("--kv-cache", "u8"), converts=True),
    "transformers-continuous": Peer("transformers", ("--mode", "continuous")),
    "transformers-static": Peer("transformers", ("--mode", "static")),
    "transformers-single": Peer("transformers", ("--mode", "single")),
    "llama.cpp": Peer("llama_cpp", converts=True),
}


@dataclass(frozen=True, slots=True)
class Task:
    """What every side is given: a model folder, a workload file, a dtype, threads, and a folder for what it writes."""

    model: Path
    workload: Path
    dtype: str
    threads: int
    scratch: Path

    def command(self, side: str, interpreters: Mapping[str, Path]) -> list[str]:
        """The command that runs a side; its last line is JSON, its tokens go to `tokens(side)`."""
        given = [str(self.model), "--workload", str(self.workload), "--dtype", self.dtype]
        given += ["--tokens-out", str(self.tokens(side))]
        if side == OURS:
            return [sys.executable, "-m", "pilotlight", "bench", "offline", *given, "--device", "cpu", "--json"]
        peer = PEERS[side]
        converted = self.scratch / f"{peer.environment}-{self.dtype}"
        own = ["--threads", str(self.threads), *peer.arguments, *(["--converted", str(converted)] * peer.converts)]
        return [str(interpreters[peer.environment]), str(peer.script), *given, *own]

    def tokens(self, side: str) -> Path:
        """Where a side writes each request's output ids, a list a line."""
        return self.scratch / f"{side}-{self.dtype}.jsonl"


def run(command: Sequence[str]) -> dict[str, Any]:
    """One side's figures.

    Raises:
        RuntimeError: the command failed, with the end of what it said.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=HERE.parent)
    if done.returncode:
        raise RuntimeError(f"{shlex.join(command)} failed: {done.stderr[-2000:]}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def agreement(ours: Path, theirs: Path) -> float:
    """The share of output tokens that come before a request's first difference."""
    pairs = list(zip(_read_tokens(ours), _read_tokens(theirs), strict=True))
    return sum(_common_prefix(*pair) for pair in pairs) / sum(len(mine) for mine, _ in pairs)


def _read_tokens(file: Path) -> list[list[int]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def _common_prefix(mine: list[int], other: list[int]) -> int:
    pairs = enumerate(zip(mine, other, strict=False))
    return next((index for index, (left, right) in pairs if left != right), min(len(mine), len(other)))


def measure(
    tasks: Sequence[Task], sides: Sequence[str], rounds: int, interpreters: Mapping[str, Path],
    prefix: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Every run's figures, the sides in turns; each run says how far its tokens are those of our last run."""
    runs = []
    turns = [(number, task, side) for number in range(rounds) for task in tasks for side in sides]
    for number, task, side in track(turns, "measuring", console=Console(stderr=True)):
        figures = run([*prefix, *task.command(side, interpreters)])
        figures |= {"side": side, "dtype": task.dtype, "round": number}
        if OURS in sides:
            figures["equal_tokens"] = agreement(task.tokens(OURS), task.tokens(side))
        runs.append(figures)
    return runs


def summary(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each dtype and side: median, lowest and highest output tokens a second, and how many times that ours is."""
    rows = [
        {"dtype": dtype, "side": side, **spread(run for run in runs if (run["dtype"], run["side"]) == (dtype, side))}
        for dtype, side in dict.fromkeys((run["dtype"], run["side"]) for run in runs)
    ]
    ours = {row["dtype"]: row["median"] for row in rows if row["side"] == OURS}
    return [row | {"ours_is": ours[row["dtype"]] / row["median"] if row["dtype"] in ours else None} for row in rows]


def spread(runs: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """One side's rates over the rounds, and the least share of its tokens that were ours."""
    taken = list(runs)
    rates = [run["output_tokens_per_s"] for run in taken]
    equal = [run["equal_tokens"] for run in taken if "equal_tokens" in run]
    return {
        "median": statistics.median(rates), "lowest": min(rates), "highest": max(rates),
        "equal_tokens": min(equal, default=None),
    }


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """The summary, for the terminal."""
    drawn = Table("dtype", "side", "output tokens/s", "lowest", "highest", "Pilotlight is", "tokens as ours")
    for row in rows:
        rates = [f"{row[name]:.1f}" for name in ("median", "lowest", "highest")]
        times = "" if row["ours_is"] is None else f"{row['ours_is']:.2f} x"
        equal = "" if row["equal_tokens"] is None else f"{row['equal_tokens']:.1%}"
        drawn.add_row(row["dtype"], row["side"], *rates, times, equal)
    return drawn


def main() -> None:
    """Read the command line, measure, print and write."""
    arguments = read_arguments()
    needed = {PEERS[side].environment for side in arguments.sides if side != OURS}
    interpreters = {name: interpreter(name, arguments.envs) for name in sorted(needed)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = arguments.model or make_model(folder / "model", arguments.shape)
        vocabulary = json.loads((model / "config.json").read_text())["vocab_size"]
        work = arguments.workload or make_workload(folder / "workload.jsonl", vocabulary=vocabulary)
        tasks = [Task(model, work, dtype, arguments.threads, folder) for dtype in arguments.dtype]
        runs = measure(tasks, arguments.sides, arguments.rounds, interpreters, shlex.split(arguments.prefix))
    rows = summary(runs)
    Console().print(table(rows))
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        about = describe() | {"model": model.name if arguments.model else arguments.shape, "threads": arguments.threads}
        arguments.json.write_text(json.dumps({**about, "summary": rows, "runs": runs}, indent=1) + "\n")


def absolute(path: str) -> Path:
    """A path that holds in any working folder."""
    return Path(path).resolve()


def read_arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sides = [OURS, *PEERS]
    parser.add_argument("--sides", nargs="+", default=sides, choices=sides, metavar="SIDE", help=", ".join(sides))
    parser.add_argument("--dtype", nargs="+", default=["float32"], choices=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2, help="of each peer; ours takes what the machine has")
    parser.add_argument("--shape", choices=SHAPES, default="135m", help="of the model that is made")
    parser.add_argument("--model", type=absolute, help="a Llama folder to take instead, bfloat16")
    parser.add_argument("--workload", type=absolute, help="a workload to take instead of the one made")
    parser.add_argument("--envs", type=absolute, default=CACHE, help="where the peers' environments are kept")
    parser.add_argument("--prefix", default="", help="put before each side's command, as 'taskset -c 0,1'")
    parser.add_argument("--json", type=Path, help="write every run's figures here")
    return parser.parse_args()


if __name__ == "__main__":
    main()
