# SPDX-License-Identifier: LGPL-2.1-or-later
"""What looks wrong and is legal: no rule may warn of it."""

from __future__ import annotations

from array import array
from dataclasses import replace
from typing import Any

import pytest

from drgn_unaccepted.checks import run_checks
from drgn_unaccepted.model.e820 import E820Entry
from drgn_unaccepted.snapshot import Accept, AcceptingList, EfiMap, KexecSegment, PageRun, Snapshot, Table, Task

from . import changes as c
from .build import BASE, BITMAP, LISTED, UNIT, Change, both, clean, listed, live

LEGAL: list[Any] = []


def legal(what: str, *changes: Change) -> None:
    LEGAL.append(pytest.param(both(*changes), id=what))


all_accepted = both(
    c.zones(listed=listed(()), unaccepted_pages=0, free_pages=5000, buddy_pages=5000),
    c.part("counters", unaccepted_pages=0),
    c.pages(0x1019FF000, 0x103C00000, "buddy"),
    c.bits(0, 32, 0),
)
ordinary = both(all_accepted, c.part("platform", kind="none"), c.absent_table, c.without_type_15)
without_config = both(
    c.zones(listed=None, unaccepted_pages=None),
    c.without("accepting"),
    c.part("kernel", unaccepted_memory=False, unaccepted_page_type=None),
    c.part("counters", unaccepted_pages=None, unaccepted_diff=None),
)
legal("everything was accepted", all_accepted)
legal("an ordinary machine: no table, no type 15, nothing listed, no confidential platform", ordinary)
legal("a kernel without CONFIG_UNACCEPTED_MEMORY", ordinary, without_config)
legal("a kernel before 6.5 has no field for the table", ordinary, c.put(table=Table("absent", "no unaccepted")))
legal("the table is not in the dump, as in every kdump since 6.6", c.not_captured)
legal("nothing was read but the table", lambda s: Snapshot(target=s.target, table=s.table))
excluded = c.without("e820", "could not read memory from kdump: Excluded page: 0xffff985480ad3000")
legal("a page that makedumpfile left out is no damage", excluded)
runtime_map = EfiMap("runtime-map", False, "runtime entries only", ())
legal("only the runtime map is left, which has no type 15", c.put(efi_map=runtime_map))

# Lists and bits that differ

