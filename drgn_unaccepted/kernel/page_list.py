# SPDX-License-Identifier: LGPL-2.1-or-later
"""Lists of pages: ``zone->unaccepted_pages`` and ``free_area[].free_list[]``.

A guest of 4 TiB can have a million entries on one list, and each has to be read to know the next. So a block of them is
read with no look at what is read, and then judged by columns; only where something is wrong is it done entry by entry.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Sequence
from itertools import repeat
from typing import Optional

from drgn import FaultError, Program

from drgn_unaccepted import limits
from drgn_unaccepted.kernel.errors import Unavailable
from drgn_unaccepted.kernel.memmap import PageLayout
from drgn_unaccepted.snapshot import PAGE_SIZE, ListedChunks

#: Entries that are judged together.
_BLOCK = 4096

_LINKS = struct.Struct("<QQ")
_NEXT = struct.Struct("<Q")


def walk_page_list(prog: Program, layout: PageLayout, head: int, most: int) -> ListedChunks:
    """Follow a list of pages linked through ``page->lru`` or ``page->buddy_list``, which share their place.

    The walk ends at the head, or with a problem: a NULL, an address that is no ``struct page``, one that is not in
    the target, a cycle, or more entries than ``most``. What was read up to there is kept.

    :param head: virtual address of the ``struct list_head`` that no page contains
    """
    walk = _Walk(prog, layout, head, most)
    try:
        walk.begin()
    except FaultError as error:
        return walk.result(f"list head {head:#x}: {error}")
    while walk.block():
        pass
    return walk.result(*walk.one_by_one())


class _Walk:
    def __init__(self, prog: Program, layout: PageLayout, head: int, most: int) -> None:
        self._read = prog.read
        self._layout = layout
        self._fields = _page_struct(layout)
        # Whole words, for the columns.
        self._size = -(-self._fields.size // 8) * 8
        self._origin = layout.base + layout.lru
        self._pfn_end = limits.PHYSICAL_END // PAGE_SIZE
        self._head = head
        self._most = most
        self._pfns, self._flags = array("Q"), array("Q")
        self._refcounts, self._page_types = array("i"), array("I")
        # Where the walk is: the entry that comes next, and the one before it.
        self._address, self._previous, self._last = 0, head, 0
        #: From each entry to the next one, in the block before.
        self._step = 0
        # Brent's cycle detection: an entry to meet again, replaced by the current one after 1, 2, 4, ... steps.
        self._marked, self._marked_at, self._mark_at = 0, 0, 1

    def begin(self) -> None:
        """Read the head.

        :raises drgn.FaultError: it is not in the target
        """
        self._address, self._last = _LINKS.unpack(self._read(self._head, _LINKS.size))

    def result(self, *problems: str) -> ListedChunks:
        return ListedChunks(self._pfns, self._flags, self._refcounts, self._page_types, problems)

    def block(self) -> bool:
        """Go on by a block of entries with which nothing is wrong; False where there is none, or the list ends."""
        count = min(_BLOCK, self._most - len(self._pfns))
        if self._step:
            # Where the entries must lie if the list goes on as it did; that is C's speed, and found out below.
            run = range(self._address, self._address + count * self._step, self._step)
            if self._take(self._pages_at(run), run):
                return True
        return self._take(self._pages_followed(count), None)

    def _pages_at(self, links: range) -> list[bytes]:
        lru = self._layout.lru
        try:
            return list(map(self._read, range(links.start - lru, links.stop - lru, links.step), repeat(self._size)))
        except (FaultError, OverflowError):
            return []

    def _pages_followed(self, count: int) -> list[bytes]:
        head, lru, read, size = self._head, self._layout.lru, self._read, self._size
        following = _NEXT.unpack_from
        address = self._address
        pages: list[bytes] = []
        append = pages.append
        try:
            for _ in range(count):
                if address == head:
                    return pages
                page = read(address - lru, size)
                append(page)
                (address,) = following(page, lru)
        except (FaultError, OverflowError):
            return []
        return pages if count == _BLOCK else []

    def _take(self, pages: list[bytes], guess: Optional[range]) -> bool:
        """Add the columns of these entries, if nothing is wrong with them."""
        if not pages:
            return False
        layout, size = self._layout, self._size
        data = b"".join(pages)
        words, halves = array("Q", data), array("I", data)
        following = column(words, layout.lru, size)
        links = array("Q", [self._address])
        links += following[:-1]
        # The kernel lists chunks as it frees them, so that most blocks are one run, up or down.
        run = guess or _run(links)
        if run is None or links != array("Q", run):
            if guess is not None:
                return False
            run = None
        pfns = self._pfns_of(run or links)
        if pfns is None or column(words, layout.lru + 8, size) != array("Q", [self._previous]) + links[:-1]:
            return False
        self._pfns += pfns
        self._flags += column(words, layout.flags, size)
        self._refcounts.frombytes(column(halves, layout.refcount, size).tobytes())
        self._page_types += column(halves, layout.page_type, size)
        self._address, self._previous = following[-1], links[-1]
        self._step = run.step if run is not None and len(links) == _BLOCK else 0
        self._mark(links[-1])
        return True

    def _pfns_of(self, links: Sequence[int]) -> Optional[array[int]]:
        """The PFNs of entries; None if one is in no ``struct page``, or there again."""
        size, origin = self._layout.size, self._origin
        if self._marked in links:
            return None
        if isinstance(links, range):
            (first, rest), (last, _) = divmod(links[0] - origin, size), divmod(links[-1] - origin, size)
            step, rest_of_step = divmod(links.step, size)
            if rest or rest_of_step or not (0 <= first < self._pfn_end and 0 <= last < self._pfn_end):
                return None
            return array("Q", range(first, first + len(links) * step, step))
        offsets = [link - origin for link in links]
        pfns = [offset // size for offset in offsets]
        # Every remainder is 0 if their sum is.
        if min(pfns) < 0 or max(pfns) >= self._pfn_end or sum(pfns) * size != sum(offsets):
            return None
        return array("Q", pfns)

    def one_by_one(self) -> list[str]:
        """Go on to the end, or to where the list cannot be followed; returns all that is wrong with it."""
        problems: list[str] = []
        wrong_links = 0
        unpack, size, lru = self._fields.unpack, self._fields.size, self._layout.lru
        while self._address != self._head:
            address, count = self._address, len(self._pfns)
            pfn, rest = divmod(address - self._origin, self._layout.size)
            if rest or not 0 <= pfn < self._pfn_end:
                what = "NULL" if address == 0 else f"{address:#x}, which is in no struct page"
                problems.append(f"entry {count}: the entry before it points to {what}")
                break
            if address == self._marked:
                entries = _before_repetition(self._pfns, count - self._marked_at)
                for column in (self._pfns, self._flags, self._refcounts, self._page_types):
                    del column[entries:]
                again = self._pfns[entries - count + self._marked_at]
                problems.append(f"entry {entries}: page {again:#x} again: a cycle")
                break
            if count == self._most:
                problems.append(f"more than {self._most} entries")
                break
            try:
                flags, following, back, page_type, refcount = unpack(self._read(address - lru, size))
            except FaultError:
                problems.append(f"entry {count}: struct page of {pfn:#x} is not in this target")
                break
            if back != self._previous:
                wrong_links += 1
                if wrong_links <= limits.LIST_PROBLEMS:
                    reached = f"it was reached from {self._previous:#x}"
                    problems.append(f"entry {count}: page {pfn:#x} has prev {back:#x}, {reached}")
            self._pfns.append(pfn)
            self._flags.append(flags)
            self._refcounts.append(refcount)
            self._page_types.append(page_type)
            self._mark(address)
            self._previous, self._address = address, following
        else:
            if self._last != self._previous:
                problems.append(f"list head has prev {self._last:#x}, the last entry is {self._previous:#x}")
        if wrong_links > limits.LIST_PROBLEMS:
            problems.append(f"{wrong_links - limits.LIST_PROBLEMS} more entries with a wrong prev")
        return problems

    def _mark(self, address: int) -> None:
        """Have the last entry met again, if it is time."""
        count = len(self._pfns)
        if count >= self._mark_at:
            self._marked, self._marked_at, self._mark_at = address, count - 1, 2 * count


def _run(links: array[int]) -> Optional[range]:
    """The range that these are, if they are one."""
    step = links[1] - links[0] if len(links) > 1 else 1
    end = links[0] + len(links) * step
    return range(links[0], end, step) if step and 0 <= end < 1 << 64 else None


def column(words: array[int], offset: int, size: int) -> array[int]:
    """One member of each of the structures that ``words`` are, ``size`` bytes each, one behind the other."""
    members = words[offset // words.itemsize :: size // words.itemsize]
    if sys.byteorder == "big":
        members.byteswap()
    return members


def _page_struct(layout: PageLayout) -> struct.Struct:
    """Unpacks flags, lru.next, lru.prev, page_type and _refcount from the start of a ``struct page``."""
    fields = sorted(
        (
            (layout.flags, "Q", 8),
            (layout.lru, "Q", 8),
            (layout.lru + 8, "Q", 8),
            (layout.page_type, "I", 4),
            (layout.refcount, "i", 4),
        )
    )
    if [code for _offset, code, _size in fields] != ["Q", "Q", "Q", "I", "i"]:
        raise Unavailable("struct page has its members in an order that is not known")
    text, end = "<", 0
    for offset, code, size in fields:
        text += f"{offset - end}x{code}"
        end = offset + size
    return struct.Struct(text)


def _before_repetition(pfns: array[int], period: int) -> int:
    """How many entries there are before the first one that is there a second time."""
    start = 0
    # The entry at which the cycle was seen is not in the column.
    while start + period < len(pfns) and pfns[start] != pfns[start + period]:
        start += 1
    return start + period
