"""The page pool and the prefix cache, over ints.

A page is in one of three states, and the three counts always sum to the total:

    used    held by at least one request (a cached prefix may be held by many)
    cached  held by none, its content still known by hash; taken for new content only when nothing is free
    free    held by none, content unknown

Pages that nobody holds stand in one doubly linked list, free ones in front, then cached ones from least to most
recently used, so allocating, touching and releasing a page are O(1).
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from hashlib import blake2b

_HASH_BYTES = 16
"""128 bits: two different prefixes meet by chance once in 2^64 pages, so equal hashes are taken as equal content."""


def chain_hash(parent: bytes, tokens: Sequence[int]) -> bytes:
    """Hash of a full page: its tokens and, through `parent`, all tokens before them and the salt."""
    return blake2b(parent + array("q", tokens).tobytes(), digest_size=_HASH_BYTES).digest()


class OutOfPages(Exception):
    """More pages were asked for than nobody holds."""


class PagePool:
    """Hands out page numbers 0 to `total` - 1, counts their holders, and remembers released content by hash.

    A page is written only by the request it was allocated to; a page found by `match` is full and only read.
    Content is never moved or merged: a page number, once given to a request, stays the same for its life.
    """

    def __init__(self, total: int, caching: bool = True) -> None:
        assert total >= 1
        self.total = total
        self.caching = caching
        self._holders = [0] * total
        self._hash: list[bytes | None] = [None] * total
        self._page_of: dict[bytes, int] = {}
        self._idle = _LinkedPages(total)

    @property
    def available(self) -> int:
        """Pages that can be allocated now: free and cached."""
        return len(self._idle)

    @property
    def used(self) -> int:
        """Pages held by at least one request."""
        return self.total - len(self._idle)

    @property
    def cached(self) -> int:
        """Pages held by none whose content can still be matched."""
        return sum(1 for page in self._page_of.values() if not self._holders[page])

    @property
    def free(self) -> int:
        """Pages held by none and without known content."""
        return self.available - self.cached

    def allocate(self, count: int) -> list[int]:
        """Take `count` pages, free ones first, then the least recently used cached ones.

        Raises:
            OutOfPages: fewer are available; nothing was taken.
        """
        if count > len(self._idle):
            raise OutOfPages(f"{count} pages asked, {len(self._idle)} available")
        return [self._take_oldest() for _ in range(count)]

    def _take_oldest(self) -> int:
        page = self._idle.pop_front()
        self._forget(page)
        self._holders[page] = 1
        return page

    def _forget(self, page: int) -> None:
        known = self._hash[page]
        if known is not None:
            del self._page_of[known]
            self._hash[page] = None

    def match(self, hashes: Iterable[bytes]) -> list[int]:
        """Pages of the longest known prefix of `hashes`, each now held once more by the caller."""
        pages = self.peek(hashes)
        for page in pages:
            if not self._holders[page]:
                self._idle.remove(page)
            self._holders[page] += 1
        return pages

    def peek(self, hashes: Iterable[bytes]) -> list[int]:
        """What `match` would return, without holding anything."""
        pages: list[int] = []
        for known in hashes:
            page = self._page_of.get(known)
            if page is None:
                break
            pages.append(page)
        return pages

    def idle_among(self, pages: Iterable[int]) -> int:
        """How many of `pages` nobody holds, so that holding them would make fewer available."""
        return sum(1 for page in pages if not self._holders[page])

    def publish(self, page: int, content: bytes) -> None:
        """Make a full, computed page findable. The first page with some content stays the one that is found."""
        assert self._holders[page] > 0
        if self.caching and self._hash[page] is None and content not in self._page_of:
            self._hash[page] = content
            self._page_of[content] = page

    def release(self, pages: Sequence[int]) -> None:
        """Give back one hold on each of `pages`, a request's pages in order.

        The last page goes first, so that the tail of a prefix is evicted before its head, which more requests share.
        """
        for page in reversed(pages):
            self._holders[page] -= 1
            assert self._holders[page] >= 0
            if self._holders[page]:
                continue
            if self._hash[page] is None:
                self._idle.push_front(page)
            else:
                self._idle.push_back(page)

    def forget(self, pages: Iterable[int]) -> None:
        """Make held pages unfindable, as after a fault that may have corrupted them."""
        for page in pages:
            assert self._holders[page] > 0
            self._forget(page)


class _LinkedPages:
    """A doubly linked list over page numbers, all in it at first, with O(1) insertion and removal.

    Entry `total` is the sentinel: its neighbours are the list's two ends.
    """

    def __init__(self, total: int) -> None:
        self._sentinel = total
        self._next = [*range(1, total + 1), 0]
        self._previous = [total, *range(total)]
        self._length = total

    def __len__(self) -> int:
        return self._length

    def pop_front(self) -> int:
        page = self._next[self._sentinel]
        assert page != self._sentinel
        self.remove(page)
        return page

    def remove(self, page: int) -> None:
        before, after = self._previous[page], self._next[page]
        self._next[before], self._previous[after] = after, before
        self._length -= 1

    def push_front(self, page: int) -> None:
        self._insert(page, self._sentinel, self._next[self._sentinel])

    def push_back(self, page: int) -> None:
        self._insert(page, self._previous[self._sentinel], self._sentinel)

    def _insert(self, page: int, before: int, after: int) -> None:
        self._previous[page], self._next[page] = before, after
        self._next[before] = self._previous[after] = page
        self._length += 1
