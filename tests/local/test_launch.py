"""What workers find when they start, and what is kept of them."""

from __future__ import annotations

import os
from decimal import Decimal
from pathlib import Path

import pytest

from handler.local.command import as_workers_find_it
from handler.local.launch import LOGS_KEPT, Launch, find_sdk_key
from handler.local.worker import Worker


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    return Worker("w1", tmp_path / "log", key="secret")


def test_a_worker_finds_runpods_variables_and_its_places(worker: Worker, tmp_path: Path) -> None:
    found = Launch("http://127.0.0.1:8000", tmp_path, {"PILOTLIGHT_MODEL": "demo"}).environment(worker)
    assert found["RUNPOD_WEBHOOK_GET_JOB"] == "http://127.0.0.1:8000/v2/local/job-take/$ID?gpu=local"
    assert (found["RUNPOD_POD_ID"], found["RUNPOD_AI_API_KEY"]) == ("w1", "secret")
    assert found["PILOTLIGHT_LEDGER"] == f"file://{tmp_path}/ledger"
    assert found["PILOTLIGHT_GRACE"] == "28", "less than what SIGKILL leaves it"
    assert found["PILOTLIGHT_MODEL"] == "demo"
    assert "PORT" not in found


def test_it_bills_what_the_endpoint_bills(worker: Worker, tmp_path: Path) -> None:
    found = Launch("http://x", tmp_path, gpu="ADA_24", price=Decimal("0.00031")).environment(worker)
    assert (found["PILOTLIGHT_GPU"], found["PILOTLIGHT_PRICE"]) == ("ADA_24", "0.00031")


def test_the_users_environment_names_other_places(
    worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PILOTLIGHT_LEDGER", "s3://bucket/ledger")
    assert Launch("http://x", tmp_path).environment(worker)["PILOTLIGHT_LEDGER"] == "s3://bucket/ledger"


def test_a_folder_is_named_as_it_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("model", "demo"):
        (tmp_path / name).mkdir()
    assert as_workers_find_it("model") == f"{tmp_path}/model"
    assert as_workers_find_it("demo") == "demo", "which is the demo, wherever one is"
    assert as_workers_find_it("owner/name") == "owner/name"
    assert as_workers_find_it(None) is None


def test_the_latest_folders_are_kept(tmp_path: Path) -> None:
    launch = Launch("http://x", tmp_path)
    for number in range(LOGS_KEPT + 3):
        folder = launch.log_of(f"w{number:03}").parent
        folder.mkdir(parents=True)
        os.utime(folder, (number, number))
    launch.tidy()
    assert sorted(path.name for path in (tmp_path / "workers").iterdir()) == [
        f"w{number:03}" for number in range(3, LOGS_KEPT + 3)
    ]


def test_the_key_that_runpods_sdk_prefers_is_found(tmp_path: Path) -> None:
    assert find_sdk_key(tmp_path) is None
    (tmp_path / ".runpod").mkdir()
    (tmp_path / ".runpod" / "config.toml").write_text('[default]\napi_key = "theirs"\n')
    assert find_sdk_key(tmp_path) == "theirs"
    (tmp_path / ".runpod" / "config.toml").write_text("nonsense")
    assert find_sdk_key(tmp_path) is None
