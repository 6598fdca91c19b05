"""One warmer acts at a time. The lease is a part of the state, and every write of the state is conditional."""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from warmup.errors import WarmerError
from warmup.places import Outrun, Place
from warmup.state import DamagedState, Lease, State

LEASE_S: Final = 30.0
"""How long a lease holds that is not renewed: who looks every ten seconds and dies is replaced within a minute."""


class NotMine(WarmerError):
    """Another warmer holds the lease."""


def remembered(place: Place) -> tuple[State, str | None]:
    """What is kept, and what names this version of it; a new state and None where nothing is.

    Raises:
        PlaceTrouble, DamagedState: it cannot be had.
    """
    kept = place.read()
    if kept is None:
        return State(), None
    try:
        return State.parse(kept.text), kept.tag
    except DamagedState as damage:
        raise DamagedState(f"{place.name}: {damage}") from None


class Holder:
    """A warmer's hold on the state: it reads, renews and writes it, and knows when it no longer may.

    Two clocks guard it. The wall clock's `until` tells others when to take over. Whether this holder may still act is
    told by its own monotonic clock, which no step of the wall clock moves. Where both fail (a machine asleep, clocks
    far apart), the next write is refused, as somebody else has written, and nothing is done that was not written first.
    """

    def __init__(self, place: Place, clock: Callable[[], float] = time.monotonic, lease_s: float = LEASE_S) -> None:
        self.name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._place = place
        self._clock = clock
        self._lease_s = lease_s
        self._tag: str | None = None
        self._valid_until = 0.0
        self._watched = (-1, 0.0)

    def take(self, now: float) -> State:
        """The state, with the lease held or renewed; the state is not written yet, and the lease not safe before it is.

        Raises:
            NotMine: another holds it, and is alive.
            PlaceTrouble, DamagedState: the state cannot be had.
        """
        state, self._tag = remembered(self._place)
        lease = state.lease
        if lease is not None and lease.holder != self.name and self._is_alive(state, lease, now):
            raise NotMine(f"{lease.holder} keeps the endpoint warm")
        mine = lease is not None and lease.holder == self.name
        term = 1 if lease is None else lease.term if mine else lease.term + 1
        return replace(state, lease=Lease(self.name, term, now + self._lease_s))

    def write(self, state: State) -> State:
        """Keep the state, and give it as it is kept.

        Raises:
            Outrun: somebody else has written since; the lease is lost, and nothing may be done.
            PlaceTrouble: it is not known whether it is kept; nothing may be done.
        """
        began = self._clock()
        kept = replace(state, serial=state.serial + 1)
        self._valid_until = 0.0
        try:
            self._tag = self._place.write(kept.as_json(), self._tag)
        except Outrun:
            self._tag = None
            raise
        self._valid_until = began + self._lease_s
        return kept

    @property
    def may_act(self) -> bool:
        """Whether the lease still holds, by the clock that nobody sets."""
        return self._clock() < self._valid_until

    def give_up(self, state: State) -> None:
        """Let the next one have it at once."""
        self.write(replace(state, lease=None))

    def _is_alive(self, state: State, lease: Lease, now: float) -> bool:
        """Whether another's lease holds: by its time, and by what is seen of it, should the clocks not agree."""
        serial, since = self._watched
        if serial != state.serial:
            self._watched = (state.serial, self._clock())
            return now < lease.until
        return now < lease.until and self._clock() - since < self._lease_s


class Onlooker(Holder):
    """Reads the state and never writes it: what a dry run takes."""

    _own = State()

    def take(self, now: float) -> State:
        """The state as it is, or as this onlooker would have written it."""
        if self._tag is None:
            self._tag, self._own = "", remembered(self._place)[0]
        return self._own

    def write(self, state: State) -> State:
        """Remember it here."""
        self._own = state
        return state

    @property
    def may_act(self) -> bool:
        return False
