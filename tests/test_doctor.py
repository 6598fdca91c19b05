"""What `pilotlight doctor` says of this machine, and of one that lacks something."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import pilotlight
from engine import doctor


def examine_in_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, dict[str, dict[str, Any]]]:
    monkeypatch.setattr(sys, "argv", ["pilotlight", "doctor", "--json"])
    with pytest.raises(SystemExit) as exited:
        pilotlight.main()
    checks = json.loads(capsys.readouterr().out)["checks"]
    assert isinstance(exited.value.code, int)
    return exited.value.code, {check["name"]: check for check in checks}


def test_this_machine_can_serve(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    status, checks = examine_in_json(monkeypatch, capsys)
    assert status == 0
    assert all(check["ok"] for check in checks.values() if check["required"])
    assert {"python", "torch", "cuda", "kernels package", "triton", "runpod", "demo model", "machine"} <= checks.keys()


def test_somebody_elses_kernels_are_found_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = ModuleType("kernels")
    other.__file__ = "/elsewhere/kernels/__init__.py"
    monkeypatch.setitem(sys.modules, "kernels", other)
    status, checks = examine_in_json(monkeypatch, capsys)
    assert status == 1
    assert not checks["kernels package"]["ok"]
    assert "/elsewhere" in checks["kernels package"]["detail"]


def test_a_missing_demo_model_is_found_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("engine.source.DEMO", tmp_path)
    [check] = [check for check in doctor.examine() if check.name == "demo model"]
    assert (check.ok, check.required) == (False, True)


def test_secrets_in_the_environment_are_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PILOTLIGHT_API_KEY", "swordfish")
    details = " ".join(check.detail for check in doctor.examine())
    assert "PILOTLIGHT_API_KEY" in details
    assert "swordfish" not in details


def test_the_table_is_for_people(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["pilotlight", "doctor"])
    with pytest.raises(SystemExit):
        pilotlight.main()
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split()[:2] == ["yes", "torch"] for line in lines)
