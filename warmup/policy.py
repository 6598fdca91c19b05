"""Policies: what they are, and how their texts are read."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

from warmup.errors import InvalidPolicy

if TYPE_CHECKING:
    from warmup.costs import Costs
    from warmup.history import History
    from warmup.plan import Plan

FORMS: Mapping[str, str] = {
    "never": "never", "always": "always", "idle": "idle:SECONDS", "fixed": "fixed:SECONDS[:IDLE_SECONDS]",
    "cron": "cron:DAYS HH:MM-HH:MM [ZONE][; ...]", "histogram": "histogram", "learned": "learned",
}
"""How each is written."""


class Policy(Protocol):
    """Says when to be warm. The plan follows from the arguments alone; what an object keeps only spares it work.

    Attributes:
        name: as `parse_policy` reads it.
    """

    @property
    def name(self) -> str: ...

    def plan(self, history: History, now: float, costs: Costs) -> Plan:
        """What to do from `now`, in seconds since 1970, until the plan's `until`.

        Args:
            history: what came before `now`; anything later in it would be a look into the future.
        """
        ...


def parse_policy(text: str) -> Policy:
    """A policy from a text such as `idle:60`; see FORMS.

    Raises:
        InvalidPolicy: it is none; the message has the right form.
    """
    name, _, argument = text.strip().partition(":")
    if name not in _MAKERS:
        raise InvalidPolicy(f"{text.strip() or 'nothing'} is no policy: write some of {', '.join(FORMS.values())}")
    return _MAKERS[name](argument)


def _bare(name: str, argument: str) -> None:
    if argument:
        raise InvalidPolicy(f"{name}:{argument}: {name} takes no argument")


def _seconds(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 1 <= value < math.inf:
        raise InvalidPolicy(f"{name}{':' if text else ''}{text}: write {FORMS[name]}, with seconds of at least 1")
    return value


def _never(argument: str) -> Policy:
    from warmup.policies.never import Never

    _bare("never", argument)
    return Never()


def _always(argument: str) -> Policy:
    from warmup.policies.always import Always

    _bare("always", argument)
    return Always()


def _idle(argument: str) -> Policy:
    from warmup.policies.idle import Idle

    return Idle(_seconds("idle", argument))


def _fixed(argument: str) -> Policy:
    from warmup.plan import PLATFORM_IDLE_S
    from warmup.policies.fixed import Fixed

    every, _, idle = argument.partition(":")
    return Fixed(_seconds("fixed", every), _seconds("fixed", idle) if idle else PLATFORM_IDLE_S)


def _cron(argument: str) -> Policy:
    from warmup.policies.cron import Cron

    return Cron.parse(argument)


def _histogram(argument: str) -> Policy:
    from warmup.policies.histogram import Histogram

    _bare("histogram", argument)
    return Histogram()


def _learned(argument: str) -> Policy:
    from warmup.policies.learned import Learned

    _bare("learned", argument)
    return Learned()


_MAKERS: Mapping[str, Callable[[str], Policy]] = {
    "never": _never, "always": _always, "idle": _idle, "fixed": _fixed, "cron": _cron, "histogram": _histogram,
    "learned": _learned,
}
