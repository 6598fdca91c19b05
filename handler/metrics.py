"""Prometheus metrics under vLLM's names and with its meanings (vllm/v1/metrics/loggers.py), so dashboards just work."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from engine.request import Event, Finish, FinishReason, SamplingParams
from handler.epochs import Epochs, StartKind
from handler.record_metrics import LABELS, RecordCollector

if TYPE_CHECKING:
    from engine.engine import Engine
    from handler.billing.recorder import Recorder

FIRST_TOKEN_BUCKETS: Final = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
    160.0, 640.0, 2560.0,
)
TOKEN_BUCKETS: Final = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
)
REQUEST_BUCKETS: Final = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0,
    1920.0, 7680.0,
)
CHOICE_BUCKETS: Final = (1, 2, 5, 10, 20)

_PHASES: Final = {
    "e2e": ("e2e_request_latency_seconds", "Arrival to end."),
    "queue": ("request_queue_time_seconds", "Arrival to first scheduled."),
    "inference": ("request_inference_time_seconds", "First scheduled to end."),
    "prefill": ("request_prefill_time_seconds", "First scheduled to first token."),
    "decode": ("request_decode_time_seconds", "First token to end."),
}


def size_buckets(largest: int) -> list[int]:
    """1, 2, 5, 10, 20, 50, ... up to `largest`."""
    series, decade = [], 1
    while decade <= largest:
        series += [decade * step for step in (1, 2, 5) if decade * step <= largest]
        decade *= 10
    return series


class Metrics:
    """What the front end counts, from the events that pass it; the engine's own levels are read at the scrape."""

    def __init__(self, engine: Engine, model_name: str, epochs: Epochs, recorder: Recorder) -> None:
        self.registry = CollectorRegistry()
        self.labels = self._labels = (model_name, "0")
        self._prompt_tokens = self._counter("prompt_tokens", "Prompt tokens of requests that have ended.")
        self._cached_tokens = self._counter("prompt_tokens_cached", "Those taken from the prefix cache.")
        self._generation_tokens = self._counter("generation_tokens", "Generated tokens.")
        self._finished = Counter(
            "vllm:request_success", "Choices that ended, by the reason.", (*LABELS, "finished_reason"),
            registry=self.registry,
        )
        self._starts = Counter(
            "pilotlight_requests", "Requests, by what they found: a worker fresh, restored or warm.",
            (*LABELS, "start_kind"), registry=self.registry,
        )
        sizes = size_buckets(engine.plan.max_model_len)
        self._prompt_size = self._histogram("request_prompt_tokens", sizes, "Prompt tokens of a choice.")
        self._output_size = self._histogram("request_generation_tokens", sizes, "Generated tokens of a choice.")
        self._params_length = self._histogram("request_params_max_tokens", sizes, "The parameter max_tokens.")
        self._params_n = self._histogram("request_params_n", CHOICE_BUCKETS, "The parameter n.")
        self._first_token = self._histogram("time_to_first_token_seconds", FIRST_TOKEN_BUCKETS, "From the arrival.")
        self._inter_token = self._histogram("inter_token_latency_seconds", TOKEN_BUCKETS, "From token to token.")
        self._per_token = self._histogram(
            "request_time_per_output_token_seconds", TOKEN_BUCKETS, "A choice's mean from token to token."
        )
        self._phases = {
            phase: self._histogram(name, REQUEST_BUCKETS, text) for phase, (name, text) in _PHASES.items()
        }
        self.registry.register(EngineCollector(engine, self._labels, epochs))
        self.registry.register(RecordCollector(recorder, self._labels))
        ProcessCollector(registry=self.registry)

    def include(self, collector: Collector) -> None:
        """Have these metrics in the exposition too."""
        self.registry.register(collector)

    def exposition(self) -> bytes:
        """Everything, in Prometheus' text format."""
        return generate_latest(self.registry)

    def count_start(self, kind: StartKind) -> None:
        """Count a request by what it found."""
        self._starts.labels(*self._labels, kind).inc()

    def watch(self, params: SamplingParams) -> Watch:
        """Begin to count one prompt's request."""
        self._params_n.observe(params.n)
        return Watch(self)

    def count_aborted(self, choices: int) -> None:
        """Count choices whose client went away."""
        if choices:
            self._count_end(FinishReason.ABORTED, choices)

    def count_tokens(self, tokens: int, gap: float | None) -> None:
        """Count a step's tokens of one choice; `gap` seconds after the choice's last ones."""
        self._generation_tokens.inc(tokens)
        if gap is not None:
            self._inter_token.observe(gap)

    def count_prompt(self, finish: Finish) -> None:
        """Count a prompt, once for all its choices."""
        self._prompt_tokens.inc(finish.prompt_tokens)
        self._cached_tokens.inc(finish.cached_tokens)

    def count_finish(self, finish: Finish) -> None:
        """Count a choice's end and the times it took."""
        self._count_end(finish.reason, 1)
        self._prompt_size.observe(finish.prompt_tokens)
        self._output_size.observe(finish.completion_tokens)
        self._params_length.observe(finish.max_tokens)
        timing = finish.timing
        self._phases["e2e"].observe(timing.finished - timing.arrived)
        if timing.scheduled is not None:
            self._phases["queue"].observe(timing.scheduled - timing.arrived)
            self._phases["inference"].observe(timing.finished - timing.scheduled)
        if timing.scheduled is not None and timing.first_token is not None:
            self._phases["prefill"].observe(timing.first_token - timing.scheduled)
        if timing.first_token is not None:
            self._first_token.observe(timing.first_token - timing.arrived)
            self._count_decode(timing.finished - timing.first_token, finish.completion_tokens - 1)

    def _count_decode(self, seconds: float, steps: int) -> None:
        self._phases["decode"].observe(seconds)
        if steps > 0:
            self._per_token.observe(seconds / steps)

    def _count_end(self, reason: FinishReason, choices: int) -> None:
        self._finished.labels(*self._labels, reason.value).inc(choices)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"vllm:{name}", text, LABELS, registry=self.registry).labels(*self._labels)

    def _histogram(self, name: str, buckets: tuple[float, ...] | list[int], text: str) -> Histogram:
        histogram = Histogram(f"vllm:{name}", text, LABELS, registry=self.registry, buckets=buckets)
        return histogram.labels(*self._labels)


