"""Where log lines go. None of them holds a prompt or an output: what is logged of a request is its route."""

from __future__ import annotations

import logging


def configure() -> None:
    """Our own lines and the server's from INFO on, other libraries' from WARNING on, on standard error."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    for name in ("pilotlight", "uvicorn"):
        logging.getLogger(name).setLevel(logging.INFO)
