"""Workers that are killed and drained under load: the benchmark, in small."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from benchmarks.local_load import fire_at


def test_every_job_ends_once_and_none_is_lost(tmp_path: Path) -> None:
    options = Namespace(
        jobs=120, clients=40, workers=2, attempts=10, kill_every=2.5, drain_every=3.5, keep=None
    )
    found = fire_at("native", tmp_path, options)
    assert (found["submitted"], found["not_ended_once"], found["told_otherwise"]) == (120, 0, 0)
    assert (found["lost_because"], found["wrong"], found["exit_status"]) == ({}, 0, 0)
    assert found["killed"], "it was not under fire"
