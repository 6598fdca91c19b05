"""What the host's part of a step costs beside a model that costs nothing: `python -m benchmarks.scheduler_cost`.

Every request decodes, with pages that grow, a prefix cache that is told of them, and the demo's tokenizer turning
tokens into text. Prints a table by number of running requests; `--json` and `--plot` write the figures and the curve;
`--check` exits 1 when the bar is missed: at 256 requests 5 % of a step of 20 ms, and a cost that grows no faster than
the batch.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import math
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.machine import describe
from benchmarks.plot import Curve, draw
from engine.core import Core, Sample, Samples
from engine.engine import Engine, Model, new_requests
from engine.pages import PagePool
from engine.plan import Plan
from engine.request import SamplingParams
from engine.scheduler import Scheduler, Step
from engine.source import DEMO
from engine.submission import Submission
from engine.text import Tokenizer

SIZES = tuple(2**power for power in range(11))
"""Running requests: 1 to 1024."""
BAR_SIZE, BAR_SECONDS = 256, 0.05 * 0.020
BAR_EXPONENT = 1.1
"""Cost may grow as batch ** this; more than 1 only for what the clock and the caches add."""
PAGE_SIZE = 16
PROMPT = (64, 512)
"""Lengths drawn from this range spread the requests' new pages over the steps."""
ENGLISH = "The flame is kept small and steady so that the burner lights at once when somebody turns the tap. "


@dataclass(frozen=True, slots=True)
class Side:
    """One way to run the core."""

    name: str
    text: bool
    overlap: bool


SIDES = (
    Side("token ids", text=False, overlap=False), Side("text", text=True, overlap=False),
    Side("text, steps overlapped", text=True, overlap=True),
)
BAR_SIDES = ("text", "text, steps overlapped")


@dataclass(frozen=True, slots=True)
class Cost:
    """Median seconds a step, in all and of its parts, over the steps of one run."""

    side: str
    requests: int
    seconds: float
    parts: dict[str, float]


class ConstantModel:
    """A runner that computes nothing: each step gives every request the same token, the next of a text."""

    def __init__(self, token_ids: Sequence[int]) -> None:
        self._samples = itertools.cycle([Sample(token_id) for token_id in token_ids])

    def launch(self, step: Step) -> Samples:
        """Done at once; prompts that end in this step are sampled like the rest."""
        samples = dict.fromkeys(step.tokens, next(self._samples))
        return lambda: samples

    compilations = 0

    def defer(self) -> bool:
        """Nothing is put off."""
        return False

    def release(self, request: object) -> None:
        """Nothing is kept."""


