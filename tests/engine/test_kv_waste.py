"""What a request holds in the cache is its tokens and the unfilled part of its last page, nothing else.

The lengths are those of 8,819 requests to a real coding assistant (tests/data/README.md), none of them scaled.
"""

from __future__ import annotations

import csv
import gzip
from dataclasses import dataclass
from pathlib import Path

from engine.pages import PagePool
from engine.request import Request, SamplingParams
from engine.scheduler import Scheduler, Step

TRACE = Path(__file__).parents[1] / "data" / "azure_llm_2023_code.csv.gz"
CONTEXT = 8192
PAGE_SIZE = 16
PARAMS = SamplingParams(max_tokens=None, ignore_eos=True, detokenize=False)


@dataclass
class Holdings:
    """Pages held and tokens stored, at each request's end and summed over every step's running requests."""

    requests: int = 0
    pages_at_end: int = 0
    tokens_at_end: int = 0
    page_steps: int = 0
    token_steps: int = 0


def read_lengths() -> list[tuple[int, int]]:
    with gzip.open(TRACE, "rt", newline="") as file:
        return [(int(row["ContextTokens"]), int(row["GeneratedTokens"])) for row in csv.DictReader(file)]


def replay(lengths: list[tuple[int, int]], pool: PagePool) -> tuple[Holdings, Scheduler]:
    """Run the lengths through a scheduler; each prompt is of one token that no other has."""
    scheduler = Scheduler(pool, PAGE_SIZE, token_budget=1 << 16, max_running=256)
    for number, (prompt, output) in enumerate(lengths):
        request = Request(
            str(number), 0, [number] * prompt, prompt, PARAMS, (0, number), min(CONTEXT, prompt + output), arrived=0.0
        )
        scheduler.add(request)
    holdings = Holdings()
    while scheduler.has_work:
        step = scheduler.schedule()
        scheduler.advance(step)
        check_step(scheduler, holdings)
        take_tokens(scheduler, step, holdings)
    return holdings, scheduler


def check_step(scheduler: Scheduler, holdings: Holdings) -> None:
    """Once a step is computed, every running request holds the pages that its known tokens fill, and no more.

    A prompt of which this step computed only a part holds the pages of the rest too, so that counts as waste.
    """
    pages = 0
    for request in scheduler.running:
        pages += len(request.pages)
        holdings.token_steps += request.computed
        assert len(request.pages) == -(-len(request.tokens) // PAGE_SIZE)
    assert scheduler.pool.used == pages
    holdings.page_steps += pages


def take_tokens(scheduler: Scheduler, step: Step, holdings: Holdings) -> None:
    """Give every request that is computed its next token; the last one is never stored, since nothing follows it."""
    for request in step.tokens:
        if not request.awaited:
            continue
        request.accept(0)
        if len(request.tokens) == request.max_total:
            assert request.computed == request.max_total - 1
            holdings.requests += 1
            holdings.pages_at_end += len(request.pages)
            holdings.tokens_at_end += request.computed
            scheduler.remove(request)


def stored_tokens(lengths: list[tuple[int, int]]) -> list[int]:
    """Tokens whose key and value a request has stored at its end: all but the last one sampled."""
    return [min(CONTEXT, prompt + output) - 1 for prompt, output in lengths]


def pages_filled(tokens: list[int]) -> int:
    return sum(-(-count // PAGE_SIZE) for count in tokens)


def test_the_cache_wastes_the_ends_of_last_pages_and_nothing_else() -> None:
    lengths = read_lengths()
    holdings, scheduler = replay(lengths, PagePool(1 << 17, caching=False))
    stored = stored_tokens(lengths)
    assert (holdings.requests, holdings.tokens_at_end) == (8819, sum(stored))
    assert holdings.pages_at_end == pages_filled(stored)
    at_end = 1 - holdings.tokens_at_end / (holdings.pages_at_end * PAGE_SIZE)
    over_time = 1 - holdings.token_steps / (holdings.page_steps * PAGE_SIZE)
    print(f"\nKV waste of 8,819 requests: {at_end:.3%} at their ends, {over_time:.3%} over all steps")
    assert at_end < 0.02
    assert over_time < 0.02
    assert scheduler.pool.used == 0


def test_preemption_and_the_prefix_cache_waste_no_page_more() -> None:
    lengths = read_lengths()[:400]
    holdings, scheduler = replay(lengths, PagePool(1 << 12))
    stored = stored_tokens(lengths)
    assert scheduler.preemptions > 0
    assert holdings.tokens_at_end == sum(stored)
    assert holdings.pages_at_end == pages_filled(stored)
    assert scheduler.pool.used == 0
