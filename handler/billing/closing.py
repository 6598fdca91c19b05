"""The end of an epoch whose worker was killed, from what its journal holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from handler.billing.lines import Line
from handler.billing.price import Price

_ENVELOPE = ("at", "written", "endpoint", "worker", "boot", "epoch")
_PRICING = ("model", "gpu", "gpu_count", "price", "price_kind", "price_date")


def closing_lines(segment: Sequence[Line]) -> list[Line]:
    """What closes an epoch after its newest segment: requests that were in flight are lost, the last second is full.

    It follows from the lines alone, so that two who recover the same journal write the same. Empty where the epoch is
    closed already, or has no line of time.

    Args:
        segment: all of the newest segment's lines, of which the first is its `open` line.
    """
    opening, *rest = segment
    phases = [line for line in rest if line["kind"] == "phase"]
    if not phases or phases[-1]["phase"] == "rounding":
        return []
    total = opening["epoch_ms"] + sum(line["ms"] for line in phases)
    last = phases[-1] | {"at": rest[-1]["written"], "written": rest[-1]["written"]}
    rounding = {"phase": "rounding", "ms": -total % 1000, "warmup": last["warmup"]}
    return [*_lost(opening, rest, last), _like(last, "phase", rounding, -total % 1000)]


def _lost(opening: Line, rest: Sequence[Line], last: Line) -> list[Line]:
    """A line for each request in flight with what it is known to have had, and one for what nobody can be given.

    Requests that came since the segment began are in no line; the last one, which has no id, stands for them.
    """
    requests = [line for line in rest if line["kind"] == "request"]
    ended = {line["request"] for line in requests}
    execution = sum(line["ms"] for line in rest if line["kind"] == "phase" and line["phase"] == "execution")
    lost = [flight for flight in opening["in_flight"] if flight["request"] not in ended]
    before = sum(flight["execution_ms"] for flight in opening["in_flight"])
    attributed = sum(line["execution_ms"] for line in [*requests, *lost])
    unknown = execution + before - attributed
    if unknown > 0:  # It is less where lines are missing.
        lost.append({"request": None, "job": None, "tenant": None, "warmup": False, "execution_ms": unknown})
    return [_like(last, "request", _lost_request(flight), flight["execution_ms"]) for flight in lost]


def _lost_request(flight: Line) -> dict[str, Any]:
    nothing = {"prompt_tokens": 0, "cached_tokens": 0, "output_tokens": 0}
    return flight | {
        "start_kind": "warm", "finish_reason": "lost", "queue_ms": None, "first_token_ms": None,
        "duration_ms": flight["execution_ms"], **nothing,
    }


def _like(model: Line, kind: str, fields: dict[str, Any], ms: int) -> Line:
    """A line of this kind in the company of another, at its price."""
    envelope = {name: model[name] for name in _ENVELOPE}
    pricing = {name: model[name] for name in _PRICING}
    return {"kind": kind, **envelope, **fields, **pricing, "cost": Price.of(model).cost(ms)}
