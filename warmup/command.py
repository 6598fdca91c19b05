"""`pilotlight warm`: when to be warm, and what that costs."""

from __future__ import annotations

import sys

import typer

from warmup.errors import WarmerError
from warmup.running_command import ping, run, status
from warmup.simulate.command import simulate

app = typer.Typer(no_args_is_help=True, help="Keep workers warm while that pays, and try out what would.")
app.command()(run)
app.command()(ping)
app.command()(status)
app.command()(simulate)


@app.callback()
def options(context: typer.Context) -> None:
    """Keep workers warm while that pays, and try out what would."""
    if sys.stdout is None and context.invoked_subcommand != "run":  # Which has nothing to say there.
        raise WarmerError("standard output is closed")
