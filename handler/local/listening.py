"""How the endpoint's server listens."""

from __future__ import annotations

import sys
from typing import Any, Final

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from handler.body_limit import BodyLimit
from handler.connection import Bounds, connections

HEAD_BYTES: Final = 1 << 20
"""A request's line and headers may be so long: a ping names every job of its worker, in some 40 bytes each."""

BOUNDS: Final = Bounds(
    receive_s=60.0, unread_s=30.0, unread_bytes=16_000_000, body_bytes=30_000_000, head_bytes=HEAD_BYTES
)
"""What the worker's own server has by default (handler/settings.py); of a body, what the load balancer takes."""


def server_config(app: ASGIApp, bounds: Bounds = BOUNDS, **more: Any) -> uvicorn.Config:
    """uvicorn's settings for the endpoint; `more` are others of its own.

    The parser is h11: the faster one that uvicorn prefers where it is installed, httptools, cannot take an address of
    more than 64 KiB. How long a body may be is each route's own matter; here it must come in time.
    """
    protocol = connections(bounds, lambda: None, H11Protocol)
    patient = BodyLimit(app, limit=sys.maxsize, patience_s=bounds.receive_s)
    return uvicorn.Config(patient, http=protocol, h11_max_incomplete_event_size=HEAD_BYTES, **more)
