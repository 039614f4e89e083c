# SPDX-License-Identifier: LGPL-2.1-or-later
"""``map``: the state of memory in bins of equal size, and the maps beside it as lanes.

A bin is one byte of the bitmap (8 units, 16 MiB on x86) where the guest is small enough, else a power of two of such
bytes; zoomed in it can be 4, 2 or 1 units. Bins begin where bytes of the bitmap begin, so that a count is never an
estimate. Rows without RAM and without unaccepted memory are left out, and the document says which.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Optional

from drgn_unaccepted import limits
from drgn_unaccepted.answer.document import Document, document
from drgn_unaccepted.answer.evidence import listed_ranges, possible_guards
from drgn_unaccepted.answer.source import Source
from drgn_unaccepted.answer.state import (
    ACCEPTED,
    UNACCEPTED,
    StateMap,
)
from drgn_unaccepted.model import bitmap as bits
from drgn_unaccepted.model import e820 as e820_model
from drgn_unaccepted.model import efi as efi_model
from drgn_unaccepted.model import ranges as rng
from drgn_unaccepted.model.bitmap import Geometry
from drgn_unaccepted.model.header import X86_UNIT_SIZE
from drgn_unaccepted.model.ranges import Range
from drgn_unaccepted.snapshot import PAGE_SIZE, Snapshot

UNITS_PER_BYTE = 8

#: Rows of bins that are a byte of the bitmap or more, and of finer ones, which only a zoom has.
ROWS, FINE_ROWS = 64, 16

#: EFI types that are RAM which the kernel may use after ExitBootServices(): loader, boot services, conventional,
#: unaccepted (UEFI specification, table 7.10).
_EFI_RAM = frozenset((1, 2, 3, 4, 7, efi_model.UNACCEPTED))

#: e820 types that are RAM in the kernel's hands; 128 (E820_TYPE_RESERVED_KERN) is RAM that it uses itself.
_E820_RAM = frozenset((e820_model.RAM, 128))


class Memory(NamedTuple):
    """What is RAM and what is reserved, from the best map at hand."""

    ram: list[Range]
    reserved: list[Range]
    #: ``e820``, ``efi``, ``zones`` (their spans) or None: no map, all that the bitmap covers is taken for RAM.
    provenance: Optional[str]


class Grid(NamedTuple):
    """Rows of bins over the address space; row ``n`` begins at ``origin + n * columns * bin``."""

    origin: int
    bin: int
    columns: int

    @property
    def row(self) -> int:
        return self.bin * self.columns

    def start(self, number: int) -> int:
        return self.origin + number * self.row

    def rows(self, ranges: Sequence[Range]) -> Iterator[range]:
        """Numbers of the rows that each of ``ranges`` touches; what lies before the origin touches none."""
        for start, end in ranges:
            if end > self.origin:
                yield range((max(start, self.origin) - self.origin) // self.row, -(-(end - self.origin) // self.row))


def map_document(
    snapshot: Snapshot,
    source: Source,
    *,
    window: Optional[Range] = None,
    columns: int = 64,
    wide: Optional[int] = None,
    finest: Optional[int] = None,
) -> Document:
    """Unaccepted units and bytes, and bytes of RAM, reserved and unknown memory, of each bin.

    From page lists a unit counts if a byte of it is listed: a unit can be larger than a chunk (4 MiB on x86).

    :param window: what to show, widened to whole rows; by default all RAM and all that the bitmap covers
    :param columns: bins in a row while a bin is a byte of the bitmap or less, a power of two
    :param wide: bins in a row for guests that need larger bins, ``columns`` by default
    :param finest: units of the smallest bin; by default 8, with a window 1
    """
    geometry = snapshot.table.geometry
    unit = X86_UNIT_SIZE if geometry is None else geometry.unit_size
    memory = memory_of(snapshot)
    unaccepted, accepted = _states(snapshot, source)
    shown = Range(0, limits.PHYSICAL_END) if window is None else window
    filled = rng.intersect(rng.merge(memory.ram + strays(snapshot, source, memory.ram)), [shown])
    if window is not None and not filled:
        filled = [shown]
    if finest is None:
        finest = UNITS_PER_BYTE if window is None else 1
    phys_base = 0 if geometry is None else geometry.phys_base
    grid = _grid(filled, unit, phys_base, columns, wide or columns, finest)
    numbers = sorted({number for touched in grid.rows(filled) for number in touched})

    known = rng.merge(unaccepted + accepted)
    unknown = [] if source.exact else rng.subtract(memory.ram, known)
    covered = [] if geometry is None else [Range(geometry.phys_base, geometry.end)]
    uncovered = rng.subtract(memory.ram, covered) if source.name == "bitmap" else []
    guards = [] if source.exact else rng.intersect(possible_guards(snapshot), unaccepted)
    touched, touched_guards = (_whole_units(ranges, unit, phys_base) for ranges in (unaccepted, guards))
    rows: list[Document] = []
    for number in numbers:
        start = grid.start(number)
        if source.exact:
            assert geometry is not None and snapshot.table.bitmap is not None
            units = set_bits(geometry, snapshot.table.bitmap, grid, start)
            unaccepted_bytes = [count * unit for count in units]
        else:
            units = [inside // unit for inside in bytes_inside(touched, grid, start)]
            unaccepted_bytes = bytes_inside(unaccepted, grid, start)
        rows.append(
            {
                "start": start,
                "unaccepted_units": units,
                "unaccepted_bytes": unaccepted_bytes,
                "ram_bytes": bytes_inside(memory.ram, grid, start),
                "reserved_bytes": bytes_inside(memory.reserved, grid, start),
                "unknown_bytes": bytes_inside(unknown, grid, start),
                "uncovered_bytes": bytes_inside(uncovered, grid, start),
                "guard_units": [inside // unit for inside in bytes_inside(touched_guards, grid, start)],
                "guard_bytes": bytes_inside(guards, grid, start),
            }
        )
    answer = document(snapshot, source, "map")
    answer.update(
        {
            "window": None if window is None else list(window),
            "unit_size": unit,
            "unit_size_from": "table" if geometry is not None else "x86",
            "covered": None if geometry is None else list(covered[0]),
            "memory_from": memory.provenance,
            "bytes_per_bin": grid.bin,
            "units_per_bin": grid.bin // unit,
            "bins_per_row": grid.columns,
            "rows": rows,
            "left_out": _left_out(grid, numbers, memory),
            "totals": {
                "units": sum(sum(row["unaccepted_units"]) for row in rows),
                **{
                    key: sum(sum(row[key]) for row in rows)
                    for key in ("unaccepted_bytes", "ram_bytes", "reserved_bytes", "unknown_bytes", "uncovered_bytes")
                },
            },
            "lanes": lanes(snapshot),
        }
    )
    return answer


def lanes(snapshot: Snapshot) -> Document:
    """The other maps as segments of one value, by address, neighbours joined; None where one was not captured."""
    efi_map, tables = snapshot.efi_map, snapshot.e820
    base, _ = snapshot.unit_base()
    accepting = None
    if snapshot.accepting is not None and base is not None:
        accepting = [
            [start, end]
            for start, end, _ in _segments(
                (base[0] + entry.start_unit * base[1], base[0] + entry.end_unit * base[1], 0)
                for entry in snapshot.accepting.entries
            )
        ]
    return {
        "efi": None
        if efi_map is None
        else [
            {"start": start, "end": end, "type": type_, "name": efi_model.type_name(type_)}
            for start, end, type_ in _segments((d.start, d.end, d.type) for d in efi_map.descriptors)
        ],
        "efi_provenance": None if efi_map is None else efi_map.provenance,
        "efi_complete": None if efi_map is None else efi_map.complete,
        "e820": None
        if tables is None or tables.current is None
        else [
            {"start": start, "end": end, "type": type_, "name": e820_model.type_name(type_)}
            for start, end, type_ in e820_model.flatten(tables.current)
        ],
        "zones": None
        if snapshot.zones is None
        else [
            {
                "start": zone.start_pfn * PAGE_SIZE,
                "end": (zone.start_pfn + zone.spanned_pages) * PAGE_SIZE,
                "node": zone.node,
                "name": zone.name,
            }
            for zone in snapshot.zones
        ],
        "accepting": accepting,
    }


def _segments(entries: Iterator[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Sorted by address, neighbours of one value joined, cut at the end of physical memory."""
    joined: list[tuple[int, int, int]] = []
    for start, end, type_ in sorted(entries):
        end = min(end, limits.PHYSICAL_END)
        if start >= end:
            continue
        if joined and joined[-1][1] == start and joined[-1][2] == type_:
            joined[-1] = (joined[-1][0], end, type_)
        else:
            joined.append((start, end, type_))
    return joined


