# SPDX-License-Identifier: LGPL-2.1-or-later
"""What each part of a snapshot proves about memory, as ranges; :mod:`judgement` decides which fact wins.

A unit that was once accepted never becomes unaccepted again: bits only clear (Linux 6.5 to 7.3). The kernel accepts by
whole units, takes a chunk off ``zone->unaccepted_pages`` before it accepts it, and accepts a page before it gives it to
the buddy allocator (__free_pages_core(), __accept_page()).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import chain, islice
from typing import NamedTuple, Optional, Union

from drgn_unaccepted import limits
from drgn_unaccepted.answer import allocator
from drgn_unaccepted.answer.allocator import FEW_CHUNKS
from drgn_unaccepted.model import bitmap as bits
from drgn_unaccepted.model import e820, efi, stub
from drgn_unaccepted.model import ranges as rng
from drgn_unaccepted.model.bitmap import Geometry
from drgn_unaccepted.model.header import HEADER, X86_UNIT_SIZE
from drgn_unaccepted.model.ranges import Range
from drgn_unaccepted.snapshot import GIVEN_STATES, PAGE_SIZE, E820Tables, NamedRange, Snapshot
from drgn_unaccepted.words import size

_EFI_NO_RAM = (11, 12)  #: EFI types of no RAM: MMIO and MMIO ports.

#: EFI types of RAM that the firmware had accepted: loader, boot and runtime services, conventional, ACPI (UEFI
#: specification, table 7.10).
_EFI_ACCEPTED = frozenset((1, 2, 3, 4, 5, 6, 7, 9, 10))


class Fact(NamedTuple):
    """One phrase about a range."""

    start: int
    end: int
    proof: str


class Initial(NamedTuple):
    """The bits as they were at some earlier time of this boot; since then they only cleared."""

    geometry: Geometry
    unaccepted: list[Range]  #: Units whose bit was set.
    accepted: list[Fact]  #: Memory that was accepted already.
    #: Memory that the page allocator got at boot, accepted, in the ordinary way: EFI Conventional.
    conventional: list[Range]


class Evidence:
    """The facts of one snapshot."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        kernel, efi_map, geometry = snapshot.kernel, snapshot.efi_map, snapshot.table.geometry
        #: Bytes of a unit: of the table's header if it is sane, else of x86.
        self.unit = X86_UNIT_SIZE if geometry is None else geometry.unit_size
        #: Bytes of a listed chunk, ``PAGE_SIZE << MAX_PAGE_ORDER``.
        self.chunk = 2 * X86_UNIT_SIZE if kernel is None else kernel.chunk_pages * PAGE_SIZE
        self.in_flight = snapshot.in_flight(1) or []  #: The units of ``accepting_list``, each with its guard.
        self.kexec_segments = rng.merge((s.start, s.end) for s in snapshot.kexec_segments or () if s.start < s.end)
        #: Why nothing is known of any zone, or None.
        self.no_zones = None if snapshot.zones else "no zone is populated, as where node_data reads as zeros"
        if snapshot.zones is None:
            self.no_zones = snapshot.missing.get("zones", "not captured")
        #: Why no list is known, or None, also of a kernel that has none.
        self.no_lists = self.no_zones or snapshot.missing.get("zones.listed")
        #: Why there are no lists, or None.
        no_member = "struct zone has no unaccepted_pages: kernel without CONFIG_UNACCEPTED_MEMORY"
        self.lists_lack = self.no_lists or next((no_member for z in snapshot.zones or () if z.listed is None), None)
        # The descriptors of a complete EFI memory map, without empty ones.
        self._efi = [d for d in efi_map.descriptors if d.start < d.end] if efi_map and efi_map.complete else []
        self._memory_maps()

    def _memory_maps(self) -> None:
        tables, kernel = self.snapshot.e820 or E820Tables(None, None, None, None), self.snapshot.kernel
        entries = [e for e in chain(*(table or () for table in vars(tables).values())) if e.start < e.end]
        end = limits.PHYSICAL_END // PAGE_SIZE
        pfns = ((z.start_pfn, z.start_pfn + z.spanned_pages) for z in self.snapshot.zones or () if z.present_pages)
        spans = ((low * PAGE_SIZE, min(high, end) * PAGE_SIZE) for low, high in pfns)
        self._zones = rng.merge((low, high) for low, high in spans if low < high)
        self.type_15 = self._efi_memory(efi.UNACCEPTED)  #: EFI memory of type 15, of a complete map.
        #: RAM as the firmware reported it: of e820, and of a whole EFI memory map.
        ram = [(entry.start, entry.end) for entry in entries if entry.type in e820.RAM_TYPES]
        self.firmware_ram = rng.merge([*ram, *self._efi_memory(*_EFI_ACCEPTED, efi.UNACCEPTED)])
        self.hot_added = self._above(self.firmware_ram)  #: Memory of zones above all that the firmware reported.
        #: RAM of ``e820_table``, which the kernel uses; None where it was not captured.
        self.used_ram = None if tables.current is None else e820.memory(tables.current)
        #: RAM of ``e820_table_firmware``, in which all type 15 memory is; None where that is not so, or not known.
        #: kexec gives the next kernel a table of its own.
        self.stub_ram: Optional[list[Range]] = None
        if tables.firmware is not None and kernel is not None and kernel.kexec_booted is False:
            self.stub_ram = e820.memory(tables.firmware)
        #: All that any map calls memory, reserved memory included; None without a map that has RAM.
        self.memory: Optional[list[Range]] = None
        efi_memory = [d for d in self._efi if d.type not in _EFI_NO_RAM]
        known = rng.merge((entry.start, entry.end) for entry in chain(entries, efi_memory))
        if self.firmware_ram:
            # Hot-added memory is in no map of the firmware; a zone spans it.
            self.memory = rng.subtract(rng.merge([*known, *self._above(known)]), self._efi_memory(*_EFI_NO_RAM))
        #: Addresses that no map knows.
        self.no_ram = [] if self.memory is None else rng.subtract([Range(0, limits.PHYSICAL_END)], self.memory)

    def _efi_memory(self, *types: int) -> list[Range]:
        return rng.merge((d.start, d.end) for d in self._efi if d.type in types)

    def _above(self, memory: Sequence[Range]) -> list[Range]:
        """What zones span above the end of ``memory``."""
        return rng.subtract(self._zones, [Range(0, memory[-1].end)]) if memory else []

    def whole_units(self, ranges: Iterable[tuple[int, int]]) -> list[Range]:
        """The units that the ranges touch."""
        return rng.outwards(ranges, self.unit)

    def listable(self, ranges: Iterable[tuple[int, int]]) -> list[Range]:
        """The chunks that these bits put on a list: their own, and the one before a bit that is its guard's."""
        return rng.outwards(((max(0, start - self.unit), end) for start, end in ranges), self.chunk)

    @cached_property
    def set_bits(self) -> list[Range]:
        """The ranges under set bits of the table, read or saved: the first :data:`limits.CHECKED_RANGES`, and one more
        where there are more.
        """
        table = self.snapshot.table
        if table.geometry is None or table.bitmap is None:
            return []
        return list(islice(bits.unaccepted_ranges(table.geometry, table.bitmap), limits.CHECKED_RANGES + 1))

    @cached_property
    def table_range(self) -> Optional[Range]:
        """The memory of the table, its size by the header, else by what the EFI stub makes of the EFI memory map."""
        table, initial = self.snapshot.table, self.replayed
        geometry = table.geometry or (None if isinstance(initial, str) else initial.geometry)
        if table.address is None or geometry is None or not geometry.units:
            return None
        return Range(table.address, table.address + HEADER.size + geometry.bitmap_bytes)

    @cached_property
    def table_taken(self) -> list[Range]:
        """Pages of the table that are not PageReserved: they have another owner, who may have written there."""
        whole = rng.outwards([] if self.table_range is None else [self.table_range], PAGE_SIZE)
        # A page of unknown state is no evidence.
        return rng.intersect(whole, self.pages("buddy", "in-use", "unaccepted", "free", "offline", "device", "absent"))

    # The bits at boot

    @cached_property
    def initial(self) -> Union[Initial, str]:
        """The initial bitmap out of the EFI memory map, or why it is not known.

        A bitmap saved earlier in the same boot is as good, and better: bits only clear.
        """
        if self.snapshot.kernel is not None and self.snapshot.kernel.unaccepts:
            return "this kernel can set bits again: what was accepted earlier need not be accepted now"
        firmware, saved = self.replayed, self._saved()
        if isinstance(saved, str):
            return firmware if not isinstance(firmware, str) or self.snapshot.table.bitmap is None else saved
        if isinstance(firmware, str):
            return saved
        return saved._replace(accepted=[*firmware.accepted, *saved.accepted], conventional=firmware.conventional)

    @cached_property
    def replayed(self) -> Union[Initial, str]:
        """What the EFI stub made of the EFI memory map, or why it is not known."""
        kernel, efi_map, table = self.snapshot.kernel, self.snapshot.efi_map, self.snapshot.table
        if efi_map is None:
            return f"no EFI memory map: {self.snapshot.missing.get('efi_map', 'not captured')}"
        if not efi_map.is_whole:
            return f"the EFI memory map is not whole: {efi_map.note or efi_map.provenance}"
        if kernel is not None and kernel.kexec_booted:
            return "a kernel that kexec started has no EFI memory map of the boot"
        geometry = stub.allocate_unaccepted_bitmap(efi_map.descriptors, X86_UNIT_SIZE)
        known = ((d, efi.type_name(d.type)) for d in self._efi if d.type in _EFI_ACCEPTED)
        accepted = [Fact(d.start, d.end, f"never unaccepted: EFI {name}") for d, name in known]
        conventional = self._efi_memory(efi.CONVENTIONAL)
        if geometry is None:
            return Initial(Geometry(0, 0, X86_UNIT_SIZE), [], accepted, conventional)
        if geometry.bitmap_bytes > limits.BITMAP_BYTES:
            return "the EFI memory map has type 15 beyond all physical addresses: it is damaged"
        if self.no_table:
            # Nobody reads type 15 without a table: it stays as the firmware left it.
            return Initial(geometry, self.type_15, accepted, conventional)
        if table.geometry is not None and table.geometry != geometry:
            return "the table's header has another geometry than the EFI memory map gives: an earlier stage made it"
        unaccepted, at_once = stub.process_unaccepted_memory(efi_map.descriptors, geometry)
        stray = [] if self.stub_ram is None else rng.subtract(unaccepted, self.stub_ram)
        if stray:
            return f"EFI type 15 is no RAM in e820_table_firmware, the first at {stray[0].start:#x}: a map is damaged"
        accepted += [Fact(start, end, "accepted by the EFI stub at boot") for start, end in at_once]
        return Initial(geometry, unaccepted, sorted(accepted), conventional)

    @cached_property
    def bits_of_stub(self) -> Optional[list[Range]]:
        """The units whose bits the stub set in this table, whoever made it; None where nothing tells."""
        kernel, efi_map, geometry = self.snapshot.kernel, self.snapshot.efi_map, self.snapshot.table.geometry
        changed = kernel is not None and (kernel.kexec_booted or kernel.unaccepts)
        if changed or geometry is None or efi_map is None or not efi_map.is_whole:
            return None
        return stub.process_unaccepted_memory(efi_map.descriptors, geometry)[0]

    def _saved(self) -> Union[Initial, str]:
        table = self.snapshot.table
        if not table.is_saved or table.geometry is None or table.bitmap is None:
            return "no table saved earlier"
        if not table.same_boot:
            return "whether the saved table is of this boot is not known"
        if self.saved_doubt is not None:
            return self.saved_doubt
        covered = [Range(table.geometry.phys_base, table.geometry.end)]
        accepted = rng.subtract(rng.intersect(covered, self.firmware_ram or covered), self.set_bits)
        facts = [Fact(start, end, "its bit was 0 earlier in this boot") for start, end in accepted]
        return Initial(table.geometry, self.set_bits, facts, [])

    @cached_property
    def saved_doubt(self) -> Optional[str]:
        """What contradicts a table that was saved earlier, or None."""
        ones, initial = self.set_bits, self.replayed
        if len(ones) > limits.CHECKED_RANGES:
            return f"the bits of the saved table are in more than {limits.CHECKED_RANGES} ranges"
        stray = rng.subtract(ones, initial.unaccepted) if isinstance(initial, Initial) else []
        if stray:
            return f"the saved table has bits that the EFI stub did not set, the first at {stray[0].start:#x}"
        bare = self.listed_without_bit(ones, initial)
        if bare:
            return f"{size(rng.total(bare))} listed as unaccepted have no bit in it, the first at {bare[0].start:#x}"
        return None

    # The page allocator

    @cached_property
    def listed(self) -> list[Range]:
        """The chunks on all ``zone->unaccepted_pages``, merged."""
        lists = (zone.listed.pfns for zone in self.snapshot.zones or () if zone.listed is not None)
        return [] if self.snapshot.kernel is None else rng.chunk_ranges(self.snapshot.kernel.chunk_pages, *lists)

    def listed_without_bit(self, ones: Sequence[Range], initial: Union[Initial, str]) -> list[Range]:
        """Listed memory that should be in ``ones`` and is not: a chunk leaves its list before it is accepted.

        The first unit of a run can be accepted, as the guard of an accept that ended before it: then the unit before it
        has no bit either. Without the initial bits only chunks amid listed ones tell: the first of a run can be listed
        for its guard alone, or be the last of the memory that was unaccepted at boot.
        """
        unit, chunk = self.unit, self.chunk
        # kexec accepts the destinations of its segments, and their chunks stay listed (Linux 6.15).
        segments = self.whole_units((start, end + unit) for start, end in self.kexec_segments)
        excused = rng.merge([*self.in_flight, *segments])
        waiting = initial.unaccepted if isinstance(initial, Initial) else self.bits_of_stub
        if waiting is not None and unit == X86_UNIT_SIZE and chunk == 2 * unit:
            guards = (rng.find(ones, start - 1) is None for start, _ in self.listed)
            inner = [Range(start + unit if guard else start, end) for (start, end), guard in zip(self.listed, guards)]
            return rng.subtract(rng.subtract(rng.intersect(inner, waiting), ones), excused)
        inner = [Range(start + chunk, end) for start, end in self.listed if start + chunk < end]
        bare = rng.subtract(rng.subtract(inner, self.listable(ones)), excused)
        # An accept clears the bit of a unit that is larger than a chunk, and the other chunks in it stay listed.
        return bare if unit <= chunk or rng.total(bare) > FEW_CHUNKS * unit else []

    @cached_property
    def unlisted(self) -> list[Range]:
        """RAM with set bits that is on no list, if these are whole; reserved memory and CMA areas never were."""
        kernel, stray = self.snapshot.kernel, self.set_bits
        if self.lists_damaged is not None or not self.listed:
            return []
        cma = self.whole_units((kernel and kernel.fixed_cma) or ())
        if self.used_ram is not None:
            stray = rng.intersect(stray, self.used_ram)
        for known in (self.listed, self.in_flight, self.pages("reserved", "absent", "offline", "device"), cma):
            stray = rng.subtract(stray, known)
        return stray

    @cached_property
    def insane_entries(self) -> list[allocator.Insane]:
        """Faults of entries on the lists; a list can have a million."""
        return [*allocator.insane_entries(self.snapshot)]

    @cached_property
    def lists_damaged(self) -> Optional[str]:
        """Why chunks may be missing on the lists, or None where they are whole."""
        if self.lists_lack is not None:
            return self.lists_lack
        problem = allocator.damage(self.snapshot, lambda: self.insane_entries)
        stray = [] if problem else rng.subtract(self.pages("unaccepted"), self.listed)
        if stray:
            return f"{size(rng.total(stray))} are PageUnaccepted on no list, the first at {stray[0].start:#x}"
        return problem

    def pages(self, *states: str) -> list[Range]:
        """Where the struct pages are in one of these states (:class:`snapshot.PageRun`)."""
        runs = () if self.snapshot.pages is None else self.snapshot.pages.runs
        return rng.merge((run.start_pfn * PAGE_SIZE, run.end_pfn * PAGE_SIZE) for run in runs if run.state in states)

    @cached_property
    def given(self) -> list[Range]:
        """Pages that were given to the buddy allocator: on its lists, on a per-CPU list, or allocated.

        Until a page is freed for the first time, in early boot, it has the reference that memmap_init() gives every
        page, which proves nothing.
        """
        if self.no_table is not False:
            return []
        kernel = self.snapshot.kernel
        found = self.pages(*GIVEN_STATES) if kernel is not None and kernel.is_booting is False else self.pages("buddy")
        # CMA reaches the buddy lists without an accept (init_cma_reserved_pageblock()).
        cma = () if kernel is None else kernel.fixed_cma
        return [] if cma is None else rng.subtract(found, self.whole_units(cma))

    @cached_property
    def kernel_memory(self) -> list[Fact]:
        """Memory that the kernel itself used from the start: of what it names, all that is memory from end to end."""
        named = [*(self.snapshot.kernel_memory or ())]
        if self.table_range is not None:
            named.append(NamedRange("unaccepted memory table", *self.table_range))
        memory = self._zones if self.memory is None else self.memory
        return sorted(
            Fact(used.start, used.end, f"the kernel's own: {used.name}")
            for used in named
            if used.start < used.end and not rng.subtract([Range(used.start, used.end)], memory)
        )

    @cached_property
    def no_table(self) -> Optional[bool]:
        """Whether the kernel has no table, as it says; None where something else says that it had one."""
        if self.snapshot.table.state != "absent":
            return False
        if self.listed or self.nr_unaccepted_bytes:
            return None
        # The EFI stub of a kernel with the feature makes RAM of type 15, and a table.
        zones = self.snapshot.zones
        if not self.type_15 or (zones and all(zone.listed is None for zone in zones)):
            return True
        return (self.used_ram is not None and not rng.intersect(self.used_ram, self.type_15)) or None

    @property
    def nr_unaccepted_bytes(self) -> Optional[int]:
        """``NR_UNACCEPTED``: global, else the sum of the zones; None where neither was read, or it is impossible."""
        counters, zones = self.snapshot.counters, self.snapshot.zones
        pages = None if counters is None else counters.unaccepted_pages
        if pages is None and zones and all(zone.unaccepted_pages is not None for zone in zones):
            pages = sum(zone.unaccepted_pages or 0 for zone in zones)
        return None if pages is None or not 0 <= pages <= limits.PHYSICAL_END // PAGE_SIZE else pages * PAGE_SIZE
