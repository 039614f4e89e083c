# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the rules ask of a snapshot, worked out once: sorted, merged ranges of what each part says."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import chain, islice
from typing import Optional

from drgn_unaccepted import limits
from drgn_unaccepted.checks import words
from drgn_unaccepted.model import bitmap as bits
from drgn_unaccepted.model import e820 as e820_model
from drgn_unaccepted.model import efi, header, stub
from drgn_unaccepted.model.bitmap import Geometry
from drgn_unaccepted.model.e820 import E820Entry
from drgn_unaccepted.model.ranges import Range, chunk_ranges, intersect, merge
from drgn_unaccepted.snapshot import PAGE_SHIFT, PAGE_SIZE, Accept, Snapshot, Zone

#: ``struct efi_unaccepted_memory`` without its bitmap.
HEADER_BYTES = header.HEADER.size

#: RAM, and what Linux before 7.2 made of the RAM under setup_data (E820_TYPE_RESERVED_KERN).
_RAM_TYPES = (e820_model.RAM, 128)


def merged(ranges: Iterable[tuple[int, int]]) -> list[Range]:
    """:func:`merge` for ranges out of a target, of which some may be empty or reversed: those hold nothing."""
    return merge((start, end) for start, end in ranges if start < end)


class Facts:
    """A snapshot and what follows from it.

    What is not in the snapshot makes an attribute raise or read as empty; a rule asks only for what it has named
    as its needs.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.live = snapshot.target.kind == "live"

    # The table

    @cached_property
    def geometry(self) -> Optional[Geometry]:
        """What the bitmap covers, where the header is sane."""
        table = self.snapshot.table
        fields = (table.version, table.unit_size, table.phys_base, table.bitmap_bytes)
        version, unit_size, phys_base, bitmap_bytes = fields
        if table.state not in ("present", "not-captured"):
            return None
        if version is None or unit_size is None or phys_base is None or bitmap_bytes is None:
            return None
        found = header.Header(version, unit_size, phys_base, bitmap_bytes)
        state, _ = header.judge_header(found, table.address or 0)
        return found.geometry if state == header.PRESENT else None

    @property
    def covered(self) -> Geometry:
        """:attr:`geometry` for those that need it."""
        assert self.geometry is not None
        return self.geometry

    @property
    def bitmap(self) -> bytes:
        assert self.snapshot.table.bitmap is not None
        return self.snapshot.table.bitmap

    @cached_property
    def table_range(self) -> Optional[Range]:
        """Where the table lies, header and bitmap."""
        table = self.snapshot.table
        if table.address is None or table.bitmap_bytes is None:
            return None
        return Range(table.address, table.address + HEADER_BYTES + table.bitmap_bytes)

    @cached_property
    def _first_runs(self) -> list[Range]:
        runs = bits.unaccepted_ranges(self.covered, self.bitmap)
        return list(islice(runs, limits.CHECKED_RANGES + 1))

    @cached_property
    def unaccepted(self) -> list[Range]:
        """The unaccepted addresses, as the bitmap has them."""
        return self._first_runs[: limits.CHECKED_RANGES]

    @property
    def bitmap_cut(self) -> bool:
        """The bitmap has more ranges than are looked at, and :attr:`unaccepted` ends early."""
        return len(self._first_runs) > limits.CHECKED_RANGES

    def unaccepted_in(self, ranges: Iterable[tuple[int, int]]) -> list[Range]:
        return intersect(merged(ranges), self.unaccepted)

    @cached_property
    def guard_pages(self) -> list[Range]:
        """The accepted pages right before an unaccepted unit."""
        return [Range(run.start - PAGE_SIZE, run.start) for run in self.unaccepted if run.start >= PAGE_SIZE]

    # The memory maps

    @cached_property
    def descriptors(self) -> Sequence[efi.EfiDescriptor]:
        """The EFI memory map, in map order, without entries of no memory."""
        efi_map = self.snapshot.efi_map
        return () if efi_map is None else [d for d in efi_map.descriptors if d.start < d.end]

    @cached_property
    def efi_unaccepted(self) -> list[Range]:
        """EFI memory of type 15."""
        return merged((d.start, d.end) for d in self.descriptors if d.type == efi.UNACCEPTED)

    @cached_property
    def initially_unaccepted(self) -> list[Range]:
        """What the stub set bits for."""
        bitmap, _ = stub.process_unaccepted_memory(self.descriptors, self.covered)
        return list(bits.unaccepted_ranges(self.covered, bitmap))

    @cached_property
    def firmware_ram(self) -> list[Range]:
        """RAM of ``e820_table_firmware``, as the stub gave it."""
        return self._ram(None if self.snapshot.e820 is None else self.snapshot.e820.firmware)

    @cached_property
    def current_ram(self) -> list[Range]:
        """RAM of ``e820_table``, which the kernel uses."""
        return self._ram(None if self.snapshot.e820 is None else self.snapshot.e820.current)

    @property
    def used_ram(self) -> Optional[list[Range]]:
        """RAM of ``e820_table``, or if that was not captured of the firmware's table."""
        e820 = self.snapshot.e820
        if e820 is not None and e820.current is not None:
            return self.current_ram
        if e820 is not None and e820.firmware is not None:
            return self.firmware_ram
        return None

    @staticmethod
    def _ram(entries: Optional[Sequence[E820Entry]]) -> list[Range]:
        flat = e820_model.flatten(entries or ())
        return merged((entry.start, entry.end) for entry in flat if entry.type in _RAM_TYPES)

    def e820_of_type(self, entries: Sequence[E820Entry], type_: int) -> list[Range]:
        return merged((e.start, e.end) for e in e820_model.flatten(entries) if e.type == type_)

    # The page allocator

    @property
    def zones(self) -> Sequence[Zone]:
        return self.snapshot.zones or ()

    @property
    def chunk_pages(self) -> int:
        assert self.snapshot.kernel is not None
        return self.snapshot.kernel.chunk_pages

    @property
    def chunk_bytes(self) -> int:
        return self.chunk_pages * PAGE_SIZE

    @staticmethod
    def zone_name(zone: Zone) -> str:
        return f"node {zone.node} zone {zone.name}"

    @cached_property
    def listed_pfns(self) -> list[int]:
        """First PFNs of all listed chunks, ascending."""
        lists = (zone.listed.pfns for zone in self.zones if zone.listed is not None)
        return sorted(chain.from_iterable(lists))

    @cached_property
    def listed(self) -> list[Range]:
        """The listed chunks as ranges."""
        return chunk_ranges(self.listed_pfns, self.chunk_pages)

    @property
    def nr_unaccepted_pages(self) -> Optional[int]:
        """``NR_UNACCEPTED`` of all zones together, or the global counter."""
        of_zones = [zone.unaccepted_pages for zone in self.zones if zone.unaccepted_pages is not None]
        if of_zones:
            return sum(of_zones)
        counters = self.snapshot.counters
        return None if counters is None else counters.unaccepted_pages

    # The pages

    @cached_property
    def _page_runs(self) -> dict[str, list[tuple[int, int]]]:
        runs: dict[str, list[tuple[int, int]]] = {}
        pages = self.snapshot.pages
        for start_pfn, end_pfn, state in () if pages is None else pages.runs:
            runs.setdefault(state, []).append((start_pfn << PAGE_SHIFT, end_pfn << PAGE_SHIFT))
        return runs

    def pages_in_state(self, *states: str) -> list[Range]:
        """Where the struct pages are in one of ``states`` (of :class:`~drgn_unaccepted.snapshot.PageRun`)."""
        return merged(chain.from_iterable(self._page_runs.get(state, ()) for state in states))

    @cached_property
    def scanned(self) -> list[Range]:
        """Where the struct pages were looked at."""
        pages = self.snapshot.pages
        return [] if pages is None else merged(pages.scanned)

    # The moment

    @property
    def accepts(self) -> Sequence[Accept]:
        accepting = self.snapshot.accepting
        return () if accepting is None else accepting.entries

    @cached_property
    def in_flight(self) -> list[Range]:
        """What is being accepted, as far as the bitmap covers it."""
        base, units, unit_size = self.covered.phys_base, self.covered.units, self.covered.unit_size
        return merged(
            (base + min(entry.start_unit, units) * unit_size, base + min(entry.end_unit, units) * unit_size)
            for entry in self.accepts
        )

    @property
    def booting(self) -> bool:
        """The page allocator had not been given all its memory yet.

        Where ``system_state`` is not known: it had nothing at all, which is so until memblock_free_all().
        """
        kernel = self.snapshot.kernel
        if kernel is not None and kernel.is_booting:
            return True
        return bool(self.zones) and all(
            not zone.free_pages and not zone.buddy_pages and not (zone.listed and zone.listed.pfns)
            for zone in self.zones
        )

    @property
    def kexec_booted(self) -> Optional[bool]:
        kernel = self.snapshot.kernel
        return None if kernel is None else kernel.kexec_booted

    def torn(self, *parts: str) -> Optional[str]:
        """How one of ``parts`` changed while it was read, or None."""
        for entry in self.snapshot.torn:
            if entry.partition(":")[0].partition(".")[0] in parts:
                return entry
        return None

    def unsettled(self, zone: Optional[Zone]) -> Optional[str]:
        """Why lists and counters (of ``zone``) may have been between two states, or None if they were not."""
        zones = self.zones if zone is None else (zone,)
        for each in zones:
            if each.locked:
                return f"zone->lock of {self.zone_name(each)} was held"
        if self.accepts:
            in_flight = words.count(len(self.accepts), "accept")
            return f"{in_flight} {'was' if len(self.accepts) == 1 else 'were'} in flight"
        if self.live:
            return self.torn("zones", "counters", "accepting")
        for each in zones:
            if each.locked is None:
                return f"whether zone->lock of {self.zone_name(each)} was held is not known"
        if self.snapshot.accepting is None:
            return "whether an accept was in flight is not known"
        return None