def memory_of(snapshot: Snapshot) -> Memory:
    """RAM and reserved memory: from the first e820 table that was captured, else the EFI map, else the zones."""
    if snapshot.e820 is not None:
        for table in (snapshot.e820.current, snapshot.e820.firmware, snapshot.e820.kexec, snapshot.e820.boot_params):
            if table is not None:
                return _sorted_out(((e.start, e.end, e.type in _E820_RAM) for e in table), "e820")
    efi_map = snapshot.efi_map
    if efi_map is not None and efi_map.complete:
        return _sorted_out(((d.start, d.end, d.type in _EFI_RAM) for d in efi_map.descriptors), "efi")
    if snapshot.zones:
        spans = ((z.start_pfn * PAGE_SIZE, (z.start_pfn + z.spanned_pages) * PAGE_SIZE, True) for z in snapshot.zones)
        return _sorted_out(spans, "zones")
    geometry = snapshot.table.geometry
    covered = [] if geometry is None else [Range(geometry.phys_base, geometry.end)]
    return Memory(covered, [], None)


def _sorted_out(entries: Iterator[tuple[int, int, bool]], provenance: str) -> Memory:
    kinds: dict[bool, list[Range]] = {True: [], False: []}
    for start, end, is_ram in entries:
        end = min(end, limits.PHYSICAL_END)
        if start < end:
            kinds[is_ram].append(Range(start, end))
    # Where entries overlap the kernel takes the higher type, and all others are higher than RAM's 1.
    reserved = rng.merge(kinds[False])
    return Memory(rng.subtract(rng.merge(kinds[True]), reserved), reserved, provenance)


