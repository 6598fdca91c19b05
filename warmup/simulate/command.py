"""`pilotlight warm simulate`: policies on a trace."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from handler.billing.options import JsonOption, display, readable_ledger, write_json
from warmup.costs import Costs, Seconds, Starts
from warmup.errors import InvalidSetting
from warmup.history import History
from warmup.policy import FORMS, Policy, parse_policy
from warmup.simulate.assumptions import assumptions
from warmup.usage import checked_usage

if TYPE_CHECKING:
    from warmup.simulate.outcome import Outcome, Period
    from warmup.simulate.scaling import Fleet

_USUAL = ("never", "idle:60", "idle:300", "idle:1200", "fixed:300", "histogram", "always", "learned")
_COLD_S, _SERVICE_S, _PRICE, _WAIT_VALUE = "20", "3", 0.00031, 5.0
"""The price is RunPod's of an RTX 4090 (24 GB), US dollars a second, June 2026."""

_YEAR_S, _MOST_YEARS = 365.25 * 86400, 100


@dataclass(frozen=True, slots=True)
class Row:
    """A policy and what it did."""

    policy: str
    requests: int
    cold_starts: int
    billed_s: float
    cost: float
    waited_s: float
    score: float


def simulate(
    trace: Annotated[
        Path | None,
        typer.Argument(metavar="[TRACE]", exists=True, dir_okay=False, help="CSV, or seconds; default: the ledger's."),
    ] = None,
    policy: Annotated[
        list[str] | None, typer.Option("--policy", metavar="NAME[:ARG]", help=f"Some of: {', '.join(FORMS.values())}.")
    ] = None,
    cold_seconds: Annotated[
        str | None,
        typer.Option(metavar="SECONDS", help=f"A start: a number, lognormal:MEDIAN,SIGMA, or a file; {_COLD_S}."),
    ] = None,
    service_seconds: Annotated[
        str | None,
        typer.Option(metavar="SECONDS", help=f"A request, the same way; default: the trace's, or {_SERVICE_S}."),
    ] = None,
    price: Annotated[float, typer.Option(metavar="DOLLARS", help="Of a worker's second.")] = _PRICE,
    wait_value: Annotated[
        float,
        typer.Option(metavar="TIMES", help="How many of a worker's seconds a second of a user's waiting is worth."),
    ] = _WAIT_VALUE,
    train: Annotated[
        float, typer.Option(metavar="FRACTION", help="Of the trace's time, to learn from; the rest is replayed.")
    ] = 0.0,
    workers_max: Annotated[int, typer.Option(min=1, help="With more than one, RunPod's scaler adds them.")] = 1,
    at_once: Annotated[
        int | None, typer.Option(min=1, help="Requests that a worker serves at once; default: all, as batching does.")
    ] = None,
    stretch: Annotated[float, typer.Option(metavar="TIMES", help="Make the trace's time longer.")] = 1.0,
    ledger: Annotated[
        str | None,
        typer.Option("--from", metavar="PLACE", help="A ledger whose times of starts and requests are taken."),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(dir_okay=False, metavar="FILE", help="Gets cold starts against cost, .svg or .png.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of what is drawn.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Replay a trace under several policies: cold starts against money."""
    from warmup.simulate.outcome import Period
    from warmup.simulate.scaling import Fleet

    with checked_usage():
        policies = [parse_policy(text) for text in policy or _USUAL]
        _check(train, stretch, plot)
        history, starts = _arrivals(trace, cold_seconds, service_seconds, ledger, stretch, seed, as_json)
        costs, period, fleet = Costs(price, wait_value, starts), Period.of(history, train), Fleet(workers_max, at_once)
        rows = _rows(policies, _runner(history, costs, period, fleet, seed), costs, period, as_json)
        if plot is not None:
            _plot(plot, trace, rows)
    _show(rows, assumptions(history, costs, period, fleet), as_json)


def _check(train: float, stretch: float, plot: Path | None) -> None:
    if not 0 <= train < 1:
        raise InvalidSetting(f"--train {train:g}: write a fraction from 0 to 1, not 1 itself")
    if not 0 < stretch < float("inf"):
        raise InvalidSetting(f"--stretch {stretch:g}: write a number above 0")
    if plot is not None:
        from warmup.simulate.pareto import check

        check(plot)


def _arrivals(
    trace: Path | None, cold: str | None, service: str | None, ledger: str | None, stretch: float, seed: int,
    quiet: bool,
) -> tuple[History, Starts]:
    """Arrivals with their service times, and how long starts take, from where each is told."""
    from warmup.simulate.durations import parse_seconds, spread
    from warmup.simulate.generate import stretched
    from warmup.simulate.traces import read_trace

    learnt = _read_ledger(ledger, quiet) if ledger is not None or trace is None else None
    boots = parse_seconds(cold) if cold else learnt.cold if learnt else None
    starts = Starts(boots or parse_seconds(_COLD_S), learnt.restores if learnt else None)
    if trace is None:
        assert learnt is not None
        times, took = learnt.history.arrivals, learnt.history.services
    else:
        times, found = read_trace(trace, seed)
        seconds = parse_seconds(_SERVICE_S) if learnt is None else Seconds(tuple(learnt.history.services.tolist()))
        took = spread(seconds, times.size, seed) if found is None else found
    if service:
        took = spread(parse_seconds(service), times.size, seed)
    history = History.of(stretched(times, stretch), took)
    years = (history.arrivals[-1] - history.arrivals[0]) / _YEAR_S
    if years > _MOST_YEARS:
        raise InvalidSetting(f"the arrivals spread over {years:.3g} years: at most {_MOST_YEARS} are replayed")
    return history, starts


def _read_ledger(place: str | None, quiet: bool) -> Any:
    from handler.billing.reading.ledger import open_ledger
    from warmup.simulate.from_ledger import learn

    with open_ledger(readable_ledger(place), progress=display(quiet)) as opened:
        return learn(opened)


def _runner(
    history: History, costs: Costs, period: Period, fleet: Fleet, seed: int
) -> Callable[[Policy, Callable[[float], None]], Outcome]:
    """What replays a policy: at once where one worker serves all that comes, else event by event."""
    from warmup.simulate.outcome import carry_out
    from warmup.simulate.scaling import scale_out
    from warmup.simulate.traffic import Traffic

    if fleet.workers_max == 1 and fleet.at_once is None:
        traffic = Traffic.of(history.since(period.begin))
        return lambda policy, done: carry_out(policy, history, traffic, costs, period, seed, done)
    return lambda policy, done: scale_out(policy, history, costs, period, fleet, seed, done)


def _rows(
    policies: Sequence[Policy], run: Callable[[Policy, Callable[[float], None]], Outcome], costs: Costs,
    period: Period, quiet: bool,
) -> list[Row]:
    rows = []
    with display(quiet)("replayed", 100 * len(policies)) as advance:
        for policy in policies:
            done = _in_percent(period, advance)
            did = run(policy, done)
            done(period.until)
            did = replace(did, waited_s=round(did.waited_s, 3))  # So that the printed figures make the printed score.
            rows.append(Row(
                policy.name, did.requests, did.cold_starts, did.billed_s, did.cost(costs), did.waited_s,
                did.score(costs),
            ))
    return rows


def _in_percent(period: Period, advance: Callable[[int], None]) -> Callable[[float], None]:
    """What is told how far a replay has come, and moves the bar by whole per cents."""
    shown = 0

    def done(now: float) -> None:
        nonlocal shown
        percent = min(100, int(100 * (now - period.begin) / (period.until - period.begin or 1.0)))
        if percent > shown:
            advance(percent - shown)
            shown = percent

    return done


def _plot(plot: Path, trace: Path | None, rows: Sequence[Row]) -> None:
    from warmup.simulate.pareto import Spot, write

    title = f"Cold starts against money: {trace.stem if trace else 'the ledger'}"
    write(plot, title, [Spot(row.policy, row.cold_starts, row.cost) for row in rows])


def _show(rows: Sequence[Row], assumed: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        write_json({"policies": [asdict(row) for row in rows], "assumptions": assumed})
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("policy", header_style="dim", overflow="fold", min_width=12)
    for name in ("cold starts", "of all", "billed, s", "cost", "waited, s", "score"):
        table.add_column(name, justify="right", header_style="dim", no_wrap=True)
    best = min(row.score for row in rows)
    for row in rows:
        table.add_row(
            row.policy, f"{row.cold_starts:,}", f"{row.cold_starts / row.requests:.1%}", f"{row.billed_s:,.0f}",
            _dollars(row.cost), f"{row.waited_s:,.0f}", _dollars(row.score),
            style="bold" if row.score == best else None,
        )
    told = "{cold_seconds:g} s a start, {service_seconds:g} s a request, {at_once} at once, ${price:g} a second"
    console = Console(highlight=False)
    console.print(table)
    console.print(f"{told}, {{wait_value:g}} times that for waiting".format(**assumed), style="dim", soft_wrap=True)


def _dollars(amount: float) -> str:
    return f"${amount:,.4f}" if amount < 10 else f"${amount:,.2f}"
