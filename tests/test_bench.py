"""What the benchmarks count, on work whose counts are known."""

from __future__ import annotations

import json
import statistics
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.bench import Bench, InvalidWorkload, Job, read_workload
from engine.config import EngineConfig
from engine.percentiles import percentiles
from handler.bench import Call, Endpoint, EndpointUnusable, InvalidTrace, measure, read_trace, same_requests

JOBS = [Job(list(range(20, 37)), 20), Job(list(range(50, 68)), 40)]


@given(st.lists(st.floats(0, 1e6), min_size=2))
def test_percentiles_are_those_of_the_standard_library(values: list[float]) -> None:
    hundredths = statistics.quantiles(values, n=100, method="inclusive")
    expected = [hundredths[share - 1] for share in (50, 95, 99)]
    assert list(percentiles(values).values()) == pytest.approx(expected, abs=1e-6)


def test_percentiles_of_nothing() -> None:
    assert percentiles([]) == {"p50": None, "p95": None, "p99": None}


def test_workload_is_read(tmp_path: Path) -> None:
    file = tmp_path / "workload"
    file.write_text('{"ids": [1, 2], "max_tokens": 3}\n\n{"ids": [4], "max_tokens": 5}\n')
    assert read_workload(file) == [Job([1, 2], 3), Job([4], 5)]


@pytest.mark.parametrize(
    "line",
    [
        "nonsense", "[]", "{}", '{"ids": [], "max_tokens": 1}', '{"ids": [1.5], "max_tokens": 1}',
        '{"ids": [true], "max_tokens": 1}', '{"ids": [1], "max_tokens": 0}', '{"ids": [1], "max_tokens": 1, "top": 2}',
        '{"ids": "12", "max_tokens": 1}', "\xff",
    ],
)
def test_a_bad_line_is_named_by_its_number(line: str, tmp_path: Path) -> None:
    file = tmp_path / "workload"
    file.write_bytes(b'{"ids": [1], "max_tokens": 1}\n' + line.encode("latin-1"))
    with pytest.raises(InvalidWorkload, match="line 2"):
        read_workload(file)


def test_an_empty_workload_is_refused(tmp_path: Path) -> None:
    (tmp_path / "workload").touch()
    with pytest.raises(InvalidWorkload):
        read_workload(tmp_path / "workload")


def test_offline_counts() -> None:
    advanced: list[int] = []
    result, answers = Bench(EngineConfig(kv_memory=64 << 20), JOBS).run(advanced.append)
    assert [len(ids) for ids in answers] == [20, 40]
    assert (result.requests, result.prompt_tokens, result.output_tokens, sum(advanced)) == (2, 35, 60, 60)
    assert (result.steps, result.preemptions, result.kv.page_size) == (40, 0, 16)
    # The first holds 17 + 19 tokens at the most, in 3 pages; the second then 18 + 19, in 3 as well, and 4 at its end.
    assert result.kv.peak_used == 6
    assert result.kv.waste_fraction == pytest.approx(expected_waste(), abs=1e-9)
    assert result.output_tokens_per_s == pytest.approx(60 / result.seconds)


