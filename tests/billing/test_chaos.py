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

from handler.billing.lines import Line
from handler.billing.reading.verify import verify
from tests.billing.conftest import new_bucket
from tests.billing.faulty_s3 import Answer, Fault, FaultyS3
from tests.billing.servers import S3Server
from tests.billing.serving import (
    CLIENTS,
    Load,
    Places,
    await_record,
    billed_ms,
    bring_rest,
    delivered,
    end,
    in_ledger,
    journalled,
    recorded,
    recording,
    recover_all,
    requests_of,
)
from tests.disks import fill, small_disk
from tests.handler.control_plane import ControlPlane
from tests.handler.processes import ROOT, Process, Server, deaf_port, eventually, running

MANY = "PILOTLIGHT_KILLS"
KILLS = int(os.environ.get(MANY, "3"))


def check_whole(places: Places) -> None:
    verification = verify(places.store)
    assert verification.problems == ()
    assert verification.counts["living"] == 0


@pytest.mark.parametrize("seed", range(KILLS))
def test_a_kill_loses_nothing_that_was_journalled(seed: int, tmp_path: Path) -> None:
    places, draw = Places.below(tmp_path), random.Random(seed)
    with recording(places) as server, Load(server.url) as load:
        time.sleep(draw.uniform(0, 2.5))
        answered = await_record(places, load)
        time.sleep(draw.uniform(0, 0.2))
        server.stop(signal.SIGKILL)
    on_disk = journalled(places)
    assert all(journal.closed for journal in recover_all(places))
    lines = in_ledger(places.store)
    assert {line["id"] for line in on_disk} <= {line["id"] for line in lines}
    assert answered <= requests_of(lines).keys()
    assert set(requests_of(lines).values()) <= {1}
    check_whole(places)


@pytest.mark.parametrize("seed", range(KILLS))
def test_a_kill_that_takes_the_disk_along_loses_what_came_last_alone(seed: int, tmp_path: Path) -> None:
    """With many kills, on a machine that does nothing else, it is held against the open interval."""
    places, draw = Places.below(tmp_path, open_interval_s=2.0), random.Random(seed)
    with recording(places) as server, Load(server.url) as load:
        answered = await_record(places, load)
        now = time.time()
        assert eventually(lambda: last_written_s(delivered(places)) >= now)
        assert eventually(lambda: answered <= requests_of(delivered(places)).keys())
        time.sleep(draw.uniform(0, 2.0))
        killed = time.time()
        server.stop(signal.SIGKILL)
    shutil.rmtree(places.journal)
    lines = in_ledger(places.store)
    assert MANY not in os.environ or killed - last_written_s(lines) <= places.open_interval_s
    assert answered <= requests_of(lines).keys()
    assert set(requests_of(lines).values()) <= {1}


def last_written_s(lines: list[Line]) -> float:
    """Up to when they have the worker's time, in seconds since 1970."""
    times = [line["written"] for line in lines if line["kind"] == "phase"]
    return datetime.fromisoformat(max(times)).timestamp() if times else 0.0


def test_sigterm_under_load_leaves_nothing_behind(tmp_path: Path) -> None:
    """Though nothing would have been due for an hour."""
    places = Places.below(tmp_path, open_interval_s=3600)
    with recording(places) as server, Load(server.url) as load:
        assert eventually(lambda: len(load.answered) > CLIENTS)
        end(server, places)
    assert set(load.answered) <= requests_of(in_ledger(places.store)).keys()
    assert list(places.journal.iterdir()) == []
    check_whole(places)


@pytest.mark.alone
def test_frozen_time_is_not_billed(tmp_path: Path) -> None:
    places = Places.below(tmp_path)
    with recording(places) as server, Load(server.url) as load:
        await_record(places, load)
        frozen_s = freeze(server, 6)
        assert eventually(lambda: any(line["epoch"] == 1 for line in recorded(places)))
        load.answered.clear()
        await_record(places, load)
        load.stop()
        end(server, places)
        ended = time.time()
    lines = in_ledger(places.store)
    epochs = {line["epoch"] for line in lines}
    began = datetime.fromisoformat(lines[0]["at"]).timestamp()
    assert billed_ms(lines) / 1000 < ended - began - frozen_s + len(epochs), "but each epoch's last second"
    assert {line["epoch"] for line in lines if line["kind"] == "request"} >= {0, 1}
    assert [line["start_kind"] for line in lines if line["kind"] == "start"][:2] == ["fresh", "restored"]
    assert set(load.answered) <= requests_of(lines).keys()
    check_whole(places)