class Watch:
    """Follows the events of one prompt's choices."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._last: dict[int, float] = {}

    def see(self, event: Event) -> None:
        """Count an event, at the time it is seen."""
        now = time.monotonic()
        if event.token_ids:
            last = self._last.get(event.choice)
            self._metrics.count_tokens(len(event.token_ids), None if last is None else now - last)
            self._last[event.choice] = now
        if event.finish is not None:
            self._metrics.count_finish(event.finish)
            if event.choice == 0:
                self._metrics.count_prompt(event.finish)


class EngineCollector(Collector):
    """The engine's levels and counts as of the scrape, and the process's restores."""

    def __init__(self, engine: Engine, labels: tuple[str, ...], epochs: Epochs) -> None:
        self._engine = engine
        self._labels = labels
        self._epochs = epochs

    def collect(self) -> Iterator[Metric]:
        """The metrics, read anew."""
        now = self._engine.statistics()
        yield self._gauge("num_requests_running", "Requests that compute.", now.running)
        yield self._gauge("num_requests_waiting", "Requests that wait.", now.waiting)
        yield self._gauge("kv_cache_usage_perc", "Share of the KV cache in use, 1 is all.", now.pages_used / now.pages)
        yield self._count("prefix_cache_queries", "Prompt tokens looked up in the prefix cache.", now.prefix_queries)
        yield self._count("prefix_cache_hits", "Prompt tokens found in the prefix cache.", now.prefix_hits)
        yield self._count("num_preemptions", "Requests that gave their pages back to others.", now.preemptions)
        yield self._count(
            "kernel_compiles", "GPU kernels compiled in service; more than 0 means some were not shipped.",
            now.kernel_compiles, "pilotlight_",
        )
        yield self._count("restores", "Resumptions after a freeze.", self._epochs.current.number, "pilotlight_")
        yield self._cache_config()

    def _cache_config(self) -> Metric:
        plan = self._engine.plan
        facts = {
            "block_size": plan.page_size, "num_gpu_blocks": plan.pages, "enable_prefix_caching": plan.prefix_caching,
            "cache_dtype": plan.dtype,
        }
        names = [*LABELS, *facts]
        info = GaugeMetricFamily("vllm:cache_config_info", "The KV cache's shape.", labels=names)
        info.add_metric([*self._labels, *map(str, facts.values())], 1)
        return info

    def _gauge(self, name: str, text: str, value: float) -> Metric:
        family = GaugeMetricFamily(f"vllm:{name}", text, labels=LABELS)
        family.add_metric(self._labels, value)
        return family

    def _count(self, name: str, text: str, value: float, prefix: str = "vllm:") -> Metric:
        family = CounterMetricFamily(prefix + name, text, labels=LABELS)
        family.add_metric(self._labels, value)
        return family
