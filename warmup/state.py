"""What the warmer remembers: all that a successor must know to go on where it ended, however it ended."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final, TypeVar

from warmup.errors import WarmerError
from warmup.guard import Spending

VERSION: Final = 1

T = TypeVar("T")


class DamagedState(WarmerError):
    """What is kept is no state of a warmer."""


@dataclass(frozen=True, slots=True)
class Lease:
    """Who acts.

    Attributes:
        term: counts those who have held it; fences off whoever had it before.
        until: when it runs out unless it is renewed, in seconds since 1970.
    """

    holder: str
    term: int
    until: float


@dataclass(frozen=True, slots=True)
class Touched:
    """What the warmer has changed of the endpoint's settings. It is written down before it is done.

    Attributes:
        before_min: workers at least, as the user had set it; None where it is as it was.
        set_min: what the warmer has set instead.
        before_idle: the idle timeout, as the user had set it.
        set_idle: what the warmer has set instead.
    """

    before_min: int | None = None
    set_min: int | None = None
    before_idle: int | None = None
    set_idle: int | None = None


@dataclass(frozen=True, slots=True)
class State:
    """The memory. Moments are seconds since 1970 in UTC.

    Attributes:
        touched: what has to be put back.
        changed: when the endpoint's settings were last changed, or were to be.
        slot: which moment of the plan was the last to get a ping; no moment gets two.
        pinged: when that was.
        ping_booked: dollars set aside for it that are not settled yet.
        open_pings: pings whose end has not been seen.
        done: jobs that had ended when the endpoint was last looked at; None before the first look.
        worked: until when users' work is known to have gone on.
        active: until when any work is known to have gone on.
        seen: when the endpoint was last looked at.
        up: workers that were up then, and `load` the jobs that ran or waited.
        pings: how many there have been, and `floors` how often workers at least were raised.
        policy: what is carried out, and `why` if it is not what was asked for.
    """

    lease: Lease | None = None
    serial: int = 0
    spending: Spending = field(default_factory=Spending)
    touched: Touched = field(default_factory=Touched)
    changed: float | None = None
    slot: str | None = None
    pinged: float | None = None
    ping_booked: float = 0.0
    open_pings: int = 0
    done: int | None = None
    worked: float | None = None
    active: float | None = None
    seen: float | None = None
    up: int = 0
    load: int = 0
    pings: int = 0
    floors: int = 0
    policy: str = ""
    why: str = ""

    def as_json(self) -> str:
        """As it is kept."""
        return json.dumps({"version": VERSION, **asdict(self)}, indent=1)

    @classmethod
    def parse(cls, text: str) -> State:
        """What was kept.

        Raises:
            DamagedState: one line that says what is wrong with it.
        """
        try:
            given = json.loads(text)
            if given.pop("version") != VERSION:
                raise DamagedState("the state was written by another version of the warmer")
            lease = given.pop("lease")
            parts = {name: _made(kind, given.pop(name)) for name, kind in _PARTS.items()}
            return _made(cls, {**given, **parts, "lease": None if lease is None else _made(Lease, lease)})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            fault = f"it has no {error}" if isinstance(error, KeyError) else str(error)
            raise DamagedState(f"what is kept is no state of a warmer: {fault}") from None


_PARTS: Final[dict[str, type[Any]]] = {"spending": Spending, "touched": Touched}


def _made(kind: type[T], given: dict[str, Any]) -> T:
    """Numbers must be numbers: what is added up later would else fail far from here."""
    names = {found.name: str(found.type) for found in fields(kind)}  # type: ignore[arg-type]
    for name, value in given.items():
        of_numbers = names.get(name, "").split(" ")[0] in ("int", "float")
        if of_numbers and value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise TypeError(f"{name} is no number")
    return kind(**given)
