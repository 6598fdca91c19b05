"""Runs an endpoint in this process."""

from __future__ import annotations

import asyncio
import logging

from handler import logs
from handler.booting import take_over_process
from handler.local.choices import Choices
from handler.local.endpoint import serve
from handler.local.model_check import check_model


def run(choices: Choices) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Raises:
        PilotlightError: why it cannot be done.
    """
    take_over_process()
    logs.configure()
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    logging.getLogger("uvicorn.error").addFilter(_is_news)
    if choices.runtime == "process":  # What an image holds is seen by its containers alone.
        check_model(choices.variables)
    choices.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    asyncio.run(serve(choices))


def _is_news(record: logging.LogRecord) -> bool:
    """That an answer was broken off is said by who did it, and why (proxy_routes.py)."""
    return record.msg != "ASGI callable returned without completing response."
