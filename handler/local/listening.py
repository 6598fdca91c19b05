"""How the endpoint's server listens."""

from __future__ import annotations

from typing import Any, Final

import uvicorn
from starlette.types import ASGIApp

HEAD_BYTES: Final = 1 << 20
"""A request's line and headers may be so long: a ping names every job of its worker, in some 40 bytes each."""


def server_config(app: ASGIApp, **more: Any) -> uvicorn.Config:
    """uvicorn's settings for the endpoint; `more` are others of its own.

    The parser is h11: the faster one that uvicorn prefers where it is installed, httptools, cannot take an address of
    more than 64 KiB.
    """
    return uvicorn.Config(app, http="h11", h11_max_incomplete_event_size=HEAD_BYTES, **more)
