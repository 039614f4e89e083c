# SPDX-License-Identifier: LGPL-2.1-or-later
"""A snapshot as the rules see it: sorted, merged ranges out of each part, each computed once."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from itertools import chain, islice
from typing import Optional

from drgn_unaccepted import limits
from drgn_unaccepted.checks.finding import Finding
from drgn_unaccepted.model import bitmap as bits
from drgn_unaccepted.model import e820 as e820_model
from drgn_unaccepted.model import efi, stub
from drgn_unaccepted.model.bitmap import PAGE_SHIFT, PAGE_SIZE, Geometry
from drgn_unaccepted.model.e820 import E820Entry
from drgn_unaccepted.model.header import HEADER, PRESENT, Header, judge_header
from drgn_unaccepted.model.ranges import Range, chunk_ranges, intersect, merge
from drgn_unaccepted.snapshot import Accept, Snapshot, Zone
from drgn_unaccepted.words import count

#: RAM, and E820_TYPE_RESERVED_KERN, which Linux before 7.2 makes of the RAM under setup_data.
_RAM_TYPES = (e820_model.RAM, 128)

Version = tuple[int, ...]


def merged(ranges: Iterable[tuple[int, int]]) -> list[Range]:
    """:func:`merge` for ranges from a target, without those that are empty or reversed."""
    return merge((start, end) for start, end in ranges if start < end)


def version(release: Optional[str]) -> Optional[Version]:
    """``6.12.117+deb12-amd64`` as (6, 12, 117); None if the release is unknown or does not start with a version."""
    match = re.match(r"(\d{1,4})\.(\d{1,4})(?:\.(\d{1,4}))?(?!\d)", release or "")
    return tuple(int(part or 0) for part in match.groups()) if match else None


class Facts:
    """A snapshot and what follows from it.

    An attribute may raise or be empty where the snapshot lacks its part; a rule uses only what its needs cover.
    """

    def __init__(self, snapshot: Snapshot, finding_of: Callable[[str], Optional[Finding]]) -> None:
        self.snapshot = snapshot
        self.live = snapshot.target.kind == "live"
        self._finding_of = finding_of

    def finding(self, rule: str, *statuses: str) -> Optional[Finding]:
        """The finding of another rule, if it has one of these statuses."""
        finding = self._finding_of(rule)
        return finding if finding is not None and finding.status in statuses else None

    # The kernel

    @cached_property
    def version(self) -> Optional[Version]:
        return version(self.snapshot.target.release)

    @property
    def release(self) -> str:
        return self.snapshot.target.release or "a kernel of unknown release"

    def has_fix(self, mainline: Version, *stable: Version) -> bool:
        """Whether the kernel has a fix according to its version.

        A distribution may have backported it to another version, so False means "likely not".

        :param mainline: first release with the fix
        :param stable: first stable releases with it, each for its own series
        """
        this = self.version
        if this is None:
            return False
        return this >= mainline or any(this[:2] == fixed[:2] and this >= fixed for fixed in stable)

    @property
    def booting(self) -> bool:
        """The page allocator does not have all its memory yet.

        Where ``system_state`` is unknown: it has no memory at all, as before memblock_free_all().
        """
        kernel = self.snapshot.kernel
        if kernel is not None and kernel.is_booting:
            return True
        return bool(self.zones) and all(
            not zone.free_pages and not zone.buddy_pages and not (zone.listed and zone.listed.pfns)
            for zone in self.zones
        )

    # The table

    @cached_property
    def header(self) -> Optional[Header]:
        """The fields of the header, if all were read."""
        table = self.snapshot.table
        if table.version is None or table.unit_size is None or table.phys_base is None or table.bitmap_bytes is None:
            return None
        return Header(table.version, table.unit_size, table.phys_base, table.bitmap_bytes)

    def judge_header(self) -> tuple[str, Optional[str]]:
        """The table's state according to its header, and the reason; see :func:`model.header.judge_header`."""
        assert self.header is not None
        return judge_header(self.header, self.snapshot.table.address or 0)

    @cached_property
    def geometry(self) -> Optional[Geometry]:
        """The range that the bitmap covers, if the header is valid."""
        if self.header is None or self.snapshot.table.state not in ("present", "not-captured"):
            return None
        return self.header.geometry if self.judge_header()[0] == PRESENT else None

    @property
    def covered(self) -> Geometry:
        """:attr:`geometry` for rules that need it."""
        assert self.geometry is not None
        return self.geometry

    @cached_property
    def table_range(self) -> Optional[Range]:
        """The memory of the table, header and bitmap."""
        table = self.snapshot.table
        if table.address is None or table.bitmap_bytes is None:
            return None
        return Range(table.address, table.address + HEADER.size + table.bitmap_bytes)

    @cached_property
    def _first_runs(self) -> list[Range]:
        assert self.snapshot.table.bitmap is not None
        return list(islice(bits.unaccepted_ranges(self.covered, self.snapshot.table.bitmap), limits.CHECKED_RANGES + 1))

    @cached_property
    def unaccepted(self) -> list[Range]:
        """The addresses under set bits."""
        return self._first_runs[: limits.CHECKED_RANGES]

    @property
    def bitmap_cut(self) -> bool:
        """:attr:`unaccepted` lacks the last ranges of the bitmap, which has too many."""
        return len(self._first_runs) > limits.CHECKED_RANGES

    def unaccepted_in(self, ranges: Iterable[tuple[int, int]]) -> list[Range]:
        return intersect(merged(ranges), self.unaccepted)

    # The memory maps

    @cached_property
    def descriptors(self) -> Sequence[efi.EfiDescriptor]:
        """The EFI memory map, in map order, without empty entries."""
        efi_map = self.snapshot.efi_map
        return () if efi_map is None else [d for d in efi_map.descriptors if d.start < d.end]

    @cached_property
    def efi_unaccepted(self) -> list[Range]:
        """EFI memory of type 15."""
        return merged((d.start, d.end) for d in self.descriptors if d.type == efi.UNACCEPTED)

    @cached_property
    def initially_unaccepted(self) -> list[Range]:
        """The addresses whose bits the EFI stub set."""
        bitmap, _ = stub.process_unaccepted_memory(self.descriptors, self.covered)
        return list(bits.unaccepted_ranges(self.covered, bitmap))

    def e820(self, table: str) -> Optional[tuple[E820Entry, ...]]:
        """One of the e820 tables: ``current`` is that of the kernel, ``firmware`` that of the EFI stub."""
        entries: Optional[tuple[E820Entry, ...]] = getattr(self.snapshot.e820, table, None)
        return entries

    def e820_ranges(self, table: str, *types: int) -> list[Range]:
        flat = e820_model.flatten(self.e820(table) or ())
        return merged((entry.start, entry.end) for entry in flat if entry.type in types)

    @cached_property
    def firmware_ram(self) -> list[Range]:
        return self.e820_ranges("firmware", *_RAM_TYPES)

    @cached_property
    def current_ram(self) -> list[Range]:
        return self.e820_ranges("current", *_RAM_TYPES)

    @property
    def used_ram(self) -> Optional[list[Range]]:
        """RAM in ``e820_table``, or if that was not captured in ``e820_table_firmware``."""
        if self.e820("current") is not None:
            return self.current_ram
        return None if self.e820("firmware") is None else self.firmware_ram

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

    @cached_property
    def listed_pfns(self) -> list[int]:
        """First PFNs of all listed chunks, ascending."""
        lists = (zone.listed.pfns for zone in self.zones if zone.listed is not None)
        return sorted(chain.from_iterable(lists))

    @cached_property
    def listed(self) -> list[Range]:
        """The memory of the listed chunks."""
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
        """The pages in one of ``states`` (see :class:`~drgn_unaccepted.snapshot.PageRun`)."""
        return merged(chain.from_iterable(self._page_runs.get(state, ()) for state in states))

    @cached_property
    def scanned(self) -> list[Range]:
        """The memory whose struct pages were read."""
        pages = self.snapshot.pages
        return [] if pages is None else merged(pages.scanned)

    # Concurrency

    @property
    def accepts(self) -> Sequence[Accept]:
        accepting = self.snapshot.accepting
        return () if accepting is None else accepting.entries

    @cached_property
    def in_flight(self) -> list[Range]:
        """The memory that is being accepted, as far as the bitmap covers it."""
        base, units, unit_size = self.covered.phys_base, self.covered.units, self.covered.unit_size
        return merged(
            (base + min(entry.start_unit, units) * unit_size, base + min(entry.end_unit, units) * unit_size)
            for entry in self.accepts
        )

    def torn(self, *parts: str) -> Optional[str]:
        """How one of ``parts`` changed while it was read, or None."""
        for entry in self.snapshot.torn:
            if entry.partition(":")[0].partition(".")[0] in parts:
                return entry
        return None

    def unsettled(self, zone: Optional[Zone] = None) -> Optional[str]:
        """Why lists and counters (of ``zone``) may have been between two states, or None if they were not."""
        zones = self.zones if zone is None else (zone,)
        for each in zones:
            if each.locked:
                return f"zone->lock of {zone_name(each)} was held"
        if self.accepts:
            return f"{count(len(self.accepts), 'accept')} in flight"
        if self.live:
            return self.torn("zones", "counters", "accepting")
        for each in zones:
            if each.locked is None:
                return f"unknown whether zone->lock of {zone_name(each)} was held"
        if self.snapshot.accepting is None:
            return "unknown whether an accept was in flight"
        return None


def zone_name(zone: Zone) -> str:
    return f"node {zone.node} zone {zone.name}"
