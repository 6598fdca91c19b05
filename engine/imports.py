"""Which imports a boot waited for: every package's, timed from inside Python's import system."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

from engine.timeline import Timeline

SHORTEST_S = 0.020
"""Shorter imports are left out; together they are what the bars on the timeline leave open."""

_STANDARD_LIBRARY = os.__file__.rpartition(os.sep)[0]


class ImportWatch:
    """Records the imports of packages outside the standard library, in any thread, from `begin` to `end`.

    A finder that finds nothing itself: it lets the others find a package and times how its loader runs it.
    Modules inside packages are not looked at, so that torch's thousand and a half cost one comparison each.
    """

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline

    def begin(self) -> None:
        """Watch from now on."""
        # A new list each time: other threads may be walking the old one, and would leave out a finder if it moved.
        sys.meta_path = [self, *sys.meta_path]

    def end(self) -> None:
        """Watch no more; a second call is no error."""
        sys.meta_path = [finder for finder in sys.meta_path if finder is not self]

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """What the finders after this one find, the loader prepared to be timed; see `importlib.abc.MetaPathFinder`."""
        if "." in name or name in sys.stdlib_module_names:
            return None
        started = time.monotonic()
        spec = self._found_by_others(name, path, target)
        if spec is not None and _can_be_timed(spec):
            self._time(spec.loader, name, started)
        return spec

    def _found_by_others(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None
    ) -> ModuleSpec | None:
        for finder in sys.meta_path:
            find = None if isinstance(finder, ImportWatch) else getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = find(name, path, target) if find is not None else None
            if spec is not None:
                return spec
        return None

    def _time(self, loader: object, name: str, started: float) -> None:
        """Hide the loader's method behind one that takes itself away, so that the module keeps the loader it had."""
        run: Callable[[ModuleType], None] = loader.exec_module  # type: ignore[attr-defined]

        def timed(module: ModuleType) -> None:
            vars(loader).pop("exec_module", None)
            try:
                run(module)
            finally:
                self._record(name, started)

        vars(loader)["exec_module"] = timed

    def _record(self, name: str, started: float) -> None:
        ended = time.monotonic()
        if ended - started >= SHORTEST_S:
            origin = self._timeline.origin
            self._timeline.add(f"import {name}", started - origin, ended - origin)


def _can_be_timed(spec: ModuleSpec) -> bool:
    """Whether it is a package that somebody installed, with a loader of the usual kind."""
    # Some of the standard library's files are named after the platform, and so on no list.
    standard = (spec.origin or "").rpartition(os.sep)[0] == _STANDARD_LIBRARY
    return not standard and hasattr(spec.loader, "exec_module") and hasattr(spec.loader, "__dict__")
