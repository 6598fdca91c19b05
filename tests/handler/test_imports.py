"""The boot begins before anything else that takes time is imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.handler.processes import ROOT

HEAVY = {"torch", "pydantic", "pydantic_settings", "fastapi", "starlette", "uvicorn", "runpod", "prometheus_client"}
LIST_MODULES = "import sys, {}; print(*sys.modules)"


@pytest.mark.parametrize("module", ["handler", "handler.server", "handler.worker"])
def test_importing_the_entries_imports_nothing_heavy(module: str) -> None:
    command = [sys.executable, "-c", LIST_MODULES.format(module)]
    loaded = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert not HEAVY & set(loaded)


def test_the_application_does_not_import_what_the_boot_does() -> None:
    command = [sys.executable, "-c", LIST_MODULES.format("handler.app")]
    loaded = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "tokenizers", "jinja2", "runpod"} & set(loaded)
