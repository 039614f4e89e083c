# SPDX-License-Identifier: LGPL-2.1-or-later
"""Lists of pages in any order, with any damage, compared with a walk that keeps a set of what was seen."""

from __future__ import annotations

import random
import struct

import pytest
from drgn import Architecture, FaultError, Platform, Program

from drgn_unaccepted import limits
from drgn_unaccepted.kernel import probe
from drgn_unaccepted.kernel.memmap import PageLayout, walk_page_list

BASE = 0xFFFFEA0000000000
HEAD = 0xFFFF888000001000
SIZE, LRU = 64, 8
CHUNK = 1024
CHUNKS = 64

LAYOUT = PageLayout(
    BASE, SIZE, flags=0, lru=LRU, compound=8, page_type=48, refcount=52, private=40, reserved_flag=1 << 12,
    zone_shift=60, zone_mask=7, zone_device=None
)  # fmt: skip
PAGE = struct.Struct("<QQQ24xIi8x")


class Pages:
    """Memory that holds a list head and pages; each page's other members follow from its PFN."""

    def __init__(self, order: list[int]) -> None:
        #: lru.next and lru.prev by address of the links.
        self.links = {}
        self.reads = 0
        entries = [HEAD, *map(link_of, order)]
        for i, entry in enumerate(entries):
            self.links[entry] = [entries[(i + 1) % len(entries)], entries[i - 1]]
        self.prog = Program(Platform(Architecture.X86_64))
        self.prog.add_memory_segment(0, (1 << 64) - 1, self._read)

    def _read(self, address: int, count: int, offset: int, physical: bool) -> bytes:
        self.reads += 1
        if address == HEAD:
            return (struct.pack("<QQ", *self.links[HEAD]) + bytes(SIZE))[:count]
        if address + LRU not in self.links:
            raise FaultError("not here", address)
        pfn = (address - BASE) // SIZE
        page = PAGE.pack(flags_of(pfn), *self.links[address + LRU], type_of(pfn), pfn % 7 - 3)
        return page[:count]

    def walk(self) -> tuple[list[int], str]:
        """The PFNs up to where the list ends or cannot be followed, and what is said of that."""
        found: list[int] = []
        address = self.links[HEAD][0]
        while address != HEAD:
            at = f"entry {len(found)}: "
            if (address - LRU - BASE) % SIZE or not BASE <= address - LRU < BASE + (SIZE << 40):
                where = f"{address:#x}, which is in no struct page" if address else "NULL"
                return found, f"{at}the entry before it points to {where}"
            pfn = (address - LRU - BASE) // SIZE
            if pfn in found:
                return found, f"{at}struct page of {pfn:#x} again: a cycle"
            if address not in self.links:
                return found, f"{at}struct page of {pfn:#x} is not in this target"
            found.append(pfn)
            address = self.links[address][0]
        return found, ""


def link_of(pfn: int) -> int:
    return BASE + pfn * SIZE + LRU


def flags_of(pfn: int) -> int:
    return pfn * 0x9E3779B97F4A7C15 % (1 << 64)


def type_of(pfn: int) -> int:
    return pfn * 0x9E3779B1 % (1 << 32)


def order(rng: random.Random) -> list[int]:
    pfns = [CHUNK * number for number in rng.sample(range(1, 3 * CHUNKS), rng.randint(0, CHUNKS))]
    kind = rng.randrange(3)
    return sorted(pfns, reverse=kind == 1) if kind < 2 else pfns


@pytest.fixture(params=(1, 3, 4096))
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    size: int = request.param
    monkeypatch.setattr(probe, "_BLOCK", size)
    return size


@pytest.mark.parametrize("seed", range(12))
def test_a_sane_list(seed: int, block: int) -> None:
    expected = order(random.Random(seed))
    listed = walk_page_list(Pages(expected).prog, LAYOUT, HEAD, CHUNKS + 1)
    assert listed.problems == ()
    assert list(listed.pfns) == expected
    assert list(listed.flags) == list(map(flags_of, expected))
    assert list(listed.page_types) == list(map(type_of, expected))
    assert list(listed.refcounts) == [pfn % 7 - 3 for pfn in expected]
    assert (listed.pfns.typecode, listed.refcounts.typecode, listed.page_types.typecode) == ("Q", "i", "I")


@pytest.mark.parametrize("seed", range(50))
def test_a_list_that_cannot_be_followed(seed: int, block: int) -> None:
    rng = random.Random(1000 + seed)
    pages = Pages(order(rng) or [CHUNK])
    at = rng.choice(list(pages.links))
    wrong = [0, 8, 7, HEAD + 8, BASE - 56, link_of(5) + 8, link_of(7 * CHUNK + 3), (1 << 64) - 1]
    pages.links[at][0] = rng.choice([*wrong, rng.choice(list(pages.links)), rng.choice(list(pages.links))])
    expected, end = pages.walk()
    listed = walk_page_list(pages.prog, LAYOUT, HEAD, CHUNKS + 1)
    found = list(listed.pfns)
    assert len(found) == len(listed.refcounts) == len(listed.page_types)
    assert list(listed.flags) == list(map(flags_of, found))
    assert found == expected
    # Where entries were skipped only what leads backward shows it.
    assert [problem for problem in listed.problems if "prev" not in problem] == [end] * bool(end)


def test_a_head_that_leads_elsewhere_costs_few_reads() -> None:
    """A damaged dump can have thousands of such heads: one for each list of each CPU that it says it had."""
    pages = Pages([])
    strays = [link_of(CHUNK) + 8 + 16 * number for number in range(5000)]
    pages.links.update({entry: [after, entry] for entry, after in zip([HEAD, *strays], strays)})
    listed = walk_page_list(pages.prog, LAYOUT, HEAD, 1 << 20)
    assert (list(listed.pfns), pages.reads < 20) == ([], True)
    assert listed.problems == (f"entry 0: the entry before it points to {strays[0]:#x}, which is in no struct page",)


@pytest.mark.parametrize("seed", range(12))
def test_a_wrong_prev_is_told_and_followed_past(seed: int, block: int) -> None:
    rng = random.Random(2000 + seed)
    expected = order(rng) or [CHUNK]
    pages = Pages(expected)
    places = sorted(rng.sample(range(len(expected)), rng.randint(1, min(12, len(expected)))))
    told = []
    for place in places:
        links, pfn = pages.links[link_of(expected[place])], expected[place]
        told.append(
            f"entry {place}: struct page of {pfn:#x} has prev {links[1] ^ 64:#x}, it was reached from {links[1]:#x}"
        )
        links[1] ^= 64
    listed = walk_page_list(pages.prog, LAYOUT, HEAD, CHUNKS + 1)
    assert list(listed.pfns) == expected
    more = len(places) - limits.LIST_PROBLEMS
    last = [f"{more} more entries with a wrong prev"] if more > 0 else []
    assert list(listed.problems) == [*told[: limits.LIST_PROBLEMS], *last]


@pytest.mark.parametrize("most", (0, 1, 9, 10, 11))
def test_no_more_than_asked_for(most: int, block: int) -> None:
    expected = [CHUNK * number for number in range(1, 11)]
    listed = walk_page_list(Pages(expected).prog, LAYOUT, HEAD, most)
    assert list(listed.pfns) == expected[:most]
    assert listed.problems == (() if most >= 10 else (f"more than {most} entries",))
