"""Who may call."""

from __future__ import annotations

import hmac

from fastapi import Request

from handler.frontend import Frontend
from handler.openai.errors import unauthorised


def frontend_of(request: Request) -> Frontend:
    """The front end of the application that serves the request."""
    frontend = request.app.state.frontend
    assert isinstance(frontend, Frontend)
    return frontend


def caller_key(request: Request) -> str | None:
    """The API key the caller has shown; None where none is asked for.

    Raises:
        ApiError: 401 without a right one.
    """
    keys = frontend_of(request).settings.api_keys
    if not keys:
        return None
    shown = _shown_key(request.headers.get("authorization", ""))
    # Every key is compared, each in constant time, so that the time taken tells nothing about any.
    matches = [key for key in keys if hmac.compare_digest(key.encode(), shown.encode())]
    if not matches:
        raise unauthorised()
    return matches[0]


def _shown_key(header: str) -> str:
    """The key of `Bearer KEY`; a bare key is taken too, as RunPod takes it."""
    scheme, _, key = header.partition(" ")
    return key.strip() if scheme.lower() == "bearer" else header
