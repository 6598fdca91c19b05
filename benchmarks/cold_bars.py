"""What the runs of a cold start come to: medians, spread, and the promises they are held to."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from benchmarks.bars import Bar, at_least, at_most
from benchmarks.cold_rates import DD
from benchmarks.cold_tokens import OURS

Figures = dict[str, Any]

OVER_FLOOR_S = {"resident": 0.20, "weights-cold": 0.25}
"""What a first token may come after its floor, by lane, says the issue."""
SHARE_OF_DD = 0.80
FEWEST_BYTES = 100_000_000
"""A loader's rate with fewer is that of starting its threads."""
BOOTS_LOADER = "pilotlight mapped"
"""What a boot on a CPU loads with."""


def summary(runs: Iterable[Figures], by: Sequence[str], of: Sequence[str]) -> list[Figures]:
    """For every group of runs the median, lowest and highest of each figure they have.

    Args:
        by: the fields that make a group.
        of: the fields to take.
    """
    groups: dict[tuple[Any, ...], list[Figures]] = {}
    for run in runs:
        groups.setdefault(tuple(run[name] for name in by), []).append(run)
    return [
        dict(zip(by, group, strict=True)) | {"runs": len(members)} | {
            name: _spread([run[name] for run in members]) for name in of if all(name in run for run in members)
        }
        for group, members in groups.items()
    ]


def _spread(values: Sequence[float | None]) -> Figures | None:
    known = [value for value in values if value is not None]
    return {"median": statistics.median(known), "lowest": min(known), "highest": max(known)} if known else None


def token_rows(runs: Sequence[Figures]) -> list[Figures]:
    """First tokens by model, lane and side; ours with what it took beside the floor of the same run."""
    known = [
        run | {"over_floor_s": run["first_token_s"] - run["floor_s"]} if "floor_s" in run else run for run in runs
    ]
    of = ("first_token_s", "torch_s", "floor_s", "over_floor_s", "read_bytes_per_s", "resident_fraction")
    return summary(known, ("model", "lane", "side"), of)


def rate_rows(runs: Sequence[Figures]) -> list[Figures]:
    """Loaders' rates by model and lane, and which share of `dd`'s they are."""
    rows = summary(runs, ("model", "lane", "loader"), ("gb_per_s", "bytes", "resident_fraction"))
    dd = {(row["model"], row["lane"]): row["gb_per_s"]["median"] for row in rows if row["loader"] == DD}
    return [row | {"share_of_dd": row["gb_per_s"]["median"] / dd[row["model"], row["lane"]]} for row in rows]


def bars(tokens: Sequence[Figures], memory: Sequence[Figures], rates: Sequence[Figures]) -> Iterator[Bar]:
    """The issue's promises, as far as they were measured."""
    for row in tokens:
        if row["side"] == OURS:
            where = f"{row['model']}, {row['lane']}"
            measured = row["over_floor_s"]["median"]
            yield at_most(f"{where}: first token after its floor, s", measured, OVER_FLOOR_S[row["lane"]])
            yield from _beside_openvino(row, tokens, where)
    for row in memory:
        where = f"{row['model']}, {row['lane']}"
        yield at_most(f"{where}: peak anonymous memory, MB", row["peak_bytes"] / 1e6, row["may_take_bytes"] / 1e6)
    for row in rates:
        if row["loader"] == BOOTS_LOADER and row["bytes"]["median"] >= FEWEST_BYTES:
            yield at_least(f"{row['model']}, {row['lane']}: loader, share of dd", row["share_of_dd"], SHARE_OF_DD)


def _beside_openvino(ours: Figures, rows: Sequence[Figures], where: str) -> Iterator[Bar]:
    """Only weights that are resident compare: each side reads another file."""
    for row in rows:
        same = (row["model"], row["lane"]) == (ours["model"], ours["lane"])
        if same and ours["lane"] == "resident" and row["side"].startswith("openvino"):
            mine, theirs = ours["first_token_s"]["median"], row["first_token_s"]["median"]
            yield at_most(f"{where}: first token, s, beside {row['side']}", mine, theirs)


def different_tokens(runs: Sequence[Figures]) -> list[str]:
    """Sides that computed another token than ours from the same prompt."""
    ours = {run["model"]: run["token_id"] for run in runs if run["side"] == OURS}
    return sorted({
        f"{run['side']} on {run['model']}" for run in runs
        if run["model"] in ours and run["token_id"] != ours[run["model"]]
    })
