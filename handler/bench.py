"""How fast a running endpoint is, seen from a client: OpenAI's completions route, streamed."""

from __future__ import annotations

import asyncio
import csv
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import httpx

from engine.errors import PilotlightError
from engine.percentiles import Percentiles, percentiles

_TOKEN_IDS = range(16, 256)
"""Prompts of a given length are drawn from these ids, which every vocabulary has."""


class EndpointUnusable(PilotlightError):
    """The endpoint does not answer, or not as OpenAI's API does."""


class InvalidTrace(PilotlightError):
    """A line of a trace that cannot be replayed, named by its number."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the requests go.

    Attributes:
        url: with or without `/v1` at its end.
        timeout: seconds a request may wait for its next bytes.
    """

    url: str
    api_key: str | None = None
    timeout: float = 300.0

    def client(self) -> httpx.AsyncClient:
        """A client with no bound on its connections of its own."""
        base = self.url.rstrip("/").removesuffix("/v1") + "/v1/"
        headers = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        limits = httpx.Limits(max_connections=None)
        return httpx.AsyncClient(base_url=base, headers=headers, timeout=self.timeout, limits=limits)


@dataclass(frozen=True, slots=True)
class Call:
    """One request to make.

    Attributes:
        prompt: text, or a number of tokens to make one up from.
        at: seconds after the start at which it arrives; None as soon as there is room for it.
    """

    prompt: str | int
    max_tokens: int
    at: float | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """What was measured; latencies are of the requests that did not fail.

    Attributes:
        clipped: requests cut to fit the endpoint's context.
        errors: how often each failure was met.
    """

    requests: int
    failed: int
    clipped: int
    seconds: float
    requests_per_s: float
    output_tokens_per_s: float
    ttft_s: Percentiles
    itl_s: Percentiles
    e2e_s: Percentiles
    errors: dict[str, int]


@dataclass(slots=True)
class _Tally:
    output_tokens: int = 0
    ttft: list[float] = field(default_factory=list)
    itl: list[float] = field(default_factory=list)
    e2e: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)

    def add(self, start: float, arrivals: Sequence[float], end: float, tokens: int) -> None:
        """Take in a finished request: when it began, when each piece of text came, its end, and the tokens it made."""
        self.output_tokens += tokens
        self.ttft.append(arrivals[0] - start)
        self.itl += [after - before for before, after in pairwise(arrivals)]
        self.e2e.append(end - start)


class _CallFailed(Exception):
    """The endpoint refused a request, or broke off."""


def same_requests(prompt: str, max_tokens: int, count: int) -> list[Call]:
    """`count` times the same request, each as soon as there is room."""
    return [Call(prompt, max_tokens)] * count


