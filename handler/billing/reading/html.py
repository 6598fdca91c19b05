"""The report as a page: one file that needs nothing else, light or dark as its reader's machine is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from html import escape

from handler.billing.reading.charts import Stack, delays, stacked_bars, waterfall
from handler.billing.reading.figures import Group, Report
from handler.billing.reading.words import (
    amounts,
    count,
    dollars,
    duration,
    headline,
    key_names,
    notes,
    percent,
    starts_line,
)

_ORDER = ("execution", "boot", "idle", "drain", "rounding")
"""From the bottom up: what served first."""

_MOST_HOURS = 96
"""A longer period is drawn by days."""
_MOST_DAYS = 1_000
"""Of a period beyond it, which one wrong clock makes, days with nothing are not drawn."""
_MOST_GROUPS = 500
_BOOTS = 5

_STYLE = """
:root { color-scheme: light dark; --page: #ffffff; --ink: #1f2328; --note: #57606a; --line: #d0d7de;
  --execution: #3b82f6; --boot: #a371f7; --idle: #d9822b; --drain: #06a5b8; --rounding: #8b949e }
@media (prefers-color-scheme: dark) {
  :root { --page: #0d1117; --ink: #e6edf3; --note: #9198a1; --line: #3d444d } }
body { background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, "DejaVu Sans", sans-serif;
  max-width: 1000px; margin: 0 auto; padding: 24px 16px }
h1 { font-size: 24px; margin: 0 0 4px } h2 { font-size: 17px; margin: 32px 0 8px }
p { margin: 2px 0 } .note, th { color: var(--note) } .warning { border-left: 3px solid var(--idle); padding-left: 8px }
svg { width: 100%; height: auto; display: block } svg text { font-size: 12px; fill: var(--ink) }
svg text.note { fill: var(--note) } .grid { stroke: var(--line) } .hit { fill: transparent }
.hit:hover { fill: var(--note); fill-opacity: 0.15 } .dot { fill: var(--page); stroke: var(--ink); stroke-width: 2 }
.execution { fill: var(--execution); background: var(--execution) } .boot { fill: var(--boot); background: var(--boot) }
.idle { fill: var(--idle); background: var(--idle) } .drain { fill: var(--drain); background: var(--drain) }
.rounding { fill: var(--rounding); background: var(--rounding) }
.share { display: flex; height: 14px; border-radius: 4px; overflow: hidden; margin: 12px 0 6px; gap: 1px }
.key span { display: inline-block; margin-right: 16px } .key i { display: inline-block; width: 10px; height: 10px;
  border-radius: 2px; margin-right: 6px }
.wide { overflow-x: auto } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th { text-align: left; font-weight: 500 } td, th { padding: 3px 12px 3px 0; border-bottom: 1px solid var(--line) }
td.amount, th.amount { text-align: right; white-space: nowrap } details { margin: 6px 0 } summary { cursor: pointer }
"""


def page(report: Report) -> str:
    """The whole document."""
    bars = _bars(report.hours)
    sections = [
        _head(report),
        *(f'<p class="warning">{escape(note)}</p>' for note in notes(report)),
        _shares(report.whole),
        *_over_time(report, bars),
        *_waiting(report),
        *_cold_starts(report),
        *_groups(report),
    ]
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{_title(report)}</title>'
    lines = ["<!DOCTYPE html>", f'<html lang="en"><head>{head}<style>{_STYLE}</style></head>', "<body>", *sections]
    return "\n".join([*lines, "</body></html>\n"])


def _title(report: Report) -> str:
    return f"Where the money went: {escape(report.place)}"


def _head(report: Report) -> str:
    times = [group.key[0] or "" for group in report.hours]
    period = f", {times[0][:10]} to {times[-1][:10]}" if times else ""
    lines = [f"{escape(report.place)}{period} (UTC)", escape(starts_line(report))]
    return f"<h1>{escape(headline(report))}</h1>\n" + "\n".join(f'<p class="note">{line}</p>' for line in lines)


def _shares(whole: Group) -> str:
    """One bar of all the time, and what each colour means."""
    total = whole.spending.total_ms
    if not total:
        return "<p>The ledger has no time in this period.</p>"
    parts, keys = [], []
    for phase in _ORDER:
        ms, cost = whole.spending.ms[phase], whole.spending.cost_of(phase)
        parts.append(f'<span class="{phase}" style="flex: {ms}"></span>')
        told = f"{phase} {duration(ms)}, {percent(ms, total)}" + ("" if cost is None else f", {dollars(cost)}")
        keys.append(f'<span><i class="{phase}"></i>{told}</span>')
    return f'<div class="share">{"".join(parts)}</div>\n<p class="key">{"".join(keys)}</p>'


def _bars(hours: Sequence[Group]) -> list[tuple[str, list[Group]]]:
    """The groups of each hour, or of each day if there are many, with those between that have none."""
    moments = [datetime.fromisoformat(group.key[0] or "") for group in hours]
    if not moments:
        return []
    length = moments[-1] - moments[0]
    daily = length >= timedelta(hours=_MOST_HOURS)
    step, form = (timedelta(days=1), "%Y-%m-%d") if daily else (timedelta(hours=1), "%m-%d %H:00")
    told: dict[str, list[Group]] = {}
    moment = moments[0].replace(hour=0) if daily else moments[0]
    while moment <= moments[-1] and length.days <= _MOST_DAYS:
        told[moment.strftime(form)] = []
        moment += step
    for moment, group in zip(moments, hours, strict=True):
        told.setdefault(moment.strftime(form), []).append(group)
    return list(told.items())


def _over_time(report: Report, bars: Sequence[tuple[str, list[Group]]]) -> Iterator[str]:
    if not bars:
        return
    priced = report.whole.spending.cost is not None
    yield f"<h2>{'Cost' if priced else 'Seconds'} over time, by phase</h2>"
    spent = [_spent(label, groups, priced) for label, groups in bars]
    yield stacked_bars("spent over time", "$" if priced else "s", spent)
    yield "<h2>Output tokens over time</h2>"
    yield stacked_bars("output tokens over time", "", [_tokens(label, groups) for label, groups in bars])
    if priced:
        yield "<h2>Cost of 1,000 output tokens</h2>"
        yield stacked_bars("cost of 1,000 output tokens", "$", [_rate(label, groups) for label, groups in bars])


def _spent(label: str, groups: Sequence[Group], priced: bool) -> Stack:
    def amount(phase: str) -> float:
        parts = [group.spending for group in groups]
        return float(sum(part.cost_of(phase) or 0 if priced else part.ms[phase] / 1000 for part in parts))

    parts = {phase: max(0.0, amount(phase)) for phase in _ORDER}
    told = ", ".join(f"{phase} {value:,.4g}" for phase, value in parts.items() if value)
    total = f"{sum(parts.values()):,.4g}"
    return Stack(label, parts, f"{label}: {f'${total}' if priced else f'{total} s'} ({told})")


def _tokens(label: str, groups: Sequence[Group]) -> Stack:
    tokens = sum(group.work.output_tokens for group in groups)
    return Stack(label, {"execution": tokens}, f"{label}: {count(tokens, 'output token')}")


def _rate(label: str, groups: Sequence[Group]) -> Stack:
    tokens, cost = sum(group.work.output_tokens for group in groups), sum(group.spending.cost or 0 for group in groups)
    rate = float(cost) * 1000 / tokens if tokens else 0.0
    return Stack(label, {"execution": rate}, f"{label}: ${rate:,.4g}" if tokens else f"{label}: no tokens")


def _waiting(report: Report) -> Iterator[str]:
    if report.whole.work.requests:
        yield "<h2>How long users waited for the first token, by what they found</h2>"
        yield '<p class="note">from the median to p99; the dot is p95</p>'
        yield delays("first token by start kind", report.first_token_ms)


def _cold_starts(report: Report) -> Iterator[str]:
    if report.boots:
        yield f"<h2>Cold starts: the newest of {report.cold_starts:,}</h2>"
    for number, boot in enumerate(report.boots[:_BOOTS]):
        cost = "" if boot.cost is None else f", {dollars(boot.cost)}"
        told = f"{boot.began:%Y-%m-%d %H:%M:%S} {boot.worker}: ready after {duration(boot.ready_ms)}{cost}"
        shown = " open" if number == 0 else ""
        yield f"<details{shown}><summary>{escape(told)}</summary>\n{waterfall(boot)}\n</details>"


def _groups(report: Report) -> Iterator[str]:
    if not report.groups:
        return
    columns = ("cost", "share", "requests", "execution, s", "seconds", "output tokens", "cost per 1,000")
    names = "".join(f"<th>{name}</th>" for name in report.by) + "".join(f'<th class="amount">{n}</th>' for n in columns)
    yield f"<h2>By {', '.join(report.by)}</h2>\n<div class=\"wide\"><table><tr>{names}</tr>"
    for group in report.groups[:_MOST_GROUPS]:
        keys = "".join(f"<td>{escape(name)}</td>" for name in key_names(group, report.by))
        figures = "".join(f'<td class="amount">{amount}</td>' for amount in amounts(group, report.whole))
        yield f"<tr>{keys}{figures}</tr>"
    yield "</table></div>"
    if len(report.groups) > _MOST_GROUPS:
        yield f'<p class="note">and {len(report.groups) - _MOST_GROUPS:,} more; --json has all</p>'
