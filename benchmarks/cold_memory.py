"""How much memory of its own a boot takes until its first token, and what it may take."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from benchmarks.cold_models import Model
from benchmarks.cold_tokens import boot, enter, ours_first
from benchmarks.first_byte import watch
from engine.config import EngineConfig
from engine.lanes import Lane
from engine.models import read_architecture
from engine.tensor_file import weight_files

LEEWAY = 0.10
"""Of the weights' bytes: what a boot may take beside its imports and the cache, says the issue."""

_VALUE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}

_BOOT = """
import sys
from engine.first_token import main
file = sys.argv.pop(1)
main()
open(file, "w").write("\\n".join(name for name in sys.modules if name != "__main__"))
"""

_IMPORT = """
import importlib, sys
sys.argv.pop(0)
import engine.torch_import
engine.torch_import.import_torch()
for name in open(sys.argv[0]).read().split("\\n"):
    try:
        importlib.import_module(name)
    except Exception:
        print("cannot import", name, "by itself", file=sys.stderr)
print("imported", flush=True)
"""


def measure(model: Model, lane: Lane, python: Path) -> dict[str, Any]:
    """The most a boot takes and each term of what it may take, in bytes."""
    resident = enter(lane, model.baked)
    seen, report = boot(model, python, memory=True)
    imports = imported_bytes(model, python)
    cache = cache_bytes(model, report["prompt_tokens"], report["dtype"])
    weights = sum(file.stat().st_size for file in weight_files(model.baked))
    return {
        "model": model.name, "lane": lane, "resident_fraction": resident, "peak_bytes": seen.peak_anonymous,
        "imports_bytes": imports, "cache_bytes": cache, "weight_bytes": weights,
        "may_take_bytes": int(imports + cache + LEEWAY * weights),
    }


def imported_bytes(model: Model, python: Path) -> int:
    """The most that a process takes which imports what a boot has imported, and does nothing else."""
    with tempfile.TemporaryDirectory() as folder:
        names = Path(folder) / "modules.txt"
        watch([str(python), "-P", "-c", _BOOT, str(names), str(model.baked)], ours_first())
        return watch([str(python), "-P", "-c", _IMPORT, str(names)], ours_first(), memory=True).peak_anonymous


def cache_bytes(model: Model, prompt: int, dtype: str) -> int:
    """Of the pages that hold a prompt; the rest of the pool is not backed by memory until it is written."""
    page = EngineConfig(str(model.baked)).page_size
    return -(-prompt // page) * page * read_architecture(model.baked).cache_values_per_token * _VALUE_BYTES[dtype]