def read_trace(file: Path, count: int, speed: float) -> list[Call]:
    """The first `count` arrivals of a trace in the format of Azure's LLM inference traces, `speed` times as fast.

    Raises:
        InvalidTrace: it is no CSV, or a line is not of that format.
    """
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            rows = csv.DictReader(lines)
            read = [_read_row(row, f"{file}, line {rows.line_num}") for row in islice(rows, count)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InvalidTrace(f"{file} is no CSV: {error}") from None
    if not read:
        raise InvalidTrace(f"{file} holds no arrival")
    begin = min(when for when, _ in read)
    return [replace(call, at=(when - begin) / speed) for when, call in sorted(read, key=lambda arrival: arrival[0])]


def _read_row(row: dict[str, Any], where: str) -> tuple[float, Call]:
    try:
        when = datetime.fromisoformat(row["TIMESTAMP"]).timestamp()
        prompt, output = int(row["ContextTokens"]), int(row["GeneratedTokens"])
    except (KeyError, TypeError, ValueError):
        raise InvalidTrace(f"{where}: not TIMESTAMP,ContextTokens,GeneratedTokens") from None
    if prompt < 1 or output < 1:
        raise InvalidTrace(f"{where}: a request has 1 token or more on either side")
    return when, Call(prompt, output)


def measure(endpoint: Endpoint, calls: Sequence[Call], concurrency: int, on_done: Callable[[int], object]) -> Result:
    """Make the calls, at most `concurrency` at once, and say how long they took.

    A call with a set arrival is timed from then on, so that one which finds every place taken counts its wait.

    Args:
        on_done: told 1 for each call that ended.

    Raises:
        EndpointUnusable: no model is offered there.
    """
    return asyncio.run(_measure(endpoint, calls, concurrency, on_done))


async def _measure(
    endpoint: Endpoint, calls: Sequence[Call], concurrency: int, on_done: Callable[[int], object]
) -> Result:
    async with endpoint.client() as client:
        model, context = await _find_model(client)
        fitting = [_clip(call, context) for call in calls]
        tally, left, begin = _Tally(), iter(fitting), time.monotonic()
        callers = [_make_calls(client, model, left, begin, tally, on_done) for _ in range(min(concurrency, len(calls)))]
        await asyncio.gather(*callers)
        seconds = time.monotonic() - begin
    clipped = sum(call != fit for call, fit in zip(calls, fitting, strict=True))
    return Result(
        len(calls), tally.errors.total(), clipped, seconds, len(tally.e2e) / seconds, tally.output_tokens / seconds,
        percentiles(tally.ttft), percentiles(tally.itl), percentiles(tally.e2e), dict(tally.errors.most_common()),
    )


async def _find_model(client: httpx.AsyncClient) -> tuple[str, int | None]:
    """Name and context of the first model that is offered."""
    try:
        response = await client.get("models")
        response.raise_for_status()
        model = response.json()["data"][0]
        return model["id"], model.get("max_model_len")
    except (httpx.HTTPError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise EndpointUnusable(f"{client.base_url}models: {error or type(error).__name__}".splitlines()[0]) from None


def _clip(call: Call, context: int | None) -> Call:
    """The call, cut to the context: the output first, the prompt where even one token of output does not fit."""
    if context is None or isinstance(call.prompt, str):
        return call
    prompt = min(call.prompt, context - 1)
    return replace(call, prompt=prompt, max_tokens=min(call.max_tokens, context - prompt))


async def _make_calls(
    client: httpx.AsyncClient, model: str, left: Iterator[Call], begin: float, tally: _Tally,
    on_done: Callable[[int], object],
) -> None:
    """Make the calls that are left, one after the other."""
    for call in left:
        start = time.monotonic() if call.at is None else begin + call.at
        await asyncio.sleep(start - time.monotonic())
        try:
            arrivals, tokens = await _call(client, model, call)
            tally.add(start, arrivals, time.monotonic(), tokens)
        except (_CallFailed, httpx.HTTPError, ValueError, LookupError) as error:
            tally.errors[str(error) or type(error).__name__] += 1
        on_done(1)


async def _call(client: httpx.AsyncClient, model: str, call: Call) -> tuple[list[float], int]:
    """When each piece of the answer came, and how many tokens it had."""
    prompt = call.prompt if isinstance(call.prompt, str) else random.choices(_TOKEN_IDS, k=call.prompt)
    body = {
        "model": model, "prompt": prompt, "max_tokens": call.max_tokens, "temperature": 0, "ignore_eos": True,
        # Tokens without text would show as a gap before the next one that has some.
        "skip_special_tokens": False, "stream": True, "stream_options": {"include_usage": True},
    }
    arrivals: list[float] = []
    async with client.stream("POST", "completions", json=body) as response:
        if response.status_code != httpx.codes.OK:
            raise _CallFailed(f"HTTP {response.status_code}: {(await response.aread()).decode(errors='replace')[:200]}")
        async for line in response.aiter_lines():
            tokens = _read_line(line, arrivals)
            if tokens is not None and arrivals:
                return arrivals, tokens
    raise _CallFailed("the stream ended without an answer and its usage")


def _read_line(line: str, arrivals: list[float]) -> int | None:
    """Note the arrival of a piece of the answer; gives the tokens generated once the stream says so."""
    data = line.removeprefix("data:").strip()
    if not data or data == "[DONE]" or line.startswith(":"):
        return None
    chunk = json.loads(data)
    if "error" in chunk:
        raise _CallFailed(str(chunk["error"].get("message")))
    if any(choice.get("text") for choice in chunk.get("choices") or ()):
        arrivals.append(time.monotonic())
    usage = chunk.get("usage")
    return usage["completion_tokens"] if usage else None
