"""The report as JSON: the fields that `pilotlight bill report --json` promises."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.percentiles import Percentiles
from handler.billing.reading.figures import Boot, Group, Report, money, seconds

LONGEST_SPANS = 12


def as_fields(report: Report) -> dict[str, Any]:
    """Ready for `exact_json`: seconds and money are decimals."""
    whole = report.whole
    return {
        **_account(whole),
        "cold_starts": report.cold_starts, "restores": report.restores, "lost_requests": whole.work.lost,
        "cold_start_cost": money(whole.spending.cost_of("boot")),
        "cold_start_warmup_cost": money(None if whole.spending.cost is None else whole.warmups.cost_of("boot")),
        "unclosed_epochs": report.unclosed_epochs,
        "queue_ms": _rounded(report.queue_ms), "first_token_ms": _rounded(report.first_token_ms),
        "boots": [_boot(boot) for boot in report.boots],
        "by": list(report.by),
        "groups": [_group(report, group) for group in report.groups],
        "place": report.place, "objects": report.objects, "skipped_objects": len(report.skipped),
        "damaged_lines": report.damaged_lines,
    }


def _account(group: Group) -> dict[str, Any]:
    spending, work = group.spending, group.work
    return {
        "seconds": group.seconds(), "cost": money(spending.cost), "unpriced_seconds": seconds(spending.unpriced_ms),
        "warmup_cost": None if spending.cost is None else money(group.warmups.cost),
        "requests": work.requests, "warmups": work.warmups, "prompt_tokens": work.prompt_tokens,
        "cached_tokens": work.cached_tokens, "output_tokens": work.output_tokens,
        "cost_per_1000_output_tokens": money(group.per_1000_tokens()),
    }


def _group(report: Report, group: Group) -> dict[str, Any]:
    mark = {"no_request": True} if group.no_request else {}
    return dict(zip(report.by, group.key, strict=True)) | mark | _account(group)


def _boot(boot: Boot) -> dict[str, Any]:
    longest = sorted(boot.spans, key=lambda span: span["start_s"] - span["end_s"])[:LONGEST_SPANS]
    return {
        "worker": boot.worker, "at": f"{boot.began.isoformat(timespec='milliseconds')}Z",
        "ready_s": seconds(boot.ready_ms), "cost": money(boot.cost),
        "spans": [{name: span[name] for name in ("name", "start_s", "end_s")} for span in longest],
    }


def _rounded(delays: Mapping[str, Percentiles]) -> dict[str, dict[str, float | None]]:
    return {
        kind: {"p50": _tenths(delay["p50"]), "p95": _tenths(delay["p95"]), "p99": _tenths(delay["p99"])}
        for kind, delay in delays.items()
    }


def _tenths(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