class Stopwatch:
    """Seconds spent in calls that are put on it, since it was last read."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    def timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """`call`, its time counted under `name`."""

        def run(*arguments: Any) -> Any:
            started = time.perf_counter()
            result = call(*arguments)
            self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - started
            return result

        return run

    def read(self) -> dict[str, float]:
        """What was counted, by name; begins anew."""
        seconds, self._seconds = self._seconds, {}
        return seconds


def make_core(running: int, steps: int, tokenizer: Tokenizer, overlap: bool) -> Core:
    """A core over the constant model, with room for `running` requests that generate `steps` tokens each."""
    pages = running * -(-(PROMPT[1] + steps) // PAGE_SIZE)
    scheduler = Scheduler(PagePool(pages), PAGE_SIZE, running * PROMPT[1], running)
    model = ConstantModel(tokenizer.encode(ENGLISH, add_special_tokens=False))
    return Core(scheduler, model, tokenizer, overlap)


def prompts(count: int, vocabulary: int) -> Iterator[list[int]]:
    """Random token ids, nothing shared."""
    draw_from = random.Random(0)
    for _ in range(count):
        yield [draw_from.randrange(vocabulary) for _ in range(draw_from.randint(*PROMPT))]


def add_requests(core: Core, running: int, steps: int, text: bool, vocabulary: int) -> None:
    """Requests that end with the run and not before."""
    order = itertools.count()
    params = SamplingParams(max_tokens=steps, temperature=0, ignore_eos=True, detokenize=text)
    for number, prompt in enumerate(prompts(running, vocabulary)):
        for request in new_requests(
            prompt, params, request_id=str(number), order=order.__next__, max_model_len=PROMPT[1] + steps,
            vocab_size=vocabulary,
        ):
            core.add(request)


def step_costs(core: Core, steps: int) -> tuple[list[float], list[dict[str, float]]]:
    """Seconds of `steps` steps that only decode, and of their parts; the model's own are taken off."""
    watch = Stopwatch()
    core.scheduler.schedule = watch.timed("schedule", core.scheduler.schedule)  # type: ignore[method-assign]
    core.scheduler.advance = watch.timed("advance", core.scheduler.advance)  # type: ignore[method-assign]
    model = core._runner  # noqa: SLF001
    model.launch = watch.timed("model", model.launch)  # type: ignore[method-assign]
    core.step()  # Every prompt.
    core.step()
    watch.read()
    seconds, parts = [], []
    for _ in range(steps):
        started = time.perf_counter()
        core.step()
        whole, split = time.perf_counter() - started, watch.read()
        seconds.append(whole - split.pop("model"))
        parts.append({**split, "accept, text and events": seconds[-1] - sum(split.values())})
    return seconds, parts


def core_cost(side: Side, running: int, steps: int, tokenizer: Tokenizer) -> Cost:
    """The cost of a step of the core."""
    core = make_core(running, steps + 3, tokenizer, side.overlap)
    add_requests(core, running, steps + 3, side.text, tokenizer.vocab_size)
    seconds, parts = step_costs(core, steps)
    middle = {name: statistics.median(part[name] for part in parts) for name in parts[0]}
    return Cost(side.name, running, statistics.median(seconds), middle)


def engine_cost(running: int, steps: int, tokenizer: Tokenizer) -> Cost:
    """The cost of a step of the whole engine: its thread, delivery, and an event loop that reads every stream."""
    core = make_core(running, steps, tokenizer, overlap=False)
    plan = Plan(
        "cpu", "float32", "none", False, 1, 0, 0, PAGE_SIZE, core.scheduler.pool.total, 1, PROMPT[1] + steps, running,
        running * PROMPT[1], running, True,
    )
    engine = Engine(core, Model("constant", Path(), tokenizer, None, tokenizer.vocab_size), plan)
    seconds = asyncio.run(_read_all(engine, running, steps)) / core.steps
    return Cost("engine, every stream read", running, seconds, {})


async def _read_all(engine: Engine, running: int, steps: int) -> float:
    """Seconds from the first step to the last event read; the engine starts when every request is queued."""
    params = SamplingParams(max_tokens=steps, temperature=0, ignore_eos=True)
    streams = [engine.submit(prompt, params) for prompt in prompts(running, engine.model.vocab_size)]

    async def read(stream: Submission) -> None:
        async for _ in engine.stream(stream):
            pass

    started = time.perf_counter()
    engine.start()
    await asyncio.gather(*map(read, streams))
    seconds = time.perf_counter() - started
    engine.stop()
    return seconds


def measure(sizes: Sequence[int], repeats: int, steps: int) -> list[Cost]:
    """Every side at every size; repeats take turns, so that a slow minute of the machine meets all."""
    tokenizer = Tokenizer.from_folder(DEMO)
    return [
        cost for _ in range(repeats) for running in sizes
        for cost in (
            *(core_cost(side, running, steps, tokenizer) for side in SIDES), engine_cost(running, steps, tokenizer)
        )
    ]


@dataclass(frozen=True, slots=True)
class Summary:
    """Repeats of one side at one size: their median, lowest and highest seconds a step, and the parts' medians."""

    side: str
    requests: int
    median: float
    lowest: float
    highest: float
    parts: dict[str, float]


