"""The SDK's local test, `test_input.json` or `--test_input JSON`, for a handler that is a generator.

The SDK's own prints such a handler's generator object and never runs it.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from handler.jobs import Jobs


def is_local_test(arguments: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Whether the SDK would run one job and exit: its rule (runpod/serverless/worker.py)."""
    if "--rp_serve_api" in arguments or environment.get("RUNPOD_REALTIME_PORT", "0") != "0":
        return False
    return _flag(arguments) is not None or "RUNPOD_WEBHOOK_GET_JOB" not in environment


def run_local_test(jobs: Jobs, arguments: Sequence[str]) -> int:
    """Run the job, print its outputs as a JSON list, and give the exit status."""
    try:
        job = _read_job(arguments)
    except (OSError, ValueError) as error:
        print(f"pilotlight: no job to test: {error}", file=sys.stderr)
        print("Give it in test_input.json or with --test_input; the queue is RUNPOD_WEBHOOK_GET_JOB.", file=sys.stderr)
        return 1
    outputs = asyncio.run(_collect(jobs, job))
    print(json.dumps(outputs, ensure_ascii=False))
    return int(any(isinstance(output, dict) and "error" in output for output in outputs))


async def _collect(jobs: Jobs, job: Mapping[str, Any]) -> list[Any]:
    return [output async for output in jobs.handle(job)]


def _read_job(arguments: Sequence[str]) -> Mapping[str, Any]:
    written = _flag(arguments)
    job = json.loads(Path("test_input.json").read_text(encoding="utf-8") if written is None else written)
    if not isinstance(job, dict) or job.get("input") is None:
        raise ValueError("it must be a JSON object with an input")
    return {"id": "local_test", **job}


def _flag(arguments: Sequence[str]) -> str | None:
    """The value of --test_input, given as one argument or as two."""
    for position, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name == "--test_input":
            return value if equals else next(iter(arguments[position + 1 :]), "")
    return None
