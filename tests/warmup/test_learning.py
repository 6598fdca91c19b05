"""What the warmer learns from a ledger, and that it reads each object once."""

from __future__ import annotations

from pathlib import Path

import pytest

from handler.billing.folder_store import FolderStore
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


def test_somebody_must_say_what_a_second_costs(tmp_path: Path) -> None:
    with pytest.raises(NoPrice, match="--price"):
        costs_of(Settings(endpoint="x"), Digest())
    assert costs_of(Settings(endpoint="x", price=0.1), Digest(price=0.2)).price == 0.1
