"""Figures as a person reads them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal

from handler.billing.reading.figures import Group, Report

NO_REQUEST = "no request"
NO_TENANT = "no tenant"

PRICE_HINT = "set PILOTLIGHT_PRICE (US dollars per second of a worker) where the workers run"


def dollars(amount: Decimal | None) -> str:
    """With as many digits as tell something; a dash where it is not known."""
    if amount is None:
        return "-"
    if amount == 0:
        return "$0"
    if abs(amount) >= 1:
        return f"${amount:,.2f}".replace("$-", "-$")
    digits = max(2, 2 - amount.adjusted())
    return f"${amount:.{digits}f}".replace("$-", "-$")


def duration(ms: int) -> str:
    """Seconds with three decimals up to an hour, beyond it days, hours and minutes."""
    if abs(ms) < 3_600_000:
        return f"{ms / 1000:,.3f} s"
    minutes = round(ms / 60_000)
    days, hours, minutes = minutes // 1440, minutes // 60 % 24, minutes % 60
    return f"{days} d {hours:02d} h" if days else f"{hours} h {minutes:02d} min"


def count(number: int, one: str) -> str:
    """A number of things."""
    return f"{number:,} {one}{'' if number == 1 else 's'}"


def percent(part: Decimal | int, whole: Decimal | int | None) -> str:
    """A part's share."""
    return f"{100 * float(part) / float(whole):.1f} %" if whole else "-"


def printable(text: str) -> str:
    """A name from a ledger, which a terminal is not to take for commands."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def key_names(group: Group, by: Sequence[str]) -> list[str]:
    """What a group has in common, with names for what has none."""
    return [_key_name(group, name, part) for name, part in zip(by, group.key, strict=True)]


def amounts(group: Group, whole: Group) -> Iterator[str]:
    """Cost, share of it (or of the time), requests, execution, seconds, output tokens, and the cost of 1,000."""
    spending, work = group.spending, group.work
    cost, total = spending.cost, whole.spending.cost
    yield dollars(cost)
    yield percent(spending.total_ms, whole.spending.total_ms) if total is None else percent(cost or 0, total)
    yield "-" if group.no_request else f"{work.requests:,}"
    yield f"{spending.ms['execution'] / 1000:,.3f}"
    yield f"{spending.total_ms / 1000:,.3f}"
    yield "-" if group.no_request else f"{work.output_tokens:,}"
    yield dollars(group.per_1000_tokens())


def headline(report: Report) -> str:
    """The report in one line."""
    whole = report.whole
    cost, tokens, rate = whole.spending.cost, whole.work.output_tokens, whole.per_1000_tokens()
    billed = duration(whole.spending.total_ms)
    parts = [
        f"{billed}, cost not known" if cost is None else f"{dollars(cost)} for {billed}",
        count(whole.work.requests, "request"), f"{tokens:,} output tokens",
        *([f"{dollars(rate)} per 1,000 of them"] if rate is not None else []),
    ]
    return " · ".join(parts)


def starts_line(report: Report) -> str:
    """What boots and warm-ups cost."""
    whole = report.whole
    boot, warmup = whole.spending.cost_of("boot"), whole.warmups.cost
    told = "" if boot is None else f" for {dollars(boot)}"
    warmed = "" if boot is None or warmup is None else f" for {dollars(warmup)}"
    starts = f"{count(report.cold_starts, 'cold start')}{told} · {count(report.restores, 'restore')}"
    return f"{starts} · {count(whole.work.warmups, 'warm-up')}{warmed}"


def notes(report: Report) -> list[str]:
    """What a reader of the figures is to know besides."""
    told = [] if report.objects else [f"there are no objects of a ledger in {report.place}, or none of this period"]
    unpriced = report.whole.spending.unpriced_ms
    if unpriced:
        told.append(f"{duration(unpriced)} have no price and so no cost: {PRICE_HINT}")
    if report.unclosed_epochs:
        told.append(
            f"{count(report.unclosed_epochs, 'epoch')} not closed: of workers that run still, or were killed and are "
            "not recovered yet"
        )
    if report.whole.work.lost:
        told.append(f"{count(report.whole.work.lost, 'request')} in flight when their workers were killed")
    if report.whole.work.nameless:
        told.append(f"{count(report.whole.work.nameless, 'killed worker')} ended with requests that nobody can name")
    if report.skipped:
        named = ", ".join(report.skipped[:3]) + (" and more" if len(report.skipped) > 3 else "")
        told.append(f"{count(len(report.skipped), 'object')} left out, for they cannot be unpacked: {named}")
    if report.damaged_lines:
        told.append(damaged_lines(report.damaged_lines))
    return told


def damaged_lines(number: int) -> str:
    """That so many lines are left out."""
    return f"{count(number, 'line')} left out as damaged: see pilotlight bill verify"


def _key_name(group: Group, name: str, part: str | None) -> str:
    if part is None:
        return NO_REQUEST if group.no_request else "-"
    if name == "tenant" and not part:
        return NO_TENANT
    return printable(part)
