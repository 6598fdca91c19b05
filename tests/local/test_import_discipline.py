"""The worker knows nothing of the endpoint on one machine, and needs nothing of it."""

from __future__ import annotations

import subprocess
import sys

from tests.handler.processes import ROOT
from tests.test_imports import imported, module_name, sources


def is_local(name: str) -> bool:
    return name == "handler.local" or name.startswith("handler.local.")


def test_only_the_command_line_and_the_simulator_name_it() -> None:
    users = {module_name(path) for path in sources() if any(map(is_local, imported(path)))}
    assert {name for name in users if not is_local(name)} <= {"pilotlight", "warmup.simulate.scaling"}


def test_a_worker_does_not_import_it() -> None:
    code = (
        "import sys, handler.__main__, handler.worker, handler.frontend, handler.jobs, handler.settings\n"
        "print([name for name in sys.modules if name == 'handler.local' or name.startswith('handler.local.')])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
