"""Which requests compute how many tokens in the next step.

There is no prefill phase and no decode phase. Every request has tokens still to compute: its prompt at first, one
after each sampled token, everything again after a preemption. A step is a budget of tokens shared out among them,
running requests first, then waiting ones, both by priority and arrival. Chunked prefill, mixed batches and prefix
hits follow from that one count (the idea is vLLM V1's unified scheduler).
"""

from __future__ import annotations

import heapq
from bisect import insort
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain

from engine.pages import PagePool, chain_hash
from engine.request import Request, State


@dataclass(frozen=True, slots=True)
class Step:
    """What to compute: tokens by request, and the requests that lost their pages to make room."""

    tokens: dict[Request, int] = field(default_factory=dict)
    preempted: list[Request] = field(default_factory=list)


class Scheduler:
    """Owns the queues and every request's pages.

    Contract: `schedule` a step, start to compute it, `accept` the tokens that the step before it sampled, `advance`,
    `remove` what ended. The next step may be scheduled while the sampled tokens are still awaited; pages that change
    hands meanwhile are safe, because the device computes steps in order. A request is removed exactly once, in any
    state. A request whose `max_total` needs more pages than the pool has must not be added: it could never finish.
    """

    def __init__(self, pool: PagePool, page_size: int, token_budget: int, max_running: int) -> None:
        assert token_budget >= max_running
        self.pool = pool
        self.page_size = page_size
        self._token_budget = token_budget
        self._max_running = max_running
        self._waiting: list[tuple[tuple[int, int], Request]] = []
        self._running: list[Request] = []
        self._waiting_count = 0
        self._waiting_tokens = 0
        self.preemptions = 0
        self.prefix_queries = 0
        self.prefix_hits = 0

    @property
    def running(self) -> tuple[Request, ...]:
        """Requests that hold pages, best first."""
        return tuple(self._running)

    @property
    def running_count(self) -> int:
        return len(self._running)

    @property
    def waiting_count(self) -> int:
        return self._waiting_count

    @property
    def waiting_tokens(self) -> int:
        """Prompt tokens of the requests that wait; choices of one prompt share them."""
        return self._waiting_tokens

    @property
    def has_work(self) -> bool:
        return bool(self._running or self._waiting_count)

    def pages_for(self, tokens: int) -> int:
        """Pages that `tokens` tokens fill, the last one perhaps in part."""
        return -(-tokens // self.page_size)

    def add(self, request: Request) -> None:
        """Queue a new request."""
        assert self.pages_for(request.max_total) <= self.pool.total
        self._enqueue(request)

    def schedule(self) -> Step:
        """Share out the budget of one step, taking pages for it."""
        step = Step()
        budget = self._schedule_running(step, self._token_budget)
        if not step.preempted:
            self._schedule_waiting(step, budget)
        return step

    def advance(self, step: Step) -> None:
        """Record that a step is under way: whatever is computed after it finds its tokens' keys and values in place.

        Requests that ended since it was scheduled are passed over.
        """
        for request, count in step.tokens.items():
            if request.state is State.ENDED:
                continue
            request.awaited = count == request.remaining
            request.computed += count
            if request.computed >= (request.published + 1) * self.page_size:
                self.publish(request)

    def publish(self, request: Request) -> None:
        """Let others find the request's full pages, as far as their tokens are known."""
        full = min(request.computed, len(request.tokens)) // self.page_size
        if full > request.published and self.pool.caching:
            self._extend_hashes(request, full)
            for index in range(request.published, full):
                self.pool.publish(request.pages[index], request.page_hashes[index])
            request.published = full

    def remove(self, request: Request) -> None:
        """Forget a request and give back its pages."""
        assert request.state is not State.ENDED
        if request.state is State.RUNNING:
            self._running.remove(request)
            self._give_back_pages(request)
        else:
            self._leave_queue(request)
        request.state = State.ENDED

    def distrust(self, request: Request) -> None:
        """Let nobody find what a running request computed or read: a fault may have corrupted it."""
        self.pool.forget(request.pages)

    def _enqueue(self, request: Request) -> None:
        request.state = State.WAITING
        heapq.heappush(self._waiting, (request.key, request))
        self._waiting_count += 1
        self._waiting_tokens += request.own_prompt

    def _leave_queue(self, request: Request) -> None:
        self._waiting_count -= 1
        self._waiting_tokens -= request.own_prompt

    def _schedule_running(self, step: Step, budget: int) -> int:
        work = [(request, request.remaining) for request in self._running]
        # Decodes come before the rest of a long prompt, or the prompt would stall every stream for a step.
        decodes, prompts = [item for item in work if item[1] == 1], [item for item in work if item[1] > 1]
        for request, remaining in chain(decodes, prompts):
            if not budget:
                break
            count = min(remaining, budget)
            if request.state is State.RUNNING and self._grow(request, count, step):
                step.tokens[request] = count
                budget -= count
        return budget

    def _grow(self, request: Request, count: int, step: Step) -> bool:
        """Take the pages that `count` more tokens need, preempting from the tail; False if `request` itself had to go.

        A prompt holds its pages from the start, so only decodes come to need one, and those are scheduled best first:
        a victim is never in the step already.
        """
        if request.computed + count <= len(request.pages) * self.page_size:
            return True
        missing = self.pages_for(request.computed + count) - len(request.pages)
        while missing > self.pool.available:
            victim = self._running[-1]
            assert victim not in step.tokens
            self._preempt(victim)
            step.preempted.append(victim)
            if victim is request:
                return False
        request.pages += self.pool.allocate(missing)
        return True

    def _preempt(self, victim: Request) -> None:
        self._running.remove(victim)
        self._give_back_pages(victim)
        victim.computed = victim.published = 0
        victim.preemptions += 1
        self.preemptions += 1
        self._enqueue(victim)

    def _schedule_waiting(self, step: Step, budget: int) -> None:
        held_back: list[Request] = []
        while budget and len(self._running) < self._max_running and (request := self._next_waiting()):
            if request.leader is not None and request.leader.state is not State.ENDED and request.leader.prefilling:
                held_back.append(heapq.heappop(self._waiting)[1])
                continue
            if not self._admit(request):
                break
            heapq.heappop(self._waiting)
            count = min(request.remaining, budget)
            step.tokens[request] = count
            budget -= count
        for request in held_back:
            heapq.heappush(self._waiting, (request.key, request))

    def _next_waiting(self) -> Request | None:
        while self._waiting:
            request = self._waiting[0][1]
            if request.state is State.WAITING:
                return request
            heapq.heappop(self._waiting)
        return None

    def _admit(self, request: Request) -> bool:
        """Give a waiting request its cached prefix and pages for all its known tokens, if they are to be had.

        Asking for all of them, not only the first chunk's, keeps a long prompt from being admitted and preempted
        over and over.
        """
        cached = self.pool.peek(self._matchable(request))
        needed = self.pages_for(len(request.tokens)) - len(cached)
        if needed > self.pool.available - self.pool.idle_among(cached):
            return False
        request.pages = self.pool.match(request.page_hashes[: len(cached)])
        request.pages += self.pool.allocate(needed)
        request.published = len(cached)
        request.computed = len(cached) * self.page_size
        self._count_prefix(request)
        request.state = State.RUNNING
        self._leave_queue(request)
        insort(self._running, request, key=lambda request: request.key)
        return True

    def _matchable(self, request: Request) -> Iterator[bytes]:
        """Hashes of the pages a request may take from the cache, computed as far as they are asked for."""
        if request.params.prompt_logprobs is not None or not self.pool.caching:
            return
        # At least one token must be computed, or there is nothing to sample from.
        for index in range((len(request.tokens) - 1) // self.page_size):
            self._extend_hashes(request, index + 1)
            yield request.page_hashes[index]

    def _extend_hashes(self, request: Request, pages: int) -> None:
        hashes, size = request.page_hashes, self.page_size
        for index in range(len(hashes), pages):
            parent = hashes[-1] if hashes else request.salt
            hashes.append(chain_hash(parent, request.tokens[index * size : (index + 1) * size]))

    def _count_prefix(self, request: Request) -> None:
        if request.cached_tokens is None:
            request.cached_tokens = request.computed
            self.prefix_queries += request.prompt_length
            self.prefix_hits += request.computed

    def _give_back_pages(self, request: Request) -> None:
        self.pool.release(request.pages)
        request.pages = []
