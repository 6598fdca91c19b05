"""What the warmer is told, and what is refused of it in one line before anything is done."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from warmup.errors import InvalidSetting
from warmup.settings import read_settings

ROOT = Path(__file__).parents[2]
ENDPOINT = {"RUNPOD_ENDPOINT_ID": "abc"}


def test_an_option_wins_over_its_variable_and_that_over_the_default() -> None:
    told = {"PILOTLIGHT_WARM_TICK": "30", "PILOTLIGHT_WARM_DRY_RUN": "yes", "RUNPOD_API_KEY": "rpa_1\n"}
    environment = {**ENDPOINT, **told}
    read = read_settings(environment, tick=None)
    assert (read.endpoint, read.tick, read.dry_run, read.key, read.policy) == ("abc", 30.0, True, "rpa_1", "learned")
    assert "rpa_1" not in repr(read)
    assert read_settings(environment, tick=60.0).tick == 60.0


@pytest.mark.parametrize(("options", "told"), [
    ({"price": math.nan}, "price: nan"), ({"price": 1e300}, r"price: 1e\+300"),
    ({"wait_value": -1.0}, "wait value: -1"),
    ({"active_price": math.inf}, "active price: inf"), ({"budget_day": -1.0}, "budget day: -1"),
    ({"budget_month": math.nan}, "budget month: nan"), ({"outage": math.inf}, "outage: inf"),
    ({"tick": 0.0}, "tick: 0"), ({"tick": math.nan}, "tick: nan"), ({"timeout": math.inf}, "timeout: inf"),
    ({"metrics_port": 99_999}, "metrics port: 99999"), ({"metrics_port": -1}, "metrics port: -1"),
    ({"endpoint": "a/b"}, "endpoint"), ({"key": "sl\u00fcssel"}, "RUNPOD_API_KEY"),
])
def test_what_nobody_could_carry_out_is_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidSetting, match=told):
        read_settings(ENDPOINT, **options)


@pytest.mark.parametrize(("variable", "text"), [
    ("PILOTLIGHT_WARM_TICK", "soon"), ("PILOTLIGHT_WARM_DRY_RUN", "perhaps"), ("PILOTLIGHT_WARM_METRICS_PORT", "1.5"),
])
def test_a_variable_that_cannot_be_read_is_named(variable: str, text: str) -> None:
    with pytest.raises(InvalidSetting, match=f"{variable}: {text} is no"):
        read_settings({**ENDPOINT, variable: text})


@pytest.mark.parametrize(("arguments", "words"), [
    ("run", "which endpoint"), ("run --endpoint x --policy often", "often is no policy"),
    ("ping --endpoint x --tick 0", "tick: 0 s is too short"), ("ping --endpoint x --state ftp://x", "write a folder"),
    ("status --endpoint x --budget-day -1", "budget day: -1 is no amount"),
])
def test_bad_usage_is_one_line_and_status_2(arguments: str, words: str, tmp_path: Path) -> None:
    assert words in refused(arguments, tmp_path, RUNPOD_API_KEY="rpa_1")


def test_runpod_is_asked_for_nothing_without_a_key(tmp_path: Path) -> None:
    assert "RUNPOD_API_KEY is not set" in refused("ping --endpoint x --dry-run", tmp_path)


def refused(arguments: str, state: Path, **more: str) -> str:
    """The one line that a command ends with."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("RUNPOD_")}
    done = subprocess.run(
        [sys.executable, "-m", "pilotlight", "warm", *arguments.split()], cwd=ROOT, capture_output=True, text=True,
        check=False, env={**variables, "XDG_STATE_HOME": str(state), **more},
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    return done.stderr
