"""How the process is: for platforms, people and Prometheus. Open to everybody: nothing of any request is in it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from engine.errors import EngineDead
from handler.access import frontend_of
from handler.billing.recorder import RecordStatus
from handler.booting import NotReady
from handler.document import Responses
from handler.frontend import Frontend

_PING: Final[Responses] = {
    200: {"description": "It serves."}, 204: {"description": "It boots."}, 503: {"description": "It is dead."},
}
_PLACES: Final = {
    "openai": "v1", "runpod": "run", "health": "health", "ping": "ping", "metrics": "metrics", "docs": "docs",
}


def health_router(ping_path: str = "/ping") -> APIRouter:
    """The routes /, /ping, /health and /metrics; what a platform takes for /ping answers as that does."""
    router = APIRouter(tags=["health"])
    for path in dict.fromkeys((ping_path, "/ping")):
        router.get(path, response_model=None, response_class=Response, responses=_PING)(ping)
    router.get("/")(index)
    router.get("/health", response_model=None, responses={503: {"description": "Dead, after a device error."}})(health)
    router.get("/metrics", response_model=None, response_class=PlainTextResponse)(metrics)
    return router


async def index() -> dict[str, str]:
    """Where everything is."""
    return {name: f"/{path}" for name, path in _PLACES.items()}


async def ping(request: Request) -> Response:
    """RunPod's health check of a load-balanced worker: 204 while it boots, 200 when it serves, 503 when it is dead."""
    return Response(status_code=_ping_status(frontend_of(request)))


async def health(request: Request) -> JSONResponse:
    """The state of the process and its engine; 503 after a device error."""
    frontend = frontend_of(request)
    try:
        return JSONResponse({"status": "ready", **_process(frontend), **_engine(frontend)})
    except NotReady:
        return JSONResponse({"status": "starting", **_process(frontend)})
    except EngineDead as error:
        return JSONResponse({"status": "dead", "error": str(error), **_process(frontend)}, 503)


async def metrics(request: Request) -> Response:
    """Prometheus' text format; empty until the engine serves."""
    try:
        content = frontend_of(request).service.metrics.exposition()
    except (NotReady, EngineDead):
        content = b""
    return Response(content, media_type=CONTENT_TYPE_LATEST)


def _ping_status(frontend: Frontend) -> int:
    try:
        return 200 if frontend.boot.engine else 503
    except NotReady:
        return 204
    except EngineDead:
        return 503


def _process(frontend: Frontend) -> dict[str, Any]:
    """How the start went, what the next request will find, how often there was a restore, how the record stands.

    Also whether the file of API keys is in use as it is; what is wrong with it stays in the log.
    """
    return {
        "start": frontend.boot.as_dict(),
        "start_kind": frontend.watch.start_kind,
        "epoch": frontend.epochs.current.number,
        "billing": _billing(frontend.recorder.status),
        "api_keys": "stale" if frontend.admission.keys.trouble else "current",
    }


def _billing(record: RecordStatus) -> dict[str, Any]:
    """Where the record is stays in the log: this answers anybody."""
    return {
        "status": record.standing,
        "billed_s": sum(record.ms.values()) / 1000,
        "segments_waiting": record.waiting,
        "segments_uploaded": record.uploaded,
        "attempts_failed": record.attempts_failed,
        "lost_lines": record.lost_lines,
        "journals_lost": record.journals_lost,
    }


def _engine(frontend: Frontend) -> dict[str, Any]:
    service = frontend.service
    plan = service.engine.plan
    return {
        "model": service.model_name,
        "device": plan.device,
        "dtype": plan.dtype,
        "max_model_len": plan.max_model_len,
        "deferred_done": service.engine.deferred_done,
        "engine": asdict(service.engine.statistics()),
    }