def summarise(costs: Sequence[Cost]) -> list[Summary]:
    """The repeats put together."""
    found = []
    for side, requests in dict.fromkeys((cost.side, cost.requests) for cost in costs):
        same = [cost for cost in costs if (cost.side, cost.requests) == (side, requests)]
        seconds = [cost.seconds for cost in same]
        parts = {name: statistics.median(cost.parts[name] for cost in same) for name in same[0].parts}
        found.append(Summary(side, requests, statistics.median(seconds), min(seconds), max(seconds), parts))
    return found


def exponent(sizes: Sequence[int], seconds: Sequence[float]) -> float:
    """The power of the batch that the cost grows with: the least-squares slope of their logarithms."""
    x, y = [math.log(size) for size in sizes], [math.log(value) for value in seconds]
    return statistics.linear_regression(x, y).slope


def missed(summaries: Sequence[Summary]) -> list[str]:
    """What misses the bar, a line each."""
    problems = []
    for side in BAR_SIDES:
        at = {summary.requests: summary.median for summary in summaries if summary.side == side}
        if at.get(BAR_SIZE, 0.0) > BAR_SECONDS:
            problems.append(f"{side}: {1000 * at[BAR_SIZE]:.2f} ms at {BAR_SIZE} requests, more than 1 ms")
        large = [size for size in at if size >= BAR_SIZE // 4]
        if len(large) > 1 and (power := exponent(large, [at[size] for size in large])) > BAR_EXPONENT:
            problems.append(f"{side}: grows as batch ** {power:.2f}")
    return problems


def table(summaries: Sequence[Summary]) -> Table:
    """Milliseconds a step."""
    names = list(dict.fromkeys(name for summary in summaries for name in summary.parts))
    drawn = Table("requests", "side", "ms a step", "lowest", "highest", "µs a request", *names)
    for found in sorted(summaries, key=lambda summary: summary.requests):
        figures = [found.median, found.lowest, found.highest]
        parts = [f"{1000 * found.parts[name]:.3f}" if name in found.parts else "" for name in names]
        each = f"{1e6 * found.median / found.requests:.2f}"
        drawn.add_row(
            str(found.requests), found.side, *(f"{1000 * figure:.3f}" for figure in figures), each, *parts
        )
    return drawn


def plot(summaries: Sequence[Summary], file: Path) -> None:
    """The curve of every side, and the bar."""
    curves = {}
    for side in dict.fromkeys(summary.side for summary in summaries):
        points = [summary for summary in summaries if summary.side == side]
        spread = [(1000 * point.lowest, 1000 * point.highest) for point in points]
        curves[side] = Curve([point.requests for point in points], [1000 * point.median for point in points], spread)
    sizes = sorted({summary.requests for summary in summaries})
    curves["5 % of 20 ms"] = Curve(sizes, [1000 * BAR_SECONDS] * len(sizes), dashed=True)
    draw(file, "The host's part of a step, model excluded", "running requests", "ms a step", curves)


def main() -> None:
    """Read the command line, measure, print, write, check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=100, help="steps that only decode, in each run")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--plot", type=Path, help="write the curve to this SVG file")
    parser.add_argument("--check", action="store_true", help="exit 1 when the bar is missed")
    arguments = parser.parse_args()
    costs = measure(arguments.sizes, arguments.repeats, arguments.steps)
    summaries = summarise(costs)
    problems = missed(summaries)
    Console(width=140).print(table(summaries))
    for problem in problems:
        print(problem, file=sys.stderr)
    if arguments.json:
        settings = {"repeats": arguments.repeats, "steps": arguments.steps, "missed": problems}
        figures = {"summary": [asdict(found) for found in summaries], "runs": [asdict(cost) for cost in costs]}
        arguments.json.write_text(json.dumps({**describe(), **settings, **figures}, indent=1) + "\n")
    if arguments.plot:
        plot(summaries, arguments.plot)
    sys.exit(1 if arguments.check and problems else 0)


if __name__ == "__main__":
    main()
