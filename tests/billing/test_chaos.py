"""Workers that are killed, frozen and starved, under load: what was journalled is in the ledger, once.

`PILOTLIGHT_KILLS=30 python -m pytest tests/billing/test_chaos.py` kills more of them.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import time
from datetime import datetime
from pathlib import Path

import httpx
import pytest

from handler.billing.reading.verify import verify
from tests.billing.conftest import new_bucket
from tests.billing.faulty_s3 import Answer, Fault, FaultyS3
from tests.billing.servers import S3Server
from tests.billing.serving import (
    Load,
    Places,
    billed_ms,
    in_ledger,
    journalled,
    recording,
    recover_all,
    requests_of,
)
from tests.disks import fill, small_disk
from tests.handler.control_plane import ControlPlane
from tests.handler.processes import Process, Server, eventually, free_port, running

KILLS = int(os.environ.get("PILOTLIGHT_KILLS", "3"))
FLUSH_S = 0.6
"""What is answered so long before a kill has surely been written: the flush comes every 50 ms here."""


def kill_under_load(places: Places, seconds: float) -> tuple[Load, float, float]:
    """Serve for so long, and no longer: the load, and when the kill came by either clock (monotonic, wall)."""
    with recording(places) as server, Load(server.url) as load:
        time.sleep(seconds)
        moment, wall = time.monotonic(), time.time()
        server.stop(signal.SIGKILL)
        load.stop()
        return load, moment, wall


def check_whole(places: Places) -> None:
    verification = verify(places.store)
    assert verification.problems == ()
    assert verification.counts["living"] == 0


@pytest.mark.parametrize("seed", range(KILLS))
def test_a_kill_loses_nothing_that_was_journalled(seed: int, tmp_path: Path) -> None:
    places = Places.below(tmp_path)
    load, moment, _ = kill_under_load(places, random.Random(seed).uniform(0, 2.5))
    on_disk = journalled(places)
    assert all(journal.closed for journal in recover_all(places))
    lines = in_ledger(places.store)
    assert {line["id"] for line in on_disk} <= {line["id"] for line in lines}
    answered = {name for name, when in load.answered if when < moment - FLUSH_S}
    assert answered <= requests_of(lines).keys()
    assert set(requests_of(lines).values()) <= {1}
    check_whole(places)


@pytest.mark.alone
@pytest.mark.parametrize("seed", range(KILLS))
def test_a_kill_that_takes_the_disk_along_loses_no_more_than_the_open_interval(seed: int, tmp_path: Path) -> None:
    places = Places.below(tmp_path, open_interval_s=2.0)
    _, _, wall = kill_under_load(places, random.Random(seed).uniform(2.5, 5))
    shutil.rmtree(places.journal)
    lines = in_ledger(places.store)
    began = min(datetime.fromisoformat(line["at"]).timestamp() for line in lines)
    lost_s = (wall - began) - billed_ms(lines) / 1000
    assert lost_s <= places.open_interval_s
    assert set(requests_of(lines).values()) <= {1}


def test_sigterm_under_load_leaves_nothing_behind(tmp_path: Path) -> None:
    places = Places.below(tmp_path, open_interval_s=60)
    with recording(places) as server, Load(server.url) as load:
        time.sleep(1)
        began = time.monotonic()
        assert server.stop() == 0
        load.stop()
        assert time.monotonic() - began < 10
    assert {name for name, _ in load.answered} <= requests_of(in_ledger(places.store)).keys()
    assert list(places.journal.iterdir()) == []
    check_whole(places)


@pytest.mark.alone
def test_frozen_time_is_not_billed(tmp_path: Path) -> None:
    places = Places.below(tmp_path)
    with recording(places) as server, Load(server.url) as load:
        time.sleep(1)
        server.popen.send_signal(signal.SIGSTOP)
        time.sleep(6)
        server.popen.send_signal(signal.SIGCONT)
        time.sleep(1.5)
        load.stop()
        wall = time.time()
        assert server.stop() == 0
    lines = in_ledger(places.store)
    began = datetime.fromisoformat(lines[0]["at"]).timestamp()
    awake_s = wall - began - 6
    assert {line["epoch"] for line in lines} == {0, 1}
    assert awake_s - 1.5 < billed_ms(lines) / 1000 < awake_s + 3
    assert [line["start_kind"] for line in lines if line["kind"] == "start"] == ["fresh", "restored"]
    assert {name for name, _ in load.answered} <= requests_of(lines).keys()
    check_whole(places)


def test_a_ledger_that_is_away_for_a_whole_life_gets_it_afterwards(moto: S3Server, tmp_path: Path) -> None:
    bucket = new_bucket()
    places = Places(tmp_path, bucket.place)
    away = {"AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{free_port()}"}
    with recording(places, away) as server, Load(server.url) as load:
        time.sleep(1.5)
        await_status(server, "retrying")
        load.stop()
        assert server.stop() == 0
    assert in_ledger(bucket) == []
    assert all(journal.closed for journal in recover_all(places))
    assert {name for name, _ in load.answered} <= requests_of(in_ledger(bucket)).keys()
    check_whole(places)


FAULTS: list[tuple[Fault, str]] = [
    (Answer(500, "InternalError"), "retrying"), (Answer(503, "SlowDown"), "retrying"),
    (Answer(403, "AccessDenied"), "refused"), ("cut", "retrying"),
]


def test_a_ledger_that_fails_holds_nobody_up_and_loses_nothing(faulty: FaultyS3, tmp_path: Path) -> None:
    bucket = new_bucket()
    places = Places(tmp_path, bucket.place)
    with recording(places) as server, Load(server.url) as load:
        for fault, status in FAULTS:
            faulty.fail(fault)
            await_status(server, status)
            await_answers(load)
            assert re.search(r"pilotlight_ledger_trouble{.*} 1.0", metrics(server))
            faulty.fail(None)
            await_status(server, "ok")
        load.stop()
        assert server.stop() == 0
    assert load.failed == 0
    assert requests_of(in_ledger(bucket)) == {name: 1 for name, _ in load.answered}
    check_whole(places)


def test_a_full_disk_holds_nobody_up_and_loses_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 256 << 10) as disk:
        check_full_disk(disk, tmp_path / "ledger")


def check_full_disk(disk: Path, ledger: Path) -> None:
    places = Places(disk, f"file://{ledger}")
    with recording(places) as server, Load(server.url) as load:
        # Again and again, for a segment that is confirmed gives its room back.
        assert eventually(lambda: fill(disk) and billing(server)["status"] == "journal failing", 60), server.output
        await_answers(load)
        (disk / "ballast").unlink()
        await_status(server, "ok")
        load.stop()
        assert server.stop() == 0
    assert load.failed == 0
    assert requests_of(in_ledger(places.store)) == {name: 1 for name, _ in load.answered}
    check_whole(places)


def test_a_queue_worker_s_jobs_are_billed_under_their_ids(tmp_path: Path) -> None:
    places = Places.below(tmp_path)
    with ControlPlane().listening() as plane:
        environment = {**plane.environment(), **places.environment}
        with running(Process, "-m", "handler", environment=environment) as worker:
            plane.run("warm-1", {"warmup": True})
            plane.run("job-1", {"prompt": "Count", "tenant": "acme", "sampling_params": {"max_tokens": 20}})
            time.sleep(0.3)
            assert worker.stop() == 0
    lines = in_ledger(places.store)
    by_job = {line["job"]: line for line in lines if line["kind"] == "request"}
    assert by_job["job-1"]["tenant"] == "acme"
    assert by_job["job-1"]["output_tokens"] == 20
    assert [by_job["warm-1"]["warmup"], by_job["warm-1"]["start_kind"]] == [True, "fresh"]
    assert {"boot", "idle", "drain"} <= {line["phase"] for line in lines if line["kind"] == "phase"}
    check_whole(places)


def test_a_worker_that_is_told_to_end_while_it_boots_has_its_boot_billed(tmp_path: Path) -> None:
    places = Places.below(tmp_path)
    with ControlPlane().listening() as plane:
        environment = {**plane.environment(), **places.environment}
        with running(Process, "-m", "handler", environment=environment) as worker:
            assert eventually(lambda: any(places.journal.glob("*")), 20)
            time.sleep(0.2)  # The journal is made a moment before the signals' handler.
            assert worker.stop() == 0
    lines = in_ledger(places.store)
    assert {line["phase"] for line in lines if line["kind"] == "phase"} == {"boot", "rounding"}
    check_whole(places)


def await_status(server: Server, status: str) -> None:
    """Raises AssertionError if the record never gets there."""
    assert eventually(lambda: billing(server)["status"] == status, 40), server.output


def await_answers(load: Load) -> None:
    """Raises AssertionError if requests are held up."""
    answered = len(load.answered)
    assert eventually(lambda: len(load.answered) > answered + 10, 30)


def billing(server: Server) -> dict[str, object]:
    found: dict[str, object] = httpx.get(f"{server.url}/health", timeout=10).json()["billing"]
    return found


def metrics(server: Server) -> str:
    return httpx.get(f"{server.url}/metrics", timeout=10).text
