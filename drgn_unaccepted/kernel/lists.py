# SPDX-License-Identifier: LGPL-2.1-or-later
"""Walk the kernel's linked lists: bounded, checked for cycles, with one read for each entry.

A list can have a million entries. Blocks of them are read first and judged then, by whole columns of members.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Callable, NamedTuple, Optional, TypeVar

from drgn import FaultError, Program, ProgramFlags

from drgn_unaccepted import limits
from drgn_unaccepted.kernel.memmap import PageLayout
from drgn_unaccepted.snapshot import PAGE_SHIFT, ListedChunks

_BLOCK = 4096  #: Entries that are judged together.

_LINKS = struct.Struct("<QQ")
_NEXT = struct.Struct("<Q")

T = TypeVar("T")


class Entries(NamedTuple):
    #: Bytes of an entry, a multiple of 8, and the offset of its ``struct list_head`` in them.
    size: int
    link: int
    #: The numbers of the entries whose ``list_head`` have these addresses, up to where there can be no entry.
    numbers: Callable[[array[int]], array[int]]
    noun: str  #: The words for an entry, and for an address where there can be none.
    outside: str


class ListWalk:
    """One walk along a list, from its head.

    It ends at the head, or with a problem: NULL, an address where there can be no entry, an entry that is not in the
    target, a cycle, or more entries than ``most``. What was read up to there is kept.

    :param head: virtual address of the ``struct list_head`` that no entry contains
    """

    def __init__(self, prog: Program, head: int, entries: Entries, most: int) -> None:
        self._read, self._head, self._entries, self._most = prog.read, head, entries, most
        #: What ended the walk early, and what is wrong with the links.
        self.problems: list[str] = []
        # The entry that comes next, and the one before it.
        self._address, self._previous = head, head
        self._met = array("Q")
        # An entry that is met twice has a wrong prev at one of the two times: sane lists need no set.
        self._seen: Optional[set[int]] = None
        self._wrong_links = 0

    def blocks(self) -> Iterator[tuple[array[int], bytes]]:
        """Yield the numbers of some entries and their bytes, one entry behind the other, in list order."""
        try:
            self._address, last = _LINKS.unpack(self._read(self._head, _LINKS.size))
        except FaultError as error:
            self.problems.append(f"list head {self._head:#x}: {error}")
            return
        more = self._address != self._head
        while more:
            links, data, more = self._follow()
            if not links:
                break
            numbers = self._entries.numbers(links)
            good = self._judge(numbers, links, data)
            if good < len(links):
                self._address, more = links[good], False
            if good:
                self._previous = links[good - 1]
                self._met += numbers[:good]
                yield numbers[:good], data[: good * self._entries.size]
        self._end(last)

    def _follow(self) -> tuple[array[int], bytes, bool]:
        """Read a block of entries whatever they are: their addresses and bytes, and whether more may follow."""
        read, head, link, size = self._read, self._head, self._entries.link, self._entries.size
        following = _NEXT.unpack_from
        blocks: list[bytes] = []
        address, more = self._address, True
        try:
            for _ in range(min(_BLOCK, self._most - len(self._met))):
                block = read(address - link, size)
                blocks.append(block)
                (address,) = following(block, link)
                if address == head:
                    break
        except (FaultError, OverflowError):
            more = False
        data = b"".join(blocks)
        links = array("Q", [self._address]) + column(array("Q", data), link, size)
        self._address = address
        return links[:-1], data, more and address != head

    def _judge(self, numbers: array[int], links: array[int], data: bytes) -> int:
        """How many entries of a block are on the list, with wrong links noted."""
        backs = column(array("Q", data), self._entries.link + 8, self._entries.size)
        befores = array("Q", [self._previous]) + links[:-1]
        if self._seen is None:
            if backs == befores:
                return len(numbers)
            self._seen = set(self._met)
        for index, (number, before, back) in enumerate(zip(numbers, befores, backs)):
            if number in self._seen:
                return index
            self._seen.add(number)
            if back != before:
                self._wrong_links += 1
                if self._wrong_links <= limits.LIST_PROBLEMS:
                    at = len(self._met) + index
                    what = f"{self._entries.noun}{number:#x} has prev {back:#x}"
                    self.problems.append(f"entry {at}: {what}, it was reached from {before:#x}")
        return len(numbers)

    def _end(self, last: int) -> None:
        """Note why the walk ended, if not at a head that points back to the last entry."""
        count, address, noun = len(self._met), self._address, self._entries.noun
        numbers = self._entries.numbers(array("Q", [address]))
        if address == self._head:
            if last != self._previous:
                self.problems.append(f"list head has prev {last:#x}, the last entry is {self._previous:#x}")
        elif not numbers:
            where = f"{address:#x}, which is {self._entries.outside}" if address else "NULL"
            self.problems.append(f"entry {count}: the entry before it points to {where}")
        elif self._seen is not None and numbers[0] in self._seen:
            self.problems.append(f"entry {count}: {noun}{numbers[0]:#x} again: a cycle")
        elif count == self._most:
            self.problems.append(f"more than {self._most} entries")
        else:
            self.problems.append(f"entry {count}: {noun}{numbers[0]:#x} is not in this target")
        if self._wrong_links > limits.LIST_PROBLEMS:
            self.problems.append(f"{self._wrong_links - limits.LIST_PROBLEMS} more entries with a wrong prev")


def walk_page_list(prog: Program, layout: PageLayout, head: int, most: int) -> ListedChunks:
    """Follow a list of pages linked through ``page->lru`` or ``page->buddy_list``, which are at the same place."""
    base, size, pfn_end = layout.base + layout.lru, layout.size, limits.PHYSICAL_END >> PAGE_SHIFT

    def pfns_of(links: array[int]) -> array[int]:
        pfns = [(link - base) // size for link in links]
        # All links are those of pages if the sums are the same.
        if min(pfns) < 0 or max(pfns) >= pfn_end or sum(pfns) * size + len(pfns) * base != sum(links):
            pages = zip(pfns, links)
            pfns = [pfn for pfn, _ in takewhile(lambda p: 0 <= p[0] < pfn_end and p[0] * size + base == p[1], pages)]
        return array("Q", pfns)

    walk = ListWalk(prog, head, Entries(size, layout.lru, pfns_of, "struct page of ", "in no struct page"), most)
    listed = ListedChunks(array("Q"), array("Q"), array("i"), array("I"))
    for pfns, data in walk.blocks():
        listed.pfns.extend(pfns)
        listed.flags.extend(column(array("Q", data), layout.flags, size))
        listed.page_types.extend(column(array("I", data), layout.page_type, size))
        listed.refcounts.extend(column(array("i", data), layout.refcount, size))
    return replace(listed, problems=tuple(walk.problems))


def column(words: array[int], offset: int, size: int) -> array[int]:
    """One member of each structure in ``words``, an array of structures of ``size`` bytes."""
    members = words[offset // words.itemsize :: size // words.itemsize]
    if sys.byteorder == "big":
        members.byteswap()
    return members


def settled(prog: Program, read: Callable[[], T], problems: Callable[[T], Sequence[object]]) -> T:
    """Read something; on a running kernel again while it has problems, :data:`limits.LIVE_ATTEMPTS` times in all."""
    found = read()
    for _attempt in range(limits.LIVE_ATTEMPTS - 1 if prog.flags & ProgramFlags.IS_LIVE else 0):
        if not problems(found):
            break
        found = read()
    return found
