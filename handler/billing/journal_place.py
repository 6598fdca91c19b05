"""Where the journals stand: on the network volume if there is one, which outlives the worker; else on its own disk."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, Literal, NamedTuple

VOLUME: Final = Path("/runpod-volume")
"""Where RunPod mounts a network volume."""

_BELOW: Final = Path("pilotlight", "journal")

Kind = Literal["volume", "disk"]


class Place(NamedTuple):
    """Where the journals stand.

    Attributes:
        kind: `volume` outlives the worker and is shared with others; `disk` goes with the container.
        note: what could not be written, in one line; None where the first choice could.
    """

    root: Path
    kind: Kind
    note: str | None


def find_root(
    setting: Path | None, environment: Mapping[str, str] = os.environ, volume: Path = VOLUME
) -> Place:
    """The first place that can really be written: the setting, the network volume, the home, the temporary folder.

    Where nothing can be written it is the last of them; the journal then keeps its lines in memory, and says so.
    """
    troubles: list[str] = []
    root = Path()
    for root in _candidates(setting, environment, volume):
        trouble = _trouble(root)
        if trouble is None:
            return Place(root, _kind(root, volume), _note(troubles, f"the journal is in {root}"))
        troubles.append(f"{root} cannot be written ({trouble})")
    return Place(root, _kind(root, volume), _note(troubles, "lines that are not uploaded are in memory alone"))


def _candidates(setting: Path | None, environment: Mapping[str, str], volume: Path) -> Iterator[Path]:
    if setting is not None:
        yield Path(os.path.abspath(setting.expanduser()))  # noqa: PTH100 (`resolve` would follow links)
    if volume.is_dir():
        yield volume / _BELOW
    # A relative path is to be ignored, and this is the default: XDG Base Directory Specification 0.8.
    state = Path(environment.get("XDG_STATE_HOME", ""))
    home = Path(environment.get("HOME", ""))
    if state.is_absolute():
        yield state / _BELOW
    elif home.is_absolute():
        yield home / ".local" / "state" / _BELOW
    yield Path(tempfile.gettempdir()) / _BELOW


def _trouble(root: Path) -> str | None:
    """Why a file cannot be brought to the disk there; None where it can."""
    probe = root / f".probe-{secrets.token_hex(4)}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        try:
            with probe.open("xb") as file:
                file.write(b"\n")
                file.flush()
                os.fsync(file.fileno())
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        return error.strerror or type(error).__name__
    return None


def _kind(root: Path, volume: Path) -> Kind:
    return "volume" if root.is_relative_to(volume) else "disk"


def _note(troubles: list[str], outcome: str) -> str | None:
    return f"{'; '.join(troubles)}: {outcome}" if troubles else None
