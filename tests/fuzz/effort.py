"""How many cases are tried. Without a word the same ones each time, so that a failure is news of the code."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings

VARIABLE = "PILOTLIGHT_FUZZ_CASES"
"""Cases of each campaign, drawn anew; a failure prints what repeats it."""


def cases(few: int) -> int:
    """As many as are asked for, or these few."""
    return int(os.environ.get(VARIABLE, few))


def effort(examples: int) -> settings:
    """For a property that is to hold in so many examples."""
    return settings(
        max_examples=examples, derandomize=VARIABLE not in os.environ, database=None, deadline=None,
        print_blob=VARIABLE in os.environ, phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
