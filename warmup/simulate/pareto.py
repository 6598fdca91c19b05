"""Cold starts against money, as a picture. Whoever is on the line is bettered in one only by paying in the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from importlib.util import find_spec
from io import BytesIO
from itertools import count, takewhile
from pathlib import Path

from handler.billing.replacing import replacing
from warmup.errors import InvalidSetting

_WIDTH, _HEIGHT = 760, 440
_LEFT, _RIGHT, _TOP, _BOTTOM = 76, 150, 44, 52
_LINE = 13
"""Units between labels."""

_STYLE = """
text { font: 12px system-ui, sans-serif; fill: #1f2328; } .dim { fill: #6a737d; }
.title { font-size: 14px; font-weight: 600; } .name { paint-order: stroke; stroke: #ffffff; stroke-width: 4px; }
.page { fill: #ffffff; } .grid { stroke: #d8dee4; } .front { stroke: #6a737d; fill: none; stroke-dasharray: 4 3; }
.lead { stroke: #6a737d; } .mark { fill: #0969da; } .ours { fill: #cf5b00; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; } .dim { fill: #9198a1; } .name { stroke: #0d1117; } .page { fill: #0d1117; }
  .grid { stroke: #30363d; } .front, .lead { stroke: #9198a1; } .mark { fill: #58a6ff; } .ours { fill: #ffa657; }
}
"""


@dataclass(frozen=True, slots=True)
class Spot:
    """A policy in the picture."""

    name: str
    cold_starts: float
    cost: float


def front(spots: Sequence[Spot]) -> list[Spot]:
    """Those that no other one betters in both, the cheapest first."""
    best: list[Spot] = []
    for spot in sorted(spots, key=lambda spot: (spot.cost, spot.cold_starts)):
        if not best or spot.cold_starts < best[-1].cold_starts:
            best.append(spot)
    return best


def draw(title: str, spots: Sequence[Spot]) -> str:
    """The picture as SVG, light or dark as its viewer is."""
    most_cold = max(spot.cold_starts for spot in spots) * 1.05 or 1.0
    most_cost = max(spot.cost for spot in spots) * 1.05 or 1.0

    def place(spot: Spot) -> tuple[float, float]:
        x = _LEFT + (_WIDTH - _LEFT - _RIGHT) * spot.cost / most_cost
        return x, _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * spot.cold_starts / most_cold

    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(place, front(spots)))
    placed = [(spot, *place(spot)) for spot in spots]
    head = f'viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {head}>',
        f"<style>{_STYLE}</style>", f'<rect class="page" width="{_WIDTH}" height="{_HEIGHT}"/>',
        f'<text class="title" x="{_LEFT}" y="22">{escape(title)}</text>',
        *_grid(most_cost, most_cold), f'<polyline class="front" points="{line}"/>', *_labels(placed), *_marks(placed),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _grid(most_cost: float, most_cold: float) -> Iterator[str]:
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    for value in _rounds(most_cost):
        x = _LEFT + (right - _LEFT) * value / most_cost
        yield f'<line class="grid" x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{bottom}"/>'
        yield f'<text class="dim" x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">${value:,g}</text>'
    for value in _rounds(most_cold):
        y = bottom - (bottom - _TOP) * value / most_cold
        yield f'<line class="grid" x1="{_LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>'
        yield f'<text class="dim" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:,g}</text>'
    yield f'<text class="dim" x="{(_LEFT + right) / 2}" y="{_HEIGHT - 12}" text-anchor="middle">cost, US dollars</text>'
    middle = (_TOP + bottom) / 2
    turned = f'text-anchor="middle" transform="rotate(-90 18 {middle})"'
    yield f'<text class="dim" x="18" y="{middle}" {turned}>cold starts</text>'


def _rounds(most: float) -> list[float]:
    """Round figures from 0, three to five of them."""
    steps = (float(f"{digit}e{power}") for power in count(-9) for digit in (1, 2, 5))
    step = next(step for step in steps if most / step < 5)
    return list(takewhile(lambda value: value <= most, (number * step for number in count())))


def _marks(placed: Sequence[tuple[Spot, float, float]]) -> Iterator[str]:
    for spot, x, y in placed:
        kind = "ours" if spot.name == "learned" else "mark"
        told = f"{spot.name}: {spot.cold_starts:,g} cold starts, ${spot.cost:,.2f}"
        yield f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="5"><title>{escape(told)}</title></circle>'


def _labels(placed: Sequence[tuple[Spot, float, float]]) -> Iterator[str]:
    """Names beside their marks, moved up until they are clear of each other, with a line where they had to move."""
    taken: list[tuple[float, float, float]] = []
    for spot, x, y in sorted(placed, key=lambda one: (-one[2], one[1])):
        width = 6.6 * len(spot.name)
        marks = [(other_x - 6, other_x + 6, other_y) for other, other_x, other_y in placed if other is not spot]
        at = y
        while _covered(x + 8, x + 12 + width, at, [*taken, *marks]):
            at -= 2
        taken.append((x + 8, x + 12 + width, at))
        if y - at > _LINE:
            yield f'<line class="lead" x1="{x:.1f}" y1="{y:.1f}" x2="{x + 8:.1f}" y2="{at:.1f}"/>'
        yield f'<text class="name" x="{x + 10:.1f}" y="{at + 4:.1f}">{escape(spot.name)}</text>'


def _covered(left: float, right: float, at: float, others: Sequence[tuple[float, float, float]]) -> bool:
    """Whether a label would lie over another one or a mark."""
    return any(start < right and left < stop and abs(at - high) < _LINE for start, stop, high in others)


def check(path: Path) -> None:
    """Find out before the replay whether its picture can be written.

    Raises:
        InvalidSetting: its name is neither SVG's nor PNG's, or PNG needs a package that is missing.
        OSError: the place cannot be written.
    """
    if path.suffix not in (".svg", ".png"):
        raise InvalidSetting(f"--plot {path}: write a file that ends in .svg or .png")
    if path.suffix == ".png" and find_spec("matplotlib") is None:
        raise InvalidSetting(f"{path}: PNG needs matplotlib, which is not installed; SVG does not")
    with replacing(path) as draft:
        draft.unlink()


def write(path: Path, title: str, spots: Sequence[Spot]) -> None:
    """The picture in a file, PNG or SVG by its name, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    with replacing(path) as draft:
        draft.write_bytes(_png(title, spots) if path.suffix == ".png" else draw(title, spots).encode())


def _png(title: str, spots: Sequence[Spot]) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.6, 4.4), layout="constrained")
    axes = figure.add_subplot(title=title, xlabel="cost, US dollars", ylabel="cold starts")
    line = front(spots)
    axes.plot([spot.cost for spot in line], [spot.cold_starts for spot in line], "--", color="grey")
    for spot in spots:
        axes.plot(spot.cost, spot.cold_starts, "o", color="tab:orange" if spot.name == "learned" else "tab:blue")
        axes.annotate(spot.name, (spot.cost, spot.cold_starts), (5, 3), textcoords="offset points", fontsize=8)
    body = BytesIO()
    figure.savefig(body, format="png")
    return body.getvalue()
