"""The page pool against a model of it that is too simple to be wrong: lists and dictionaries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from engine.pages import OutOfPages, PagePool, chain_hash

PAGE = 2


def chain(tokens: Sequence[int], salt: bytes = b"") -> list[bytes]:
    """Hashes of the full pages of `tokens`."""
    hashes: list[bytes] = []
    for first in range(0, len(tokens) - PAGE + 1, PAGE):
        hashes.append(chain_hash(hashes[-1] if hashes else salt, tokens[first : first + PAGE]))
    return hashes


def idle_pages(pool: PagePool) -> list[int]:
    """The pool's idle pages in the order in which they are taken, read off the links in both directions."""
    links = pool._idle
    end = pool.total

    def walk(neighbour: list[int]) -> list[int]:
        pages: list[int] = []
        page = neighbour[end]
        while page != end and len(pages) <= pool.total:
            pages.append(page)
            page = neighbour[page]
        return pages

    forwards, backwards = walk(links._next), walk(links._previous)
    assert forwards == backwards[::-1]
    return forwards


@dataclass
class Holder:
    """What a request would hold: pages in order, the first `shared` of them found by hash and only to be read."""

    pages: list[int]
    hashes: list[bytes]
    shared: int
    published: int = field(init=False)

    def __post_init__(self) -> None:
        self.published = self.shared


class PoolMachine(RuleBasedStateMachine):
    """Any sequence of what the scheduler may do to a pool."""

    @initialize(total=st.integers(1, 12))
    def start(self, total: int) -> None:
        self.pool = PagePool(total)
        self.idle = list(range(total))  # free first, then cached from least to most recently used
        self.known: dict[bytes, int] = {}
        self.holders: list[Holder] = []

    def count_holders(self, page: int) -> int:
        return sum(page in holder.pages for holder in self.holders)

    def forget(self, page: int) -> None:
        self.known = {content: at for content, at in self.known.items() if at != page}

    @rule(tokens=st.lists(st.integers(0, 1), max_size=10), salt=st.sampled_from([b"", b"x"]), more=st.integers(0, 3))
    def admit(self, tokens: list[int], salt: bytes, more: int) -> None:
        hashes = chain(tokens, salt)
        expected: list[int] = []
        for content in hashes:
            if content not in self.known:
                break
            expected.append(self.known[content])
        assert self.pool.peek(hashes) == expected
        assert self.pool.idle_among(expected) == len(set(expected) & set(self.idle))
        assert self.pool.match(hashes) == expected
        self.idle = [page for page in self.idle if page not in expected]
        holder = Holder(expected, hashes, len(expected))
        self.holders.append(holder)
        self.extend(holder, len(hashes) - len(expected) + more)

    def extend(self, holder: Holder, count: int) -> None:
        if count > len(self.idle):
            with pytest.raises(OutOfPages):
                self.pool.allocate(count)
            return
        taken, self.idle = self.idle[:count], self.idle[count:]
        for page in taken:
            assert not self.count_holders(page), "a page was handed out that somebody holds"
            self.forget(page)
        assert self.pool.allocate(count) == taken
        holder.pages = holder.pages + taken

    @precondition(lambda self: self.holders)
    @rule(data=st.data(), count=st.integers(0, 4))
    def grow(self, data: st.DataObject, count: int) -> None:
        self.extend(data.draw(st.sampled_from(self.holders)), count)

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def publish(self, data: st.DataObject) -> None:
        holder = data.draw(st.sampled_from(self.holders))
        if holder.published < min(len(holder.pages), len(holder.hashes)):
            page, content = holder.pages[holder.published], holder.hashes[holder.published]
            self.pool.publish(page, content)
            self.known.setdefault(content, page)
            holder.published += 1

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        holder = data.draw(st.sampled_from(self.holders))
        self.holders.remove(holder)
        self.pool.release(holder.pages)
        for page in reversed(holder.pages):
            if self.count_holders(page):
                continue
            self.idle.insert(len(self.idle) if page in self.known.values() else 0, page)

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def forget_pages_of_one(self, data: st.DataObject) -> None:
        holder = data.draw(st.sampled_from(self.holders))
        self.pool.forget(holder.pages)
        for page in holder.pages:
            self.forget(page)

    @invariant()
    def every_page_is_in_exactly_one_state(self) -> None:
        pool = self.pool
        cached = [page for page in self.idle if page in self.known.values()]
        assert (pool.free, pool.cached, pool.used) == (
            len(self.idle) - len(cached), len(cached), pool.total - len(self.idle)
        )
        assert pool.free + pool.cached + pool.used == pool.total
        assert pool.available == pool.free + pool.cached

    @invariant()
    def idle_pages_stand_in_the_order_of_use_with_free_ones_in_front(self) -> None:
        assert idle_pages(self.pool) == self.idle
        cached = [page in self.known.values() for page in self.idle]
        assert cached == sorted(cached)

    @invariant()
    def nobody_writes_where_another_does(self) -> None:
        written = [page for holder in self.holders for page in holder.pages[holder.shared :]]
        assert len(written) == len(set(written))


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def publish_chain(pool: PagePool, tokens: Sequence[int], salt: bytes = b"") -> list[int]:
    """Hold, publish and return the pages of a text that is computed for the first time."""
    hashes = chain(tokens, salt)
    pages = pool.allocate(len(hashes))
    for page, content in zip(pages, hashes, strict=True):
        pool.publish(page, content)
    return pages


