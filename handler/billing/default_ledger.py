"""Where the ledger is when nobody says."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

OFF: Final = "off"
"""Instead of a place: nothing is recorded."""

VARIABLE: Final = "PILOTLIGHT_LEDGER"


def default_ledger(environment: Mapping[str, str] = os.environ) -> str:
    """The ledger's place: as `PILOTLIGHT_LEDGER` says, else a folder of the user's, by XDG's specification."""
    if named := environment.get(VARIABLE):
        return named
    home = environment.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")  # noqa: PTH111 - knows no home, too.
    return f"file://{Path(home, 'pilotlight', 'ledger')}"
