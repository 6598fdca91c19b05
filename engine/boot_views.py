"""The ways in which `pilotlight boot` tells what it measured: one JSON object, or pictures for a person."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from engine import boot_comparison, waterfall
from engine.boot_runs import Measurement
from engine.waterfall_svg import svg


def show(
    measurement: Measurement, earlier: Mapping[str, Any] | None, picture: Path | None, *, as_json: bool
) -> None:
    """Write it to standard output, and the picture to its file.

    Args:
        earlier: what an earlier boot wrote as JSON, to compare with.
    """
    if picture is not None:
        picture.write_text(svg(measurement), encoding="utf-8")
    comparison = boot_comparison.compare(earlier, measurement) if earlier is not None else None
    if as_json:
        more = {"comparison": comparison.as_dict()} if comparison is not None else {}
        sys.stdout.write(json.dumps(measurement.as_dict() | more) + "\n")
        return
    console = Console()
    waterfall.draw(measurement, console)
    if comparison is not None:
        boot_comparison.draw(comparison, console)
