"""The figures of a cold start, for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

Figures = dict[str, Any]


def token_table(rows: Sequence[Figures]) -> Table:
    """First tokens, seconds from exec."""
    table = Table(
        "model", "lane", "resident", "side", "first token, s", "torch imported", "after floor",
        title="From exec to the first token: median (lowest to highest)",
    )
    for row in rows:
        over = [_spread(row.get(name)) for name in ("first_token_s", "torch_s", "over_floor_s")]
        table.add_row(row["model"], row["lane"], _share(row), row["side"], *over)
    return table


def memory_table(rows: Sequence[Figures]) -> Table:
    """Memory until the first token."""
    table = Table(
        "model", "lane", "peak", "imports", "cache", "weights", "may take", title="Anonymous memory of a boot, MB"
    )
    for row in rows:
        names = ("peak_bytes", "imports_bytes", "cache_bytes", "weight_bytes", "may_take_bytes")
        table.add_row(row["model"], row["lane"], *(f"{row[name] / 1e6:.1f}" for name in names))
    return table


def rate_table(rows: Sequence[Figures]) -> Table:
    """Loaders."""
    table = Table(
        "model", "lane", "resident", "loader", "GB/s", "share of dd",
        title="Loading the weights: median (lowest to highest)",
    )
    for row in rows:
        rate = _spread(row["gb_per_s"])
        table.add_row(row["model"], row["lane"], _share(row), row["loader"], rate, f"{row['share_of_dd']:.0%}")
    return table


def bar_table(rows: Sequence[Figures]) -> Table:
    """Promises."""
    table = Table("what", "measured", "bar", "holds")
    for row in rows:
        table.add_row(row["what"], f"{row['measured']:.3f}", f"{row['bar']:.3f}", "yes" if row["holds"] else "NO")
    return table


def _spread(figure: Figures | None) -> str:
    if not figure:
        return ""
    spread = f" ({figure['lowest']:.3f} to {figure['highest']:.3f})" if figure["lowest"] < figure["highest"] else ""
    return f"{figure['median']:.3f}{spread}"


def _share(row: Figures) -> str:
    return f"{row['resident_fraction']['median']:.0%}" if row.get("resident_fraction") else "untold"