def _states(snapshot: Snapshot, source: Source) -> tuple[list[Range], list[Range]]:
    """Unaccepted and accepted ranges, where they are not simply the bits of the bitmap."""
    if source.exact:
        return [], []
    found: dict[str, list[Range]] = {UNACCEPTED: [], ACCEPTED: []}
    for piece in StateMap(snapshot, source).pieces(0, limits.PHYSICAL_END):
        if piece.state in found:
            found[piece.state].append(Range(piece.start, piece.end))
    return rng.merge(found[UNACCEPTED]), rng.merge(found[ACCEPTED])


def strays(snapshot: Snapshot, source: Source, ram: Sequence[Range]) -> list[Range]:
    """Unaccepted memory that is not RAM, which should not be, in whole units."""
    if source.name != "bitmap":
        return rng.subtract(listed_ranges(snapshot), ram) if source.name == "page-lists" else []
    geometry, bitmap = snapshot.table.geometry, snapshot.table.bitmap
    assert geometry is not None and bitmap is not None
    found: list[Range] = []
    for gap in rng.subtract([Range(geometry.phys_base, geometry.end)], ram):
        units = bits.units_of(geometry, *gap)
        for first, end in bits.runs(bitmap, units.start, units.stop):
            run = Range(geometry.unit(first).start, geometry.unit(end - 1).end)
            if len(found) == limits.MAP_STRAYS:
                # Too scattered to tell apart: all that the bitmap covers from here on is shown.
                return rng.merge([*found, Range(run.start, geometry.end)])
            found.append(run)
    return rng.merge(found)


