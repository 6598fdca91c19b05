"""The warmer as a process: look, wait, look again, until it is told to end.

The pause between two looks is measured by the monotonic clock, and each look reads the wall clock anew: a step of that
clock, or a change to daylight saving, delays nothing and repeats nothing.
"""

from __future__ import annotations

import logging
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from warmup.endpoint_api import EndpointApi
from warmup.errors import InvalidSetting, WarmerError
from warmup.learning import Learner
from warmup.lease import Holder, Onlooker
from warmup.places import Place, open_place
from warmup.settings import Settings
from warmup.warmer import Tick, Warmer

if TYPE_CHECKING:
    from types import FrameType

    from handler.billing.store import Store

LONGEST_PAUSE_S: Final = 60.0
"""Within which a floor that is left standing is found again, however long the trouble goes on."""

_log = logging.getLogger("pilotlight.warmer")


class BackOff:
    """How long to wait after trouble: twice as long each time, with jitter, so that many do not come back at once."""

    def __init__(
        self, first_s: float, most_s: float = LONGEST_PAUSE_S, draw: Callable[[], float] = random.random
    ) -> None:
        self._first_s = first_s
        self._most_s = most_s
        self._draw = draw
        self._failures = 0

    def pause(self, tick: Tick, tick_s: float) -> float:
        """Seconds until the next look."""
        if not tick.trouble:
            self._failures = 0
            return tick_s
        grown = min(self._most_s, self._first_s * 2 ** min(self._failures, 20))
        self._failures += 1
        return max(grown * (0.5 + self._draw() / 2), min(tick.retry_after_s or 0.0, self._most_s))


def make_warmer(settings: Settings) -> Warmer:
    """The warmer that the settings describe.

    Raises:
        WarmerError: a setting is wrong, or the state's place takes no conditional writes.
    """
    if not settings.key and settings.is_at_runpod:
        raise InvalidSetting("RUNPOD_API_KEY is not set; RunPod's console makes keys under Settings")
    place = open_place(settings.state, settings.alone)
    if not settings.dry_run:
        place.check()
    endpoint = EndpointApi(settings.endpoint, settings.key, settings.api, settings.client, settings.timeout)
    learner = Learner(open_ledger(settings), settings.endpoint)
    return Warmer(settings, endpoint, place, learner, _holder(settings, place))


def run(settings: Settings) -> None:
    """Keep the endpoint warm until SIGTERM or SIGINT; then put back what was set.

    Raises:
        WarmerError: a setting is wrong, or what was set could not be put back.
    """
    warmer = make_warmer(settings)
    told = threading.Event()
    with _signals(told), _metrics(settings, warmer) as count:
        _log.info("keeps %s warm by %s, a look every %g s", settings.endpoint, settings.policy, settings.tick)
        _look_until(told, warmer, settings, count)
        tick = warmer.close(time.time())
    if tick.trouble:
        raise WarmerError(tick.trouble)
    _log.info("ended: %s", "; ".join(tick.did) or "nothing had to be put back")


def _look_until(told: threading.Event, warmer: Warmer, settings: Settings, count: Callable[[Tick], None]) -> None:
    back_off = BackOff(settings.tick)
    before = Tick("")
    while not told.is_set():
        tick = warmer.tick(time.time())
        count(tick)
        _say(tick, before)
        before = tick
        told.wait(back_off.pause(tick, settings.tick))


def _say(tick: Tick, before: Tick) -> None:
    """What is new about it."""
    if tick.role != before.role:
        _log.info("this warmer %s", tick.role)
    for line in tick.refused:
        if line not in before.refused:
            _log.warning("%s", line)
    if tick.trouble and tick.trouble != before.trouble:
        _log.warning("%s", tick.trouble)


def _holder(settings: Settings, place: Place) -> Holder:
    return Onlooker(place) if settings.dry_run else Holder(place)


def open_ledger(settings: Settings) -> Store | None:
    """Where the workers' ledger is; None where there is none."""
    from handler.billing.store import open_store

    return None if settings.ledger in (None, "off") else open_store(str(settings.ledger))


@contextmanager
def _signals(told: threading.Event) -> Iterator[None]:
    def tell(number: int, frame: FrameType | None) -> None:
        told.set()

    before = {number: signal.signal(number, tell) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _metrics(settings: Settings, warmer: Warmer) -> Iterator[Callable[[Tick], None]]:
    from warmup.metrics import Metrics

    metrics = Metrics(settings, warmer)
    if settings.metrics_port is None:
        yield metrics.count
        return
    with metrics.served(settings.metrics_host, settings.metrics_port):
        yield metrics.count
