"""One look, and no process that stays: for cron and its like, and for those who only want to know."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from warmup.learning import Digest, Learner
from warmup.lease import remembered
from warmup.places import open_place
from warmup.run import make_warmer, open_ledger
from warmup.status import status
from warmup.warmer import DIGEST

if TYPE_CHECKING:
    from warmup.settings import Settings
    from warmup.warmer import Tick


def look_once(settings: Settings, ping: bool = False) -> Tick:
    """Do what is due, and leave the endpoint as it then is; the next look goes on from there.

    Args:
        ping: send one, whatever the policy says.

    Raises:
        WarmerError: a setting is wrong.
    """
    warmer = make_warmer(settings)
    tick = warmer.tick(time.time(), ping)
    warmer.release()
    return tick


def read_status(settings: Settings, now: float, days: float) -> dict[str, Any]:
    """What `pilotlight warm status` shows. Reads the ledger; writes nothing.

    Raises:
        WarmerError, StoreTrouble: the state, or the ledger, cannot be read.
    """
    place = open_place(settings.state, settings.alone)
    (state, _), body = remembered(place), place.recall(DIGEST)
    learner = Learner(open_ledger(settings), settings.endpoint, None if body is None else Digest.unpacked(body))
    learner.learn(now)
    return status(settings, place, state, learner.digest, now, days)