def expected_waste() -> float:
    """Unfilled slots by slots held, after each step, of the two jobs run together."""
    steps = []
    for step in range(40):
        lengths = [len(job.ids) + step for job in JOBS if step < job.max_tokens]
        slots = sum(-(-length // 16) * 16 for length in lengths)
        steps.append(1 - sum(lengths) / slots)
    return statistics.mean(steps)


def test_offline_under_preemption_gives_the_same_tokens() -> None:
    config = EngineConfig(kv_memory=64 << 20, dtype="float32")
    _, calm = Bench(config, JOBS).run(lambda count: None)
    page_bytes = Bench(config, JOBS).plan.page_bytes
    result, pressed = Bench(EngineConfig(kv_memory=5 * page_bytes, dtype="float32"), JOBS).run(lambda count: None)
    assert result.preemptions > 0
    assert result.kv.peak_used <= result.kv.pages == 5
    assert pressed == calm


@pytest.mark.parametrize("job", [Job([5] * 3000, 1), Job([5], 5000), Job([10**6], 1)])
def test_a_request_that_cannot_run_is_refused(job: Job) -> None:
    with pytest.raises(InvalidWorkload, match="request 1"):
        Bench(EngineConfig(kv_memory=64 << 20), [job]).run(lambda count: None)


class FakeEndpoint(BaseHTTPRequestHandler):
    """Streams as many pieces as tokens were asked for; refuses prompts of `refused` tokens."""

    received: ClassVar[list[dict[str, object]]] = []
    refused = 13

    def do_GET(self) -> None:
        self._send(200, b'{"data": [{"id": "fake", "max_model_len": 100}]}')

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.received.append(body)
        if len(body["prompt"]) == self.refused:
            self._send(429, b'{"error": {"message": "full"}}')
            return
        pieces = [{"choices": [{"text": "x"}]} for _ in range(body["max_tokens"])]
        usage = {"choices": [], "usage": {"completion_tokens": body["max_tokens"]}}
        lines = [f"data: {json.dumps(piece)}\n\n" for piece in [*pieces, usage]]
        self._send(200, "".join([*lines, "data: [DONE]\n\n"]).encode())

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    FakeEndpoint.received.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), FakeEndpoint) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield Endpoint(f"http://127.0.0.1:{server.server_port}/v1/", timeout=60)
        server.shutdown()


def test_closed_loop_counts(endpoint: Endpoint) -> None:
    advanced: list[int] = []
    result = measure(endpoint, same_requests("hello", 5, 10), 3, advanced.append)
    assert (result.requests, result.failed, result.clipped, sum(advanced)) == (10, 0, 0, 10)
    assert result.output_tokens_per_s == pytest.approx(50 / result.seconds)
    assert result.requests_per_s == pytest.approx(10 / result.seconds)
    assert None not in (*result.ttft_s.values(), *result.itl_s.values(), *result.e2e_s.values())
    assert all(body["model"] == "fake" and body["stream"] for body in FakeEndpoint.received)


def test_failures_are_counted_and_named(endpoint: Endpoint) -> None:
    calls = [Call(12, 2), Call(13, 2), Call(13, 2), Call(14, 2)]
    result = measure(endpoint, calls, 2, lambda count: None)
    assert (result.requests, result.failed) == (4, 2)
    assert [error[:8] for error in result.errors] == ["HTTP 429"]


def test_nothing_listening_is_an_error() -> None:
    with pytest.raises(EndpointUnusable, match=r"127\.0\.0\.1:9"):
        measure(Endpoint("http://127.0.0.1:9"), same_requests("hello", 1, 1), 1, lambda count: None)


def test_a_trace_is_replayed_in_time_and_clipped(endpoint: Endpoint, tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    rows = ["03.9799600,40,3", "05.9799600,400,3", "04.9799600,50,300", "06.9799600,1,1"]
    lines = ["TIMESTAMP,ContextTokens,GeneratedTokens", *(f"2023-11-16 18:17:{row}" for row in rows)]
    trace.write_text("\n".join(lines) + "\n")
    calls = read_trace(trace, 3, speed=10)
    assert [(call.prompt, call.at) for call in calls] == [
        (40, 0.0), (50, pytest.approx(0.1, abs=1e-5)), (400, pytest.approx(0.2, abs=1e-5)),
    ]
    result = measure(endpoint, calls, 8, lambda count: None)
    assert (result.failed, result.clipped) == (0, 2)
    assert result.seconds >= 0.2
    lengths = [(len(body["prompt"]), body["max_tokens"]) for body in FakeEndpoint.received]  # type: ignore[arg-type]
    assert sorted(lengths) == [(40, 3), (50, 50), (99, 1)]


@pytest.mark.parametrize("row", ["yesterday,1,1", "2023-11-16 18:17:03,0,1", "2023-11-16 18:17:03,1", ""])
def test_a_bad_trace_is_refused(row: str, tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text(f"TIMESTAMP,ContextTokens,GeneratedTokens\n{row}\n")
    with pytest.raises(InvalidTrace):
        read_trace(trace, 5, speed=1)
