"""`pilotlight warm run`, `ping` and `status`. An option that has a setting's name is read from the context."""

from __future__ import annotations

import logging
import sys
import time
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Annotated

import typer

from handler.billing.options import JsonOption, write_json
from warmup.errors import WarmerError
from warmup.usage import checked_usage

if TYPE_CHECKING:
    from warmup.settings import Settings

EndpointOption = Annotated[str | None, typer.Option("--endpoint", metavar="ID", help="Default: RUNPOD_ENDPOINT_ID.")]
PolicyOption = Annotated[str | None, typer.Option("--policy", metavar="NAME[:ARG]", help="Default: learned.")]
WaitOption = Annotated[
    float | None, typer.Option("--wait-value", help="Seconds of the worker that a second of a user's waiting is worth.")
]
PriceOption = Annotated[
    float | None, typer.Option("--price", metavar="DOLLARS", help="A second of a worker; default: as the ledger says.")
]
DayOption = Annotated[float | None, typer.Option("--budget-day", metavar="DOLLARS", help="The most for a day, in UTC.")]
MonthOption = Annotated[float | None, typer.Option("--budget-month", metavar="DOLLARS", help="The most for a month.")]
LedgerOption = Annotated[
    str | None, typer.Option("--ledger", metavar="PLACE", help="What is learnt from: s3://BUCKET/PREFIX or a folder.")
]
StateOption = Annotated[
    str | None, typer.Option("--state", metavar="PLACE", help="The warmer's memory: a folder or s3://BUCKET/PREFIX.")
]
TickOption = Annotated[
    float | None, typer.Option("--tick", help="Seconds from look to look; of `ping`, from one run to the next.")
]
DryOption = Annotated[bool | None, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
StopOption = Annotated[bool | None, typer.Option("--stop", help="Put back what was set, and do nothing else.")]
AloneOption = Annotated[bool | None, typer.Option("--alone", help="No other warmer shares the state.")]


def run(
    context: typer.Context,
    endpoint: EndpointOption = None,
    policy: PolicyOption = None,
    wait_value: WaitOption = None,
    price: PriceOption = None,
    budget_day: DayOption = None,
    budget_month: MonthOption = None,
    ledger: LedgerOption = None,
    state: StateOption = None,
    tick: TickOption = None,
    metrics_port: Annotated[int | None, typer.Option(min=0, max=65535, help="Serves /metrics.")] = None,
    dry_run: DryOption = None,
    stop: StopOption = None,
    alone: AloneOption = None,
) -> None:
    """Keep an endpoint warm until SIGTERM; then put back what was set."""
    from warmup.run import run as keep_warm

    _log_to_stderr()
    with checked_usage():
        keep_warm(_settings(context))


def ping(
    context: typer.Context,
    endpoint: EndpointOption = None,
    policy: PolicyOption = None,
    wait_value: WaitOption = None,
    price: PriceOption = None,
    budget_day: DayOption = None,
    budget_month: MonthOption = None,
    ledger: LedgerOption = None,
    state: StateOption = None,
    tick: TickOption = None,
    dry_run: DryOption = None,
    stop: StopOption = None,
    alone: AloneOption = None,
    now: Annotated[bool, typer.Option("--now", help="Ping whatever the policy says, within the budget.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Look once and do what is due: for cron and its like."""
    from warmup.once import look_once

    _log_to_stderr()
    with checked_usage():
        tick_done = look_once(_settings(context), now)
    if as_json:
        write_json(asdict(tick_done))
    elif not tick_done.trouble:
        done = [*tick_done.did, *tick_done.refused] or ["nothing is due"]
        sys.stdout.write(f"{tick_done.role}: {'; '.join(done)}\n")
    if tick_done.trouble:
        raise WarmerError(tick_done.trouble)


def status(
    context: typer.Context,
    endpoint: EndpointOption = None,
    price: PriceOption = None,
    budget_day: DayOption = None,
    budget_month: MonthOption = None,
    ledger: LedgerOption = None,
    state: StateOption = None,
    days: Annotated[float, typer.Option(min=0.01, help="How far back what was bought is looked at.")] = 7.0,
    as_json: JsonOption = False,
) -> None:
    """What is set, what was spent, and what that bought."""
    from warmup.once import read_status
    from warmup.status import lines

    _log_to_stderr()
    with checked_usage():
        shown = read_status(_settings(context), time.time(), days)
    if as_json:
        write_json(shown)
    else:
        sys.stdout.write("".join(f"{name:<14} {words}\n" for name, words in lines(shown)))


def _settings(context: typer.Context) -> Settings:
    from warmup.settings import Settings, read_settings

    names = {field.name for field in fields(Settings)}
    return read_settings(**{name: value for name, value in context.params.items() if name in names})


def _log_to_stderr() -> None:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s")
    for chatty in ("httpx", "botocore"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
