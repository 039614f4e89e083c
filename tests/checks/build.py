# SPDX-License-Identifier: LGPL-2.1-or-later
"""A small snapshot in which everything agrees, written by hand, and the words to change one part of it.

The guest: 64 MiB of RAM above 4 GiB, units of 2 MiB, chunks of 4 MiB. Firmware gave two ranges as type 15::

    unit   0         10    12                         30  32
    0x100000000 ---- hole ---- 0x101800000 ---- 0x103c00000 -- 0x104000000
           type 15    RAM      type 15              RAM

The kernel accepted the first range and the chunk of the hole, whose guard is unit 12. So unit 12 is accepted while its
chunk (units 12 and 13) waits on the list: bits 13 to 29 are set, and 9 chunks are listed, 0x101800000-0x103c00000.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from drgn_unaccepted.checks import Finding, run_checks
from drgn_unaccepted.model.e820 import E820Entry
from drgn_unaccepted.model.efi import EfiDescriptor
from drgn_unaccepted.model.ranges import Range
from drgn_unaccepted.snapshot import (
    AcceptingList,
    Counters,
    E820Tables,
    EfiMap,
    KernelBuild,
    KexecSegment,
    ListedChunks,
    NamedRange,
    PageRun,
    Pages,
    Platform,
    Snapshot,
    Table,
    Target,
    Watermarks,
    Zone,
)

UNIT = 0x200000
CHUNK_PAGES = 1024
BASE = 0x100000000
TABLE = 0x7FB73018
PGTY_UNACCEPTED = 0xF7000000
PG_RESERVED = 1 << 13

#: Bits 13 to 29, written out.
BITMAP = bytes([0b00000000, 0b11100000, 0b11111111, 0b00111111])

#: Chunks of units 12 and 13, 14 and 15, ... 28 and 29.
LISTED = (0x101800, 0x101C00, 0x102000, 0x102400, 0x102800, 0x102C00, 0x103000, 0x103400, 0x103800)

RAM, ACPI = 1, 3

#: Rules that find a stray bit, too, if the pages under it are in use.
IN_USE = ("buddy-pages-accepted", "allocated-pages-accepted")


def clean() -> Snapshot:
    """A vmcore of Linux 6.12.117 in a TDX guest, with nothing wrong."""
    e820 = (
        E820Entry(0x0, 0xA0000, RAM),
        E820Entry(0x100000, 0x7FB00000, RAM),
        E820Entry(0x7FB00000, 0x7FC00000, ACPI),
        E820Entry(0x100000000, 0x104000000, RAM),
    )
    return Snapshot(
        target=Target("vmcore", "vmcore", "6.12.117", None, "dwarf", "2026-01-01T00:00:00+00:00"),
        table=Table(
            "present",
            address=TABLE,
            version=1,
            unit_size=UNIT,
            phys_base=BASE,
            bitmap_bytes=4,
            bitmap=BITMAP,
            read_through="physical",
            unmapped=(),
        ),
        kernel=KernelBuild(
            unaccepted_memory=True,
            unaccepted_page_type=PGTY_UNACCEPTED,
            chunk_pages=CHUNK_PAGES,
            static_key=None,
            vmcoreinfo_unaccepted=False,
            kexec_booted=False,
            unaccepts=False,
            system_state="running",
            reserved_flag=PG_RESERVED,
            cpus=2,
            zone_id_shift=60,
        ),
        efi_map=EfiMap(
            "boot-map",
            True,
            None,
            (
                EfiDescriptor(7, 0x100000, 0x7FB00000, 0xF),
                EfiDescriptor(9, 0x7FB00000, 0x7FC00000, 0xF),
                EfiDescriptor(15, 0x100000000, 0x101400000, 0xF),
                EfiDescriptor(7, 0x101400000, 0x101800000, 0xF),
                EfiDescriptor(15, 0x101800000, 0x103C00000, 0xF),
                EfiDescriptor(7, 0x103C00000, 0x104000000, 0xF),
            ),
        ),
        e820=E820Tables(e820, e820, e820, e820),
        zones=(
            Zone(
                node=0,
                name="DMA32",
                start_pfn=0x1000,
                spanned_pages=0x7EB00,
                present_pages=0x7EB00,
                managed_pages=0x7E000,
                free_pages=0x40000,
                unaccepted_pages=0,
                buddy_pages=0x40000,
                watermarks=Watermarks(1000, 1250, 1500, 1750, 0),
                locked=False,
                listed=listed(()),
                zone_id=1,
            ),
            Zone(
                node=0,
                name="Normal",
                start_pfn=0x100000,
                spanned_pages=0x4000,
                present_pages=0x4000,
                managed_pages=0x3F00,
                free_pages=9216 + 2048,
                unaccepted_pages=9216,
                buddy_pages=2048,
                watermarks=Watermarks(100, 125, 150, 175, 0),
                locked=False,
                listed=listed(LISTED, zone_id=2),
                zone_id=2,
            ),
        ),
        counters=Counters(free_pages=0x40000 + 9216 + 2048, unaccepted_pages=9216, unaccepted_diff=0),
        accepting=AcceptingList(()),
        platform=Platform("tdx", "INTEL", 0, True),
        kernel_memory=(NamedRange("kernel image", 0x2000000, 0x4000000), NamedRange("initrd", 0x70000000, 0x71000000)),
        pages=Pages(
            runs=(PageRun(0x7FB73, 0x7FB74, "reserved"), PageRun(0x1019FF, 0x103C00, "unaccepted")),
            scanned=(Range(0x7FB73000, 0x7FB74000), Range(0x1019FF000, 0x103C00000)),
            limited=None,
        ),
        kexec_segments=(KexecSegment("kexec_crash_image", 0x60000000, 0x61000000),),
        reclaiming=(),
        panic="",
    )


def listed(pfns: Iterable[int], zone_id: int = 0) -> ListedChunks:
    """A sane list of these chunks."""
    column = array("Q", pfns)
    number = len(column)
    return ListedChunks(
        pfns=column,
        flags=array("Q", [zone_id << 60]) * number,
        refcounts=array("i", [0]) * number,
        page_types=array("I", [PGTY_UNACCEPTED]) * number,
    )


def found(snapshot: Snapshot, rule: str) -> Finding:
    """The finding of one rule."""
    (finding,) = run_checks(snapshot, only=[rule]).findings
    return finding


def live(snapshot: Snapshot, torn: tuple[str, ...] = ()) -> Snapshot:
    return replace(snapshot, target=replace(snapshot.target, kind="live", path=None), torn=torn)


def of_release(snapshot: Snapshot, release: str | None) -> Snapshot:
    return replace(snapshot, target=replace(snapshot.target, release=release))


def with_part(snapshot: Snapshot, part: str, **changes: Any) -> Snapshot:
    """With fields of one part changed: ``with_part(s, "kernel", cpus=4)``."""
    return replace(snapshot, **{part: replace(getattr(snapshot, part), **changes)})


def without(snapshot: Snapshot, part: str, reason: str = "not in this target") -> Snapshot:
    """With one part missing."""
    changes: dict[str, Any] = {part: None, "missing": {**snapshot.missing, part: reason}}
    return replace(snapshot, **changes)


def with_table(snapshot: Snapshot, **changes: Any) -> Snapshot:
    return with_part(snapshot, "table", **changes)


def with_bits(snapshot: Snapshot, first: int, end: int, value: int) -> Snapshot:
    """With bits ``first`` to ``end`` (exclusive) all 1 or all 0."""
    bitmap = bytearray(snapshot.table.bitmap)
    for bit in range(first, end):
        bitmap[bit // 8] = bitmap[bit // 8] & ~(1 << bit % 8) | value << bit % 8
    return with_table(snapshot, bitmap=bytes(bitmap))


def absent_table(snapshot: Snapshot) -> Snapshot:
    return replace(snapshot, table=Table("absent", "efi.unaccepted is ~0"))


def not_captured(snapshot: Snapshot) -> Snapshot:
    table = Table("not-captured", "not in this dump", address=snapshot.table.address)
    return replace(snapshot, table=table)


def without_type_15(snapshot: Snapshot) -> Snapshot:
    """The firmware accepted everything."""
    accepted = tuple(d._replace(type=7) if d.type == 15 else d for d in snapshot.efi_map.descriptors)
    return with_part(snapshot, "efi_map", descriptors=accepted)


def the_zone(snapshot: Snapshot) -> Zone:
    """The first zone that lists something."""
    return next(zone for zone in snapshot.zones or () if zone.listed is not None and zone.listed.pfns)


def with_zone(snapshot: Snapshot, **changes: Any) -> Snapshot:
    """With fields of :func:`the_zone` changed."""
    chosen = the_zone(snapshot)
    zones = tuple(replace(zone, **changes) if zone is chosen else zone for zone in snapshot.zones)
    return replace(snapshot, zones=zones)


def with_list(snapshot: Snapshot, **changes: Any) -> Snapshot:
    """With columns of the list of :func:`the_zone` changed."""
    chosen = the_zone(snapshot).listed
    return with_zone(snapshot, listed=replace(chosen, **changes))


def with_entry(snapshot: Snapshot, column: str, value: int, index: int = 0) -> Snapshot:
    """With one value of one column of that list changed."""
    changed = getattr(the_zone(snapshot).listed, column)[:]
    changed[index] = value
    return with_list(snapshot, **{column: changed})


def counted(snapshot: Snapshot, pages: int) -> Snapshot:
    """With that many more pages free and unaccepted, by all counters."""
    zone, counters = the_zone(snapshot), snapshot.counters
    snapshot = with_zone(snapshot, free_pages=zone.free_pages + pages, unaccepted_pages=zone.unaccepted_pages + pages)
    return with_part(
        snapshot, "counters", free_pages=counters.free_pages + pages, unaccepted_pages=counters.unaccepted_pages + pages
    )


def with_listed_pfns(snapshot: Snapshot, pfns: Iterable[int]) -> Snapshot:
    """With these chunks listed, and counted, in place of what was."""
    old = the_zone(snapshot)
    new = listed(pfns)
    new = replace(new, flags=array("Q", [old.listed.flags[0]]) * len(new.pfns))
    new = replace(new, page_types=array("I", [old.listed.page_types[0]]) * len(new.pfns))
    chunk_pages = snapshot.kernel.chunk_pages if snapshot.kernel else CHUNK_PAGES
    snapshot = counted(snapshot, (len(new.pfns) - len(old.listed.pfns)) * chunk_pages)
    return with_zone(snapshot, listed=new)


def with_page_state(snapshot: Snapshot, start: int, end: int, state: str | None) -> Snapshot:
    """With the pages of [start, end) in one state (None: in no run), and looked at."""
    first, last = start >> 12, end >> 12
    pages = snapshot.pages
    runs = []
    for run in pages.runs:
        if run.start_pfn < first:
            runs.append(run._replace(end_pfn=min(run.end_pfn, first)))
        if run.end_pfn > last:
            runs.append(run._replace(start_pfn=max(run.start_pfn, last)))
    if state is not None:
        runs.append(PageRun(first, last, state))
    scanned = (*pages.scanned, Range(start, end))
    return with_part(snapshot, "pages", runs=tuple(sorted(runs)), scanned=scanned)


def with_ram_removed(entries: Iterable[E820Entry], start: int, end: int) -> tuple[E820Entry, ...]:
    """The entries without what lies in [start, end)."""
    left = []
    for entry in entries:
        if entry.start < start:
            left.append(entry._replace(end=min(entry.end, start)))
        if entry.end > end:
            left.append(entry._replace(start=max(entry.start, end)))
    return tuple(left)
