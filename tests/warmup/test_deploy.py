"""The ready files: against the schemas of those who read them, and against our own command."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "warmup" / "deploy"
SCHEMAS = {"github-actions.yaml": "vendor.github-workflows", "compose.yaml": "vendor.compose-spec"}


def read(name: str) -> Any:
    return yaml.safe_load((DEPLOY / name).read_text())


@pytest.mark.parametrize("name", SCHEMAS)
def test_it_follows_the_schema_of_who_reads_it(name: str) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", SCHEMAS[name], str(DEPLOY / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_kubernetes_knows_every_field_of_the_cron_job() -> None:
    import kubernetes_validate

    kubernetes_validate.validate(read("kubernetes-cronjob.yaml"), desired_version="1.37", strict=True)


def commands() -> list[list[str]]:
    """What each file has the image do."""
    job = read("kubernetes-cronjob.yaml")["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]["args"]
    [step] = read("github-actions.yaml")["jobs"]["ping"]["steps"]
    words = step["run"].split()
    assert words[:4] == ["python", "-m", "pilotlight", "warm"]
    return [job, words[4:], read("compose.yaml")["services"]["warmer"]["command"]]


@pytest.mark.parametrize("place", range(3))
def test_our_command_takes_its_arguments(place: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Up to the place where they end: there is no such state."""
    from warmup.command import app

    for name, value in {"ENDPOINT": "x", "STATE": "ftp://nowhere"}.items():
        monkeypatch.setenv(f"PILOTLIGHT_WARM_{name}", value)
    monkeypatch.setenv("RUNPOD_API_KEY", "rpa_1")
    result = CliRunner().invoke(app, commands()[place])
    assert result.exit_code == 2
    assert "the state's place" in result.output


def test_what_the_warmers_image_needs_is_what_the_package_needs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(project["optional-dependencies"]["warmer"]) <= set(project["dependencies"])
