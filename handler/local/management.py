"""The endpoint as its management API describes and changes it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from engine.errors import InvalidConfig
from handler.billing.price_list import PriceList, Row
from handler.local.autoscaler import Autoscaler
from handler.local.bill import Bill
from handler.local.contracts import ENDPOINT_ID
from handler.local.problems import Problem
from handler.local.queue import JobQueue
from handler.local.quota import Quota
from handler.local.scaler import Scaling
from handler.local.usage import iso
from handler.local.worker import Worker, WorkerState
from handler.local.workers import Workers

Mode = Literal["queue", "load-balancer"]
Number = TypeVar("Number", int, float)

FIXED: Final = frozenset({
    "args", "dataCenterIds", "disk", "env", "gpu", "image", "name", "networkVolumes", "ports", "registry", "type",
})
"""Fields of RunPod's that only a new start of the endpoint changes here."""

_SHOWN: Final = {
    WorkerState.INITIALIZING: "INITIALIZING", WorkerState.IDLE: "IDLE", WorkerState.RUNNING: "RUNNING",
    WorkerState.STOPPING: "RUNNING", WorkerState.THROTTLED: "THROTTLED", WorkerState.UNHEALTHY: "UNHEALTHY",
}
"""What RunPod would call them; a frozen worker is scaled down, and it does not show those."""


