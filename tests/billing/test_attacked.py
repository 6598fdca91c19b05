"""What an attack on the ledger's commands and on the worker's books has shown, held so that it stays mended."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from tests.billing.serving import SERVE, Places, end, in_ledger, recorded, recording
from tests.handler.processes import ROOT, Process, Server, eventually, running


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Places:
    """A ledger with a tenant of a long name, and a request whose client hung up."""
    places = Places.below(tmp_path_factory.mktemp("kept"))
    with recording(places) as server:
        body = {"model": "demo", "prompt": "Count", "max_tokens": 20, "user": "t" * 200}
        httpx.post(f"{server.url}/v1/completions", json=body, timeout=60).raise_for_status()
        assert eventually(lambda: hang_up(server, places)), "every answer was whole before its client had gone"
        end(server, places)
    return places


def hang_up(server: Server, places: Places) -> bool:
    """Ask for a long answer, read a little of it, and go; whether that was before it was whole."""
    before = len(ends_of_gone(places))
    body = {"model": "demo", "prompt": "Count", "max_tokens": 1500, "ignore_eos": True, "stream": True, "user": "gone"}
    with httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=60) as answer:
        for number, _ in enumerate(answer.iter_lines()):
            if number > 20:
                break
    assert eventually(lambda: len(ends_of_gone(places)) > before)
    return "abort" in ends_of_gone(places).values()


def ends_of_gone(places: Places) -> dict[str, str]:
    """How the requests of those that went have ended, by the ids of their lines."""
    return {line["id"]: line["finish_reason"] for line in recorded(places) if line.get("tenant") == "gone"}


def bill(places: Places, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "pilotlight.py"), "bill", *arguments]
    variables = {**os.environ, "PILOTLIGHT_LEDGER": places.ledger, **environment}
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60, check=False)


def test_a_client_that_hangs_up_has_its_tokens_booked(kept: Places) -> None:
    lines = [line for line in in_ledger(kept.store) if line.get("tenant") == "gone"]
    [gone, *_] = [line for line in lines if line["finish_reason"] == "abort"]
    assert gone["prompt_tokens"] > 0
    assert gone["output_tokens"] >= 10
    assert gone["first_token_ms"] is not None


def test_a_long_tenant_hides_no_money(kept: Places) -> None:
    shown = bill(kept, "report", "--by", "tenant", COLUMNS="80").stdout
    row = next(line for line in shown.splitlines() if line.startswith("ttt"))
    assert "$" in row
    assert "%" in row


def test_an_export_to_a_device_leaves_the_device(kept: Places) -> None:
    null = Path("/dev/null")
    before = null.stat().st_rdev
    assert bill(kept, "export", "--format", "focus", "--out", "/dev/null").returncode == 0
    assert null.stat().st_rdev == before != 0


def test_a_damaged_line_is_told_by_an_export(kept: Places, tmp_path: Path) -> None:
    damaged = tmp_path / "usage.jsonl.gz"
    damaged.write_bytes(gzip.compress(b'{"kind": "phase", "at": "2026-\n'))
    told = bill(kept, "export", "--format", "focus", "--from", str(tmp_path), "--out", "-")
    assert "1 line" in told.stderr


@pytest.mark.parametrize("command", [("report",), ("verify",), ("export", "--format", "focus", "--out", "-")])
def test_a_file_that_is_no_ledger_is_no_free_month(command: tuple[str, ...], kept: Places, tmp_path: Path) -> None:
    file = tmp_path / "a file"
    file.write_text("hi")
    told = bill(kept, *command, "--from", str(file))
    assert told.returncode == 1
    assert str(file) in told.stderr


def test_a_terminal_without_the_signs_is_no_traceback(kept: Places) -> None:
    told = bill(kept, "report", PYTHONIOENCODING="ascii")
    assert told.returncode == 0
    assert "Traceback" not in told.stderr


def test_nothing_recorded_yet_is_said_so(tmp_path: Path) -> None:
    told = bill(Places.below(tmp_path), "report", PILOTLIGHT_LEDGER="", XDG_STATE_HOME=str(tmp_path))
    assert told.returncode == 1
    assert "nothing is recorded" in told.stderr


@pytest.mark.parametrize("name", ["LEDGER=ftp://x/y", "LEDGER=Of", "PRICE=1e400", "PRICE=0.1234567890123"])
def test_a_wrong_setting_is_named(name: str) -> None:
    variable, _, value = name.partition("=")
    with running(Process, *SERVE, environment={f"PILOTLIGHT_{variable}": value}) as process:
        assert process.wait() == 1
        assert f"PILOTLIGHT_{variable}" in process.output


def test_a_worker_that_cannot_deliver_says_where_the_rest_is(tmp_path: Path) -> None:
    in_its_place = tmp_path / "ledger"
    in_its_place.write_text("")
    places = Places.below(tmp_path)
    with recording(places) as server:
        threading.Event().wait(0.5)
        assert server.stop() == 0
        assert f"pilotlight bill recover {places.journal}" in server.output
        assert places.ledger in server.output


def test_off_may_be_written_in_capitals(tmp_path: Path) -> None:
    with running(Server, *SERVE, environment={"PILOTLIGHT_LEDGER": "OFF", "XDG_STATE_HOME": str(tmp_path)}) as server:
        server.await_ready()
        time.sleep(0.1)
        assert server.stop() == 0
    assert list(tmp_path.iterdir()) == []
