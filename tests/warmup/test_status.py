"""What `pilotlight warm status` says, and from which options the warmer's settings are read."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from warmup.command import app
from warmup.guard import Spending
from warmup.learning import Digest
from warmup.places import FolderPlace
from warmup.settings import Settings
from warmup.state import State, Touched
from warmup.status import lines, status

NOW = 1_795_219_200.0


def shown(folder: Path, state: State, **settings: Any) -> dict[str, str]:
    found = status(Settings(endpoint="x", **settings), FolderPlace(folder), state, Digest(), NOW, 7)
    return dict(lines(found))


def test_what_is_booked_is_said_to_be_the_most(tmp_path: Path) -> None:
    """The next look gives back what was paid in advance and not used."""
    state = State(spending=Spending().at(NOW, 0.0).book(0.25), touched=Touched(before_min=0, set_min=1), seen=NOW - 30)
    said = shown(tmp_path, state, budget_day=2.0)
    assert (said["today"], said["this month"]) == ("at most $0.2500 of $2.00", "at most $0.2500 of no budget")
    assert (said["set"], said["last look"]) == ("before min 0, set min 1", "30 s ago")


def test_before_the_first_look_there_is_nothing(tmp_path: Path) -> None:
    said = shown(tmp_path, State())
    assert (said["acts"], said["last look"], said["set"]) == ("nobody", "never", "nothing")
    assert said["bought"] == "no users in the ledger yet"


@pytest.mark.parametrize(("command", "own"), [
    ("run", set()), ("ping", {"now", "as_json"}), ("status", {"days", "as_json"}),
])
def test_every_option_but_a_commands_own_is_a_setting(command: str, own: set[str]) -> None:
    options = {option.name for option in get_command(app).commands[command].params}  # type: ignore[attr-defined]
    assert options - {field.name for field in fields(Settings)} - {"help"} == own
