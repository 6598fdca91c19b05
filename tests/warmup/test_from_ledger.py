"""Arrivals, starts and requests as the ledger has them."""

from __future__ import annotations

from pathlib import Path

import pytest

from handler.billing.reading.ledger import open_ledger
from tests.billing.ledgers import Shape, make_ledger
from tests.warmup.test_simulate_command import rows, simulate
from warmup.errors import InvalidTrace
from warmup.simulate.from_ledger import learn, restores_of


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ledger")
    make_ledger(folder, Shape(requests=300, days=0.2))
    return folder


def test_users_requests_and_starts(ledger: Path) -> None:
    with open_ledger(str(ledger)) as opened:
        learnt = learn(opened)
        [(users,)] = opened.execute("SELECT count(*) FROM requests WHERE NOT coalesce(warmup, false)").fetchall()
    assert len(learnt.history) == users > 0
    assert learnt.cold is not None
    assert (learnt.history.services >= 0).all()


def test_restores_by_idle_time() -> None:
    """Of two starts within a minute one was a restore; of those after ten minutes none."""
    starts = [("restored", 2.0, 30.0), ("fresh", 20.0, 50.0), ("fresh", 21.0, 600.0)]
    restores = restores_of(starts)
    assert restores is not None
    assert restores.seconds.values == (2.0,)
    assert restores.chances[:3] == (0.5, 0.0, 0.0)
    assert restores_of([("fresh", 20.0, 50.0)]) is None


def test_the_command_replays_the_ledgers_own_arrivals(ledger: Path) -> None:
    found = rows(simulate("--from", str(ledger), "--policy", "idle:60", "--json"))
    assert found["idle:60"]["requests"] > 0


def test_a_ledger_without_requests_is_refused(tmp_path: Path) -> None:
    with open_ledger(str(tmp_path)) as opened, pytest.raises(InvalidTrace, match="no requests"):
        learn(opened)
