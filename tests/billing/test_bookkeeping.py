"""What a worker's settings and surroundings mean for its books."""

from __future__ import annotations

from pathlib import Path

import pytest

from handler.billing.bookkeeper import Pace
from handler.billing.identity import identify
from handler.epochs import Moment
from tests.billing.serving import SERVE, Places, end, in_ledger, recording
from tests.billing.test_journal_lost import Keeping
from tests.handler.control_plane import ControlPlane
from tests.handler.processes import Process, Server, eventually, running


def test_without_a_setting_a_folder_of_the_user_s_is_the_ledger(tmp_path: Path) -> None:
    state = tmp_path / "pilotlight"
    with running(Server, *SERVE, environment={"XDG_STATE_HOME": str(tmp_path)}) as server:
        server.await_ready()
        end(server, Places(state, str(state / "ledger")))
    assert list((state / "ledger").rglob("*.jsonl.gz"))
    assert list((state / "journal").iterdir()) == []


def test_off_writes_nothing(tmp_path: Path) -> None:
    environment = {"XDG_STATE_HOME": str(tmp_path), "PILOTLIGHT_LEDGER": "off"}
    with running(Server, *SERVE, environment=environment) as server:
        server.await_ready()
        with server.client() as client:
            client.post("/v1/completions", json={"prompt": "Count", "max_tokens": 2}).raise_for_status()
            assert client.get("/health").json()["billing"]["status"] == "off"
            assert "pilotlight_billed_seconds_total{" not in client.get("/metrics").text
        assert server.stop() == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ledger", ["ftp://host/folder", "s3://", "s3://user:password@bucket/prefix"])
def test_a_ledger_that_is_none_is_an_error_that_repeats_no_password(ledger: str) -> None:
    with running(Process, *SERVE, environment={"PILOTLIGHT_LEDGER": ledger}) as process:
        assert process.wait() == 1
        assert "ledger" in process.output.lower()
        assert "password" not in process.output


def test_a_journal_that_cannot_be_written_is_kept_elsewhere_and_that_is_said(tmp_path: Path) -> None:
    taken = tmp_path / "a file"
    taken.write_text("")
    places = Places.below(tmp_path)
    with recording(places, {"PILOTLIGHT_JOURNAL": str(taken), "XDG_STATE_HOME": str(tmp_path)}) as server:
        assert str(taken) in server.output
        end(server, Places(tmp_path / "pilotlight", places.ledger))
    assert in_ledger(places.store)


def test_a_gpu_that_only_the_webhooks_name_has_its_price(tmp_path: Path) -> None:
    places = Places.below(tmp_path)
    with ControlPlane().listening() as plane:
        environment = {**plane.environment(), **places.environment, "PILOTLIGHT_PRICE": ""}
        webhook = environment["RUNPOD_WEBHOOK_GET_JOB"].replace("gpu=", "gpu=NVIDIA+H200&was=")
        environment["RUNPOD_WEBHOOK_GET_JOB"] = webhook
        with running(Process, "-m", "handler", environment=environment) as worker:
            plane.run("job", {"prompt": "Count", "sampling_params": {"max_tokens": 2}})
            end(worker, places)
    priced = {(line["gpu"], line["price"], line["price_date"]) for line in in_ledger(places.store) if "price" in line}
    assert priced == {("NVIDIA H200", "0.00155", "2026-06-08")}


def test_a_worker_without_a_known_gpu_records_its_seconds_without_cost_and_says_so(tmp_path: Path) -> None:
    places = Places.below(tmp_path)
    with recording(places, {"PILOTLIGHT_PRICE": ""}) as server:
        assert eventually(lambda: "PILOTLIGHT_PRICE" in server.output)
        end(server, places)
    costs = [line["cost"] for line in in_ledger(places.store) if line["kind"] == "phase"]
    assert costs
    assert set(costs) == {None}


def test_what_a_boot_or_a_freeze_tells_after_the_end_makes_no_new_journal(tmp_path: Path) -> None:
    keeping = Keeping(tmp_path)
    assert keeping.keeper.close(60.0)
    keeping.keeper.ready(5, [])
    keeping.epochs.begin(Moment.now(), Moment.now())
    assert list(keeping.root.iterdir()) == []


def test_runpods_variables_name_the_worker() -> None:
    told = {
        "RUNPOD_ENDPOINT_ID": "ep", "RUNPOD_POD_ID": "pod", "RUNPOD_GPU_COUNT": "2", "RUNPOD_DC_ID": "EU-RO-1",
        "RUNPOD_WEBHOOK_POST_OUTPUT": "https://api.runpod.ai/v2/ep/job-done/pod/$ID?gpu=NVIDIA+GeForce+RTX+4090",
    }
    found = identify(told, now=0.0)
    assert (found.endpoint, found.worker, found.gpu, found.gpu_count, found.region) == (
        "ep", "pod", "NVIDIA GeForce RTX 4090", 2, "EU-RO-1"
    )
    assert found.boot.startswith("19700101T000000-")


def test_every_boot_has_a_name_of_its_own() -> None:
    assert len({identify({}, now=0.0).boot for _ in range(100)}) == 100


@pytest.mark.parametrize(
    ("open_interval_s", "flush_s", "segment_s"), [(10, 1.0, 8.0), (0.5, 0.05, 0.4), (60, 1.0, 48.0)]
)
def test_the_open_interval_sets_the_pace(open_interval_s: float, flush_s: float, segment_s: float) -> None:
    pace = Pace(open_interval_s)
    assert pace.flush_s == flush_s
    assert pace.segment_s(draining=False) == pytest.approx(segment_s)
    assert pace.segment_s(draining=True) == flush_s
