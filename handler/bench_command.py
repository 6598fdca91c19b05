"""`pilotlight bench`: measure the engine alone, or a running endpoint."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from engine.config import EngineConfig
from engine.display import note, progress, report, working
from engine.options import (
    ContextOption,
    DeterministicOption,
    DeviceOption,
    DTypeOption,
    JsonOption,
    MaxTokens,
    MemoryOption,
    Model,
    QuantizeOption,
)

app = typer.Typer(no_args_is_help=True, help="Measure: the engine alone, or a running endpoint.")


@app.command()
def offline(
    workload: Annotated[
        Path,
        typer.Option(exists=True, dir_okay=False, readable=True, help='Lines of {"ids": [..], "max_tokens": n}.'),
    ],
    model: Model = "demo",
    tokens_out: Annotated[
        Path | None, typer.Option(dir_okay=False, writable=True, help="Gets each request's output ids, a line each.")
    ] = None,
    device: DeviceOption = "auto",
    dtype: DTypeOption = "auto",
    max_model_len: ContextOption = None,
    kv_memory: MemoryOption = None,
    quantize: QuantizeOption = "none",
    deterministic: DeterministicOption = False,
    as_json: JsonOption = False,
) -> None:
    """All requests of a file at once through the engine; greedy, end of sequence ignored."""
    from engine.bench import Bench, read_workload

    jobs = read_workload(workload)
    if tokens_out is not None:
        tokens_out.touch()  # A place that cannot be written is better known before the run than after it.
    with working(f"loading {model}", as_json):
        config = EngineConfig(
            model, device, dtype, max_model_len, kv_memory, quantize=quantize, deterministic=deterministic
        )
        run = Bench(config, jobs)
    note(run.plan.lines())
    with progress("tokens", run.output_tokens, as_json) as advance:
        result, answers = run.run(advance)
    if tokens_out is not None:
        tokens_out.write_text("".join(f"{json.dumps(ids)}\n" for ids in answers))
    report(asdict(result), as_json)


@app.command()
def http(
    url: Annotated[str, typer.Option(help="Where the endpoint listens, such as http://127.0.0.1:8000.")],
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="Requests under way at once; default: 8, or 1024 for a trace.")
    ] = None,
    requests: Annotated[int, typer.Option(min=1, help="Requests in all; of a trace, its first ones.")] = 64,
    trace: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="CSV of TIMESTAMP,ContextTokens,GeneratedTokens to replay."),
    ] = None,
    speed: Annotated[float, typer.Option(min=0.001, help="Replay the trace this many times as fast.")] = 1.0,
    prompt: Annotated[str, typer.Option(help="What to send without a trace.")] = "Count from 3 to 33.",
    max_tokens: MaxTokens = 64,
    api_key: Annotated[str | None, typer.Option(envvar="PILOTLIGHT_API_KEY", help="What to present.")] = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds after which a request counts as failed.")] = 300.0,
    as_json: JsonOption = False,
) -> None:
    """Load a running endpoint: a fixed number of requests at once, or a trace's arrivals and lengths."""
    from handler.bench import Endpoint, measure, read_trace, same_requests

    endpoint = Endpoint(url, api_key, timeout)
    plan = read_trace(trace, requests, speed) if trace else same_requests(prompt, max_tokens, requests)
    with progress("requests", len(plan), as_json) as advance:
        result = measure(endpoint, plan, concurrency or (1024 if trace else 8), advance)
    report(asdict(result), as_json)
    if result.failed:
        raise typer.Exit(1)
