"""RunPod's protocol between a worker and its queue: addresses, headers and shapes, as its SDK 1.12.0 has them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NewType
from urllib.parse import quote, urlencode
from uuid import uuid4

from engine.errors import InvalidConfig

SPOKEN_VERSION: Final = "1.12.0"
"""The SDK whose calls these are; pings name it."""

POST_HEADERS: Final = {"Content-Type": "application/x-www-form-urlencoded", "charset": "utf-8"}
"""The bodies are JSON all the same."""

_TAKE: Final = "/job-take/"
_REASON_LENGTH: Final = 256

_log = logging.getLogger("pilotlight.worker")

Job = NewType("Job", Mapping[str, Any])
"""What the queue hands out: `id` as text, `input`, perhaps more."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where to ask and to answer.

    Attributes:
        worker: this worker's name, from the platform or by chance.
        key: the whole of the authorisation header, no `Bearer` before it.
        take_url: of the poll for jobs; `stop_url` of that for jobs to stop, None where it cannot be told.
        done_url: of results, and `stream_url` of pieces of them, with `$ID` for the job.
        ping_url: None where the platform wants no heartbeat.
    """

    worker: str
    key: str
    take_url: str
    done_url: str
    stream_url: str | None
    ping_url: str | None

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Addresses:
        """What RunPod tells its workers.

        Raises:
            InvalidConfig: an address is missing.
        """
        worker = environment.get("RUNPOD_POD_ID") or str(uuid4())

        def address(name: str) -> str:
            return environment.get(f"RUNPOD_WEBHOOK_{name}", "").replace("$RUNPOD_POD_ID", quote(worker, safe=""))

        for name in ("GET_JOB", "POST_OUTPUT"):
            if not address(name):
                raise InvalidConfig(f"RUNPOD_WEBHOOK_{name} is not set: there is no queue to work for")
        key = environment.get("RUNPOD_AI_API_KEY", "")
        is_awaited = bool(key and environment.get("RUNPOD_POD_ID"))
        return cls(
            worker, key, address("GET_JOB").replace("$ID", quote(worker, safe="")), address("POST_OUTPUT"),
            address("POST_STREAM") or None, (address("PING") or None) if is_awaited else None,
        )

    @property
    def headers(self) -> dict[str, str]:
        """Of every request."""
        return {"Authorization": self.key, "User-Agent": "pilotlight"}

    def take(self, count: int, busy: bool) -> str:
        """The poll for so many jobs at most; `busy` is whether others are under way."""
        if count == 1:
            return _with(self.take_url, job_in_progress=int(busy))
        batch = self.take_url.replace(_TAKE, "/job-take-batch/")
        return _with(batch, batch_size=count, job_in_progress=int(busy))

    @property
    def stop_url(self) -> str | None:
        """The poll for jobs to stop."""
        return self.take_url.replace(_TAKE, "/job-stop/") if _TAKE in self.take_url else None

    def done(self, job: str) -> str:
        """Where a job's result goes."""
        return _with(self.done_url.replace("$ID", quote(job, safe="")), isStream="true")

    def stream(self, job: str) -> str | None:
        """Where pieces of a job's result go."""
        return self.stream_url and _with(self.stream_url.replace("$ID", quote(job, safe="")), isStream="false")

    def ping(self, jobs: Iterable[str]) -> str | None:
        """The sign of life, with the jobs that are this worker's."""
        names = ",".join(jobs)
        return self.ping_url and _with(self.ping_url, **({"job_id": names} if names else {}), **_VERSION)

    def unhealthy(self, check: str, error: BaseException) -> str | None:
        """The sign that this worker will never serve."""
        reason = f"{type(error).__name__}: {error}"[:_REASON_LENGTH]
        return self.ping_url and _with(self.ping_url, status="unhealthy", check=check, reason=reason, **_VERSION)


_VERSION: Final = {"runpod_version": SPOKEN_VERSION}


def _with(url: str, **query: object) -> str:
    """With these parameters behind those it has; RunPod's own test runner gives addresses that have none."""
    return f"{url}{'&' if '?' in url else '?'}{urlencode(query)}"


def encode(body: Mapping[str, Any]) -> bytes:
    """A body as it is sent. Half a surrogate pair, which no text on the wire can hold, becomes a question mark."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")


def jobs_in(answer: object) -> list[Job]:
    """The jobs in an answer to `take`: one object, or a list of them.

    One without an id nobody could answer; it is left out, and the log says so.

    Raises:
        ValueError: the answer holds something else than jobs.
    """
    found: list[Any] = answer if isinstance(answer, list) else [answer]
    if not all(isinstance(job, dict) for job in found):
        raise ValueError("it holds no jobs")
    named = [Job({**job, "id": str(job["id"])}) for job in found if job.get("id") not in (None, "")]
    if len(named) < len(found):
        _log.error("%d jobs came without an id, so that nobody could answer them", len(found) - len(named))
    return named


def stops_in(answer: object) -> list[str]:
    """The ids of jobs to stop.

    Raises:
        ValueError: the answer is of another shape.
    """
    found = answer.get("jobsToStop") if isinstance(answer, dict) else None
    if not isinstance(found, list):
        raise ValueError("it names no jobsToStop")
    return [str(name) for name in found]
