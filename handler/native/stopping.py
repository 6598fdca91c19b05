"""Hears which jobs are to be stopped: they were cancelled, or ran out of their time."""

from __future__ import annotations

import logging
from collections.abc import Callable

from handler.native.pacing import Pace
from handler.native.polling import Poll, Trouble
from handler.native.protocol import Addresses, stops_in

_log = logging.getLogger("pilotlight.worker")


async def stop_jobs(poll: Poll, addresses: Addresses, stop: Callable[[str], object]) -> None:
    """Ask for ever, and have each job stopped that is named. Trouble is waited out."""
    url = addresses.stop_url
    if url is None:
        _log.warning("RUNPOD_WEBHOOK_GET_JOB has no /job-take/: jobs cannot be stopped one by one")
        return
    pace = Pace()
    while True:
        began = await pace.turn()
        try:
            answer = await poll.ask(url)
            names = stops_in(answer) if answer is not None else []
        except (Trouble, ValueError) as error:
            _log.warning("it is not known which jobs to stop: %s", error)
            pace.failed(began, getattr(error, "wait_s", 0.0))
            continue
        for name in names:
            stop(name)
        pace.empty(began)
