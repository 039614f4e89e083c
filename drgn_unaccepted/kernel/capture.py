# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read a target once and return a Snapshot.

The order makes reads of a running kernel sound: bits only ever clear, and a page is freed or allocated only after its
bits were cleared. So pages, lists and counters are read first and the bitmap last: a page that then is in use under a
set bit is a fault and no race.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timezone
from functools import partial
from itertools import count, islice
from typing import Any, Callable, Optional, TypeVar

import drgn

from drgn_unaccepted import limits
from drgn_unaccepted.errors import one_line
from drgn_unaccepted.kernel import table as table_reader
from drgn_unaccepted.kernel.acpi import acpi_reader
from drgn_unaccepted.kernel.boot import read_e820, read_kernel_memory, read_kexec_segments
from drgn_unaccepted.kernel.efi import read_efi_map
from drgn_unaccepted.kernel.pages import are_zeros, read_pages
from drgn_unaccepted.kernel.platform import read_image, read_kernel_build, read_platform
from drgn_unaccepted.kernel.printk import read_log
from drgn_unaccepted.kernel.tasks import read_accepting, read_reclaiming
from drgn_unaccepted.kernel.zones import read_counters, read_zones
from drgn_unaccepted.model import bitmap as bits
from drgn_unaccepted.model import ranges as rng
from drgn_unaccepted.model.efi import UNACCEPTED
from drgn_unaccepted.model.header import HEADER, X86_UNIT_SIZE
from drgn_unaccepted.model.ranges import PAGE_SHIFT, PAGE_SIZE, Range
from drgn_unaccepted.model.stub import allocate_unaccepted_bitmap
from drgn_unaccepted.snapshot import (
    ALL_MEMORY,
    ALL_PARTS,
    GIVEN_STATES,
    NOT_ASKED,
    KernelBuild,
    Pages,
    Snapshot,
    Table,
    Target,
    Translation,
    Wanted,
)
from drgn_unaccepted.targets.errors import UNREADABLE, TargetError, Unavailable
from drgn_unaccepted.targets.opened import Opened
from drgn_unaccepted.targets.page_tables import kernel_page_tables
from drgn_unaccepted.targets.vmcoreinfo import vmcoreinfo_of

T = TypeVar("T")

# Parts that change while memory is accepted. Reading every struct page each second would take too long.
_MOVING = frozenset(("kernel", "zones", "counters", "accepting"))
_FIXED = ALL_PARTS - _MOVING - {"pages", "reclaiming", "panic"}


class _Reading:
    """One capture: the parts that are wanted, as far as they were read, and the reasons for the missing ones."""

    def __init__(self, parts: frozenset[str]) -> None:
        self._parts = parts
        self.found: dict[str, Any] = {}
        self.missing: dict[str, str] = {}

    def part(self, name: str, read: Callable[[], T]) -> Optional[T]:
        """``read()``, kept under ``name``; or None, with the reason kept."""
        self.missing[name] = NOT_ASKED
        if name in self._parts:
            try:
                value = self.found[name] = read()
                del self.missing[name]
                return value
            except UNREADABLE as error:
                self.missing[name] = one_line(error)
        return None

    def noted(self, found: tuple[T, dict[str, str]]) -> T:
        """A part some of which may be missing."""
        self.missing.update(found[1])
        return found[0]


def samples(opened: Opened, wanted: Wanted, saved: Optional[table_reader.SavedTable] = None) -> Iterator[Snapshot]:
    """Snapshots of a target: of a live kernel as many as are asked for, of anything else one."""
    return (capture(opened, wanted, saved) for _ in (count() if opened.is_running else range(1)))


def sampler(opened: Opened) -> Callable[[], Snapshot]:
    """A function that takes snapshots of one running kernel. Parts that stay as they were at boot are read once.

    :raises TargetError: it is not a running kernel
    """
    if not opened.is_running:
        raise TargetError(f"{opened.path}: watch and record need a running kernel")
    first = capture(opened, Wanted(_FIXED))

    def take() -> Snapshot:
        now = capture(opened, Wanted(_MOVING))
        missing = {name: reason for name, reason in now.missing.items() if name.partition(".")[0] not in _FIXED}
        missing.update((name, why) for name, why in first.missing.items() if name.partition(".")[0] in _FIXED)
        return dataclasses.replace(now, **{name: getattr(first, name) for name in _FIXED}, missing=missing)

    return take


