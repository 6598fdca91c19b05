"""What the routes work with."""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from fastapi import Request

from handler.local.contracts import Crew
from handler.local.queue import JobQueue
from handler.openai.errors import unauthorised


@dataclass(frozen=True, slots=True)
class EndpointSettings:
    """How the endpoint deals with its callers.

    Attributes:
        api_keys: what clients show; without any, all are welcome.
        rate_limits: whether RunPod's rate limits hold.
        poll_s: how long a worker's question is held when there is nothing to answer. RunPod's own figure is not
            known; its SDK gives up after 90 s.
    """

    api_keys: tuple[str, ...] = ()
    rate_limits: bool = True
    poll_s: float = 20.0


@dataclass(frozen=True, slots=True)
class Parts:
    """The endpoint behind an application's routes."""

    queue: JobQueue
    crew: Crew
    settings: EndpointSettings


def parts_of(request: Request) -> Parts:
    """The endpoint that the request is for."""
    parts = request.app.state.parts
    assert isinstance(parts, Parts)
    return parts


def shown_key(request: Request) -> str:
    """The key of `Authorization: Bearer KEY`, or of a bare key, as RunPod takes both; empty without one."""
    header = request.headers.get("authorization", "")
    scheme, _, key = header.partition(" ")
    return key.strip() if scheme.lower() == "bearer" else header


def check_client(request: Request) -> None:
    """Raise `ApiError` 401 unless the caller is welcome."""
    keys, shown = parts_of(request).settings.api_keys, shown_key(request).encode()
    matches = [key for key in keys if hmac.compare_digest(key.encode(), shown)]
    if keys and not matches:
        raise unauthorised()