def test_a_new_pool_is_all_free() -> None:
    pool = PagePool(5)
    assert (pool.free, pool.cached, pool.used, pool.available) == (5, 0, 0, 5)
    assert idle_pages(pool) == [0, 1, 2, 3, 4]


def test_more_pages_than_there_are_takes_none() -> None:
    pool = PagePool(4)
    pool.allocate(2)
    with pytest.raises(OutOfPages, match="3 pages asked, 2 available"):
        pool.allocate(3)
    assert pool.available == 2
    assert len(pool.allocate(2)) == 2


def test_a_released_prefix_is_found_again_as_far_as_it_reaches() -> None:
    pool = PagePool(8)
    pages = publish_chain(pool, [1, 2, 3, 4, 5, 6])
    pool.release(pages)
    assert pool.cached == 3
    assert pool.match(chain([1, 2, 3, 4, 9, 9])) == pages[:2]
    assert (pool.used, pool.cached) == (2, 1)


def test_a_page_is_known_by_all_tokens_before_it_not_by_its_own() -> None:
    pool = PagePool(8)
    publish_chain(pool, [1, 2, 3, 4])
    assert pool.match(chain([3, 4])) == []
    assert pool.match(chain([9, 9, 3, 4])) == []


def test_a_page_missing_from_the_middle_ends_the_match() -> None:
    pool = PagePool(8)
    hashes = chain([1, 2, 3, 4, 5, 6])
    first, _, third = pool.allocate(3)
    pool.publish(first, hashes[0])
    pool.publish(third, hashes[2])
    assert pool.match(hashes) == [first]


def test_another_salt_finds_nothing() -> None:
    pool = PagePool(8)
    pages = publish_chain(pool, [1, 2, 3, 4], salt=b"alice")
    assert pool.match(chain([1, 2, 3, 4], salt=b"bob")) == []
    assert pool.match(chain([1, 2, 3, 4])) == []
    assert pool.match(chain([1, 2, 3, 4], salt=b"alice")) == pages


def test_the_first_page_with_some_content_stays_the_one_that_is_found() -> None:
    pool = PagePool(8)
    first, second = publish_chain(pool, [1, 2]), publish_chain(pool, [1, 2])
    assert pool.match(chain([1, 2])) == first
    pool.release(second)
    assert pool.cached == 0
    assert second[0] in idle_pages(pool)[: pool.free]


def test_free_pages_are_taken_before_cached_ones_and_a_prefix_from_its_tail() -> None:
    pool = PagePool(6)
    old, new = publish_chain(pool, [1, 2, 3, 4]), publish_chain(pool, [5, 6, 7, 8])
    pool.release(old)
    pool.release(new)
    free = [page for page in range(6) if page not in (*old, *new)]
    assert pool.allocate(6) == [*free, *reversed(old), *reversed(new)]
    assert pool.cached == 0


def test_a_prefix_used_again_is_evicted_last() -> None:
    pool = PagePool(4)
    old, new = publish_chain(pool, [1, 2, 3, 4]), publish_chain(pool, [5, 6, 7, 8])
    pool.release(old)
    pool.release(new)
    pool.release(pool.match(chain([1, 2, 3, 4])))
    assert idle_pages(pool) == [*reversed(new), *reversed(old)]


def test_a_page_that_was_taken_for_new_content_is_no_longer_found() -> None:
    pool = PagePool(2)
    pool.release(publish_chain(pool, [1, 2, 3, 4]))
    pool.allocate(1)
    assert len(pool.peek(chain([1, 2, 3, 4]))) == 1


def test_a_shared_page_is_idle_only_when_its_last_holder_has_let_go() -> None:
    pool = PagePool(4)
    pages = publish_chain(pool, [1, 2])
    again = pool.match(chain([1, 2]))
    pool.release(pages)
    assert pool.used == 1
    pool.release(again)
    assert (pool.used, pool.cached) == (0, 1)


def test_looking_holds_nothing() -> None:
    pool = PagePool(4)
    pool.release(publish_chain(pool, [1, 2]))
    assert len(pool.peek(chain([1, 2]))) == 1
    assert pool.used == 0


def test_without_caching_nothing_is_remembered() -> None:
    pool = PagePool(4, caching=False)
    pool.release(publish_chain(pool, [1, 2]))
    assert pool.peek(chain([1, 2])) == []
    assert (pool.free, pool.cached) == (4, 0)


def test_forgotten_pages_stay_held_but_are_not_found() -> None:
    pool = PagePool(4)
    pages = publish_chain(pool, [1, 2, 3, 4])
    pool.forget(pages[1:])
    assert pool.peek(chain([1, 2, 3, 4])) == pages[:1]
    assert pool.used == 2
    pool.release(pages)
    assert (pool.free, pool.cached) == (3, 1)
