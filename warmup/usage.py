"""What was asked for wrongly ends a command with one line and status 2, as what its parser finds does."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from warmup.errors import InvalidPolicy, InvalidSetting


@contextmanager
def checked_usage() -> Iterator[None]:
    """Any other error is the front door's to show."""
    try:
        yield
    except (InvalidPolicy, InvalidSetting) as error:
        print(f"pilotlight: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
