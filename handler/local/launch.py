"""What a worker finds when it starts: its variables, and its places below the endpoint's state folder."""

from __future__ import annotations

import os
import shutil
import socket
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Final

from handler.local.addresses import worker_environment
from handler.local.worker import Worker

LOGS_KEPT: Final = 50
"""Workers of earlier endpoints whose folders stay."""

GRACE_MARGIN_S: Final = 2
"""Of the grace, for what a worker does when its requests are through: its last words to the ledger."""


@dataclass(frozen=True, slots=True)
class Launch:
    """How workers are started.

    Attributes:
        base_url: where the control plane listens, as workers reach it.
        state: folder of all that the endpoint keeps. Ledger and journal stand below it, unless the user's own
            environment names others.
        variables: more of them, which win: the model, the engine's options.
        grace_s: between SIGTERM and SIGKILL.
        seen_state: `state` as workers see it, where that is elsewhere, in a container.
        listening: whether each worker listens on a port of its own, where the load balancer finds it.
        sdk_key: what a worker over RunPod's SDK may show in place of its own key.
    """

    base_url: str
    state: Path
    variables: Mapping[str, str] = field(default_factory=dict)
    gpu: str | None = None
    price: Decimal | None = None
    ping_s: int = 10
    grace_s: float = 30.0
    seen_state: Path | None = None
    sdk_key: str | None = None
    listening: bool = False

    def environment(self, worker: Worker) -> dict[str, str]:
        """All variables of one worker."""
        given = {name: os.environ[name] for name in self._own() if name in os.environ}
        webhooks = worker_environment(self.base_url, worker.id, worker.key, self.ping_s)
        listens = {} if worker.port is None else {"PORT": str(worker.port), "PILOTLIGHT_HOST": "127.0.0.1"}
        return webhooks | self._own() | given | self._terms() | listens | dict(self.variables)

    def port(self) -> int | None:
        """A free port, where workers listen; another process may take it first, and the worker then fails to boot."""
        if not self.listening:
            return None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
            return port

    def log_of(self, worker_id: str) -> Path:
        """Where a worker's output goes; its folder is made when it is started."""
        return self._workers / worker_id / "log"

    def tidy(self) -> None:
        """Remove the folders of all but the latest workers; before the first of this endpoint is started."""
        folders = self._workers.iterdir() if self._workers.is_dir() else ()
        for old in sorted(folders, key=lambda path: path.stat().st_mtime)[:-LOGS_KEPT]:
            shutil.rmtree(old, ignore_errors=True)

    @property
    def _workers(self) -> Path:
        return self.state / "workers"

    def _own(self) -> dict[str, str]:
        """What the user's environment may say otherwise."""
        state = self.seen_state or self.state
        return {
            "PILOTLIGHT_LEDGER": f"file://{state / 'ledger'}",
            "PILOTLIGHT_JOURNAL": str(state / "journal"),
            "PILOTLIGHT_GRACE": str(max(0, int(self.grace_s) - GRACE_MARGIN_S)),
        }

    def _terms(self) -> dict[str, str]:
        """At what price the worker's own books are kept: the bill's."""
        gpu = {"PILOTLIGHT_GPU": self.gpu} if self.gpu else {}
        return gpu | ({} if self.price is None else {"PILOTLIGHT_PRICE": format(self.price, "f")})


def find_sdk_key(home: Path) -> str | None:
    """The key of RunPod's own command line, which its SDK prefers to the one that it is given in the environment."""
    try:
        known = tomllib.loads((home / ".runpod" / "config.toml").read_text(encoding="utf-8"))
        return str(known["default"]["api_key"]) or None
    except (OSError, ValueError, KeyError, TypeError):
        return None
