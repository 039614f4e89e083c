# SPDX-License-Identifier: LGPL-2.1-or-later
from __future__ import annotations

import random
from typing import Any, Optional

import drgn
import pytest

from drgn_unaccepted import limits
from drgn_unaccepted.kernel.memmap import page_layout
from drgn_unaccepted.kernel.pages import are_zeros
from drgn_unaccepted.model.ranges import Range
from drgn_unaccepted.snapshot import GIVEN_STATES, PageRun, Pages
from tests.kernel.allocator_program import (
    BUDDY,
    CHUNK_PAGES,
    GUARD,
    NO_TYPE,
    OFFLINE,
    OLD_BUDDY,
    OLD_OFFLINE,
    PAGE,
    PG_RESERVED,
    SECTION_PAGES,
    SLAB,
    TABLE,
    ULONG_MAX,
    UNACCEPTED,
    ZONE_ID_SHIFT,
)
from tests.kernel.live_program import live
from tests.kernel.pages_guest import END, START, UNIT_PAGES, make, old


def state_of(pages: Pages, pfn: int) -> Optional[str]:
    found = [run.state for run in pages.runs if run.start_pfn <= pfn < run.end_pfn]
    assert len(found) <= 1
    return found[0] if found else None


PFN = START + 5 * CHUNK_PAGES + 3


@pytest.mark.parametrize(
    ("state", "members"),
    [
        ("in-use", {"refcount": 1}),
        ("in-use", {"refcount": 1, "page_type": 0}),  # mapped once
        ("in-use", {"refcount": 3, "page_type": 2}),
        ("in-use", {"page_type": SLAB | 7}),  # frozen: without a reference, from v6.15 on
        ("in-use", {"refcount": 1, "page_type": TABLE}),
        ("in-use", {"page_type": 0xF8000000}),  # a type that is not known here
        ("in-use", {"compound": 0xFFFFEA0004000001}),  # a tail page, v6.12
        ("in-use", {"compound": 0xFFFFFFFFFFFF0001}),  # a tail page, v7.1: a mask in the place of the address
        ("in-use", {"compound": 0xFFFFEA0004000001, "page_type": 0}),
        ("in-use", {"refcount": 0xFFFFFFFF}),  # underflow
        ("free", {}),
        ("free", {"flags": 1}),
        ("free", {"page_type": 0, "flags": 1}),
        ("reserved", {"flags": PG_RESERVED, "refcount": 1}),
        ("reserved", {"flags": PG_RESERVED | 2 << ZONE_ID_SHIFT, "refcount": 1, "page_type": 0}),
        ("offline", {"page_type": OFFLINE, "refcount": 1}),
        ("device", {"flags": 4 << ZONE_ID_SHIFT, "refcount": 1}),
        ("device", {"flags": 3 << (ZONE_ID_SHIFT + 3) | 4 << ZONE_ID_SHIFT, "refcount": 1}),  # of another node
        ("in-use", {"flags": 3 << ZONE_ID_SHIFT, "refcount": 1}),  # ZONE_MOVABLE
        ("uninitialised", {"flags": ULONG_MAX, "compound": ULONG_MAX, "page_type": NO_TYPE, "refcount": 0xFFFFFFFF}),
        ("uninitialised", {"compound": 0, "page_type": 0}),
        ("buddy", {"page_type": BUDDY}),
        ("free", {"page_type": BUDDY, "private": 11}),  # no order
        ("free", {"page_type": BUDDY, "private": 5}),  # not aligned to its order
        ("free", {"page_type": GUARD}),
    ],
)
def test_one_page(state: str, members: dict[str, int]) -> None:
    guest = make()
    guest.set_page(PFN, **members)
    pages = guest.read()
    if state == "free":
        assert pages.runs == (PageRun(START, END, "free"),)
    else:
        assert pages.runs[1:2] == (PageRun(PFN, PFN + 1, state),)
        assert {run.state for run in pages.runs[::2]} == {"free"}


@pytest.mark.parametrize("wrong", [1, 1 << 3 | 2])
def test_a_page_of_an_impossible_zone_makes_its_neighbours_prove_nothing(wrong: int) -> None:
    """64 structures lie in one page of memory: whatever wrote one of them may have written all."""
    guest = make()
    assert guest.zone
    for pfn in range(PFN - 100, PFN + 100):
        guest.set_page(pfn, refcount=1, flags=2 << ZONE_ID_SHIFT)
    guest.set_page(PFN, refcount=1, flags=wrong << ZONE_ID_SHIFT)
    pages = guest.read(with_lists=True)
    first = PFN // 64 * 64
    assert PageRun(first, first + 64, "damaged") in pages.runs
    assert (state_of(pages, first - 1), state_of(pages, first + 64)) == ("in-use", "in-use")


