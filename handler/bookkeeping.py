"""Opens the books that the settings ask for, of the worker that this process is."""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Final

from handler.billing.bookkeeper import Bookkeeper, Pace
from handler.billing.default_ledger import OFF, default_ledger
from handler.billing.identity import Identity, identify
from handler.billing.journal import Journal
from handler.billing.journal_place import find_root
from handler.billing.lines import Lines
from handler.billing.price import Price
from handler.billing.price_list import find_price
from handler.billing.recorder import NoRecord, Recorder
from handler.billing.store import Store, open_store
from handler.billing.uploader import Uploader
from handler.epochs import Epoch

if TYPE_CHECKING:
    from engine.engine import Engine
    from handler.booting import Boot
    from handler.restore import RestoreWatch
    from handler.settings import Settings

RECOVERED_AFTER: Final = 3
"""Open intervals without a line, after which a journal's worker is taken for dead."""

_log = logging.getLogger("pilotlight.billing")


def open_books(settings: Settings, boot: Boot, watch: RestoreWatch) -> Recorder:
    """Begin to take down this worker's life, its boot included.

    Raises:
        InvalidConfig: the ledger's place is none.
    """
    place = settings.ledger or default_ledger({**os.environ})
    if place == OFF:
        return NoRecord()
    store = open_store(place)
    identity = identify(now=watch.epochs.current.began.wall_s)
    root, kind, note = find_root(settings.journal, os.environ)
    if note:
        _log.warning("%s", note)
    _log.info("billed seconds are recorded to %s, and before in %s", store.place, root)
    journal = Journal(root, identity.boot)
    pace = Pace(settings.open_interval)
    terms = _Terms(settings, identity)
    facts = {
        "region": identity.region, "version": version("pilotlight"), "journal": kind,
        "open_interval_ms": round(1000 * pace.open_interval_s),
    }
    books = Bookkeeper(journal, Uploader(store, journal), watch.epochs, terms.lines, pace, facts, watch.catch_up)
    books.start()

    def ready(engine: Engine) -> None:
        terms.settle(engine)
        books.ready(round(1000 * (boot.ready_s or 0)), boot.timeline.as_dicts())
        Thread(target=_recover, args=(root, store, pace), name="recovery", daemon=True).start()

    boot.on_ready(ready)
    return books


class _Terms:
    """Which model is served, on what, at what price; all of it is known once the engine is there."""

    def __init__(self, settings: Settings, identity: Identity) -> None:
        self._settings = settings
        self._identity = identity
        self._model = settings.served_model_name or settings.model
        self._price, self._doubt = self._find_price()

    def lines(self, epoch: Epoch) -> Lines:
        """What makes the lines of an epoch."""
        return Lines(self._identity, epoch, self._model, self._price)

    def settle(self, engine: Engine) -> None:
        """Take over what the engine knows, and say what is in doubt."""
        self._model = self._settings.served_model_name or engine.model.name
        if self._identity.gpu is None and engine.plan.device.startswith("cuda"):
            name = sys.modules["torch"].cuda.get_device_name(engine.plan.device)
            self._identity = replace(self._identity, gpu=name)
            self._price, self._doubt = self._find_price()
        if self._doubt:
            _log.warning("%s", self._doubt)

    def _find_price(self) -> tuple[Price, str | None]:
        settings, identity = self._settings, self._identity
        return find_price(
            identity.gpu, identity.gpu_count, kind=settings.price_kind, override=settings.price,
            prices_file=settings.prices,
        )


def _recover(root: Path, store: Store, pace: Pace) -> None:
    """Bring to the ledger what workers that died have left, on a volume or on this machine."""
    from handler.billing.recovery import recover

    try:
        for journal in recover(root, store, RECOVERED_AFTER * pace.open_interval_s):
            if journal.skipped is None:
                _log.info("recovered the journal of %s: %d lines", journal.boot, journal.lines)
            else:
                _log.debug("left the journal of %s: %s", journal.boot, journal.skipped)
    except Exception:  # The next boot tries again, and so may a person.
        _log.exception("journals could not be recovered")
