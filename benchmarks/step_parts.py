"""Where a step's time goes, by part: `python -m benchmarks.step_parts MODEL --workload FILE`."""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, cast

from rich.console import Console
from rich.table import Table
from torch import Tensor

from engine.bench import read_workload
from engine.boot import boot_core, open_cpu_operations
from engine.config import DType, EngineConfig
from engine.core import Core
from engine.engine import new_requests
from engine.request import SamplingParams
from kernels.operations import Attention, Linear, Operations


@dataclass
class Clock:
    """Seconds by part, of the step under way; a part within another is taken off it."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    _inner: list[float] = field(default_factory=list)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what happens inside under `name`."""
        self._inner.append(0.0)
        started = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - started
            self.seconds[name] += spent - self._inner.pop()
            if self._inner:
                self._inner[-1] += spent

    def take(self) -> dict[str, float]:
        """What was counted since the last time."""
        taken = dict(self.seconds)
        self.seconds.clear()
        return taken


class TimedLinear:
    """A projection on the clock."""

    def __init__(self, inner: Linear, clock: Clock, part: str) -> None:
        self._inner = inner
        self._clock = clock
        self._part = part

    def __call__(self, x: Tensor) -> Tensor:
        with self._clock.part(self._part):
            return self._inner(x)

    def pack(self) -> None:
        self._inner.pack()


class TimedAttention:
    """A step's attention on the clock."""

    def __init__(self, inner: Attention, clock: Clock) -> None:
        self._inner = inner
        self._clock = clock

    def attend(
        self, query: Tensor, key_cache: Tensor, value_cache: Tensor, scale: float, window: int | None = None,
        soft_cap: float | None = None,
    ) -> Tensor:
        with self._clock.part("attention"):
            return self._inner.attend(query, key_cache, value_cache, scale, window, soft_cap)


PARTS = {
    "rms_norm": "norms", "add_rms_norm": "norms", "silu_multiply": "activation", "rotate_and_cache": "rotary and cache",
    "draw": "sampling",
}
"""Methods of `Operations` whose time is counted, and under which part."""


class TimedOperations:
    """Operations on the clock.

    Attributes:
        counts: tokens by request of the latest step.
    """

    def __init__(self, inner: Operations, clock: Clock, vocabulary: int) -> None:
        self._inner = inner
        self._clock = clock
        self._vocabulary = vocabulary
        self.counts: Sequence[int] = ()

    def __getattr__(self, name: str) -> Any:
        inner = getattr(self._inner, name)
        return self._timed(inner, PARTS[name]) if name in PARTS else inner

    def _timed(self, method: Callable[..., Any], part: str) -> Callable[..., Any]:
        def timed(*arguments: Any, **more: Any) -> Any:
            with self._clock.part(part):
                return method(*arguments, **more)

        return timed

    def linear(self, weight: Tensor, bias: Tensor | None, *, exact: bool = False) -> Linear:
        """A projection on the clock; the head apart from the layers'."""
        part = "head" if len(weight) == self._vocabulary else "linears"
        return TimedLinear(self._inner.linear(weight, bias, exact=exact), self._clock, part)

    def attention(
        self, starts: Sequence[int], counts: Sequence[int], page_tables: Tensor, page_size: int
    ) -> Attention:
        """A step's attention on the clock."""
        self.counts = counts
        with self._clock.part("attention"):
            return TimedAttention(self._inner.attention(starts, counts, page_tables, page_size), self._clock)


@dataclass(frozen=True, slots=True)
class StepTimes:
    """One step's seconds by part, and how many tokens it computed for how many requests."""

    requests: int
    tokens: int
    parts: Mapping[str, float]


def run(model: Path, workload: Path, dtype: DType) -> list[StepTimes]:
    """The whole workload, step by step, after the work that a boot puts off."""
    clock = Clock()
    config = EngineConfig(str(model), device="cpu", dtype=dtype, skip_tokenizer_init=True)
    vocabulary = json.loads((model / "config.json").read_text())["vocab_size"]
    operations = TimedOperations(open_cpu_operations(config), clock, vocabulary)
    booted = boot_core(config, operations=cast(Operations, operations))
    booted.core.finish_deferred()
    order = itertools.count()
    for number, job in enumerate(read_workload(workload)):
        params = SamplingParams(max_tokens=job.max_tokens, temperature=0, ignore_eos=True, detokenize=False)
        for request in new_requests(
            job.ids, params, request_id=str(number), order=order.__next__, max_model_len=booted.plan.max_model_len,
            vocab_size=vocabulary,
        ):
            booted.core.add(request)
    return list(timed_steps(booted.core, clock, operations))


def timed_steps(core: Core, clock: Clock, operations: TimedOperations) -> Iterator[StepTimes]:
    """Run the core to its end."""
    while core.has_work:
        with clock.part("scheduler, inputs, rest"):
            core.step()
        yield StepTimes(len(operations.counts), sum(operations.counts), clock.take())


def summary(steps: Sequence[StepTimes]) -> dict[str, Any]:
    """Mean milliseconds a step by part, for steps that only decode and for those with prompt tokens."""
    decodes = [step for step in steps if step.tokens == step.requests]
    prefills = [step for step in steps if step.tokens > step.requests]
    return {"decode": _mean(decodes), "with prompt tokens": _mean(prefills)}


def _mean(steps: Sequence[StepTimes]) -> dict[str, Any]:
    if not steps:
        return {"steps": 0}
    names = {name for step in steps for name in step.parts}
    parts = {name: 1000 * fmean(step.parts.get(name, 0.0) for step in steps) for name in names}
    return {
        "steps": len(steps), "tokens_a_step": fmean(step.tokens for step in steps),
        "milliseconds": sum(parts.values()),
        "parts": dict(sorted(parts.items(), key=lambda item: -item[1])),
    }


def show(figures: Mapping[str, Any], render: Callable[[Table], object]) -> None:
    """A table a kind of step."""
    for kind, found in figures.items():
        if not found["steps"]:
            continue
        title = f"{kind}: {found['steps']} steps of {found['tokens_a_step']:.1f} tokens"
        table = Table("part", "ms a step", "share", title=title)
        for name, milliseconds in found["parts"].items():
            table.add_row(name, f"{milliseconds:.2f}", f"{milliseconds / found['milliseconds']:.0%}")
        table.add_row("in all", f"{found['milliseconds']:.2f}", "")
        render(table)


def main() -> None:
    """Read the command line, run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--workload", type=Path, required=True)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    figures = summary(run(arguments.model, arguments.workload, arguments.dtype))
    show(figures, Console(file=sys.stdout).print)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
