"""RunPod's management API, version 2, as far as it concerns one endpoint: see it, scale it, what it costs."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from handler.document import EVENT_STREAM, Responses, body, errors, event
from handler.local.answers import read_json
from handler.local.contracts import ENDPOINT_ID
from handler.local.management import Change, Management
from handler.local.problems import PROBLEM, ManagedRoute, Problem
from handler.local.usage import BUCKETS, Bucket, beginning, iso, records, totals
from handler.local.worker_log import log_events
from handler.shapes import ProblemBody

BODY_BYTES: Final = 1_000_000

_LOG: Final[Responses] = {200: {"content": {EVENT_STREAM: {"schema": event()}}}}
_LOCAL_ONLY: Final = "this machine has one endpoint, which `pilotlight up` makes and Ctrl-C removes"


def management_router() -> APIRouter:
    """The routes below `/v2`; the application's `state.management` is what they work with."""
    router = APIRouter(tags=["management"], route_class=ManagedRoute, responses=_errors(401, 429, 500))
    router.get("/serverless", response_model=None)(endpoints)
    router.get("/serverless/{endpoint}", response_model=None, responses=_errors(404))(endpoint_of)
    router.patch(
        "/serverless/{endpoint}", response_model=None, responses=_errors(400, 404, 413), openapi_extra=body(Change)
    )(change)
    router.get("/serverless/{endpoint}/workers", response_model=None, responses=_errors(404))(workers)
    router.get(
        "/serverless/{endpoint}/workers/{worker_id}/logs", response_model=None, responses=_LOG | _errors(400, 404)
    )(worker_log)
    router.get("/catalog/gpus", response_model=None)(catalogue)
    router.get("/billing/serverless", response_model=None, responses=_errors(400))(billing)
    router.post("/serverless", response_model=None, include_in_schema=False)(refuse)
    router.api_route(
        "/serverless/{endpoint}", methods=["DELETE", "PUT", "POST"], response_model=None, include_in_schema=False
    )(refuse)
    return router


def _errors(*statuses: int) -> Responses:
    return errors(ProblemBody, *statuses, media_type=PROBLEM)


def _management(request: Request, endpoint: str = ENDPOINT_ID) -> Management:
    if endpoint != ENDPOINT_ID:
        raise Problem(HTTPStatus.NOT_FOUND, f"there is no endpoint {endpoint}; this one is {ENDPOINT_ID!r}")
    management = request.app.state.management
    assert isinstance(management, Management)
    return management


async def endpoints(request: Request) -> Response:
    """All endpoints: the one."""
    return JSONResponse({"endpoints": [_management(request).describe()]})


async def endpoint_of(request: Request, endpoint: str) -> Response:
    """How the endpoint is set."""
    return JSONResponse(_management(request, endpoint).describe())


async def change(request: Request, endpoint: str) -> Response:
    """Change what is given of `workers`, `scaling`, `timeout` and `flashboot`, at once."""
    management = _management(request, endpoint)
    management.change(await read_json(request, BODY_BYTES))
    return JSONResponse(management.describe())


async def workers(request: Request, endpoint: str) -> Response:
    """The workers and their states."""
    return JSONResponse(_management(request, endpoint).workers_listed())


async def worker_log(
    request: Request,
    endpoint: str,
    worker_id: str,
    source: Literal["container", "system"] | None = None,
    tail: Annotated[int, Query(ge=0, le=5000)] = 100,
    since: str | None = None,
) -> Response:
    """What a worker writes, as server-sent events, until it ends; it is all of source `container`."""
    worker = _management(request, endpoint).workers.find(worker_id)
    if worker is None:
        raise Problem(HTTPStatus.NOT_FOUND, f"there is no worker {worker_id}, or not any more")
    if since is not None or source == "system":
        name = "since" if since is not None else "source"
        raise Problem(HTTPStatus.BAD_REQUEST, f"{name}: a log here has no moments and no lines of a host", [name])
    headers = {"Cache-Control": "no-cache"}
    return StreamingResponse(log_events(worker, tail), media_type=EVENT_STREAM, headers=headers)


async def catalogue(request: Request) -> Response:
    """The GPUs of the price list."""
    return JSONResponse(_management(request).catalogue())


async def billing(
    request: Request,
    startTime: datetime | None = None,  # noqa: N803 (RunPod's name)
    endTime: datetime | None = None,  # noqa: N803
    bucketSize: Bucket = "hour",  # noqa: N803
    serverlessId: Annotated[str, Query()] = ENDPOINT_ID,  # noqa: N803
) -> Response:
    """What the workers have cost, in buckets; without a beginning, since the bill's."""
    since = beginning(_utc(startTime) or datetime.fromtimestamp(0, UTC), bucketSize)
    until = _utc(endTime) or datetime.fromtimestamp(time.time() + 1, UTC)
    if until < since:
        raise Problem(HTTPStatus.BAD_REQUEST, "endTime: it is before startTime", ["endTime: it is before startTime"])
    charges = _management(request).bill.charges() if serverlessId == ENDPOINT_ID else []
    found = records(charges, bucketSize, since, until)
    return JSONResponse({"records": found, "metadata": _metadata(found, since, until, bucketSize, serverlessId)})


async def refuse(request: Request) -> Response:
    """Endpoints are neither made nor removed here."""
    raise Problem(HTTPStatus.METHOD_NOT_ALLOWED, f"{request.method}: {_LOCAL_ONLY}")


def _metadata(
    found: list[dict[str, Any]], since: datetime, until: datetime, bucket: Bucket, endpoint: str
) -> dict[str, Any]:
    assert bucket in BUCKETS
    query = {"startTime": iso(since), "endTime": iso(until), "bucketSize": bucket, "serverlessId": endpoint}
    return {
        "query": query, "recordCount": len(found), "totals": totals(found),
        "uniqueServerlessCount": len({record["serverlessId"] for record in found}),
    }


def _utc(moment: datetime | None) -> datetime | None:
    if moment is None:
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
