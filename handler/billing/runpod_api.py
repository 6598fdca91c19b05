"""What billing asks of RunPod's management API, version 2: what GPUs cost, and what was billed."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from engine.errors import PilotlightError

BASE_URL = "https://api.runpod.io/v2"
_MAX_ANSWER = 64 << 20
"""Bytes; a year of hours of a hundred endpoints is less."""


class RunPodTrouble(PilotlightError):
    """RunPod's API did not answer, or not with what was asked for. The message never holds the key."""


@dataclass(frozen=True, slots=True)
class CataloguedGpu:
    """A GPU of the catalogue.

    Attributes:
        gpu: its id, such as `NVIDIA GeForce RTX 4090`.
        name: as people write it.
        pool: the pool's id, None where it is in none.
        per_hour: US dollars of one GPU's hour in a serverless worker; None where there is none to be had.
    """

    gpu: str
    name: str
    pool: str | None
    per_hour: Decimal | None


@dataclass(frozen=True, slots=True)
class Billed:
    """What an endpoint was billed in one bucket of time, in US dollars.

    Attributes:
        start: of the bucket, in UTC.
        gpu: of it, the GPUs' part.
        total: with disks, processors and fees.
    """

    start: datetime
    endpoint: str
    gpu: Decimal
    total: Decimal


class RunPodApi:
    """A client that lives for one command.

    Args:
        key: RunPod's API key.
        timeout: seconds that each step of an exchange may take.
    """

    def __init__(self, key: str, base_url: str = BASE_URL, timeout: float = 30.0) -> None:
        self._key = key
        self._base_url = base_url.rstrip("/")
        self._timeout = timeout

    @property
    def place(self) -> str:
        """The server, without what else an address may hold, such as a password."""
        host = re.match(r"\w+://(?:[^/?#]*@)?([^/?#]+)", self._base_url)
        return host[1] if host else "an address without a host"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> RunPodApi:
        """The client that `RUNPOD_API_KEY` and `PILOTLIGHT_RUNPOD_API` describe.

        Raises:
            RunPodTrouble: there is no key.
        """
        key = environment.get("RUNPOD_API_KEY", "").strip()
        if not key:
            raise RunPodTrouble("RUNPOD_API_KEY is not set; RunPod's console makes keys under Settings")
        if not key.isascii() or not key.isprintable():
            raise RunPodTrouble("RUNPOD_API_KEY is no key: it holds characters that no header can carry")
        return cls(key, environment.get("PILOTLIGHT_RUNPOD_API") or BASE_URL)

    def gpus(self) -> list[CataloguedGpu]:
        """The catalogue of GPUs.

        Raises:
            RunPodTrouble: one line that says what went wrong.
        """
        entries = self._list("/catalog/gpus", "gpus", {})
        return [_catalogued(entry) for entry in entries]

    def billed(self, since: datetime, until: datetime, endpoint: str | None = None) -> list[Billed]:
        """What was billed for serverless workers, by hour and endpoint.

        Args:
            since: beginning of the first hour.
            until: end of the last one, not included.
            endpoint: this one alone.

        Raises:
            RunPodTrouble: one line that says what went wrong.
        """
        query = {"startTime": _time(since), "endTime": _time(until), "bucketSize": "hour"}
        if endpoint is not None:
            query["serverlessId"] = endpoint
        return [_billed(entry) for entry in self._list("/billing/serverless", "records", query)]

    def _list(self, path: str, name: str, query: Mapping[str, str]) -> list[Mapping[str, Any]]:
        answer = self._get(path, query)
        entries = answer.get(name) if isinstance(answer, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise self._trouble(path, f"the answer has no list of {name}")
        return entries

    def _get(self, path: str, query: Mapping[str, str]) -> Any:
        import httpx

        url = f"{self._base_url}{path}"
        headers = {"Authorization": f"Bearer {self._key}", "Accept": "application/json"}
        try:
            with (
                httpx.Client(timeout=self._timeout) as http,
                http.stream("GET", url, params=dict(query), headers=headers) as response,
            ):
                # A server may well repeat what it was sent.
                body = _read(response.iter_bytes()).replace(self._key.encode(), b"[key]")
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise self._trouble(path, _reason(error)) from None
        if response.status_code != httpx.codes.OK:
            raise self._trouble(path, _refusal(response.status_code, response.headers, body))
        try:
            return json.loads(body, parse_float=Decimal)
        except (ValueError, RecursionError):
            raise self._trouble(path, "the answer is not JSON") from None

    def _trouble(self, path: str, what: str) -> RunPodTrouble:
        return RunPodTrouble(f"GET {path} at {self.place}: {_one_line(what)}")


def _read(parts: Iterator[bytes]) -> bytes:
    body = bytearray()
    for part in parts:
        body += part
        if len(body) > _MAX_ANSWER:
            raise ValueError(f"the answer is longer than {_MAX_ANSWER} bytes")
    return bytes(body)


def _reason(error: Exception) -> str:
    import httpx

    if isinstance(error, httpx.TimeoutException):
        return "no answer in time"
    return _one_line(str(error)) or type(error).__name__


def _refusal(status: int, headers: Mapping[str, str], body: bytes) -> str:
    """Why a request was refused: RFC 9457's title and detail where the answer has them."""
    try:
        problem = json.loads(body)
    except (ValueError, RecursionError):
        problem = None
    fields = problem if isinstance(problem, dict) else {}
    said = ": ".join(str(fields[name]) for name in ("title", "detail") if fields.get(name))
    return f"HTTP {status}{f', {said[:200]}' if said else ''}{_hint(status, headers)}"


def _hint(status: int, headers: Mapping[str, str]) -> str:
    if status == 401:
        return " (is RUNPOD_API_KEY right?)"
    if status != 429:
        return ""
    exhausted = re.search(r'"(\w+)";r=0;t=(\d+)', headers.get("RateLimit", ""))
    seconds = exhausted[2] if exhausted else headers.get("Retry-After", "")
    return f" (try again in {seconds} s)" if seconds.isdecimal() else " (too many requests: try again later)"


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]


def _catalogued(entry: Mapping[str, Any]) -> CataloguedGpu:
    price = entry.get("price")
    per_hour = price.get("serverless") if isinstance(price, dict) else None
    pool = entry.get("pool")
    gpu = str(entry.get("id", ""))
    amount = _amount(per_hour, f"the price of {gpu}") if per_hour is not None else None
    return CataloguedGpu(gpu, str(entry.get("name", gpu)), None if pool is None else str(pool), amount)


def _billed(entry: Mapping[str, Any]) -> Billed:
    try:
        start = datetime.fromisoformat(str(entry["startTime"]))
        start = start.replace(tzinfo=UTC) if start.tzinfo is None else start.astimezone(UTC)
        endpoint = str(entry["serverlessId"])
    except (KeyError, ValueError, OverflowError):
        raise RunPodTrouble("a billing record of RunPod's names no hour and endpoint") from None
    gpu, total = (_amount(entry.get(name), f"{name} of a billing record") for name in ("gpuAmount", "totalAmount"))
    return Billed(start, endpoint, gpu, total)


def _amount(value: object, what: str) -> Decimal:
    try:
        amount = Decimal(str(0 if value is None else value))
    except InvalidOperation:
        amount = Decimal("NaN")
    if not amount.is_finite():
        raise RunPodTrouble(f"{what} is no amount of money: {_one_line(str(value))}")
    return amount


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