def capture(opened: Opened, wanted: Wanted, saved: Optional[table_reader.SavedTable] = None) -> Snapshot:
    """Read what is ``wanted`` of an open target.

    :param saved: the table's bytes, saved elsewhere
    :raises TargetError: ``saved`` is of another table, or ``opened.logs`` of another boot
    """
    prog = opened.prog
    taken_at = datetime.now(timezone.utc)
    readers = table_readers(opened)
    table = table_reader.read_table(prog, readers, saved)
    if "pages" in wanted.parts:
        table = dataclasses.replace(table, unmapped=table_reader.unmapped_pages(prog, table))
    reading = _Reading(wanted.parts | {"pages"} if wanted.where else wanted.parts)
    # Read constants first, so that volatile parts are read close together.
    kernel = reading.part("kernel", lambda: read_kernel_build(prog))
    reading.part("platform", lambda: read_platform(prog))
    reading.part("efi_map", lambda: read_efi_map(prog, opened.logs, table.address))
    reading.part("e820", lambda: reading.noted(read_e820(prog)))
    reading.part("kernel_memory", lambda: reading.noted(read_kernel_memory(prog)))
    reading.part("kexec_segments", lambda: read_kexec_segments(prog))
    reading.part("image", lambda: read_image(prog))
    log = reading.part("panic", lambda: read_log(prog))
    if log is not None:
        reading.found.update(panic=log.panic, panic_task=log.panic_task)
    # The counters bracket the lists and the bitmap that they are compared with. A chunk leaves its list before it is
    # accepted.
    counters = reading.part("counters", lambda: read_counters(prog))
    reading.part("zones", lambda: read_zones(prog, _need(kernel)))
    reading.part("accepting", lambda: read_accepting(prog))
    reading.part("pages", lambda: _Look(opened, wanted, table, reading.found).read())
    reading.part("reclaiming", lambda: read_reclaiming(prog))
    torn: list[str] = []
    if opened.is_running:
        table = _bitmap_last(prog, readers, table, torn)
        after = reading.part("counters", lambda: read_counters(prog))
        reading.found["counters"] = counters
        if counters is not None and after is not None and counters.unaccepted_pages != after.unaccepted_pages:
            change = f"from {counters.unaccepted_pages} to {after.unaccepted_pages} pages"
            torn.append(f"counters: NR_UNACCEPTED went {change} while the lists and the bitmap were read")
    vmcoreinfo = vmcoreinfo_of(prog)
    crashed = vmcoreinfo.entries.get("CRASHTIME") or ""  # crash_save_vmcoreinfo() adds it in a crash
    is_time = crashed.isdecimal() and len(crashed) < 12
    target = Target(
        kind=opened.kind,
        path=opened.path,
        release=prog["UTS_RELEASE"].string_().decode("ascii", "replace"),
        build_id=vmcoreinfo.entries.get("BUILD-ID"),
        debug_info=opened.debug_info,
        debug_info_path=opened.debug_info_path,
        taken_at=taken_at.isoformat(timespec="milliseconds"),
        boot_id=table_reader.boot_id(prog),
        crashed_at=datetime.fromtimestamp(int(crashed), timezone.utc).isoformat() if is_time else None,
    )
    reading.found.update(missing=reading.missing, torn=tuple(torn), translations=translate(prog, wanted.virtual))
    return Snapshot(target, table, **reading.found)


def translate(prog: drgn.Program, addresses: Iterable[int]) -> tuple[Translation, ...]:
    """Kernel virtual addresses through the kernel's own page tables, or why they cannot be translated."""
    tables, found = kernel_page_tables(prog), []
    for address in addresses:
        try:
            if tables is None:
                raise drgn.FaultError("VMCOREINFO does not say where the page tables are", address)
            found.append(Translation(address, tables.translate(address).start))
        except UNREADABLE as error:
            found.append(Translation(address, None, one_line(error).removesuffix(f": {address:#x}")))
    return tuple(found)


