"""One warmer acts at a time, wherever the memory lies; where that cannot be had, it says so and does nothing."""

from __future__ import annotations

import secrets
import threading
from pathlib import Path

import pytest

from handler.billing.bucket import BucketStore
from tests.billing.servers import S3Server
from tests.warmup.warmers import TICK, make_settings, make_warmer
from tests.warmup.world import World
from warmup.lease import LEASE_S, Holder, NotMine
from warmup.places import STOP, BucketPlace, FolderPlace, Outrun, Place, Unsafe, open_place
from warmup.state import DamagedState, State


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def new_bucket() -> BucketStore:
    name = f"bucket-{secrets.token_hex(4)}"
    store = BucketStore(name, "the warmer/üß")
    store._client.create_bucket(Bucket=name)
    return store


def test_the_lease_is_renewed_kept_and_taken_over_within_a_minute(tmp_path: Path) -> None:
    clock = Clock()
    first, second = (Holder(FolderPlace(tmp_path), clock) for _ in range(2))
    first.write(first.take(0.0))
    with pytest.raises(NotMine):
        second.take(20.0)
    clock.now += 20
    first.write(first.take(20.0))
    with pytest.raises(NotMine):
        second.take(45.0)
    clock.now += LEASE_S + 1
    taken = second.write(second.take(51.0))
    assert taken.lease is not None
    assert (taken.lease.term, taken.lease.holder) == (2, second.name)
    assert not first.may_act
    with pytest.raises(NotMine):
        first.take(52.0)


def test_a_holder_that_was_away_is_refused_when_it_writes(tmp_path: Path) -> None:
    clock = Clock()
    first, second = (Holder(FolderPlace(tmp_path), clock) for _ in range(2))
    first.write(first.take(0.0))
    state = first.take(5.0)
    second.write(second.take(100.0))
    with pytest.raises(Outrun):
        first.write(state)
    assert not first.may_act


def test_a_clock_far_ahead_holds_nobody_up_for_long(tmp_path: Path) -> None:
    clock = Clock()
    ahead, right = Holder(FolderPlace(tmp_path), clock), Holder(FolderPlace(tmp_path), clock)
    ahead.write(ahead.take(1_000_000.0))
    with pytest.raises(NotMine):
        right.take(0.0)
    clock.now += LEASE_S
    right.write(right.take(30.0))


def test_of_many_at_once_one_has_it(tmp_path: Path) -> None:
    winners, barrier = [], threading.Barrier(8)

    def reach() -> None:
        holder = Holder(FolderPlace(tmp_path))
        state = holder.take(0.0)
        barrier.wait()
        try:
            winners.append(holder.write(state))
        except Outrun:
            return

    threads = [threading.Thread(target=reach) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(winners) == 1


def test_two_warmers_never_both_ping_on_any_server(server: S3Server) -> None:
    """Or are refused, with the reason: where conditions are denied (Swift) or overlooked (s3rver)."""
    store = new_bucket()
    if server.make.name != "moto":
        with pytest.raises(Unsafe, match="conditional writes"):
            BucketPlace(store).check()
        return
    BucketPlace(store).check()
    pings = race(lambda: BucketPlace(BucketStore(*store.place.removeprefix("s3://").split("/", 1))))
    assert pings == 1


def test_alone_a_warmer_works_on_any_server(server: S3Server, tmp_path: Path) -> None:
    world, store = World(), new_bucket()
    place = BucketPlace(store, alone=True)
    place.check()
    warmer = make_warmer(make_settings(tmp_path, "fixed:60", alone=True), world, place)
    for _ in range(13):
        assert warmer.tick(world.now).trouble == ""
        world.advance(TICK)
    assert len(world.pings) == 3
    store.overwrite(STOP, b"")
    assert warmer.tick(world.now).role == "is stopped"


def race(place: object) -> int:
    """Eight warmers look at the same moment; gives the pings."""
    world, barrier = World(), threading.Barrier(8)

    def look() -> None:
        made: Place = place()  # type: ignore[operator]
        warmer = make_warmer(make_settings(Path("unused"), "fixed:60"), world, made)
        barrier.wait()
        warmer.tick(world.now)

    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(world.pings)


def test_two_warmers_never_both_ping_in_a_folder(tmp_path: Path) -> None:
    assert race(lambda: FolderPlace(tmp_path)) == 1


def test_the_memory_is_read_back_as_it_was_written_and_damage_is_named(tmp_path: Path) -> None:
    holder = Holder(FolderPlace(tmp_path))
    state = holder.write(holder.take(0.0))
    assert State.parse(state.as_json()) == state
    for text in ("", "[]", "{}", '{"version": 2}', state.as_json().replace('"serial": 1', '"serial": "x"')):
        with pytest.raises(DamagedState):
            State.parse(text)
    (tmp_path / "warmer.json").write_text('{"version": 1}')
    with pytest.raises(DamagedState, match=f"^{tmp_path}: .* it has no 'lease'$"):
        holder.take(0.0)


def test_a_place_is_a_folder_or_a_bucket() -> None:
    assert open_place("s3://name/under").name == "s3://name/under"
    assert open_place("file:///tmp/x").name == "/tmp/x"
    for text in ("http://somewhere", "s3://", "file://x"):
        with pytest.raises(Exception, match="write"):
            open_place(text)
