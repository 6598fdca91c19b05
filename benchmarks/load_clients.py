"""Clients of a running engine: so many at once, or arriving by chance at a rate."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.bench import Job
from engine.engine import Engine
from engine.percentiles import percentiles
from engine.request import SamplingParams


@dataclass(slots=True)
class Served:
    """When a request was due and when each of its tokens was read, monotonic seconds."""

    due: float
    arrivals: list[float] = field(default_factory=list)

    @property
    def gaps(self) -> Iterator[float]:
        """Seconds between neighbouring tokens."""
        return (later - earlier for earlier, later in zip(self.arrivals, self.arrivals[1:], strict=False))


async def serve(engine: Engine, job: Job, due: float) -> Served:
    """Submit one request and read it to its end."""
    served = Served(due)
    params = SamplingParams(max_tokens=job.max_tokens, temperature=0, ignore_eos=True)
    async for event in engine.stream(engine.submit(job.ids, params)):
        served.arrivals += [time.monotonic()] * len(event.token_ids)
    return served


def random_jobs(
    draw: random.Random, count: int, vocabulary: int, prompt: tuple[int, int], output: tuple[int, int]
) -> list[Job]:
    """Prompts of random tokens, lengths drawn evenly from the two ranges."""
    return [
        Job([draw.randrange(vocabulary) for _ in range(draw.randint(*prompt))], draw.randint(*output))
        for _ in range(count)
    ]


async def all_at_once(engine: Engine, jobs: Sequence[Job]) -> float:
    """Output tokens a second from the first request to the last token."""
    started = time.monotonic()
    await asyncio.gather(*(serve(engine, job, started) for job in jobs))
    return sum(job.max_tokens for job in jobs) / (time.monotonic() - started)


async def saturate(engine: Engine, jobs: Sequence[Job], clients: int) -> float:
    """Requests a second that the engine finishes when `clients` always wait for an answer.

    Counted while all of them are at work: from the first answer's end to when the last request is taken.
    """
    waiting, done = iter(jobs), list[Served]()
    last_start = time.monotonic()

    async def client() -> None:
        nonlocal last_start
        for job in waiting:
            last_start = time.monotonic()
            done.append(await serve(engine, job, last_start))

    await asyncio.gather(*(client() for _ in range(clients)))
    begin = min(served.arrivals[-1] for served in done)
    tokens = sum(begin < arrival <= last_start for served in done for arrival in served.arrivals)
    return tokens / (last_start - begin) / statistics.fmean(job.max_tokens for job in jobs)


async def arrive(engine: Engine, jobs: Sequence[Job], rate: float, draw: random.Random) -> dict[str, Any]:
    """Percentiles of the wait for the first token and between tokens, requests arriving by chance (Poisson).

    A wait counts from when the request was due, whether or not the client was late to send it.

    Args:
        rate: requests a second.
    """
    due, tasks = time.monotonic(), list[asyncio.Task[Served]]()
    for job in jobs:
        due += draw.expovariate(rate)
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        tasks.append(asyncio.create_task(serve(engine, job, due)))
    served = await asyncio.gather(*tasks)
    return {
        "requests": len(jobs), "requests_per_s": rate,
        "ttft_s": percentiles([one.arrivals[0] - one.due for one in served]),
        "itl_s": percentiles([gap for one in served for gap in one.gaps]),
    }
