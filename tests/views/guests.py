# SPDX-License-Identifier: LGPL-2.1-or-later
"""Guests written by hand, for pictures: every glyph has a place that follows from the numbers here.

``small``: RAM below 512 MiB and from 4 GiB to 5.5 GiB. The bitmap covers 4 GiB to 5 GiB, 64 bytes of it; its first nine
bytes have 0 to 8 bits set, then 23 bytes are clear, 24 are full (0x120000000-0x138000000) and 8 are clear.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import replace
from typing import Optional

from drgn_unaccepted.model.e820 import E820Entry
from drgn_unaccepted.model.efi import EfiDescriptor
from drgn_unaccepted.snapshot import (
    Accept,
    AcceptingList,
    Counters,
    E820Tables,
    EfiMap,
    KernelBuild,
    ListedChunks,
    PageRun,
    Pages,
    Platform,
    Snapshot,
    Table,
    Target,
    Task,
    Watermarks,
    Zone,
)

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
UNIT = 2 * MIB
CHUNK_PAGES = 1024
BASE = 4 * GIB

#: 0 to 8 units of the first nine bytes.
STAIRS = bytes((0x00, 0x01, 0x03, 0x07, 0x0F, 0x1F, 0x3F, 0x7F, 0xFF))
BITMAP = STAIRS + bytes(23) + b"\xff" * 24 + bytes(8)
SET_UNITS = sum(range(9)) + 24 * 8


def table(bitmap: bytes, base: int = BASE) -> Table:
    return Table(
        "present",
        address=0x1F773018,
        version=1,
        unit_size=UNIT,
        phys_base=base,
        bitmap_bytes=len(bitmap),
        bitmap=bitmap,
        read_through="physical",
    )


NOT_CAPTURED = Table("not-captured", "the page is not in this dump", 0x1F773018)


def zone(node: int, name: str, start: int, end: int, chunks: Optional[Iterable[int]] = ()) -> Zone:
    """Its list holds the chunks of these addresses; None: a kernel without the list."""
    pages = (end - start) >> 12
    listed = None
    if chunks is not None:
        pfns = array("Q", [address >> 12 for address in chunks])
        number = len(pfns)
        listed = ListedChunks(pfns, array("Q", [0] * number), array("i", [1] * number), array("I", [0] * number))
    return Zone(
        node,
        name,
        start >> 12,
        pages,
        pages,
        pages,
        pages // 2,
        None if listed is None else len(listed.pfns) * CHUNK_PAGES,
        pages // 2,
        Watermarks(16, 32, 48, 64, 8),
        False,
        listed,
    )


def target(release: str = "6.12.0-test") -> Target:
    return Target("vmcore", "guest.vmcore", release, None, "btf", "2026-01-02T03:04:05+00:00")


BUILD = KernelBuild(True, None, CHUNK_PAGES, None, False, False, False, "running", None, 2)

E820 = (
    E820Entry(0, 0x1000, 2),
    E820Entry(0x1000, 0xA0000, 1),
    E820Entry(1 * MIB, 496 * MIB, 1),
    E820Entry(496 * MIB, 512 * MIB, 2),
    E820Entry(0xB0000000, 0xC0000000, 2),
    E820Entry(BASE, BASE + GIB + GIB // 2, 1),
)

EFI = (
    EfiDescriptor(7, 0, 0xA0000, 0xF),
    EfiDescriptor(4, 1 * MIB, 32 * MIB, 0xF),
    EfiDescriptor(7, 32 * MIB, 496 * MIB, 0xF),
    EfiDescriptor(6, 496 * MIB, 512 * MIB, 0x800000000000000F),
    EfiDescriptor(15, BASE, BASE + GIB - 128 * MIB, 0xF),
    EfiDescriptor(7, BASE + GIB - 128 * MIB, BASE + GIB + GIB // 2, 0xF),
)


def small() -> Snapshot:
    """Everything was captured; the task ``dd`` accepts units 4 and 5, which are in the bitmap's first byte."""
    zones = (
        zone(0, "DMA", 0x1000, 16 * MIB),
        zone(0, "DMA32", 16 * MIB, BASE),
        zone(0, "Normal", BASE, BASE + GIB, range(0x120000000, 0x138000000, 4 * MIB)),
        zone(1, "Normal", BASE + GIB, BASE + GIB + GIB // 2),
    )
    return Snapshot(
        target=target(),
        table=table(BITMAP),
        kernel=BUILD,
        efi_map=EfiMap("boot-map", True, None, EFI),
        e820=E820Tables(E820, E820, E820, E820),
        zones=zones,
        counters=Counters(1000, 96 * CHUNK_PAGES, 0),
        accepting=AcceptingList((Accept(0xFFFFC90000003D80, 4, 6, Task(812, "dd", 1)),)),
        platform=Platform("tdx", "INTEL", None, True),
        kernel_memory=(),
        pages=Pages((), (), None),
        kexec_segments=(),
        reclaiming=(),
        panic="",
    )


def lists() -> Snapshot:
    """The same guest as a kdump: no table, 96 listed chunks and one alone at 0x10c000000, pages of some ranges."""
    snapshot = small()
    assert snapshot.zones is not None
    alone = (0x10C000000, *range(0x120000000, 0x138000000, 4 * MIB))
    zones = (*snapshot.zones[:2], zone(0, "Normal", BASE, BASE + GIB, alone), snapshot.zones[3])
    runs = (
        PageRun(0x1, 0xA0, "in-use"),
        PageRun(0x100, 0x1F000, "buddy"),
        PageRun(BASE >> 12, (BASE + 128 * MIB) >> 12, "in-use"),
        PageRun(0x110000, 0x120000, "buddy"),
    )
    return replace(
        snapshot,
        table=NOT_CAPTURED,
        zones=zones,
        counters=Counters(1000, 97 * CHUNK_PAGES, 0),
        accepting=AcceptingList(()),
        pages=Pages(runs, (), None),
    )


def huge() -> Snapshot:
    """10 TiB on two nodes, from 4 GiB: of node 0 the upper half is unaccepted, of node 1 every eighth unit."""
    half = 5 * TIB
    nbytes = 10 * TIB // UNIT // 8
    bitmap = bytes(nbytes // 4) + b"\xff" * (nbytes // 4) + b"\x10" * (nbytes // 2)
    end = BASE + 10 * TIB
    e820 = (E820Entry(0x1000, 0xA0000, 1), E820Entry(1 * MIB, 2 * GIB, 1), E820Entry(BASE, end, 1))
    efi = (EfiDescriptor(7, 0, 2 * GIB, 0xF), EfiDescriptor(15, BASE, end, 0xF))
    zones = (
        zone(0, "DMA32", 0x1000, BASE),
        zone(0, "Normal", BASE, BASE + half),
        zone(1, "Normal", BASE + half, end),
    )
    return replace(
        small(),
        table=table(bitmap),
        efi_map=EfiMap("boot-map", True, None, efi),
        e820=E820Tables(e820, e820, e820, e820),
        zones=zones,
        accepting=AcceptingList(()),
    )


def uneven() -> Snapshot:
    """The bitmap begins 6 MiB into memory, so that its bytes do not begin at multiples of 16 MiB."""
    e820 = (E820Entry(0, 128 * MIB, 1),)
    return replace(
        small(),
        table=table(b"\x80\x01\xff\x00", 6 * MIB),
        efi_map=None,
        e820=E820Tables(e820, None, None, None),
        zones=None,
        accepting=None,
        missing={"efi_map": "not asked for", "zones": "not asked for", "accepting": "not asked for"},
    )


def large_units() -> Snapshot:
    """Units of 128 MiB, as the feature's authors tried; eight chunks are listed, 4 MiB at the start of each unit."""
    chunks = range(BASE, BASE + GIB, 128 * MIB)
    zones = (zone(0, "Normal", BASE, BASE + GIB, chunks),)
    e820 = (E820Entry(BASE, BASE + GIB, 1),)
    return replace(
        small(),
        table=replace(table(b"\xff"), unit_size=128 * MIB),
        zones=zones,
        counters=Counters(1000, len(chunks) * CHUNK_PAGES, 0),
        e820=E820Tables(e820, e820, e820, e820),
        accepting=AcceptingList(()),
    )


HOSTILE = "</script><script>window.pwned = 1</script><img src=x onerror=pwned()>\x1b[31m$x^{2}$ {{data}} \u2028"


def hostile() -> Snapshot:
    """Every name that comes out of the target means harm."""
    snapshot = small()
    assert snapshot.zones is not None
    return replace(
        snapshot,
        target=replace(target(HOSTILE), path=HOSTILE),
        zones=tuple(replace(one, name=HOSTILE) for one in snapshot.zones),
        accepting=AcceptingList((Accept(0, 0, 2, Task(1, HOSTILE, 0)),), (HOSTILE,)),
        efi_map=replace(snapshot.efi_map, note=HOSTILE) if snapshot.efi_map else None,
        missing={"reclaiming": HOSTILE},
        torn=(HOSTILE,),
        reclaiming=None,
    )
