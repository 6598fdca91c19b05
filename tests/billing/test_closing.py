"""A killed worker's epoch is closed so that its books balance, with nothing but its newest segment to go by."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler.billing.books import Books, Entry
from handler.billing.closing import closing_lines
from handler.billing.identity import Identity
from handler.billing.lines import Asked, Line, Lines, Outcome
from handler.billing.price import Price
from handler.epochs import Epoch, Moment

PRICE = Price(Decimal("0.00031"), date="2026-06-08")


def make_books() -> Books:
    identity = Identity("abc123", "pod-1", "20261121T102224-3f9a1c2b", "NVIDIA GeForce RTX 4090")
    return Books(Epoch(0, "fresh", Moment(1_795_256_544.0, 0.0)), lambda epoch: Lines(identity, epoch, "demo", PRICE))


def enter(books: Books, name: str, at_s: float, warmup: bool = False) -> Entry:
    return books.enter(Asked(name, "warm", warmup, job=f"job-{name}", tenant="zoe"), at_s)


def a_segment(books: Books, at_s: float) -> list[Line]:
    return [books.opening(at_s, 1_795_256_544.0 + at_s), *books.cut(at_s)]


def test_the_last_second_is_filled_up() -> None:
    books = make_books()
    books.cut(1.25)
    [rounding] = closing_lines(a_segment(books, 2.6))
    assert (rounding["kind"], rounding["phase"], rounding["ms"]) == ("phase", "rounding", 400)
    assert rounding["cost"] == "0.000124"


def test_a_whole_number_of_seconds_is_closed_by_a_line_of_nothing() -> None:
    [rounding] = closing_lines(a_segment(make_books(), 2.0))
    assert rounding["ms"] == 0


def test_the_end_is_when_the_last_line_was_written() -> None:
    segment = a_segment(make_books(), 2.6)
    [rounding] = closing_lines(segment)
    assert rounding["at"] == rounding["written"] == segment[-1]["written"]


def test_a_closed_epoch_stays_as_it_is() -> None:
    books = make_books()
    segment = [books.opening(0.0, 0.0), *books.close(2.6)]
    assert closing_lines(segment) == []


def test_a_request_in_flight_is_lost_with_what_it_is_known_to_have_had() -> None:
    books = make_books()
    enter(books, "a", 0.0, warmup=True)
    books.cut(1.0)
    lost, unknown, rounding = closing_lines(a_segment(books, 1.5))
    assert (lost["request"], lost["job"], lost["tenant"], lost["warmup"]) == ("a", "job-a", "zoe", True)
    assert (lost["finish_reason"], lost["execution_ms"]) == ("lost", 1_000)
    assert (unknown["request"], unknown["execution_ms"]) == (None, 500)
    assert rounding["ms"] == 500


def test_a_request_that_came_since_the_segment_began_is_lost_without_a_name() -> None:
    books = make_books()
    opening = books.opening(0.0, 0.0)
    enter(books, "a", 0.0)
    unknown, _ = closing_lines([opening, *books.cut(1.5)])
    assert (unknown["request"], unknown["finish_reason"], unknown["execution_ms"]) == (None, "lost", 1_500)


def test_a_request_that_has_ended_is_not_lost() -> None:
    books = make_books()
    entry = enter(books, "a", 0.0)
    books.cut(1.0)
    books.leave(entry, Outcome("stop"), 1.25)
    assert [line["kind"] for line in closing_lines(a_segment(books, 1.5))] == ["phase"]


def test_one_name_used_twice_is_two_requests() -> None:
    books = make_books()
    opening = books.opening(0.0, 0.0)
    segment = [opening]
    for second in (0, 1):
        books.leave(enter(books, "again", second), Outcome("stop"), second + 0.5)
        segment += books.cut(second + 0.6)
    assert [line["kind"] for line in closing_lines(segment)] == ["phase"]


def test_no_line_of_time_is_nothing_to_close() -> None:
    assert closing_lines(a_segment(make_books(), 0.0)) == []


@given(st.data())
def test_after_closing_any_life_is_whole_seconds_and_its_execution_belongs_to_requests(data: st.DataObject) -> None:
    books = make_books()
    in_flight: dict[str, Entry] = {}
    now, all_lines, segment = 0, list[Line](), [books.opening(0.0, 0.0)]
    for count in range(data.draw(st.integers(1, 30))):
        now += data.draw(st.integers(0, 2_500))
        match data.draw(st.sampled_from(["enter", "leave", "cut", "seal"])):
            case "enter":
                in_flight[f"r{count}"] = enter(books, f"r{count}", now / 1000)
            case "leave" if in_flight:
                books.leave(in_flight.pop(data.draw(st.sampled_from(sorted(in_flight)))), Outcome("stop"), now / 1000)
            case "cut":
                segment += books.cut(now / 1000)
            case "seal":
                all_lines += segment
                segment = a_segment(books, now / 1000)
    closing = closing_lines(segment)
    all_lines += [*segment, *closing]
    phases = [line for line in all_lines if line["kind"] == "phase"]
    requests = [line for line in all_lines if line["kind"] == "request"]
    if any(line["kind"] == "phase" for line in segment):
        assert sum(line["ms"] for line in phases) % 1000 == 0
        execution = sum(line["ms"] for line in phases if line["phase"] == "execution")
        assert execution == sum(line["execution_ms"] for line in requests)
    assert all(line["execution_ms"] >= 0 for line in requests)
    assert closing == closing_lines(segment)
    assert closing_lines([*segment, *closing]) == []


@pytest.mark.parametrize("kept", range(4))
def test_closing_that_was_cut_off_goes_on_where_it_was(kept: int) -> None:
    books = make_books()
    enter(books, "a", 0.0)
    enter(books, "b", 0.5)
    books.cut(1.0)
    segment = a_segment(books, 1.5)
    closing = closing_lines(segment)
    assert len(closing) == 4
    assert closing_lines([*segment, *closing[:kept]]) == closing[kept:]