@pytest.mark.parametrize("seed", range(4))
def test_one_page_in_a_free_list_or_in_use_tells_a_unit(seed: int) -> None:
    """What is planted is known: units with such a page, whether it is the first or any other."""
    dice, guest, given = random.Random(seed), make(), set()
    for unit in range(START // UNIT_PAGES, END // UNIT_PAGES):
        first, within = unit * UNIT_PAGES, dice.choice((0, dice.randrange(1, UNIT_PAGES)))
        kind = dice.choice(("free", "in-use", "buddy", "chunk", "reserved", "offline"))
        if kind == "in-use":
            guest.set_page(first + within, refcount=1)
        elif kind == "buddy":
            order = (within & -within).bit_length() - 1 if within else dice.randrange(10)
            guest.set_page(first + within, page_type=BUDDY, private=order)
        elif kind == "chunk" and unit % 2 == 0:
            guest.set_page(first, page_type=BUDDY, private=10)
            given.add(unit + 1)
        elif kind == "reserved":
            guest.set_page(first, refcount=1, flags=PG_RESERVED)
        elif kind == "offline":
            guest.set_page(first, page_type=OFFLINE)
        if kind in ("in-use", "buddy") or (kind == "chunk" and unit % 2 == 0):
            given.add(unit)
    exact = dice.randrange(START, END)
    for pages in (guest.read(), guest.look(), guest.look(Range(exact, exact + 1))):
        assert pages.scanned == (Range(START * PAGE, END * PAGE),) and pages.limited is None
        runs = [run for run in pages.runs if run.state in GIVEN_STATES]
        ends = [(run.start_pfn // UNIT_PAGES, (run.end_pfn - 1) // UNIT_PAGES + 1) for run in runs]
        assert {unit for start, end in ends for unit in range(start, end)} == given


def test_a_unit_is_not_told_by_a_damaged_page_of_the_memmap() -> None:
    guest = make()
    assert guest.zone
    for pfn in range(START, START + 64):
        guest.set_page(pfn, refcount=1, flags=2 << ZONE_ID_SHIFT)
    assert guest.look().runs[0] == PageRun(START, START + UNIT_PAGES, "given")
    guest.set_page(START + 9, refcount=1, flags=1 << ZONE_ID_SHIFT)
    assert guest.look().runs[0] == PageRun(START, START + 64, "damaged")


@pytest.mark.parametrize(("unit", "order"), [(0, 11), (0, 63), (1, 10)])
def test_a_free_block_that_cannot_be_tells_no_unit(unit: int, order: int) -> None:
    """Of more than a chunk, or across one: ``page->private`` is of a page on its way, or damaged."""
    guest = make()
    guest.set_page(START + unit * UNIT_PAGES, page_type=BUDDY, private=order)
    assert not [run for run in guest.look().runs if run.state in GIVEN_STATES]


def test_one_look_reads_one_page_of_the_memmap_for_a_unit_and_none_twice() -> None:
    guest, read = make(), []
    for pfn in range(START, END, UNIT_PAGES):
        guest.set_page(pfn, refcount=1, flags=0 if pfn > START else PG_RESERVED)
    layout = page_layout(guest.prog)
    pages = guest.look(prog=live(guest.prog, read.append))
    structs = [address for address in read if layout.address(START) <= address < layout.address(END)]
    # A reserved page tells nothing: the rest of its unit is read.
    assert sorted(structs) == sorted([*map(layout.address, range(START, END, UNIT_PAGES)), layout.address(START + 64)])
    first, rest = PageRun(START, START + 1, "reserved"), PageRun(START + UNIT_PAGES, END, "given")
    assert pages.runs == (first, PageRun(first.end_pfn, rest.start_pfn, "free"), rest)


def test_per_cpu_lists_that_cannot_be_read_cost_no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> list[int]:
        raise drgn.FaultError("not in this dump", 0x1000)

    monkeypatch.setattr("drgn_unaccepted.kernel.pages.per_cpu_pages", broken)
    pages = make().read()
    assert pages.runs == (PageRun(START, END, "free"),)
    assert "zone->per_cpu_pageset: " in (pages.limited or "")


@pytest.mark.parametrize(
    ("state", "members"),
    [
        ("buddy", {"page_type": OLD_BUDDY}),
        ("offline", {"page_type": OLD_OFFLINE, "refcount": 1}),
        ("in-use", {"page_type": 0xFFFFFDFF, "refcount": 1}),  # ~PG_table
        ("free", {"page_type": 0xFFFFFBFF}),  # ~PG_guard
        ("in-use", {"refcount": 1}),
        ("free", {}),
    ],
)
def test_one_page_before_6_12(state: str, members: dict[str, int]) -> None:
    guest = old()
    guest.set_page(PFN, **members)
    assert state_of(guest.read(), PFN) == state


BITS = {"PG_buddy": 0x40000000, "PG_offline": 0x20000000}


@pytest.mark.parametrize(("names", "buddy", "offline"), [({}, 0x80, 0x100), (BITS, 0x40000000, 0x20000000)])
def test_page_types_of_a_kernel_that_died_before_vmcoreinfo(names: dict[str, int], buddy: int, offline: int) -> None:
    """include/linux/page-flags.h of Linux 6.5 to 6.10, and of 6.11, which names them."""
    guest = old()
    for name in ("BUDDY", "OFFLINE"):
        del guest.vmcoreinfo[f"NUMBER(PAGE_{name}_MAPCOUNT_VALUE)"]
    if names:
        guest.enums["pagetype"] = names
    guest.set_page(PFN, page_type=buddy ^ 0xFFFFFFFF)
    guest.set_page(PFN + 1, page_type=offline ^ 0xFFFFFFFF, refcount=1)
    assert [state_of(guest.read(), PFN + n) for n in range(2)] == ["buddy", "offline"]


@pytest.mark.parametrize("order", [0, 1, 9, 10])
def test_a_free_block_shows_in_its_first_page_only_and_is_seen_from_within(order: int) -> None:
    guest = make()
    first = START + 7 * CHUNK_PAGES
    guest.set_page(first, page_type=BUDDY, private=order)
    pages = guest.read(first + (1 << order) - 1, first + (1 << order))
    assert pages.runs[0] == PageRun(first, first + (1 << order), "buddy")
    assert pages.scanned == (Range(first * PAGE, (first + CHUNK_PAGES) * PAGE),)


@pytest.mark.parametrize(
    ("state", "members"),
    [
        ("in-use", {"refcount": 1}),
        ("in-use", {"compound": 0xFFFFEA0004000001}),
        ("reserved", {"flags": PG_RESERVED, "refcount": 1}),
        ("reserved", {"flags": PG_RESERVED}),
        ("buddy", {"page_type": BUDDY}),
    ],
)
@pytest.mark.parametrize("index", [1, 511, 512, 1023])
def test_a_page_in_an_unaccepted_chunk_that_is_something_else(state: str, members: dict[str, int], index: int) -> None:
    guest = make()
    first = START + 2 * CHUNK_PAGES
    guest.set_page(first, page_type=UNACCEPTED)
    guest.set_page(first + index, **members)
    pages = guest.read()
    assert state_of(pages, first + index) == state
    assert {state_of(pages, first + n) for n in range(index)} == {"unaccepted"}
    assert {state_of(pages, first + n) for n in range(index + 1, CHUNK_PAGES)} <= {"unaccepted"}


def test_a_listed_chunk_before_6_12() -> None:
    guest = old()
    first = START + 2 * CHUNK_PAGES
    guest.list_chunks(guest.zone, [first, first + 5 * CHUNK_PAGES])
    guest.set_page(first + 5 * CHUNK_PAGES + 9, refcount=1)
    pages = guest.read(with_lists=True)
    assert [run for run in pages.runs if run.state != "free"] == [
        PageRun(first, first + CHUNK_PAGES, "unaccepted"),
        PageRun(first + 5 * CHUNK_PAGES, first + 5 * CHUNK_PAGES + 9, "unaccepted"),
        PageRun(first + 5 * CHUNK_PAGES + 9, first + 5 * CHUNK_PAGES + 10, "in-use"),
        PageRun(first + 5 * CHUNK_PAGES + 10, first + 6 * CHUNK_PAGES, "unaccepted"),
    ]


def test_random_memory() -> None:
    """Blocks of all kinds in all places, as they were put there."""
    generator = random.Random(20260823)
    guest = make()
    expected: list[str] = []
    while len(expected) < SECTION_PAGES:
        pfn = START + len(expected)
        order = generator.choice((0, 0, 1, 2, 5, 9, 10))
        while pfn % (1 << order):
            order -= 1
        block = range(pfn, pfn + (1 << order))
        # The state, the members of the block's first page, and those of the others; None: like the first.
        state, head, body = generator.choice(
            (
                ("buddy", {"page_type": BUDDY, "private": order, "flags": generator.choice((0, 1 << 5))}, {}),
                ("in-use", {"refcount": 2}, {"compound": guest.page(pfn) | 1}),
                ("in-use", {"page_type": SLAB}, {"compound": guest.page(pfn) | 1}),
                ("reserved", {"flags": PG_RESERVED | generator.choice((0, 4)), "refcount": 1}, None),
                ("in-use", {"refcount": 1 + pfn % 3, "page_type": generator.choice((NO_TYPE, 0, 3))}, None),
                ("free", {}, {}),
                ("free", {"page_type": GUARD, "private": order}, {}),
                ("unaccepted", {"page_type": UNACCEPTED}, {}) if order == 10 else ("free", {}, {}),
                ("uninitialised", {"compound": 0, "page_type": 0}, None),
            )
        )
        for page in block:
            guest.set_page(page, **(head if page == pfn or body is None else body))
        expected += [state] * len(block)
    found = [run.state for run in guest.read().runs for _ in range(run.end_pfn - run.start_pfn)]
    assert found == expected


@pytest.mark.parametrize("byte", [b"\0", b"\xff"])
def test_memory_that_deferred_initialisation_has_not_reached(byte: bytes) -> None:
    guest = make()
    first = START + 4 * CHUNK_PAGES
    guest.write(guest.page(first), byte * 64 * 3 * CHUNK_PAGES)
    assert guest.read().runs[1] == PageRun(first, first + 3 * CHUNK_PAGES, "uninitialised")


def test_first_deferred_pfn() -> None:
    guest = make()
    guest.set("pglist_data", guest.pgdat, "first_deferred_pfn", START + 9 * CHUNK_PAGES)
    # What lies there says nothing.
    guest.set_page(START + 10 * CHUNK_PAGES, refcount=5)
    pages = guest.read()
    assert pages.runs == (
        PageRun(START, START + 9 * CHUNK_PAGES, "free"),
        PageRun(START + 9 * CHUNK_PAGES, END, "uninitialised"),
    )
    assert pages.scanned == (Range(START * PAGE, END * PAGE),)


def test_structures_that_are_not_captured() -> None:
    guest = make()
    guest.set_page(START, page_type=BUDDY, private=10)
    # 64 structures of the block's body, and 64 of the chunk after it.
    guest.drop(guest.page(START + 128))
    guest.drop(guest.page(START + CHUNK_PAGES + 64))
    pages = guest.read(START, START + 2 * CHUNK_PAGES)
    lost = [Range((START + n) * PAGE, (START + n + 64) * PAGE) for n in (128, CHUNK_PAGES + 64)]
    assert pages.runs == (
        PageRun(START, START + 128, "buddy"),
        PageRun(START + 192, START + CHUNK_PAGES, "buddy"),
        PageRun(START + CHUNK_PAGES, START + CHUNK_PAGES + 64, "free"),
        PageRun(START + CHUNK_PAGES + 128, START + 2 * CHUNK_PAGES, "free"),
    )
    assert pages.scanned == (
        Range(START * PAGE, lost[0].start),
        Range(lost[0].end, lost[1].start),
        Range(lost[1].end, (START + 2 * CHUNK_PAGES) * PAGE),
    )
    assert pages.limited == f"struct page of 128 pages is not in this target, the first at {lost[0].start:#x}"


def test_listed_chunks_are_known_beyond_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PAGES_SCANNED", 4 * CHUNK_PAGES)
    guest = make()
    listed = [START + n * CHUNK_PAGES for n in (6, 2, 3)]
    guest.list_chunks(guest.zone, listed)
    pages = guest.read(START, START + 7 * CHUNK_PAGES, with_lists=True)
    chunk = CHUNK_PAGES
    assert pages.runs == (
        PageRun(START, START + 2 * chunk, "free"),
        PageRun(START + 2 * chunk, START + 4 * chunk, "unaccepted"),
        PageRun(START + 4 * chunk, START + 6 * chunk, "free"),
        PageRun(START + 6 * chunk, START + 7 * chunk, "unaccepted"),
    )
    assert pages.scanned == (
        Range(START * PAGE, (START + 2 * chunk) * PAGE),
        Range((START + 4 * chunk) * PAGE, (START + 6 * chunk) * PAGE),
    )
    assert pages.limited == (
        "of 3 chunks on zone->unaccepted_pages only the first page was looked at: there are more than 4096 pages"
    )


def test_more_runs_than_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PAGE_RUNS", 100)
    guest = make()
    for pfn in range(START, END, 2):
        guest.set_page(pfn, refcount=1)
    pages = guest.read()
    assert len(pages.runs) == 16 * CHUNK_PAGES
    assert pages.limited == f"from {(START + 16 * CHUNK_PAGES) * PAGE:#x} on: more than 100 runs of pages"
    assert pages.scanned == (Range(START * PAGE, (START + 16 * CHUNK_PAGES) * PAGE),)


def test_pages_of_zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    guest = make()
    guest.write_physical(10, bytes(PAGE))
    guest.write_physical(11, bytes(PAGE - 1) + b"\1")
    guest.write_physical(13, bytes(PAGE))
    pages = [pfn * PAGE for pfn in (10, 11, 12, 13)]
    found = [(pages[0], True), (pages[1], False), (pages[3], True)]
    assert list(are_zeros(guest.prog, pages)) == found
    monkeypatch.setattr(limits, "MASKED_PAGES", 3)
    assert list(are_zeros(guest.prog, pages)) == found[:2]
