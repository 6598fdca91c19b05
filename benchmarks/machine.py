"""The machine that figures belong to."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

CPUINFO = Path("/proc/cpuinfo")


def describe() -> dict[str, Any]:
    """When and on what this runs, as JSON can hold it."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"), "machine": processor(),
        "system": platform.platform(), "python": platform.python_version(),
    }


def processor() -> str:
    """The processor's name, how many, and what matters of its instruction set."""
    text = CPUINFO.read_text() if CPUINFO.exists() else ""
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    names = {key.strip(): value.strip() for key, value in fields.items()}
    has = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in names.get("flags", "").split()]
    return f"{names.get('model name', platform.processor())} x {os.cpu_count()}, {' '.join(has)}"
