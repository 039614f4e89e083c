# SPDX-License-Identifier: LGPL-2.1-or-later
"""A small snapshot in which everything agrees, written by hand.

The guest: 64 MiB of RAM above 4 GiB, units of 2 MiB, chunks of 4 MiB. Firmware gave two ranges as type 15::

    unit   0         10    12                         30  32
    0x100000000 ---- hole ---- 0x101800000 ---- 0x103c00000 -- 0x104000000
           type 15    RAM      type 15              RAM

The kernel accepted the first range and the chunk of the hole, whose guard is unit 12. So unit 12 is accepted while its
chunk (units 12 and 13) waits on the list: bits 13 to 29 are set, and 9 chunks are listed, 0x101800000-0x103c00000.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable
from dataclasses import replace

from drgn_unaccepted import snapshot as s
from drgn_unaccepted.checks import Finding, run_checks
from drgn_unaccepted.model.e820 import E820Entry
from drgn_unaccepted.model.efi import EfiDescriptor
from drgn_unaccepted.model.ranges import Range
from drgn_unaccepted.snapshot import Snapshot

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

Change = Callable[[Snapshot], Snapshot]


def both(*changes: Change) -> Change:
    def change(snapshot: Snapshot) -> Snapshot:
        for each in changes:
            snapshot = each(snapshot)
        return snapshot

    return change


def clean(*changes: Change) -> Snapshot:
    """A vmcore of Linux 6.12.117 in a TDX guest, with nothing wrong but these changes."""
    e820 = (
        E820Entry(0x0, 0xA0000, RAM),
        E820Entry(0x100000, 0x7FB00000, RAM),
        E820Entry(0x7FB00000, 0x7FC00000, ACPI),
        E820Entry(0x100000000, 0x104000000, RAM),
    )
    snapshot = Snapshot(
        target=s.Target("vmcore", "vmcore", "6.12.117", None, "dwarf", "2026-01-01T00:00:00+00:00"),
        table=s.Table("present", None, TABLE, 1, UNIT, BASE, 4, BITMAP, "physical", unmapped=()),
        kernel=s.KernelBuild(
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
        efi_map=s.EfiMap(
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
        e820=s.E820Tables(e820, e820, e820, e820),
        zones=(
            zone("DMA32", (0x1000, 0x7EB00, 0x7E000), 0x40000, s.Watermarks(1000, 1250, 1500, 1750, 0), listed(()), 1),
            zone("Normal", (0x100000, 0x4000, 0x3F00), 2048, s.Watermarks(100, 125, 150, 175, 0), listed(LISTED, 2), 2),
        ),
        counters=s.Counters(free_pages=0x40000 + 9216 + 2048, unaccepted_pages=9216, unaccepted_diff=0),
        accepting=s.AcceptingList(()),
        platform=s.Platform("tdx", "INTEL", 0, True),
        kernel_memory=(
            s.NamedRange("kernel image", 0x2000000, 0x4000000),
            s.NamedRange("initrd", 0x70000000, 0x71000000),
        ),
        pages=s.Pages(
            runs=(s.PageRun(0x7FB73, 0x7FB74, "reserved"), s.PageRun(0x1019FF, 0x103C00, "unaccepted")),
            scanned=(Range(0x7FB73000, 0x7FB74000), Range(0x1019FF000, 0x103C00000)),
            limited=None,
        ),
        kexec_segments=(s.KexecSegment("kexec_crash_image", 0x60000000, 0x61000000),),
        reclaiming=(),
        panic="",
        image=s.Image(banner="6.12.117", command_line="quiet"),
    )
    return both(*changes)(snapshot)


def listed(pfns: Iterable[int], zone_id: int = 0) -> s.ListedChunks:
    """A sane list of these chunks."""
    column = array("Q", pfns)
    number = len(column)
    return s.ListedChunks(
        pfns=column,
        flags=array("Q", [zone_id << 60]) * number,
        refcounts=array("i", [0]) * number,
        page_types=array("I", [PGTY_UNACCEPTED]) * number,
    )


def zone(
    name: str, pages: tuple[int, int, int], buddy: int, watermarks: s.Watermarks, chunks: s.ListedChunks, zone_id: int
) -> s.Zone:
    """A zone with sound counters; its first PFN, and its spanned and managed pages."""
    start, spanned, managed = pages
    unaccepted = len(chunks.pfns) * CHUNK_PAGES
    counters = (buddy + unaccepted, unaccepted, buddy)
    return s.Zone(0, name, start, spanned, spanned, managed, *counters, watermarks, False, chunks, zone_id)


def found(snapshot: Snapshot, rule: str) -> Finding:
    """The finding of one rule."""
    (finding,) = run_checks(snapshot, only=[rule]).findings
    return finding


def live(snapshot: Snapshot, torn: tuple[str, ...] = ()) -> Snapshot:
    return replace(snapshot, target=replace(snapshot.target, kind="live", path=None), torn=torn)