lower = c.table(phys_base=BASE - 8 * UNIT, bitmap=b"\0" + BITMAP, bitmap_bytes=5)
legal("the firmware accepted the lowest memory between the stub's two looks at its map", lower)
half_set = c.bits(15, 16, 0)
legal("the kernel before a kexec accepted a part of a listed chunk", half_set, c.part("kernel", kexec_booted=True))
legal("a kernel that can set bits again did so in a part of a chunk", half_set, c.part("kernel", unaccepts=True))
hole = both(c.bits(12, 13, 1), c.pages(0x101400000, 0x101A00000, "unaccepted"))
legal("a chunk is listed only because of the guard unit behind it", hole, c.listing(0x101400, *LISTED))
guarded = both(c.bits(13, 15, 0), c.listing(*LISTED[1:]), c.pages(0x101800000, 0x101C00000, "buddy"))
legal("a chunk stays listed after the accept before it took its first unit as a guard", guarded)
image = c.put(kexec_segments=(KexecSegment("kexec_image", 0x101800000, 0x103C00000),))
legal("a kexec image was loaded into all that is listed, which accepted it (6.15 and later)", c.bits(0, 32, 0), image)
half = both(c.trimmed("current", 0x102800000, 0x104000000), c.pages(0x102800000, 0x103C00000, "absent"))
legal("mem= took the upper half away: no RAM, no struct page, on no list", half, c.listing(*LISTED[:4]))
scheduling = both(c.part("kernel", system_state="scheduling"), c.listing(*LISTED[:4]))
upper = both(c.pages(0x102800000, 0x103000000, "uninitialised"), c.pages(0x103000000, 0x103C00000, "in-use"))
legal("deferred initialisation has not come to the upper chunks yet", scheduling, upper)
uncounted = c.without("counters", "vm_zone_stat reads as zeros: not captured, or the kernel had no memory yet")
early = both(uncounted, c.put(zones=()), c.without("pages", "mem_section[0] reads as zeros: not captured"))
booting = c.part("kernel", system_state="booting")
legal("it died before its page allocator had zones, counters or memory sections", booting, early)
no_memory = both(
    c.zones(free_pages=0, buddy_pages=0, unaccepted_pages=0, listed=listed(())),
    c.part("counters", unaccepted_pages=0, free_pages=0),
    c.part("kernel", system_state=None),
)
referenced = c.pages(0x1019FF000, 0x103C00000, "in-use")
legal("nothing was given to the page allocator yet, and every struct page has a reference", no_memory, referenced)
two_taken = both(c.listing(*LISTED[2:]), c.pages(0x101800000, 0x102000000, "free"))
legal("two CPUs took chunks off the list, and are not in accept_memory() yet", two_taken)
one_taken = both(c.listing(*LISTED[1:]), c.pages(0x101800000, 0x101C00000, "free"))
legal("a CPU is accepting a chunk and its guard: units 12 to 14", c.accepting((12, 15)), one_taken)
since = both(c.listing(*LISTED[:1]), c.pages(0x101C00000, 0x103C00000, "in-use"))
legal("the bitmap was saved before units 14 to 29 were accepted and allocated", c.table(read_through="file"), since)
reserved = both(c.listing(*LISTED[:-1]), c.pages(0x103800000, 0x103C00000, "reserved"))
legal("a reserved and never touched chunk is unaccepted", reserved)
setup_data = c.trimmed("current", 0x101A00000, 0x101A01000, 128)
legal("Linux before 7.2 marks RAM under setup_data as E820_TYPE_RESERVED_KERN", setup_data)
_RAM = (E820Entry(0x100000, 0x7FC00000, 1), E820Entry(0x100000000, 0x104000000, 1))
legal("Linux 6.5 has the table in RAM", c.part("e820", firmware=_RAM), c.release("6.5.9-custom"))
untyped = c.chunks(page_types=array("I", [0xFFFFFFFF]) * len(LISTED))
old_kernel = c.part("kernel", unaccepted_page_type=None, static_key=1)
legal("Linux 6.5 to 6.11: listed pages have no type, and the static key is on", old_kernel, untyped)
legal("the static key goes off only after the last chunk was accepted", all_accepted, c.part("kernel", static_key=1))


def first_unit_scanned(snapshot: Snapshot) -> Snapshot:
    pages = snapshot.pages
    runs = (pages.runs[0], PageRun(0x1019FF, 0x101C00, "unaccepted"))
    scanned = (pages.scanned[0], pages.scanned[1]._replace(end=0x101C00000))
    return replace(snapshot, pages=replace(pages, runs=runs, scanned=scanned, limited="too many pages"))


legal("only the first unaccepted unit's pages were scanned", first_unit_scanned)

# Activity

above = c.accepting((32, 32), (40, 32), (10, 32))
legal("accept_memory() of memory above the bitmap registers start >= end == the bitmap's end", above)
legal("two accepts that touch do not overlap", c.accepting((0, 3), (3, 5)))
legal("zone->lock was held by a CPU that changes the counters", c.zone(locked=True), c.counted(1024), live)
moved = c.torn("counters: NR_UNACCEPTED went from 9216 to 8192 pages")
legal("the counters of a live guest changed while they were read", c.counted(1024), moved)
_OVERLAP = (Accept(0xA000, 0, 3, Task(1, "a", 0)), Accept(0xA000, 2, 5, None))
crossed = c.put(accepting=AcceptingList(_OVERLAP, ("entry 2 leads back to entry 1",)))
legal("entries of a live accepting_list are read one after the other, and can seem to overlap", crossed, live)
legal("free pages of a live guest change between two reads", c.zone(free_pages=9216 + 5000), live)
legal("NR_FREE_PAGES is a few pages off what isolated blocks leave", c.zone(free_pages=9216 + 2048 + 512))
incomplete = c.zone(free_pages=9216, problems=("per-CPU difference of CPU 3: not in this dump",))
legal("the per-CPU differences of NR_FREE_PAGES could not all be read", incomplete)
legal("a task reclaims while no zone is below its watermark", c.put(reclaiming=(Task(9, "cc1", 0),)))


@pytest.mark.parametrize("change", LEGAL)
def test_what_is_legal_raises_no_alarm(change: Change) -> None:
    report = run_checks(clean(change))
    assert [finding for finding in report.findings if finding.status in ("warning", "critical")] == []
    assert report.status == "ok"