def freeze(server: Server, seconds: float) -> float:
    """Stop the process for so long at least, and give how long it surely was."""
    server.popen.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, server.popen.pid, os.WSTOPPED)
    began = time.monotonic()
    time.sleep(seconds)
    frozen_s = time.monotonic() - began
    server.popen.send_signal(signal.SIGCONT)
    return frozen_s


def test_a_ledger_that_is_away_for_a_whole_life_gets_it_afterwards(moto: S3Server, tmp_path: Path) -> None:
    bucket = new_bucket()
    places = Places(tmp_path, bucket.place)
    with deaf_port() as port:
        away = {"AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{port}"}
        with recording(places, away) as server, Load(server.url) as load:
            assert eventually(lambda: load.answered)
            await_status(server, "retrying")
            load.stop()
            assert server.stop() == 0
    assert in_ledger(bucket) == []
    assert all(journal.closed for journal in recover_all(places))
    assert set(load.answered) <= requests_of(in_ledger(bucket)).keys()
    check_whole(places)


FAULTS: list[tuple[Fault, str]] = [
    (Answer(500, "InternalError"), "retrying"), (Answer(503, "SlowDown"), "retrying"),
    (Answer(403, "AccessDenied"), "refused"), ("cut", "retrying"),
]


@pytest.mark.timeout(400)  # Each mending may be noticed a minute late, where much has failed before.
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
        end(server, places)
    assert load.failed == 0
    assert requests_of(in_ledger(bucket)) == dict.fromkeys(load.answered, 1)
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
        end(server, places)
    assert load.failed == 0
    assert requests_of(in_ledger(places.store)) == dict.fromkeys(load.answered, 1)
    check_whole(places)


def test_a_queue_worker_s_jobs_are_billed_under_their_ids(tmp_path: Path) -> None:
    places = Places.below(tmp_path)
    with ControlPlane().listening() as plane:
        environment = {**plane.environment(), **places.environment}
        with running(Process, "-m", "handler", environment=environment) as worker:
            plane.run("warm-1", {"warmup": True})
            plane.run("job-1", {"prompt": "Count", "tenant": "acme", "sampling_params": {"max_tokens": 20}})
            assert eventually(lambda: any(line.get("job") == "job-1" for line in recorded(places)))
            time.sleep(0.3)  # It is idle for a while.
            end(worker, places)
    lines = in_ledger(places.store)
    by_job = {line["job"]: line for line in lines if line["kind"] == "request"}
    assert by_job["job-1"]["tenant"] == "acme"
    assert by_job["job-1"]["output_tokens"] == 20
    assert [by_job["warm-1"]["warmup"], by_job["warm-1"]["start_kind"]] == [True, "fresh"]
    assert {"boot", "idle", "drain"} <= {line["phase"] for line in lines if line["kind"] == "phase"}
    check_whole(places)


def test_a_worker_that_is_told_to_end_while_it_boots_has_its_boot_billed(tmp_path: Path) -> None:
    """Its boot waits for one of the model's files: a pipe into which nobody writes."""
    places, model = Places.below(tmp_path), tmp_path / "model"
    shutil.copytree(ROOT / "engine" / "demo", model)
    (model / "generation_config.json").unlink()
    os.mkfifo(model / "generation_config.json")
    own = {"PILOTLIGHT_MODEL": str(model), "PYTHONUNBUFFERED": "1"}
    with ControlPlane().listening() as plane:
        environment = {**plane.environment(), **places.environment, **own}
        with running(Process, "-m", "handler", environment=environment) as worker:
            assert eventually(lambda: "Starting Serverless Worker" in worker.output), worker.output
            assert worker.stop() == 0
    bring_rest(places.journal, places.store)
    lines = in_ledger(places.store)
    assert {line["phase"] for line in lines if line["kind"] == "phase"} == {"boot", "rounding"}
    check_whole(places)


def await_status(server: Server, status: str) -> None:
    """Raises AssertionError if the record never gets there."""
    assert eventually(lambda: billing(server)["status"] == status, 100), server.output


def await_answers(load: Load) -> None:
    """Raises AssertionError if requests are held up."""
    answered = len(load.answered)
    assert eventually(lambda: len(load.answered) > answered + 10)


def billing(server: Server) -> dict[str, object]:
    found: dict[str, object] = httpx.get(f"{server.url}/health", timeout=60).json()["billing"]
    return found


def metrics(server: Server) -> str:
    return httpx.get(f"{server.url}/metrics", timeout=60).text
