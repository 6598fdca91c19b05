"""The warmer as a process on a local endpoint with real workers, and what they say to each other."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from handler.billing.store import open_store
from tests.billing.serving import bring_rest
from tests.handler.processes import ROOT, Process, eventually, free_port, running
from tests.local.up_process import COUNT, Up, up
from tests.warmup.transcript import OPTIONS, RECORDED, converse, shape

PRICE = "0.0003"
RUN = ("-m", "pilotlight", "warm", "run", "--price", PRICE, "--tick", "0.5")


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Up]:
    with up(*OPTIONS, PILOTLIGHT_OPEN_INTERVAL="1") as started:
        yield started


def places(endpoint: Up) -> list[str]:
    state = endpoint.state
    return ["--endpoint", "local", "--state", str(state / "warmer"), "--ledger", str(state / "ledger")]


def environment(endpoint: Up) -> dict[str, str]:
    base = f"{endpoint.url}/v2"
    return {
        "PILOTLIGHT_RUNPOD_API": base, "RUNPOD_ENDPOINT_BASE_URL": base, "RUNPOD_API_KEY": "none",
        "PILOTLIGHT_WARM_TIMEOUT": "60",
    }


def warm(endpoint: Up, *arguments: str) -> Any:
    """What a subcommand says in JSON."""
    command = [sys.executable, "-m", "pilotlight", "warm", *arguments, *places(endpoint), "--price", PRICE, "--json"]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment(endpoint)}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=variables)
    return json.loads(done.stdout)


def ask(endpoint: Up) -> None:
    """As a user does."""
    assert endpoint.post("/v2/local/runsync", {"input": COUNT})["status"] == "COMPLETED"


def let_go(endpoint: Up) -> None:
    """Wait until there is no worker, nor one on its way out, and the ledger has all that they did."""
    assert eventually(lambda: set(endpoint.workers().values()) == {0} and not endpoint.pids()), endpoint.output
    bring_rest(endpoint.state / "journal", open_store(str(endpoint.state / "ledger")))


def test_it_speaks_to_the_management_api_as_recorded(endpoint: Up) -> None:
    let_go(endpoint)
    said = converse(endpoint)
    recorded = [json.loads(line) for line in RECORDED.read_text().splitlines()]
    names = ("method", "path", "body")
    assert [[line[name] for name in names] for line in said] == [[line[name] for name in names] for line in recorded]
    assert [shape(line["answer"]) for line in said] == [shape(line["answer"]) for line in recorded]
    changes = [line["body"] for line in said if line["method"] == "PATCH"]
    assert changes == [
        {"workers": {"min": 1}}, {"workers": {"min": 0}},
        {"workers": {"idleTimeout": 30}}, {"workers": {"idleTimeout": 1}},
    ]


def test_users_see_cold_starts_without_it_and_none_with_it(endpoint: Up) -> None:
    let_go(endpoint)
    for _ in range(2):
        ask(endpoint)
        let_go(endpoint)
    before = warm(endpoint, "status")["bought"]
    with running(Process, *RUN, "--policy", "always", *places(endpoint), environment=environment(endpoint)) as warmer:
        endpoint.await_workers(idle=1)
        for _ in range(2):
            time.sleep(1.5)  # Longer than a worker stays by itself.
            ask(endpoint)
        shown = warm(endpoint, "status")
        assert warmer.stop(signal.SIGTERM) == 0, warmer.output
    assert endpoint.get("/v2/serverless/local")["workers"]["min"] == 0
    let_go(endpoint)
    assert shown["held"] == {"before_min": 0, "set_min": 1}
    assert (shown["pings"], shown["stopped"], shown["dry_run"]) == (1, False, False)
    after = warm(endpoint, "status")
    assert [(bought["requests"], bought["cold_starts"]) for bought in (before, after["bought"])] == [(2, 2), (4, 2)]
    assert after["bought"]["warmup_s"] > before["warmup_s"] + 0.5
    assert (after["holder"], after["held"]) == (None, {})


def test_a_cron_can_ping_and_a_budget_can_forbid_it(endpoint: Up, tmp_path: Path) -> None:
    let_go(endpoint)
    refused = warm(endpoint, "ping", "--policy", "never", "--now", "--budget-day", "0.0001")
    assert refused["did"] == []
    assert "the budget does not allow it" in refused["refused"][0]
    assert warm(endpoint, "ping", "--policy", "never")["did"] == []
    assert warm(endpoint, "ping", "--policy", "never", "--now", "--dry-run")["role"] == "looks on"
    assert warm(endpoint, "ping", "--policy", "never", "--now")["did"] == ["ping: it was asked for"]
    endpoint.await_workers(idle=1)


def test_metrics_show_spending_budget_kill_switch_and_dry_run(endpoint: Up) -> None:
    command, port = [*RUN, "--policy", "never", *places(endpoint)], str(free_port())
    variables = environment(endpoint) | {"PILOTLIGHT_WARM_METRICS_PORT": port, "PILOTLIGHT_WARM_BUDGET_DAY": "2"}
    with running(Process, *command, "--dry-run", environment=variables) as warmer:
        assert eventually(lambda: "this warmer looks on" in warmer.output), warmer.output
        page = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=60).text
        assert warmer.stop(signal.SIGTERM) == 0
    for line in ("budget_day_dollars 2.0", "dry_run 1.0", "stopped 0.0", "spent_today_dollars ", "pings_total "):
        assert f"pilotlight_warm_{line}" in page
