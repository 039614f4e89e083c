# SPDX-License-Identifier: LGPL-2.1-or-later
"""What looks wrong and is legal: no rule may warn of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from drgn_unaccepted.checks import run_checks
from drgn_unaccepted.model.e820 import E820Entry
from drgn_unaccepted.snapshot import Accept, AcceptingList, EfiMap, KexecSegment, PageRun, Snapshot, Table, Task

from . import build
from .changes import Change, accepting, bits, both, listing, pages, part, table, trimmed, without

LEGAL: list[Any] = []


def legal(what: str, *changes: Change) -> None:
    LEGAL.append(pytest.param(both(*changes), id=what))


def zones(**changes: Any) -> Change:
    """All zones changed alike."""
    return lambda s: replace(s, zones=tuple(replace(zone, **changes) for zone in s.zones))


all_accepted = both(
    zones(listed=build.listed(()), unaccepted_pages=0, free_pages=5000, buddy_pages=5000),
    part("counters", unaccepted_pages=0),
    pages(0x1019FF000, 0x103C00000, "buddy"),
    bits(0, 32, 0),
)
ordinary_machine = both(all_accepted, part("platform", kind="none"), build.absent_table, build.without_type_15)
no_lists = both(
    zones(listed=None, unaccepted_pages=None),
    without("accepting"),
    part("kernel", unaccepted_memory=False, unaccepted_page_type=None),
    part("counters", unaccepted_pages=None, unaccepted_diff=None),
)

legal("everything was accepted", all_accepted)
legal(
    "a chunk is listed only because of the guard unit behind it: the hole's, before unit 12 was accepted",
    bits(12, 13, 1),
    pages(0x101400000, 0x101A00000, "unaccepted"),
    listing(0x101400, *build.LISTED),
)
legal("a chunk stays listed after its neighbours' accepts cleared its bits", bits(28, 30, 0))
legal("seven of nine chunks have no bits: too few to call it anything", bits(13, 25, 0))
legal(
    "a kexec image was loaded into all that is listed, which accepted it (6.15 and later)",
    bits(0, 32, 0),
    lambda s: replace(s, kexec_segments=(KexecSegment("kexec_image", 0x101800000, 0x103C00000),)),
)
legal(
    "mem= took the upper half of the unaccepted memory away: no RAM, no struct page, on no list",
    trimmed("current", 0x102800000, 0x104000000),
    listing(*build.LISTED[:4]),
    pages(0x102800000, 0x103C00000, "absent"),
)
legal(
    "deferred initialisation has not come to the upper chunks yet",
    part("kernel", system_state="scheduling"),
    listing(*build.LISTED[:4]),
    pages(0x102800000, 0x103000000, "uninitialised"),
    pages(0x103000000, 0x103C00000, "in-use"),
)
legal(
    "nothing was given to the page allocator yet, and every struct page has a reference",
    zones(free_pages=0, buddy_pages=0, unaccepted_pages=0, listed=build.listed(())),
    part("counters", unaccepted_pages=0, free_pages=0),
    part("kernel", system_state=None),
    pages(0x1019FF000, 0x103C00000, "in-use"),
)
legal(
    "two CPUs took neighbouring chunks off the list, and are not in accept_memory() yet",
    listing(*build.LISTED[2:]),
    pages(0x101800000, 0x102000000, "free"),
)
legal(
    "a CPU is accepting a chunk and its guard: units 12 to 14",
    accepting((12, 15)),
    listing(*build.LISTED[1:]),
    pages(0x101800000, 0x101C00000, "free"),
)
legal(
    "accept_memory() of memory above the bitmap registers start >= end == the bitmap's end",
    accepting((32, 32), (40, 32), (10, 32)),
)
legal("two accepts that touch do not overlap", accepting((0, 3), (3, 5)))
legal(
    "zone->lock of a live guest was held by a CPU that changes the counters",
    lambda s: build.live(build.counted(build.with_zone(s, locked=True), 1024)),
)
legal(
    "the counters of a live guest changed while they were read",
    lambda s: build.live(build.counted(s, 1024), torn=("counters: NR_UNACCEPTED went from 9216 to 8192 pages",)),
)
_OVERLAP = (Accept(0xA000, 0, 3, Task(1, "a", 0)), Accept(0xA000, 2, 5, None))
legal(
    "entries of a live guest's accepting_list are read one after the other, and can seem to overlap",
    lambda s: build.live(replace(s, accepting=AcceptingList(_OVERLAP, ("entry 2 leads back to entry 1",)))),
)
legal(
    "free pages of a live guest change between two reads",
    lambda s: build.live(build.with_zone(s, free_pages=9216 + 5000)),
)
legal(
    "NR_FREE_PAGES is a few pages off what isolated blocks leave",
    lambda s: build.with_zone(s, free_pages=9216 + 2048 + 512),
)
legal(
    "the per-CPU differences of NR_FREE_PAGES could not all be read",
    lambda s: build.with_zone(s, free_pages=9216, problems=("per-CPU difference of CPU 3: not in this dump",)),
)
legal(
    "the bitmap was saved before units 14 to 29 were accepted, freed and allocated",
    table(read_through="file"),
    listing(*build.LISTED[:1]),
    pages(0x101C00000, 0x103C00000, "in-use"),
)
legal("an ordinary machine: no table, no type 15, nothing listed, no confidential platform", ordinary_machine)
legal("a kernel without CONFIG_UNACCEPTED_MEMORY", ordinary_machine, no_lists)
legal(
    "a kernel before 6.5 has no field for the table",
    ordinary_machine,
    lambda s: replace(s, table=Table("absent", "struct efi has no unaccepted")),
)
legal(
    "only the runtime map is left, which has no type 15",
    lambda s: replace(s, efi_map=EfiMap("runtime-map", False, "runtime entries only", ())),
)
legal(
    "a reserved and never touched chunk is unaccepted",
    listing(*build.LISTED[:-1]),
    pages(0x103800000, 0x103C00000, "reserved"),
)
legal(
    "Linux before 7.2 marks RAM under setup_data as E820_TYPE_RESERVED_KERN",
    trimmed("current", 0x101A00000, 0x101A01000, 128),
)
_RAM = (E820Entry(0x100000, 0x7FC00000, 1), E820Entry(0x100000000, 0x104000000, 1))
legal("Linux 6.5 has the table in RAM", part("e820", firmware=_RAM), lambda s: build.of_release(s, "6.5.9-custom"))


def untyped(snapshot: Snapshot) -> Snapshot:
    types = build.the_zone(snapshot).listed.page_types[:]
    for index in range(len(types)):
        types[index] = 0xFFFFFFFF
    return build.with_list(snapshot, page_types=types)


legal(
    "Linux 6.5 to 6.11 have no PageUnaccepted: listed pages have no type. The static key is on",
    part("kernel", unaccepted_page_type=None, static_key=1),
    untyped,
)
legal(
    "the static key is switched off only after the last chunk was accepted", all_accepted, part("kernel", static_key=1)
)
legal(
    "only the first unaccepted unit's pages were scanned",
    lambda s: build.with_part(
        s,
        "pages",
        runs=(s.pages.runs[0], PageRun(0x1019FF, 0x101C00, "unaccepted")),
        scanned=(s.pages.scanned[0], s.pages.scanned[1]._replace(end=0x101C00000)),
        limited="too many pages",
    ),
)
legal("the table is not in the dump, as in every kdump since 6.6", build.not_captured)
legal("nothing was read but the table", lambda s: Snapshot(target=s.target, table=s.table))
legal(
    "a task reclaims while no zone has unaccepted memory under its watermark",
    lambda s: replace(s, reclaiming=(Task(9, "cc1", 0),)),
)


@pytest.mark.parametrize("change", LEGAL)
def test_what_is_legal_raises_no_alarm(change: Change) -> None:
    report = run_checks(change(build.clean()))
    assert [finding for finding in report.findings if finding.status in ("warning", "critical")] == []
    assert report.status == "ok"
