"""Python's own hook at its start: in a process that finds it, engines take their time while the file `BRAKE` is there.

Such a process boots no engine meanwhile, and one that has booted computes a few steps a second.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

STEP_S = 0.25


class Finder:
    """Finds the engine's runner, and nothing else."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "engine.runner":
            return None
        spec = PathFinder.find_spec(name, path, target)
        assert spec is not None
        loader: Any = spec.loader
        loader.exec_module = braked(loader.exec_module)
        return spec


def braked(execute: Callable[[ModuleType], None]) -> Callable[[ModuleType], None]:
    def execute_later(module: ModuleType) -> None:
        while is_on():
            time.sleep(0.05)
        execute(module)
        launch = module.Runner.launch

        def launch_later(*arguments: Any) -> Any:
            if is_on():
                time.sleep(STEP_S)
            return launch(*arguments)

        module.Runner.launch = launch_later

    return execute_later


def is_on() -> bool:
    return Path(os.environ["BRAKE"]).exists()


if "BRAKE" in os.environ:
    sys.meta_path.insert(0, Finder)
