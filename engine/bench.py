"""How fast the engine alone is: a file of requests, all at once, greedy, end of sequence ignored."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from engine.config import EngineConfig
from engine.errors import PilotlightError
from engine.llm import LLM
from engine.pages import PagePool
from engine.percentiles import Percentiles, percentiles
from engine.plan import Plan
from engine.request import Event, Finish, SamplingParams
from engine.scheduler import Scheduler, Step


class InvalidWorkload(PilotlightError):
    """A line of a workload file that cannot be run, named by its number."""


@dataclass(frozen=True, slots=True)
class Job:
    """One request: its prompt's token ids and how many tokens to generate."""

    ids: list[int]
    max_tokens: int


@dataclass(frozen=True, slots=True)
class KVUse:
    """How the key-value cache was used.

    Attributes:
        page_size: in tokens.
        pages: how many there are.
        peak_used: the most that requests held at once.
        waste_fraction: of the token slots that requests hold, the share not filled, averaged over steps.
    """

    page_size: int
    pages: int
    peak_used: int
    waste_fraction: float


@dataclass(frozen=True, slots=True)
class Result:
    """What a run measured.

    `load_seconds` is the boot, the import of torch and the work that serving puts off until after the first token
    included; `seconds` begins after it.
    """

    requests: int
    prompt_tokens: int
    output_tokens: int
    seconds: float
    output_tokens_per_s: float
    load_seconds: float
    ttft_s: Percentiles
    itl_s: Percentiles
    kv: KVUse
    steps: int
    preemptions: int


def read_workload(file: Path) -> list[Job]:
    """The requests in `file`, a JSON object a line: `{"ids": [..], "max_tokens": n}`.

    Raises:
        InvalidWorkload: a line is something else, or there is none.
    """
    lines = file.read_bytes().splitlines()
    jobs = [_read_job(line, f"{file}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not jobs:
        raise InvalidWorkload(f"{file} holds no request")
    return jobs


def _read_job(line: bytes, where: str) -> Job:
    try:
        fields = json.loads(line)
    except ValueError as error:
        raise InvalidWorkload(f"{where}: not JSON: {error}") from None
    if not isinstance(fields, dict) or fields.keys() != {"ids", "max_tokens"}:
        raise InvalidWorkload(f'{where}: not an object with "ids" and "max_tokens"')
    ids, max_tokens = fields["ids"], fields["max_tokens"]
    if not isinstance(ids, list) or not ids or not all(type(token) is int and token >= 0 for token in ids):
        raise InvalidWorkload(f"{where}: ids must be a list of one or more token ids")
    if type(max_tokens) is not int or max_tokens < 1:
        raise InvalidWorkload(f"{where}: max_tokens must be a whole number above 0")
    return Job(ids, max_tokens)


class Bench:
    """A model, loaded, and what it is to be measured on.

    Raises:
        PilotlightError: the model cannot be loaded.
    """

    def __init__(self, config: EngineConfig, jobs: Sequence[Job]) -> None:
        started = time.monotonic()
        self._llm = LLM(**asdict(replace(config, skip_tokenizer_init=True)))
        self._llm.booted.core.finish_deferred()
        self._load_seconds = time.monotonic() - started
        self._jobs = jobs
        self.plan: Plan = self._llm.booted.plan

    @property
    def output_tokens(self) -> int:
        """Tokens that a run generates."""
        return sum(job.max_tokens for job in self._jobs)

    def run(self, on_tokens: Callable[[int], object]) -> tuple[Result, list[list[int]]]:
        """What was measured, and each request's output ids.

        Args:
            on_tokens: told how many tokens each event brought.

        Raises:
            PilotlightError: a request cannot run on this model, or failed.
        """
        for number, job in enumerate(self._jobs, 1):
            _check_fits(job, number, self.plan.max_model_len, self._llm.booted.model.vocab_size)
        meter = _Meter(on_tokens)
        core, plan = self._llm.booted.core, self.plan
        gauge = core.scheduler = _Gauge(core.scheduler.pool, plan)
        params = [
            SamplingParams(max_tokens=job.max_tokens, temperature=0.0, ignore_eos=True, detokenize=False)
            for job in self._jobs
        ]
        started = time.monotonic()
        answers = self._llm.generate([job.ids for job in self._jobs], params, on_event=meter.take)
        seconds = time.monotonic() - started
        result = Result(
            len(self._jobs), sum(len(job.ids) for job in self._jobs), meter.tokens, seconds, meter.tokens / seconds,
            self._load_seconds, percentiles(meter.first), percentiles(meter.gaps), gauge.use(), core.steps,
            gauge.preemptions,
        )
        return result, [answer.outputs[0].token_ids for answer in answers]


class _Gauge(Scheduler):
    """A scheduler that reads how full its pages are at the end of each step, before finished requests leave them."""

    def __init__(self, pool: PagePool, plan: Plan) -> None:
        super().__init__(pool, plan.page_size, plan.token_budget, plan.max_running)
        self._peak_used = 0
        self._wasted: list[float] = []

    def advance(self, step: Step) -> None:
        """Take in what is computed, and read."""
        super().advance(step)
        slots = sum(len(request.pages) for request in self.running) * self.page_size
        filled = sum(request.computed for request in self.running)
        self._wasted.append(1 - filled / slots)
        self._peak_used = max(self._peak_used, self.pool.used)

    def use(self) -> KVUse:
        """What was read."""
        return KVUse(self.page_size, self.pool.total, self._peak_used, sum(self._wasted) / len(self._wasted))


@dataclass(slots=True)
class _Meter:
    """When tokens came."""

    on_tokens: Callable[[int], object]
    tokens: int = 0
    first: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    _latest: dict[str, float] = field(default_factory=dict)

    def take(self, event: Event) -> None:
        """Note an event's tokens.

        Raises:
            PilotlightError: the request failed.
        """
        now = time.monotonic()
        if event.finish is not None:
            self._finish(event.finish)
        if event.request_id in self._latest:
            self.gaps.append(now - self._latest[event.request_id])
        self._latest[event.request_id] = now
        self.tokens += len(event.token_ids)
        self.on_tokens(len(event.token_ids))

    def _finish(self, finish: Finish) -> None:
        if finish.error is not None:
            raise PilotlightError(finish.error)
        if finish.timing.first_token is not None:
            self.first.append(finish.timing.first_token - finish.timing.arrived)


def _check_fits(job: Job, number: int, context: int, vocabulary: int) -> None:
    if len(job.ids) + job.max_tokens > context:
        total = f"{len(job.ids)} + {job.max_tokens}"
        raise InvalidWorkload(f"request {number} needs {total} tokens; the context holds {context}")
    if max(job.ids) >= vocabulary:
        raise InvalidWorkload(f"request {number} has token id {max(job.ids)}; the vocabulary has {vocabulary}")