def table_readers(opened: Opened) -> list[tuple[str, table_reader.Reader]]:
    readers: list[tuple[str, table_reader.Reader]] = [("physical", partial(table_reader.read_target, opened.prog))]
    if opened.kernel_reader is not None:
        readers.append(("bpf", acpi_reader(opened.prog, opened.kernel_reader)))
    return readers


def _bitmap_last(
    prog: drgn.Program, readers: list[tuple[str, table_reader.Reader]], table: Table, torn: list[str]
) -> Table:
    """The table once more, after the pages and lists that its bits are compared with."""
    if table.state == "present" and not table.is_saved:
        again = table_reader.read_table(prog, readers)
        if again.state == "present" and again.geometry == table.geometry:
            return dataclasses.replace(again, unmapped=table.unmapped)
        torn.append(f"table: read as {again.state} the second time: {again.reason or 'another header'}")
    return table


class _Look:
    """Whose ``struct page`` are worth a look, by the other parts."""

    def __init__(self, opened: Opened, wanted: Wanted, table: Table, found: Mapping[str, Any]) -> None:
        self._opened, self._wanted, self._table = opened, wanted, table
        kernel, efi_map, zones = _need(found.get("kernel")), found.get("efi_map"), found.get("zones", ())
        self._zones, self._kernel, self._chunk = zones, kernel, kernel.chunk_pages * PAGE_SIZE
        self._for_checks = "pages" in wanted.parts
        #: Whether a unit is unaccepted where its bit is set, and nowhere else.
        self._bitmap_decides = wanted.bitmap and table.bitmap is not None and not (table.is_doubted or table.is_saved)
        #: The chunks on ``zone->unaccepted_pages``.
        lists = (zone.listed.pfns for zone in zones if zone.listed is not None)
        self._listed = [] if self._bitmap_decides else rng.chunk_ranges(kernel.chunk_pages, *lists)
        self._whole_map = efi_map if efi_map is not None and efi_map.is_whole else None
        #: Memory of EFI type 15; None without the whole map: then it may be any memory.
        self._once = None if self._whole_map is None else self._whole_map.memory(UNACCEPTED)

    def read(self) -> Pages:
        prog, table = self._opened.prog, self._table
        if not self._for_checks and self._bitmap_decides:
            raise Unavailable("not looked at: the bitmap decides")
        units, edges = self._units_that_matter()
        if self._kernel.is_booting is not False:
            # Pages that were never freed have a reference all the same: each one has to be looked at.
            units, edges = [], rng.merge([*units, *edges])
        pages = read_pages(prog, [*self._ranges_for_checks(), *edges], self._kernel, self._zones, units)
        if not self._bitmap_decides and _shows_unaccepted_as_zeros(self._opened, table):
            written = (page for page, zeros in are_zeros(prog, self._untold(pages)) if not zeros)
            pages = dataclasses.replace(pages, written=tuple(rng.merge((page, page + PAGE_SIZE) for page in written)))
        if not self._for_checks or table.geometry is None or table.bitmap is None:
            return pages
        # /proc/kcore and /proc/vmcore return zeros for the last page before an unaccepted unit, whatever is in it:
        # pfn_is_unaccepted_memory() looks at the guard unit too (Linux kernel commits e538a5820978 and 7cd34dd3c9bf
        # (in v6.7)). A page that is not in the target is not among them.
        guards = (start for start, _ in bits.guard_pages(table.geometry, table.bitmap))
        masked = tuple(page >> PAGE_SHIFT for page, zeros in are_zeros(prog, guards) if zeros)
        pages = dataclasses.replace(pages, masked_pfns=masked)
        runs = bits.extent(table.bitmap)
        if runs is None or runs.runs <= limits.CHECKED_RANGES:
            return pages
        note = f"pages were looked at under the first {limits.CHECKED_RANGES} of {runs.runs} ranges of the bitmap"
        return dataclasses.replace(pages, limited="; ".join(filter(None, (pages.limited, note))))

    def _ranges_for_checks(self) -> list[Range]:
        """Physical ranges of unaccepted memory, with the pages before it, and of the table."""
        if not self._for_checks:
            return []
        table, geometry, ranges = self._table, self._table.geometry, [*self._listed]
        if self._wanted.bitmap and geometry is not None and table.bitmap is not None:
            # No check looks at more of them; there can be 2^30.
            ranges += islice(bits.unaccepted_ranges(geometry, table.bitmap), limits.CHECKED_RANGES)
        # The page before a set unit is the one that needs the guard.
        ranges = [Range(max(0, start - PAGE_SIZE), end) for start, end in ranges]
        if geometry is None and self._whole_map is not None:
            geometry = allocate_unaccepted_bitmap(self._whole_map.descriptors, X86_UNIT_SIZE)
        if table.address is not None and geometry is not None:
            end = min(geometry.bitmap_bytes, limits.BITMAP_BYTES) + HEADER.size + table.address
            ranges.append(Range(table.address, min(end, limits.PHYSICAL_END)))
        return ranges

    def _units_that_matter(self) -> tuple[list[Range], list[Range]]:
        """Physical ranges whose units a command asks for, and the pages among them before listed chunks."""
        if self._bitmap_decides:
            return [], []
        where, listed = self._wanted.where, self._listed
        if where == ALL_MEMORY:
            # All pages that there can be are those that the zones span.
            spans = ((z.start_pfn * PAGE_SIZE, (z.start_pfn + z.spanned_pages) * PAGE_SIZE) for z in self._zones)
            asked = rng.intersect(where, rng.merge(spans))
        else:
            asked = self._from_chunk_before(where)
        edges = (Range(max(0, start - PAGE_SIZE), start) for start, _ in rng.clip(listed, 0, limits.PHYSICAL_END))
        if self._once is not None:
            # Other memory was never unaccepted; the page before it may have its guard there.
            asked = rng.intersect(asked, self._from_chunk_before(self._once))
        # Listed chunks speak for themselves.
        return rng.subtract(asked, listed), rng.intersect(asked, rng.merge(edges))

    def _from_chunk_before(self, ranges: Iterable[Range]) -> list[Range]:
        """The page before a chunk tells whether its first unit is a guard."""
        return rng.merge((max(0, start - self._chunk), end) for start, end in ranges)

    def _untold(self, pages: Pages) -> Iterator[int]:
        """The first page, and one amid it, of each unit of type 15 that lists and struct pages do not tell."""
        given = ((r.start_pfn * PAGE_SIZE, r.end_pfn * PAGE_SIZE) for r in pages.runs if r.state in GIVEN_STATES)
        unit = X86_UNIT_SIZE
        told = rng.merge([*rng.outwards(given, unit), *self._listed])
        for start, end in rng.subtract(self._once or (), told):
            for address in range(-(-start // unit) * unit, end - unit + 1, unit):
                yield address
                yield address + unit // 2


def _shows_unaccepted_as_zeros(opened: Opened, table: Table) -> bool:
    """Whether it is a dump of /proc/vmcore by a crash kernel that fills unaccepted pages with zeros.

    Since Linux kernel commit 7cd34dd3c9bf (in v6.7). QEMU reads RAM past the kernel, and has the table too.
    """
    prog, notes = opened.prog, () if opened.elf is None else opened.elf.notes()
    if opened.is_running or (table.state == "present" and not table.is_saved):
        return False
    if vmcoreinfo_of(prog).entries.get("CRASHTIME") is None or any(note.name == b"QEMU" for note in notes):
        return False
    return bool(prog.symbols("unaccepted_memory_vmcore_pfn_is_ram"))


def _need(kernel: Optional[KernelBuild]) -> KernelBuild:
    if kernel is None:
        raise Unavailable("how the kernel was built could not be told")
    return kernel
