# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read a target once and return a Snapshot.

The order makes reads of a running kernel sound: bits only ever clear, and a page is freed or allocated only after its
bits were cleared. So pages, lists and counters are read first and the bitmap last: what then shows a page in use under
a set bit is a fault and no race.

What reads a part that few questions need is imported with the part: start-up counts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from itertools import islice
from typing import Callable, Optional, TypeVar

import drgn

from drgn_unaccepted import limits
from drgn_unaccepted.errors import one_line
from drgn_unaccepted.kernel import table as table_reader
from drgn_unaccepted.kernel.accepting import read_accepting
from drgn_unaccepted.kernel.doubt import doubt, has_zero_page
from drgn_unaccepted.kernel.errors import DAMAGED, Unavailable
from drgn_unaccepted.kernel.platform import read_kernel_build, read_platform
from drgn_unaccepted.kernel.target import Opened
from drgn_unaccepted.kernel.vmcoreinfo import vmcoreinfo_of
from drgn_unaccepted.kernel.zones import read_counters, read_zones
from drgn_unaccepted.model import bitmap as bits
from drgn_unaccepted.model import ranges as rng
from drgn_unaccepted.model.header import HEADER
from drgn_unaccepted.model.ranges import Range
from drgn_unaccepted.snapshot import (
    PAGE_SHIFT,
    PAGE_SIZE,
    Counters,
    E820Tables,
    EfiMap,
    KernelBuild,
    KexecSegment,
    NamedRange,
    Pages,
    Snapshot,
    Table,
    Target,
    Task,
    Wanted,
    Zone,
)

T = TypeVar("T")

_NOT_ASKED = "not asked for"


@dataclass
class _Reading:
    """The state of one capture: what failed so far, and why."""

    opened: Opened
    wanted: Wanted
    missing: dict[str, str] = field(default_factory=dict)

    def part(self, name: str, read: Callable[[], T]) -> Optional[T]:
        """``read()``, or None with the reason noted under ``name``."""
        if name not in self.wanted.parts and not (name == "pages" and self.wanted.where):
            self.missing[name] = _NOT_ASKED
            return None
        try:
            return read()
        except Unavailable as error:
            self.missing[name] = str(error)
        except DAMAGED as error:
            self.missing[name] = one_line(error)
        return None


def samples(opened: Opened, wanted: Wanted, saved: Optional[table_reader.SavedTable] = None) -> Iterator[Snapshot]:
    """Snapshots of a target: of a live kernel as many as are asked for, of anything else one."""
    yield capture(opened, wanted, saved)
    while opened.kind == "live":
        yield capture(opened, wanted, saved)


def capture(opened: Opened, wanted: Wanted, saved: Optional[table_reader.SavedTable] = None) -> Snapshot:
    """Read what is ``wanted`` of an open target.

    :param saved: the table's bytes, saved elsewhere
    :raises TargetError: ``saved`` is of another table
    """
    reading = _Reading(opened, wanted)
    prog = opened.prog
    readers = table_readers(opened)
    table = table_reader.read_table(prog, readers, saved)
    if "pages" in wanted.parts:
        table = dataclasses.replace(table, unmapped=table_reader.unmapped_pages(prog, table))
    if opened.kind == "vmcore" and has_zero_page(table):
        # Zero is no evidence: it is held against the page allocator, whatever the question was.
        reading.wanted = dataclasses.replace(wanted, parts=wanted.parts | {"kernel", "zones", "counters"})
    # What does not change first, so that what does is read close together.
    kernel = reading.part("kernel", lambda: read_kernel_build(prog))
    platform = reading.part("platform", lambda: read_platform(prog))
    efi_map = reading.part("efi_map", lambda: _read_efi_map(prog))
    e820 = reading.part("e820", lambda: _read_e820(prog, reading))
    kernel_memory = reading.part("kernel_memory", lambda: _read_kernel_memory(prog, reading))
    kexec_segments = reading.part("kexec_segments", lambda: _read_kexec_segments(prog))
    panic = reading.part("panic", lambda: _read_panic(prog))
    # The counters before and after all that they are held against; a chunk leaves its list before it is accepted.
    counters = reading.part("counters", lambda: read_counters(prog))
    zones = reading.part("zones", lambda: read_zones(prog, _need(kernel)))
    accepting = reading.part("accepting", lambda: read_accepting(prog))
    if opened.kind == "vmcore":
        table = doubt(table, zones, counters, None if kernel is None else kernel.chunk_pages)
    pages = reading.part("pages", lambda: _read_pages(prog, wanted, table, zones, _need(kernel)))
    reclaiming = reading.part("reclaiming", lambda: _read_reclaiming(prog))
    torn: list[str] = []
    if opened.kind == "live":
        table = _bitmap_last(prog, readers, table, torn)
        _compare_counters(counters, reading.part("counters", lambda: read_counters(prog)), torn)
    return Snapshot(
        target=_describe(opened),
        table=table,
        kernel=kernel,
        efi_map=efi_map,
        e820=e820,
        zones=zones,
        counters=counters,
        accepting=accepting,
        platform=platform,
        kernel_memory=kernel_memory,
        pages=pages,
        kexec_segments=kexec_segments,
        reclaiming=reclaiming,
        panic=panic,
        missing=reading.missing,
        torn=tuple(torn),
    )


