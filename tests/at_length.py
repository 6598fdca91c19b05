"""Properties at length: many times the examples, drawn anew, and no other tests.

    PILOTLIGHT_EXAMPLES=20 python -m pytest
"""

from __future__ import annotations

import os
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, settings

VARIABLE: Final = "PILOTLIGHT_EXAMPLES"
_OF_A_TEST: Final = "_hypothesis_internal_use_settings"


def only_properties(items: list[pytest.Item]) -> None:
    """Where it is asked for, leave the properties alone, each with so many times its examples and no limit of time."""
    if VARIABLE not in os.environ:
        return
    times = int(os.environ[VARIABLE])
    items[:] = [item for item in items if _holder(item)]
    for holder in {id(found): found for item in items if (found := _holder(item))}.values():  # Some share one.
        name = "settings" if isinstance(holder, type) else _OF_A_TEST
        setattr(holder, name, _more(getattr(holder, name), times))
    for item in items:
        item.add_marker(pytest.mark.timeout(0))


def _holder(item: pytest.Item) -> Any:
    """What has the settings: the function, or the class of a state machine's test; None where it is no property."""
    function = getattr(getattr(item, "obj", None), "__func__", getattr(item, "obj", None))
    if hasattr(function, _OF_A_TEST):
        return function
    kind = getattr(item, "cls", None)
    return kind if isinstance(getattr(kind, "settings", None), settings) else None


def _more(given: settings, times: int) -> settings:
    return settings(
        given, max_examples=given.max_examples * times, derandomize=False, database=None, deadline=None,
        suppress_health_check=list(HealthCheck),
    )
