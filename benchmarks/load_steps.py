"""What one arrival does to a running engine, seen step by step: a long prompt, a prefix that others have computed."""

from __future__ import annotations

import itertools
import random
import statistics
import time
from collections.abc import Iterator
from typing import Any

from engine.boot import Booted
from engine.engine import new_requests
from engine.percentiles import percentiles
from engine.request import Event, SamplingParams


class Stage:
    """A booted core, driven by hand."""

    def __init__(self, booted: Booted, seed: int = 0) -> None:
        self.core = booted.core
        self.plan = booted.plan
        self._vocabulary = booted.model.vocab_size
        self._draw = random.Random(seed)
        self._order = itertools.count()

    def prompt(self, length: int) -> list[int]:
        """Random token ids, new each time."""
        return [self._draw.randrange(self._vocabulary) for _ in range(length)]

    def add(self, prompt: list[int], max_tokens: int) -> str:
        """Queue a greedy request; its name."""
        name = f"stage-{next(self._order)}"
        params = SamplingParams(max_tokens=max_tokens, temperature=0, ignore_eos=True)
        [request] = new_requests(
            prompt, params, request_id=name, order=self._order.__next__, max_model_len=self.plan.max_model_len,
            vocab_size=self._vocabulary,
        )
        self.core.add(request)
        return name

    def steps(self) -> Iterator[tuple[float, list[Event]]]:
        """Seconds and events of each step, for as long as there is work."""
        while self.core.has_work:
            started = time.perf_counter()
            events = self.core.step()
            yield time.perf_counter() - started, events

    def until_token(self, name: str) -> list[float]:
        """Seconds of each step up to the one that brings the request its first token."""
        seconds = []
        for spent, events in self.steps():
            seconds.append(spent)
            if any(event.request_id == name and event.token_ids for event in events):
                return seconds
        raise AssertionError(f"{name} ended without a token")

    def cached(self, name: str) -> int:
        """Prompt tokens that a running request found in the prefix cache."""
        [request] = [request for request in self.core.scheduler.running if request.id == name]
        return request.cached_tokens or 0

    def clear(self) -> None:
        """End everything."""
        for request in self.core.scheduler.running:
            self.core.abort(request.id)


def long_prompt(stage: Stage, length: int, others: int, repeats: int) -> dict[str, Any]:
    """A prompt of `length` tokens arrives while `others` decode: their gaps until its first token, and its steps alone.

    The gap of a request that decodes is the time of a step, for each step gives it one token. The deepest step of the
    same prompt computed alone is one budgeted step where it costs most: attention looks back furthest there.
    """
    runs = [_long_prompt_once(stage, length, others) for _ in range(repeats)]
    whole = [spent for run in runs for spent in run["alone"][: length // stage.plan.token_budget]]
    gaps = [gap for run in runs for gap in run["gaps"] for _ in range(others)]
    budgeted = statistics.median(max(run["alone"]) for run in runs)
    return {
        "prompt_tokens": length, "others": others, "token_budget": stage.plan.token_budget, "runs": runs,
        "quiet_itl_s": percentiles([gap for run in runs for gap in run["quiet"]]), "itl_s": percentiles(gaps),
        "budgeted_step_s": {"mean": statistics.fmean(whole), "deepest": budgeted},
        "ratio": statistics.median(max(run["gaps"]) / max(run["alone"]) for run in runs),
    }


def _long_prompt_once(stage: Stage, length: int, others: int) -> dict[str, list[float]]:
    alone = stage.until_token(stage.add(stage.prompt(length), 2))
    stage.clear()
    names = [stage.add(stage.prompt(32), 512) for _ in range(others)]
    stage.until_token(names[-1])
    quiet = [spent for spent, _ in itertools.islice(stage.steps(), 16)]
    gaps = stage.until_token(stage.add(stage.prompt(length), 2))
    stage.clear()
    return {"alone": alone, "quiet": quiet, "gaps": gaps}


def shared_prefix(stage: Stage, prefix: int, own: int, repeats: int) -> dict[str, Any]:
    """Seconds to the first token of a prompt whose first `prefix` tokens are new, and of one that shares them."""
    times: dict[str, list[float]] = {"new": [], "shared": []}
    cached = dict[str, int]()
    for _ in range(repeats):
        beginning = stage.prompt(prefix)
        for kind, seconds in times.items():
            name = stage.add(beginning + stage.prompt(own), 2)
            seconds.append(sum(stage.until_token(name)))
            cached[kind] = stage.cached(name)
            stage.clear()
    return {
        "prefix_tokens": prefix, "own_tokens": own, "cached_tokens": cached,
        "new_s": times["new"], "shared_s": times["shared"],
        "ratio": statistics.median(times["new"]) / statistics.median(times["shared"]),
    }
