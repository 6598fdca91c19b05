"""What the warmer learns from a ledger, and that it reads each object once."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from handler.billing.folder_store import FolderStore
from handler.billing.store import StoredObject, StoreTrouble
from tests.billing.ledgers import BEGAN_S, Shape, make_ledger
from warmup.learning import Digest, Learner, NoPrice, costs_of
from warmup.settings import Settings

SHAPE = Shape(requests=600, workers=4, endpoints=1, days=0.5, unclosed=0)
NOW = BEGAN_S + 86_400.0


def learnt(folder: Path, digest: Digest | None = None) -> tuple[Learner, int]:
    learner = Learner(FolderStore(folder), "endpoint-0", digest)
    return learner, learner.learn(NOW)


def test_users_count_once_and_pings_are_none(tmp_path: Path) -> None:
    truth = make_ledger(tmp_path, SHAPE)
    learner, objects = learnt(tmp_path)
    assert objects == truth.objects + truth.repeated
    assert truth.warmups > 0
    assert len(learner.digest.history()) == truth.requests
    assert sum(learner.digest.warmup_s.values()) == pytest.approx(sum(truth.warmup_ms.values()) / 1000)
    assert learner.digest.price == 0.00031
    assert learner.digest.starts(20.0).cold.values == (4.321,) * SHAPE.workers


def test_what_was_read_is_not_read_again_also_by_the_next_process(tmp_path: Path) -> None:
    make_ledger(tmp_path, SHAPE)
    learner, _ = learnt(tmp_path)
    assert learner.learn(NOW) == 0
    again, objects = learnt(tmp_path, Digest.unpacked(learner.digest.packed()))
    assert objects == 0
    assert again.digest == learner.digest


def test_days_in_which_nobody_looked_are_caught_up(tmp_path: Path) -> None:
    truth = make_ledger(tmp_path, Shape(requests=600, workers=4, endpoints=1, days=8.0, unclosed=0))
    learner = Learner(FolderStore(tmp_path), "endpoint-0")
    first = learner.learn(BEGAN_S + 3600.0)
    assert first < truth.objects
    again = Learner(FolderStore(tmp_path), "endpoint-0", Digest.unpacked(learner.digest.packed()))
    assert first + again.learn(NOW + 9 * 86_400.0) == truth.objects + truth.repeated


def test_a_clock_that_was_far_ahead_for_a_while_takes_nothing_away(tmp_path: Path) -> None:
    truth = make_ledger(tmp_path, Shape(requests=600, workers=4, endpoints=1, days=8.0, unclosed=0))
    learner = Learner(FolderStore(tmp_path), "endpoint-0")
    for now in (NOW, NOW + 400 * 86_400.0, NOW + 9 * 86_400.0):
        learner.learn(now)
    assert len(learner.digest.history()) == truth.requests


class Growing(FolderStore):
    """The rest of a worker's life comes to the ledger just as its first day has been listed."""

    def __init__(self, folder: Path, late: Path, listed: str) -> None:
        super().__init__(folder)
        self.late, self.folder, self.listed = late, folder, listed

    def keys(self, under: str = "") -> Iterator[StoredObject]:
        yield from super().keys(under)
        if self.listed in under:
            shutil.copytree(self.late, self.folder, dirs_exist_ok=True)


def test_what_comes_about_midnight_is_read_in_its_order(tmp_path: Path) -> None:
    truth = make_ledger(tmp_path / "late", Shape(requests=600, workers=1, endpoints=1, days=2.0, unclosed=0))
    first = min(tmp_path.glob("late/usage/v1/dt=*/hr=*"))
    shutil.copytree(first, tmp_path / "ledger" / first.relative_to(tmp_path / "late"))
    learner = Learner(Growing(tmp_path / "ledger", tmp_path / "late", first.parent.name), "endpoint-0")
    for days in range(3):
        learner.learn(BEGAN_S + days * 86_400.0)
    assert len(learner.digest.history()) == truth.requests


class Failing(FolderStore):
    """Fails at its third object, once."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.reads = 0

    def get(self, key: str) -> bytes:
        self.reads += 1
        if self.reads == 3:
            raise StoreTrouble("the network is down", refused=False)
        return super().get(key)


def test_what_a_failure_left_unread_is_read_the_next_time(tmp_path: Path) -> None:
    truth = make_ledger(tmp_path, Shape(requests=600, workers=4, endpoints=1, days=8.0, unclosed=0))
    learner = Learner(Failing(tmp_path), "endpoint-0")
    with pytest.raises(StoreTrouble):
        learner.learn(NOW + 9 * 86_400.0)
    learner.learn(NOW + 9 * 86_400.0)
    assert len(learner.digest.history()) == truth.requests


def test_of_other_endpoints_nothing_is_learnt(tmp_path: Path) -> None:
    make_ledger(tmp_path, SHAPE)
    learner = Learner(FolderStore(tmp_path), "another")
    assert learner.learn(NOW) == 0


def test_damage_is_left_out_and_what_is_old_is_forgotten(tmp_path: Path) -> None:
    truth = make_ledger(tmp_path, SHAPE)
    next(tmp_path.rglob("*.gz")).write_bytes(b"no gzip")
    learner, _ = learnt(tmp_path)
    assert 0 < len(learner.digest.arrivals) < truth.requests
    learner.learn(NOW + 40 * 86_400)
    assert (learner.digest.arrivals, learner.digest.objects) == ([], {})
    assert Digest.unpacked(b"no gzip") == Digest()


def line(kind: str, at_s: float, epoch: int, **fields: Any) -> dict[str, Any]:
    at = datetime.fromtimestamp(BEGAN_S + at_s, UTC).isoformat()
    return {"kind": kind, "at": at, "boot": "b", "epoch": epoch, **fields}


def test_the_chance_of_a_restore_is_by_the_time_without_work_pings_included() -> None:
    """Three restores, each within a minute of the end of what was done before: a user's 100 s, and two pings."""
    digest = Digest()
    for kind, at_s, epoch, fields in (
        ("start", 0, 0, {"start_kind": "fresh", "ready_ms": 1000}),
        ("request", 5, 0, {"start_kind": "warm", "warmup": False, "duration_ms": 100_000}),
        ("start", 150, 1, {"start_kind": "restored", "ready_ms": 1000}),
        ("request", 500, 1, {"start_kind": "warm", "warmup": True, "duration_ms": 10}),
        ("start", 550, 2, {"start_kind": "restored", "ready_ms": 2000}),
        ("request", 900, 2, {"start_kind": "warm", "warmup": True, "duration_ms": 10}),
        ("start", 950, 3, {"start_kind": "restored", "ready_ms": 3000}),
    ):
        digest.take(line(kind, at_s, epoch, **fields))
    restores = digest.starts(20.0).restores
    assert restores is not None
    assert (restores.seconds.values, restores.chances) == ((1, 2, 3), (1, 0, 0, 0, 0, 0))


def test_waiting_within_the_worker_is_no_work() -> None:
    digest = Digest()
    fields = {"start_kind": "warm", "warmup": False, "duration_ms": 5000, "queue_ms": 3000}
    digest.take(line("request", 0, 0, **fields))
    assert digest.services == [2.0]


def test_somebody_must_say_what_a_second_costs(tmp_path: Path) -> None:
    with pytest.raises(NoPrice, match="--price"):
        costs_of(Settings(endpoint="x"), Digest())
    assert costs_of(Settings(endpoint="x", price=0.1), Digest(price=0.2)).price == 0.1
