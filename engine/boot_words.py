"""A boot in words: what was measured, where the time to the first token went, and what would help."""

from __future__ import annotations

from collections.abc import Sequence

from engine.boot_runs import Measurement, Run
from engine.lanes import Residency
from engine.timeline import Span
from engine.waterfall_rows import SHORTEST_S, rows


def heading(measurement: Measurement) -> str:
    """Which boot it is, and what was in memory before."""
    run = measurement.shown
    residency = Residency(run.weights.resident_fraction, run.libraries_resident).describe()
    count = f", the middle one of {len(measurement.runs)}" if len(measurement.runs) > 1 else ""
    return f"{measurement.task.model} on {run.device}, {run.dtype}; lane {measurement.lane}: {residency}{count}"


def floor_name(measurement: Measurement) -> str:
    """What the floor is, in words."""
    run = measurement.shown
    if measurement.floor_s(run) > run.torch_s:
        rate = (measurement.read_bytes_per_s or 0.0) / 1e9
        return f"floor: the weights' bytes at the {rate:.2f} GB/s of one reader"
    return "floor: the end of the import of torch"


def closing(measurement: Measurement) -> list[str]:
    """Where the time went, and what would help."""
    run = measurement.shown
    floor_s = measurement.floor_s(run)
    path = critical_path(run)
    parts = [f"{name} {seconds:.2f} s ({seconds / run.first_token_s:.0%})" for name, seconds in path[:4]]
    return [
        f"First token after {run.first_token_s:.3f} s, {run.first_token_s - floor_s:.3f} s above the floor.",
        f"It waited for {', '.join(parts)}.",
        f"What would help: {_advice(measurement, path)}.",
        *([_statistics(measurement)] if len(measurement.runs) > 1 else []),
    ]


def critical_path(run: Run) -> list[tuple[str, float]]:
    """What the first token waited for, and how long; the longest first.

    Followed backwards: from the first token to the span that ended last before it, from where that one began to the
    span that ended last before, and so on. What lies between is `between spans`.
    """
    spans = [row.span for row in rows(run.spans) if row.depth == 0 and not row.is_mark]
    waited: dict[str, float] = {}
    now = run.first_token_s
    while now > 0:
        before = [span for span in spans if span.end_s <= now + SHORTEST_S and span.start_s < now]
        last = _last(before)
        start, end, name = (last.start_s, min(last.end_s, now), last.name) if last else (0.0, 0.0, "")
        waited["between spans"] = waited.get("between spans", 0.0) + now - end
        if name:
            waited[name] = waited.get(name, 0.0) + end - start
        now = start
    long = [(name, seconds) for name, seconds in waited.items() if seconds >= SHORTEST_S]
    return sorted(long, key=lambda item: -item[1])


def _last(spans: Sequence[Span]) -> Span | None:
    """The one that ended last; among those that ended together, the one that took longest."""
    latest = max((span.end_s for span in spans), default=0.0)
    together = [span for span in spans if latest - span.end_s < 4 * SHORTEST_S]
    return max(together, key=lambda span: span.seconds, default=None)


_ADVICE = {
    "import torch": "a worker restored from a snapshot, which has torch imported; nothing else shortens it",
    "prefetch": "fewer bytes (pilotlight bake --quantize int8) or faster storage",
    "weights": "fewer bytes (pilotlight bake --quantize int8) or faster storage",
    "model": "a baked folder, whose tensors need no fusing (pilotlight bake)",
    "kernels": "kernels compiled when the image is built (pilotlight bake --arch)",
    "cache": "a smaller KV cache (--kv-memory)",
    "first prefill": "a shorter prompt; the model computes all of it before the first token",
    "interpreter": "byte-code compiled when the image is built, and fewer packages that run code at start-up (.pth)",
    "import": "importing that package later",
}
"""By how a span's name begins; the first that fits."""


def _advice(measurement: Measurement, path: Sequence[tuple[str, float]]) -> str:
    run = measurement.shown
    floor_s = measurement.floor_s(run)
    above = [(name, seconds) for name, seconds in path if name not in ("import torch", "between spans")]
    if floor_s > run.torch_s and run.first_token_s - floor_s < 0.25 * floor_s:
        return _ADVICE["weights"]
    if run.first_token_s - floor_s < 0.15 * floor_s or not above:
        return _ADVICE["import torch"]
    name = above[0][0]
    fitting = (advice for start, advice in _ADVICE.items() if name.startswith(start))
    return f"for {name}, {next(fitting, 'nothing that is known; its inner spans may tell')}"


def _statistics(measurement: Measurement) -> str:
    told = measurement.as_dict()
    return (
        f"{len(measurement.runs)} runs: first token median {told['median']['first_token_s']:.3f} s, "
        f"p95 {told['p95']['first_token_s']:.3f} s"
    )
