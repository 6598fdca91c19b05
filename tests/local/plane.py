"""The control plane as a process of its own: `python -m tests.local.plane PORT FOLDER`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import uvicorn

from handler.local.app import make_app, open_queue
from handler.local.listening import server_config
from handler.local.parts import EndpointSettings
from tests.local.endpoint import HandMadeCrew


async def serve(port: int, folder: Path) -> None:
    """Serve until killed."""
    async with open_queue(folder) as queue:
        app = make_app(queue, HandMadeCrew(), EndpointSettings(rate_limits=False, poll_s=1))
        await uvicorn.Server(server_config(app, port=port, log_level="warning")).serve()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), Path(sys.argv[2])))