def _whole_units(ranges: Sequence[Range], unit: int, phys_base: int) -> list[Range]:
    """The units that ``ranges`` touch."""
    base = phys_base % unit
    return rng.merge((start - (start - base) % unit, end + (base - end) % unit) for start, end in ranges)


def _grid(filled: Sequence[Range], unit: int, phys_base: int, columns: int, wide: int, finest: int) -> Grid:
    """The finest grid that has few enough rows."""
    units = finest
    while units < UNITS_PER_BYTE:
        grid = Grid(phys_base % (units * unit), units * unit, columns)
        if _few(grid, filled, FINE_ROWS):
            return grid
        units *= 2
    # A larger bin begins where a byte does, which need not be a multiple of its own size.
    origin = phys_base % (UNITS_PER_BYTE * unit)
    grid = Grid(origin, units * unit, columns)
    while not _few(grid, filled, ROWS):
        grid = Grid(origin, grid.bin if grid.columns < wide else grid.bin * 2, wide)
    return grid


def _few(grid: Grid, filled: Sequence[Range], most: int) -> bool:
    numbers: set[int] = set()
    for touched in grid.rows(filled):
        if len(touched) > most:
            return False
        numbers.update(touched)
        if len(numbers) > most:
            return False
    return True


def bytes_inside(ranges: Sequence[Range], grid: Grid, start: int) -> list[int]:
    """Bytes of sorted, disjoint ``ranges`` in each bin of the row that begins at ``start``."""
    inside = [0] * grid.columns
    end = start + grid.row
    index = max(0, bisect_right(ranges, (start, limits.PHYSICAL_END)) - 1)
    while index < len(ranges) and ranges[index].start < end:
        low, high = max(ranges[index].start, start) - start, min(ranges[index].end, end) - start
        index += 1
        if low >= high:
            continue
        first, last = low // grid.bin, (high - 1) // grid.bin
        if first == last:
            inside[first] += high - low
            continue
        inside[first] += (first + 1) * grid.bin - low
        inside[first + 1 : last] = [grid.bin] * (last - first - 1)
        inside[last] += high - last * grid.bin
    return inside


def set_bits(geometry: Geometry, bitmap: bytes, grid: Grid, start: int) -> list[int]:
    """Set bits of each bin of the row that begins at ``start``."""
    per_bin = grid.bin // geometry.unit_size
    before = (start - geometry.phys_base) // geometry.unit_size
    counts = []
    for first in range(before, before + per_bin * grid.columns, per_bin):
        end = min(first + per_bin, geometry.units)
        first = max(first, 0)
        if first >= end:
            counts.append(0)
        elif per_bin >= UNITS_PER_BYTE:
            # The grid begins where a byte of the bitmap does, and so does each of its bins.
            counts.append(bits.count(bitmap[first >> 3 : end >> 3]))
        else:
            byte = bitmap[first >> 3] >> (first & 7) & (1 << end - first) - 1
            counts.append(bin(byte).count("1"))
    return counts


def _left_out(grid: Grid, numbers: Sequence[int], memory: Memory) -> list[Document]:
    """What lies between the rows, and before the first where the grid does not begin at 0."""
    gaps = []
    if numbers and grid.origin and memory.ram and memory.ram[0].start < grid.origin:
        gaps.append(Range(0, grid.origin))
    for before, after in zip(numbers, numbers[1:]):
        if before + 1 < after:
            gaps.append(Range(grid.start(before + 1), grid.start(after)))
    return [
        {
            "start": gap.start,
            "end": gap.end,
            "ram_bytes": rng.total(rng.intersect(memory.ram, [gap])),
            "reserved_bytes": rng.total(rng.intersect(memory.reserved, [gap])),
        }
        for gap in gaps
    ]