class _Change(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _WorkersChange(_Change):
    min: Annotated[int, Field(ge=0)] | None = None
    max: Annotated[int, Field(ge=0)] | None = None
    idleTimeout: Annotated[int, Field(ge=1, le=3600)] | None = None  # noqa: N815


class _QueueDelay(_Change):
    type: Literal["QUEUE_DELAY"]
    queueDelay: Annotated[float, Field(ge=0.5)] = 4.0  # noqa: N815


class _RequestCount(_Change):
    type: Literal["REQUEST_COUNT"]
    requestCount: Annotated[int, Field(ge=1)] = 4  # noqa: N815


class Change(_Change):
    """The body of a PATCH: only what is given changes."""

    workers: _WorkersChange | None = None
    scaling: Annotated[_QueueDelay | _RequestCount, Field(discriminator="type")] | None = None
    timeout: Annotated[int, Field(ge=5000, le=604_800_000, description="milliseconds")] | None = None
    flashboot: Literal["OFF", "FLASHBOOT", "PRIORITY_FLASHBOOT"] | None = None


@dataclass(frozen=True, slots=True)
class Management:
    """What the management routes work with.

    Attributes:
        queue: whose jobs `timeout` concerns.
        base_url: where the endpoint listens.
        image: what its workers run.
        gpu: the GPU that is reckoned with; None without one.
    """

    queue: JobQueue
    scaler: Autoscaler
    workers: Workers
    bill: Bill
    prices: PriceList
    base_url: str
    image: str
    mode: Mode = "queue"
    gpu: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    created: float = field(default_factory=time.time)
    quota: Quota = field(default_factory=Quota)

    def change(self, body: object) -> None:
        """Do what a PATCH asks for, or nothing of it.

        Raises:
            Problem: 400, naming each field at fault.
        """
        asked = _parse(body)
        scaling = self._scaling(asked)
        if asked.timeout is not None and self.mode == "load-balancer":
            raise _wrong("timeout: a load-balancing endpoint has no jobs, and its requests a limit of their own")
        if asked.timeout is not None:
            self.queue.execution_s = asked.timeout / 1000
        if asked.flashboot is not None:
            self.workers.flashboot = asked.flashboot != "OFF"
        self.scaler.choose(scaling)

    def describe(self) -> dict[str, Any]:
        """The endpoint object."""
        scaling = self.scaler.scaling
        return {
            "id": ENDPOINT_ID, "name": "local", "type": "QUEUE" if self.mode == "queue" else "LOAD_BALANCER",
            "requestUrls": self._urls(), "image": self.image, "args": "", "disk": 0, "ports": [],
            "env": dict(self.environment), "registry": None,
            "gpu": {"pools": [self.gpu] if self.gpu else [], "count": 1},
            "workers": {"min": scaling.workers_min, "max": scaling.workers_max, **self._idle_timeout(scaling)},
            "scaling": _described(scaling), "dataCenterIds": [], "networkVolumes": [],
            "timeout": round(1000 * self.queue.execution_s),
            "flashboot": "FLASHBOOT" if self.workers.flashboot else "OFF",
            "createdAt": iso(datetime.fromtimestamp(self.created, UTC)),
        }

    def workers_listed(self) -> dict[str, Any]:
        """The workers there are, and how many in each state."""
        listed = [self._worker(worker) for worker in self.workers if worker.state in _SHOWN]
        counted = Counter(entry["status"].lower() for entry in listed)
        names = ("running", "idle", "initializing", "throttled", "unhealthy")
        summary = {name: counted[name] for name in names} | {"total": len(listed)}
        return {"endpointVersion": 1, "summary": summary, "workers": listed}

    def catalogue(self) -> dict[str, Any]:
        """What each GPU costs: US dollars an hour in a serverless worker."""
        return {"gpus": [_gpu(name, row) for row in self.prices.rows for name in row.gpus]}

    def _scaling(self, asked: Change) -> Scaling:
        now, workers = self.scaler.scaling, asked.workers or _WorkersChange()
        match asked.scaling:
            case _QueueDelay(queueDelay=value):
                now = replace(now, kind="QUEUE_DELAY", value=value)
            case _RequestCount(requestCount=value):
                now = replace(now, kind="REQUEST_COUNT", value=value)
        if workers.idleTimeout is not None and not self._idle_timeout(now):
            raise _wrong("workers.idleTimeout: a queue endpoint with REQUEST_COUNT has none")
        if self.mode == "load-balancer" and now.kind != "REQUEST_COUNT":
            raise _wrong("scaling.type: a load-balancing endpoint scales by REQUEST_COUNT alone")
        try:
            return replace(
                now, workers_min=_or(workers.min, now.workers_min), workers_max=_or(workers.max, now.workers_max),
                idle_timeout_s=_or(workers.idleTimeout, now.idle_timeout_s),
            )
        except InvalidConfig as error:
            raise _wrong(f"workers: {error}") from None

    def _idle_timeout(self, scaling: Scaling) -> dict[str, int]:
        """RunPod refuses one for queue endpoints with REQUEST_COUNT."""
        has_none = self.mode == "queue" and scaling.kind == "REQUEST_COUNT"
        return {} if has_none else {"idleTimeout": round(scaling.idle_timeout_s)}

    def _urls(self) -> dict[str, str]:
        if self.mode == "load-balancer":
            return {"base": self.base_url, "health": f"{self.base_url}/ping"}
        base = f"{self.base_url}/v2/{ENDPOINT_ID}"
        paths = {
            "run": "run", "runSync": "runsync", "status": "status/{jobId}", "stream": "stream/{jobId}",
            "cancel": "cancel/{jobId}", "retry": "retry/{jobId}", "purgeQueue": "purge-queue", "health": "health",
            "openai": "openai/v1",
        }
        return {name: f"{base}/{path}" for name, path in paths.items()}

    def _worker(self, worker: Worker) -> dict[str, Any]:
        return {
            "id": worker.id, "status": _SHOWN[worker.state], "isStale": False, "version": 1, "gpuCount": 1,
            "image": self.image, "uptimeSeconds": int(time.monotonic() - worker.started), "gpuTypeId": self.gpu,
            "dataCenterId": None, "startedAt": iso(datetime.fromtimestamp(worker.started_wall, UTC)),
        }


def _or(asked: Number | None, present: Number) -> Number:
    return present if asked is None else asked


def _parse(body: object) -> Change:
    if isinstance(body, dict) and (fixed := FIXED & body.keys()):
        raise _wrong(*(f"{name}: only a new start of the endpoint changes it here" for name in sorted(fixed)))
    try:
        return TypeAdapter(Change).validate_python(body)
    except ValidationError as error:
        raise _wrong(*(f"{_path(fault['loc'])}: {fault['msg']}" for fault in error.errors())) from None


def _path(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location if part not in ("QUEUE_DELAY", "REQUEST_COUNT")) or "the body"


def _wrong(*errors: str) -> Problem:
    return Problem(HTTPStatus.BAD_REQUEST, errors[0], errors)


def _described(scaling: Scaling) -> dict[str, Any]:
    if scaling.kind == "QUEUE_DELAY":
        return {"type": "QUEUE_DELAY", "queueDelay": scaling.value}
    return {"type": "REQUEST_COUNT", "requestCount": int(scaling.value)}


def _gpu(name: str, row: Row) -> dict[str, Any]:
    per_hour = float(row.flex * 3600)
    return {
        "id": name, "name": name.removeprefix("NVIDIA ").removeprefix("GeForce "), "pool": row.pool, "memory": None,
        "price": {"secure": None, "community": None, "serverless": per_hour},
    }
