"""A measured curve as an SVG, the same bytes for the same figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "pilotlight", "svg.fonttype": "none", "font.size": 9, "axes.grid": True, "grid.alpha": 0.3
}
"""Text stays text, so that a page's reader can search it; a fixed salt keeps the file's ids from changing."""

_SIZE_INCHES = (7, 4)


@dataclass(frozen=True, slots=True)
class Curve:
    """One measured line.

    Attributes:
        x: where it was measured, ascending; drawn on a logarithmic axis of base 2.
        y: the middle value at each x.
        spread: lowest and highest value at each x, drawn as a band.
        dashed: a line to hold the others against, not a measurement.
    """

    x: Sequence[float]
    y: Sequence[float]
    spread: Sequence[tuple[float, float]] = ()
    dashed: bool = False


def draw(file: Path, title: str, x_label: str, y_label: str, curves: Mapping[str, Curve]) -> None:
    """Write the curves, by their names, on logarithmic axes."""
    with rc_context(_STYLE):
        figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
        axes = figure.add_subplot(title=title, xlabel=x_label, ylabel=y_label)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.yaxis.set_major_formatter("{x:g}")
        for name, curve in curves.items():
            [line] = axes.plot(
                curve.x, curve.y, "--" if curve.dashed else "o-", label=name, markersize=3,
                color="grey" if curve.dashed else None,
            )
            if curve.spread:
                lowest, highest = zip(*curve.spread, strict=True)
                axes.fill_between(curve.x, lowest, highest, color=line.get_color(), alpha=0.2)
        axes.legend()
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