def _bitmap_last(
    prog: drgn.Program, readers: list[tuple[str, table_reader.Reader]], table: Table, torn: list[str]
) -> Table:
    """The table once more, after the pages and lists that its bits are held against."""
    if table.state != "present" or table.is_saved:
        return table
    again = table_reader.read_table(prog, readers)
    if again.state == "present" and again.geometry == table.geometry:
        return dataclasses.replace(again, unmapped=table.unmapped)
    torn.append(f"table: read as {again.state} the second time: {again.reason or 'another header'}")
    return table


def _compare_counters(before: Optional[Counters], after: Optional[Counters], torn: list[str]) -> None:
    if before is not None and after is not None and before.unaccepted_pages != after.unaccepted_pages:
        torn.append(
            f"counters: NR_UNACCEPTED went from {before.unaccepted_pages} to {after.unaccepted_pages} pages while the "
            "lists and the bitmap were read"
        )


def _read_efi_map(prog: drgn.Program) -> EfiMap:
    from drgn_unaccepted.kernel.efi import read_efi_map

    return read_efi_map(prog)


def _read_kexec_segments(prog: drgn.Program) -> tuple[KexecSegment, ...]:
    from drgn_unaccepted.kernel.kexec import read_kexec_segments

    return read_kexec_segments(prog)


def _read_panic(prog: drgn.Program) -> str:
    from drgn_unaccepted.kernel.log import read_panic

    return read_panic(prog)


def _read_reclaiming(prog: drgn.Program) -> tuple[Task, ...]:
    from drgn_unaccepted.kernel.tasks import read_reclaiming

    return read_reclaiming(prog)


def _read_e820(prog: drgn.Program, reading: _Reading) -> E820Tables:
    from drgn_unaccepted.kernel.e820 import read_e820

    tables, missing = read_e820(prog)
    reading.missing.update(missing)
    return tables


def _read_kernel_memory(prog: drgn.Program, reading: _Reading) -> tuple[NamedRange, ...]:
    from drgn_unaccepted.kernel.layout import read_kernel_memory

    ranges, missing = read_kernel_memory(prog)
    reading.missing.update(missing)
    return ranges


def _read_pages(
    prog: drgn.Program, wanted: Wanted, table: Table, zones: Optional[Sequence[Zone]], kernel: KernelBuild
) -> Pages:
    if "pages" not in wanted.parts and _bitmap_decides(wanted, table):
        raise Unavailable("not looked at: the bitmap decides")
    from drgn_unaccepted.kernel.pages import masked_pages, read_pages

    pages = read_pages(prog, pages_that_matter(wanted, table, zones), kernel, zones or ())
    if table.geometry is None or table.bitmap is None:
        return pages
    guards = (start >> PAGE_SHIFT for start, _ in bits.guard_pages(table.geometry, table.bitmap))
    pages = dataclasses.replace(pages, masked_pfns=masked_pages(prog, guards))
    found = bits.extent(table.bitmap)
    if found is None or found.runs <= limits.CHECKED_RANGES:
        return pages
    note = f"pages were looked at under the first {limits.CHECKED_RANGES} of {found.runs} ranges of the bitmap"
    return dataclasses.replace(pages, limited=note if pages.limited is None else f"{pages.limited}; {note}")


def _describe(opened: Opened) -> Target:
    prog = opened.prog
    return Target(
        kind=opened.kind,
        path=opened.path,
        release=prog["UTS_RELEASE"].string_().decode("ascii", "replace"),
        build_id=vmcoreinfo_of(prog).get("BUILD-ID"),
        debug_info=opened.debug_info,
        taken_at=datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        boot_id=table_reader.boot_id(prog),
    )


def table_readers(opened: Opened) -> list[tuple[str, table_reader.Reader]]:
    """How the table's bytes may be reached, best first."""
    readers = [("physical", table_reader.physical_reader(opened.prog, opened.elf))]
    if opened.kind == "live":
        from drgn_unaccepted.kernel.bpf import direct_map_reader

        readers.append(("bpf", direct_map_reader(opened.prog)))
    return readers


def pages_that_matter(wanted: Wanted, table: Table, zones: Optional[Sequence[Zone]]) -> list[Range]:
    """Physical ranges whose ``struct page`` a command needs."""
    ranges: list[Range] = []
    geometry = table.geometry
    for_checks = "pages" in wanted.parts
    if for_checks and wanted.bitmap and geometry is not None and table.bitmap is not None and not table.is_doubted:
        ranges += [
            # The page before a set unit is the one that needs the guard.
            Range(max(0, start - PAGE_SIZE), end)
            # No check looks at more of them; there can be 2^30.
            for start, end in islice(bits.unaccepted_ranges(geometry, table.bitmap), limits.CHECKED_RANGES)
        ]
    if for_checks and table.state == "present" and table.address is not None and table.bitmap_bytes is not None:
        ranges.append(Range(table.address, table.address + HEADER.size + table.bitmap_bytes))
    if not _bitmap_decides(wanted, table):
        # There is a struct page for what a zone spans, and for nothing else that is asked for.
        spans = rng.merge((z.start_pfn * PAGE_SIZE, (z.start_pfn + z.spanned_pages) * PAGE_SIZE) for z in zones or ())
        ranges += rng.intersect(rng.merge(wanted.where), spans) if zones is not None else wanted.where
    return rng.merge(ranges)


def _bitmap_decides(wanted: Wanted, table: Table) -> bool:
    """Whether a unit is unaccepted where its bit is set, and nowhere else."""
    return table.bitmap is not None and not (table.is_doubted or table.is_saved) and wanted.bitmap


def _need(kernel: Optional[KernelBuild]) -> KernelBuild:
    if kernel is None:
        raise Unavailable("how the kernel was built could not be told")
    return kernel
