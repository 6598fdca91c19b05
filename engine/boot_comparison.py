"""Two boots side by side: what became slower since an earlier `pilotlight boot --json`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from engine.boot_runs import Measurement
from engine.errors import PilotlightError
from engine.waterfall_rows import describe_seconds

SLOWER_SHARE, SLOWER_S = 0.10, 0.010
"""What must both be exceeded to count as slower: imports alone vary by that much from run to run."""

_RESULTS = ("first_token_s", "ready_s", "floor_s")


class NotComparable(PilotlightError):
    """The earlier result cannot be read, or is of another model."""


@dataclass(frozen=True, slots=True)
class Change:
    """One figure then and now, in seconds; None where there is none."""

    name: str
    before_s: float | None
    after_s: float | None

    @property
    def difference_s(self) -> float | None:
        return None if self.before_s is None or self.after_s is None else self.after_s - self.before_s

    @property
    def is_slower(self) -> bool:
        difference = self.difference_s
        return difference is not None and difference > max(SLOWER_S, SLOWER_SHARE * (self.before_s or 0.0))

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"difference_s": self.difference_s, "slower": self.is_slower}


@dataclass(frozen=True, slots=True)
class Comparison:
    """What changed, and why that may mean little.

    Attributes:
        warnings: in which ways the two were measured differently.
    """

    changes: tuple[Change, ...]
    warnings: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {"changes": [change.as_dict() for change in self.changes], "warnings": list(self.warnings)}


def read_earlier(file: Path, model: str) -> dict[str, Any]:
    """An earlier result of the same model.

    Raises:
        NotComparable: it is none.
    """
    try:
        earlier = json.loads(file.read_text())
        spans = _lengths(earlier["spans"])
        figures = [*(float(earlier[name]) for name in _RESULTS), *spans.values()]
        named = isinstance(earlier["lane"], str) and isinstance(earlier["model"], str)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise NotComparable(f"{file} is not what pilotlight boot --json writes") from None
    if not named or not all(figure >= 0 for figure in figures):
        raise NotComparable(f"{file} is not what pilotlight boot --json writes")
    if earlier["model"] != model:
        raise NotComparable(f"{file} is a boot of {earlier['model']}, not of {model}")
    assert isinstance(earlier, dict)
    return earlier


def compare(earlier: Mapping[str, Any], measurement: Measurement) -> Comparison:
    """What changed since `earlier`, in the order of the boot; spans of one name count together."""
    now = measurement.as_dict()
    before, after = _lengths(earlier["spans"]), _lengths(now["spans"])
    results = [Change(name.removesuffix("_s").replace("_", " "), earlier[name], now[name]) for name in _RESULTS]
    names = [name for name in dict.fromkeys([*after, *before]) if before.get(name) or after.get(name)]
    spans = [Change(name, before.get(name), after.get(name)) for name in names]
    return Comparison((*results, *spans), tuple(_warnings(earlier, now)))


def _lengths(spans: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for span in spans:
        found[str(span["name"])] = found.get(str(span["name"]), 0.0) + float(span["end_s"]) - float(span["start_s"])
    return found


def _warnings(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> Iterable[str]:
    for name in ("lane", "device", "dtype", "start_kind"):
        if earlier.get(name) != now[name]:
            yield f"then the {name} was {earlier.get(name)}, now it is {now[name]}: these are not the same work"
    shares = [_share(earlier), _share(now)]
    if None not in shares and abs((shares[0] or 0.0) - (shares[1] or 0.0)) > 0.05:
        yield f"then {shares[0]:.0%} of the weights were resident, now {shares[1]:.0%}"


def _share(told: Mapping[str, Any]) -> float | None:
    share = told["weights"].get("resident_fraction") if isinstance(told.get("weights"), dict) else None
    return float(share) if isinstance(share, int | float) else None


def draw(comparison: Comparison, console: Console) -> None:
    """Print it as a table."""
    table = Table(box=None)
    table.add_column("span")
    for name in ("before", "after", "difference"):
        table.add_column(name, justify="right")
    table.add_column("")
    for change in comparison.changes:
        difference = change.difference_s
        signed = "" if difference is None else f"{'-' if difference < 0 else '+'}{describe_seconds(abs(difference))}"
        mark = "slower" if change.is_slower else ""
        told = (_told(change.before_s), _told(change.after_s), signed, mark)
        table.add_row(change.name, *told, style="red" if change.is_slower else None)
    console.print(table)
    for warning in comparison.warnings:
        console.print(f"warning: {warning}", style="yellow", highlight=False, markup=False)


def _told(seconds: float | None) -> str:
    return "-" if seconds is None else describe_seconds(seconds)
