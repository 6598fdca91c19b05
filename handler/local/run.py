"""Runs an endpoint in this process."""

from __future__ import annotations

import asyncio
import logging

from handler import logs
from handler.booting import take_over_process
from handler.local.choices import Choices
from handler.local.endpoint import serve


def run(choices: Choices) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Raises:
        PilotlightError: why it cannot be done.
    """
    take_over_process()
    logs.configure()
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    choices.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    asyncio.run(serve(choices))
