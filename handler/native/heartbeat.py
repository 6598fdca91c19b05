"""Signs of life, from a thread: they go on while the loop computes, and end with the process, however that ends."""

from __future__ import annotations

import logging
import ssl
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from threading import Event, Thread
from typing import Final

from handler.native.protocol import Addresses

LEAST_S: Final = 0.5
_UNHEALTHY_S: Final = 2.0
"""How long the last sign of a worker that cannot serve may take: the SDK's bound."""

_log = logging.getLogger("pilotlight.worker")


class Heartbeat:
    """Tells the platform, every few seconds, that this worker lives and which jobs are its own.

    Args:
        jobs: their ids.
        interval_s: from sign to sign.
    """

    def __init__(self, addresses: Addresses, jobs: Callable[[], Iterable[str]], interval_s: float) -> None:
        self._addresses = addresses
        self._jobs = jobs
        self._interval_s = interval_s
        self._stopped = Event()
        self._opener = urllib.request.build_opener(
            urllib.request.HTTPSHandler(context=ssl.create_default_context())
        )

    def start(self) -> None:
        """Begin, if the platform wants signs at all. Call it once."""
        if self._addresses.ping_url is None:
            _log.info("no heartbeat: RunPod's ping address, worker id or key is not set")
            return
        Thread(target=self._run, name="heartbeat", daemon=True).start()

    def stop(self) -> None:
        """No further sign."""
        self._stopped.set()

    def report_unhealthy(self, check: str, error: BaseException) -> None:
        """Tell that this worker will never serve."""
        self._get(self._addresses.unhealthy(check, error), _UNHEALTHY_S)

    def _run(self) -> None:
        while True:
            self._get(self._addresses.ping(self._jobs()), 2 * self._interval_s)
            if self._stopped.wait(self._interval_s):
                return

    def _get(self, url: str | None, timeout_s: float) -> None:
        if url is None:
            return
        request = urllib.request.Request(url, headers=self._addresses.headers)
        try:
            self._opener.open(request, timeout=timeout_s).close()
        except (OSError, ValueError) as error:  # The next sign is soon.
            _log.warning("no sign of life could be given: %s", error)


def ping_interval_s(environment: Mapping[str, str]) -> float:
    """As `RUNPOD_PING_INTERVAL` says, in milliseconds; RunPod's default is 10 s."""
    named = environment.get("RUNPOD_PING_INTERVAL", "")
    return max(LEAST_S, int(named) / 1000) if named.isdecimal() else 10.0
