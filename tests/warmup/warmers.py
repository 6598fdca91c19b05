"""Warmers on an endpoint that a test makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.warmup.world import World, clock_of
from warmup.endpoint_api import Endpoint
from warmup.learning import Learner
from warmup.lease import Holder
from warmup.places import FolderPlace, Place
from warmup.settings import Settings
from warmup.warmer import Warmer

TICK = 10


class DeadlyPlace(FolderPlace):
    """A folder whose writer may die before a write or after it."""

    def __init__(self, folder: Path, world: World) -> None:
        super().__init__(folder)
        self._world = world

    def write(self, text: str, tag: str | None) -> str:
        self._world.death()
        written = super().write(text, tag)
        self._world.death()
        return written


def make_settings(folder: Path, policy: str, **options: Any) -> Settings:
    given = {"price": 0.001, "boot_limit": 31.0, "tick": TICK, "outage": 60.0, "timeout": 5.0, **options}
    return Settings(endpoint="local", policy=policy, state=str(folder), **given)


def make_warmer(
    settings: Settings, world: World, place: Place | None = None, endpoint: Endpoint | None = None
) -> Warmer:
    """A warmer whose clocks are the world's."""
    kept = place or DeadlyPlace(Path(settings.state), world)
    holder = Holder(kept, clock_of(world))
    return Warmer(settings, endpoint or world, kept, Learner(None, "local"), holder)
