# SPDX-License-Identifier: LGPL-2.1-or-later
"""Guests written by hand, for pictures: every glyph has a place that follows from the numbers here.

``small``: RAM below 512 MiB and from 4 GiB to 5.5 GiB. The bitmap covers 4 GiB to 5 GiB, 64 bytes of it; its first nine
bytes have 0 to 8 bits set, then 23 bytes are clear, 24 are full (0x120000000-0x138000000) and 8 are clear.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Optional

from drgn_unaccepted.model.e820 import E820Entry
from drgn_unaccepted.model.efi import EfiDescriptor
from drgn_unaccepted.snapshot import (
    Accept,
    AcceptingList,
    Counters,
    E820Tables,
    EfiMap,
    PageRun,
    Pages,
    Snapshot,
    Table,
    Task,
    Zone,
)
from tests.checks.build import clean, listed

MIB, GIB, TIB = 1 << 20, 1 << 30, 1 << 40
UNIT = 2 * MIB
CHUNK_PAGES = 1024
BASE = 4 * GIB

#: 0 to 8 units of the first nine bytes. Where one unit of a chunk is accepted it is the first, as a guard.
STAIRS = bytes((0x00, 0x02, 0x03, 0x0E, 0x0F, 0x3E, 0x3F, 0xFE, 0xFF))
BITMAP = STAIRS + bytes(23) + b"\xff" * 24 + bytes(8)
#: The chunks with a bit.
LISTED = tuple(BASE + 2 * n * UNIT for n in range(4 * len(BITMAP)) if BITMAP[n // 4] >> 2 * (n % 4) & 3)


def table(bitmap: bytes, base: int = BASE, **more: Any) -> Table:
    address = 0x1F773018
    how = {"version": 1, "unit_size": UNIT, "bitmap_bytes": len(bitmap), "read_through": "physical", **more}
    return Table("present", address=address, phys_base=base, bitmap=bitmap, **how)


NOT_CAPTURED = Table("not-captured", "the page is not in this dump", 0x1F773018)


def zone(node: int, name: str, start: int, end: int, chunks: Optional[Iterable[int]] = ()) -> Zone:
    """Its list holds the chunks of these addresses."""
    pages, chunks = (end - start) >> 12, [address >> 12 for address in chunks or ()]
    where = {"node": node, "name": name, "start_pfn": start >> 12, "spanned_pages": pages, "present_pages": pages}
    counts = {"managed_pages": pages, "free_pages": pages // 2, "unaccepted_pages": len(chunks) * CHUNK_PAGES}
    first = (clean().zones or ())[0]
    return replace(first, listed=listed(chunks), zone_id=0, **where, **counts)  # type: ignore[arg-type]


def e820(*entries: tuple[int, int], more: tuple[E820Entry, ...] = ()) -> E820Tables:
    """Tables with this RAM."""
    one = tuple(sorted((*(E820Entry(start, end, 1) for start, end in entries), *more)))
    return E820Tables(one, one, one, one)


RESERVED = (E820Entry(0, 0x1000, 2), E820Entry(496 * MIB, 512 * MIB, 2), E820Entry(0xB0000000, 0xC0000000, 2))
LOW_RAM = ((0x1000, 0xA0000), (1 * MIB, 496 * MIB))

EFI = (
    EfiDescriptor(7, 0, 0xA0000, 0xF),
    EfiDescriptor(4, 1 * MIB, 32 * MIB, 0xF),
    EfiDescriptor(7, 32 * MIB, 496 * MIB, 0xF),
    EfiDescriptor(6, 496 * MIB, 512 * MIB, 0x800000000000000F),
    EfiDescriptor(15, BASE, BASE + GIB - 128 * MIB, 0xF),
    EfiDescriptor(7, BASE + GIB - 128 * MIB, BASE + GIB - UNIT, 0xF),
    EfiDescriptor(15, BASE + GIB - UNIT, BASE + GIB, 0xF),
    EfiDescriptor(7, BASE + GIB, BASE + GIB + GIB // 2, 0xF),
)


def small() -> Snapshot:
    """Everything was captured; the task ``dd`` accepts units 4 and 5, which are in the bitmap's first byte."""
    return replace(
        clean(),
        target=replace(clean().target, path="guest.vmcore", release="6.12.0-test"),
        table=table(BITMAP),
        efi_map=EfiMap("boot-map", True, None, EFI),
        e820=e820(*LOW_RAM, (BASE, BASE + GIB + GIB // 2), more=RESERVED),
        zones=(
            zone(0, "DMA", 0x1000, 16 * MIB),
            zone(0, "DMA32", 16 * MIB, BASE),
            zone(0, "Normal", BASE, BASE + GIB, LISTED),
            zone(1, "Normal", BASE + GIB, BASE + GIB + GIB // 2),
        ),
        counters=Counters(1000, len(LISTED) * CHUNK_PAGES, 0),
        accepting=AcceptingList((Accept(0xFFFFC90000003D80, 4, 6, Task(812, "dd", 1)),)),
        # Was reserved at boot, and is on no list.
        pages=Pages((PageRun(BASE >> 12, (BASE + 144 * MIB) >> 12, "reserved"),), (), None),
        kernel_memory=(),
        kexec_segments=(),
    )


def with_chunks(snapshot: Snapshot, *chunks: int) -> Snapshot:
    """With these chunks listed in the zone above 4 GiB, and counted."""
    zones = snapshot.zones or ()
    normal = zone(0, "Normal", BASE, BASE + GIB, chunks)
    counters = Counters(1000, len(chunks) * CHUNK_PAGES, 0)
    return replace(snapshot, zones=(*zones[:2], normal, *zones[3:]), counters=counters)


def lists() -> Snapshot:
    """The same guest as a kdump, from whose log the first EFI descriptors are lost: no table, pages of some ranges.

    The chunks of the long run are listed as before, and one alone at 0x10c000000.
    """
    runs = (
        PageRun(0x1, 0xA0, "in-use"),
        PageRun(0x100, 0x1F000, "buddy"),
        PageRun(BASE >> 12, (BASE + 128 * MIB) >> 12, "in-use"),
        PageRun(0x110000, 0x120000, "buddy"),
    )
    snapshot = with_chunks(small(), 0x10C000000, *range(0x120000000, 0x138000000, 4 * MIB))
    efi_map, pages = EfiMap("kernel-log", False, None, EFI), Pages(runs, (), None)
    return replace(snapshot, table=NOT_CAPTURED, efi_map=efi_map, accepting=AcceptingList(()), pages=pages)


def only_bitmap(snapshot: Snapshot) -> Snapshot:
    """Without what could contradict its bitmap."""
    missing = dict.fromkeys(("efi_map", "zones", "counters", "accepting", "pages"), "not asked for")
    nothing: dict[str, Any] = dict.fromkeys(missing)
    return replace(snapshot, missing=missing, **nothing)


def huge() -> Snapshot:
    """10 TiB on two nodes, from 4 GiB: of node 0 the upper half is unaccepted, of node 1 every eighth unit."""
    half, end = 5 * TIB, BASE + 10 * TIB
    nbytes = 10 * TIB // UNIT // 8
    efi = (EfiDescriptor(7, 0, 2 * GIB, 0xF), EfiDescriptor(15, BASE, end, 0xF))
    return replace(
        small(),
        table=table(bytes(nbytes // 4) + b"\xff" * (nbytes // 4) + b"\x10" * (nbytes // 2)),
        efi_map=EfiMap("boot-map", True, None, efi),
        e820=e820((0x1000, 0xA0000), (1 * MIB, 2 * GIB), (BASE, end)),
        zones=(
            zone(0, "DMA32", 0x1000, BASE),
            zone(0, "Normal", BASE, BASE + half),
            zone(1, "Normal", BASE + half, end),
        ),
        counters=Counters(1000, 0, 0),
        accepting=AcceptingList(()),
    )


def one_unlike_all_others(value: bytes) -> Snapshot:
    """10 TiB: one unit unaccepted amid zeros, or one accepted amid ones."""
    nbytes = 10 * TIB // UNIT // 8
    bitmap = bytearray(value * nbytes)
    bitmap[nbytes // 3] ^= 1
    return replace(huge(), table=table(bytes(bitmap)))


def uneven() -> Snapshot:
    """The bitmap begins 6 MiB into memory, so that its bytes do not begin at multiples of 16 MiB."""
    table_ = table(b"\x80\x01\xff\x00", 6 * MIB)
    return replace(only_bitmap(small()), table=table_, e820=e820((0, 128 * MIB)))


def large_units() -> Snapshot:
    """Units of 128 MiB, as the feature's authors tried; eight chunks are listed, 4 MiB at the start of each unit."""
    chunks = range(BASE, BASE + GIB, 128 * MIB)
    return replace(
        small(),
        table=table(b"\xff", unit_size=128 * MIB),
        zones=(zone(0, "Normal", BASE, BASE + GIB, chunks),),
        counters=Counters(1000, len(chunks) * CHUNK_PAGES, 0),
        e820=e820((BASE, BASE + GIB)),
        accepting=AcceptingList(()),
        efi_map=None,
        missing={"efi_map": "not asked for"},
    )


HOSTILE = "</script><script>window.pwned = 1</script><img src=x onerror=pwned()>\x1b[31m$x^{2}$ {{data}} \u2028"


def hostile() -> Snapshot:
    """Every name that comes out of the target means harm."""
    snapshot = small()
    return replace(
        snapshot,
        target=replace(snapshot.target, release=HOSTILE, path=HOSTILE),
        zones=tuple(replace(one, name=HOSTILE) for one in snapshot.zones or ()),
        accepting=AcceptingList((Accept(0, 0, 2, Task(1, HOSTILE, 0)),), (HOSTILE,)),
        efi_map=EfiMap("boot-map", True, HOSTILE, EFI),
        missing={"reclaiming": HOSTILE},
        torn=(HOSTILE,),
        reclaiming=None,
    )
