# SPDX-License-Identifier: LGPL-2.1-or-later
"""``map``: the state of memory in bins of equal size, and the maps beside it as lanes.

A bin is one byte of the bitmap (8 units, 16 MiB on x86) where the guest is small enough, else a power of two of such
bytes; with a window it can be 4, 2 or 1 units. Bins begin where bytes of the bitmap begin, so that counts are exact.
Rows with neither RAM nor unaccepted memory are left out, and named in the document.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Callable, Literal, NamedTuple, Optional, Union, cast

from drgn_unaccepted import limits
from drgn_unaccepted.answer.documents import Lanes, MapAnswer, MapGap, MapRow, MapTotals, TypedRange, ZoneSpan
from drgn_unaccepted.answer.head import head
from drgn_unaccepted.answer.judgement import Judgement
from drgn_unaccepted.answer.truth import ACCEPTED, UNACCEPTED, UNKNOWN
from drgn_unaccepted.model import bitmap as bits
from drgn_unaccepted.model import e820 as e820_model
from drgn_unaccepted.model import efi as efi_model
from drgn_unaccepted.model import ranges as rng
from drgn_unaccepted.model.e820 import E820Entry
from drgn_unaccepted.model.ranges import Range
from drgn_unaccepted.snapshot import PAGE_SIZE, Snapshot, Zone

UNITS_PER_BYTE = 8

ROWS, FINE_ROWS = 64, 16  #: The most rows of bins that are a byte of the bitmap or more, and of finer bins.

OUTSIDE, HOLE, RESERVED, GUARD = "outside", "hole", "reserved", "guard"
#: How a bin is shown: its unaccepted eighths (1 to 8), a word above, :data:`ACCEPTED` or :data:`UNKNOWN`.
Kind = Union[int, str]

MemoryFrom = Optional[Literal["e820", "efi", "zones"]]


class Layers(NamedTuple):
    ram: list[Range]
    reserved: list[Range]
    #: ``zones`` are their spans. None: without a map, all that the bitmap covers counts as RAM.
    memory_from: MemoryFrom
    unaccepted: list[Range]  #: Empty for an exact source: the bits say it.
    unknown: list[Range]  #: RAM of unknown state.
    uncovered: list[Range]  #: RAM outside the bitmap, where the bitmap is the source.
    guard: list[Range]  #: Unaccepted units that may be accepted as guards.
    filled: list[Range]  #: RAM and unaccepted memory: what is worth a row.


#: Of which a row has the bytes, and the map their sums, but for guards.
_KINDS = ("unaccepted", "ram", "reserved", "unknown", "uncovered", "guard")


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

    def rows(self, ranges: Sequence[Range], most: int) -> Optional[list[int]]:
        """Numbers of the rows that ``ranges`` touch, None for more than ``most``; none is before the origin."""
        inside = ((max(start, self.origin) - self.origin, end - self.origin) for start, end in ranges)
        touched = [range(low // self.row, -(-high // self.row)) for low, high in inside if high > 0]
        if any(len(numbers) > most for numbers in touched):
            return None
        numbers = sorted(set().union(*touched))
        return numbers if len(numbers) <= most else None


def map_document(
    snapshot: Snapshot,
    judgement: Judgement,
    *,
    window: Optional[Range] = None,
    columns: int = 64,
    wide: Optional[int] = None,
    finest: Optional[int] = None,
) -> MapAnswer:
    """Unaccepted units and bytes, and bytes of RAM, reserved and unknown memory, of each bin.

    From page lists a unit counts if a byte of it is listed: a unit can be larger than a chunk (4 MiB on x86).

    :param window: what to show and to count; by default all RAM and all that the bitmap covers
    :param columns: bins in a row while a bin is a byte of the bitmap or less, a power of two
    :param wide: bins in a row for guests that need larger bins, ``columns`` by default
    :param finest: units of the smallest bin; by default 8, with a window 1
    """
    geometry, unit = snapshot.table.geometry, judgement.evidence.unit
    shown = layers(snapshot, judgement, window)
    filled = shown.filled if window is None else shown.filled or [window]
    if finest is None:
        finest = UNITS_PER_BYTE if window is None else 1
    phys_base = 0 if geometry is None else geometry.phys_base
    grid, numbers = _grid(filled, unit, phys_base, columns, wide or columns, finest, window)
    touched, touched_guards = (rng.outwards(ranges, unit, phys_base) for ranges in (shown.unaccepted, shown.guard))
    kinds: dict[str, list[Range]] = {name: getattr(shown, name) for name in _KINDS}
    rows: list[Any] = []
    for start in map(grid.start, numbers):
        row: dict[str, Any] = {
            "start": start,
            **{f"{name}_bytes": bytes_inside(kinds[name], grid, start) for name in _KINDS},
        }
        row["guard_units"] = [inside // unit for inside in bytes_inside(touched_guards, grid, start)]
        if judgement.by_bits and window is None:
            row["unaccepted_units"] = set_bits(snapshot, grid, start)
            row["unaccepted_bytes"] = [count * unit for count in row["unaccepted_units"]]
        else:
            row["unaccepted_units"] = [inside // unit for inside in bytes_inside(touched, grid, start)]
        rows.append(row)
    totals = {f"{name}_bytes": sum(sum(row[f"{name}_bytes"]) for row in rows) for name in _KINDS[:-1]}
    return {
        **head(snapshot, judgement, "map"),
        "window": None if window is None else list(window),
        "unit_size": unit,
        "unit_size_from": "table" if geometry is not None else "x86",
        "covered": None if geometry is None else [geometry.phys_base, geometry.end],
        "memory_from": shown.memory_from,
        "bytes_per_bin": grid.bin,
        "units_per_bin": grid.bin // unit,
        "bins_per_row": grid.columns,
        "rows": rows,
        "left_out": [] if window is not None else _left_out(grid, numbers, shown),
        "totals": cast(MapTotals, {"units": sum(sum(row["unaccepted_units"]) for row in rows), **totals}),
        "lanes": lanes(snapshot),
    }


def kind(row: MapRow, index: int, bytes_per_bin: int) -> Kind:
    """How the bin is shown. Unaccepted memory is never hidden; unknown memory never looks like accepted memory."""
    unaccepted = row["unaccepted_bytes"][index]
    if unaccepted:
        return GUARD if unaccepted == row["guard_bytes"][index] else level(unaccepted, bytes_per_bin)
    if row["unknown_bytes"][index]:
        return UNKNOWN
    ram = row["ram_bytes"][index]
    if ram:
        return OUTSIDE if row["uncovered_bytes"][index] == ram else ACCEPTED
    return RESERVED if row["reserved_bytes"][index] else HOLE


def level(unaccepted: int, whole: int) -> int:
    """Eighths of a bin: 0 only for none of its bytes, 8 only for all."""
    if not 0 < unaccepted < whole:
        return 8 if unaccepted else 0
    return max(1, min(7, round(unaccepted * 8 / whole)))


def layers(snapshot: Snapshot, judgement: Judgement, window: Optional[Range] = None) -> Layers:
    """Memory of each kind, by the best map and this source; of the window, if there is one."""
    ram, reserved, memory_from = memory_of(snapshot)
    if window is not None:
        ram, reserved = rng.intersect(ram, [window]), rng.intersect(reserved, [window])
    by_all_bits = judgement.by_bits and window is None
    pieces = [] if by_all_bits else [*judgement.pieces(*window or (0, limits.PHYSICAL_END))]
    unaccepted, unknown = (rng.merge(p.range for p in pieces if p.state == state) for state in (UNACCEPTED, UNKNOWN))
    return Layers(
        ram,
        reserved,
        memory_from,
        unaccepted,
        unknown=rng.intersect(ram, unknown),
        uncovered=rng.subtract(ram, _covered(snapshot)) if judgement.name == "bitmap" else [],
        guard=[] if judgement.by_bits else rng.intersect(judgement.guards, unaccepted),
        filled=rng.merge([*ram, *unaccepted, *(_strays(snapshot, ram) if by_all_bits else ())]),
    )


def lanes(snapshot: Snapshot) -> Lanes:
    """The other maps as segments of one value, by address, neighbours joined; None where one was not captured."""
    efi_map, tables, accepts = snapshot.efi_map, snapshot.e820, snapshot.in_flight()
    zones: Optional[list[ZoneSpan]] = None
    if snapshot.zones is not None:
        spans = zip(map(_extent, snapshot.zones), snapshot.zones)
        zones = [{"start": low, "end": high, "node": zone.node, "name": zone.name} for (low, high), zone in spans]
    efi_entries = None if efi_map is None else [E820Entry(d.start, d.end, d.type) for d in efi_map.descriptors]
    return {
        "efi": _segments(efi_entries, efi_model.type_name),
        "efi_provenance": None if efi_map is None else efi_map.provenance,
        "efi_complete": None if efi_map is None else efi_map.complete,
        "e820": _segments(None if tables is None else tables.current, e820_model.type_name),
        "zones": zones,
        "accepting": None if accepts is None else [list(each) for each in rng.clip(accepts, 0, limits.PHYSICAL_END)],
    }


def _segments(entries: Optional[Sequence[E820Entry]], name: Callable[[int], str]) -> Optional[list[TypedRange]]:
    """The entries of a map by address; if they overlap, the highest type wins."""
    flat = e820_model.flatten(entries or ())
    segments: list[TypedRange] = [{"start": low, "end": high, "type": n, "name": name(n)} for low, high, n in flat]
    return None if entries is None else segments


def memory_of(snapshot: Snapshot) -> tuple[list[Range], list[Range], MemoryFrom]:
    """RAM, reserved memory, and where they are from: the first e820 table, else the EFI map, else the zones."""
    e820, efi_map = snapshot.e820, snapshot.efi_map
    tables = () if e820 is None else (e820.current, e820.firmware, e820.kexec, e820.boot_params)
    entries: Optional[Sequence[E820Entry]] = next((table for table in tables if table is not None), None)
    memory_from: MemoryFrom = "e820"
    if entries is None and efi_map is not None and efi_map.complete:
        kinds = (e820_model.RESERVED, e820_model.RAM)
        entries = [E820Entry(d.start, d.end, kinds[d.type in efi_model.RAM_TYPES]) for d in efi_map.descriptors]
        memory_from = "efi"
    elif entries is None and snapshot.zones:
        entries, memory_from = [E820Entry(*_extent(zone), e820_model.RAM) for zone in snapshot.zones], "zones"
    if entries is None:
        return _covered(snapshot), [], None
    ram: dict[bool, list[Range]] = {True: [], False: []}
    for start, end, kind in e820_model.flatten(entries):
        ram[kind in e820_model.RAM_TYPES] += rng.clip([Range(start, end)], 0, limits.PHYSICAL_END)
    return rng.merge(ram[True]), rng.merge(ram[False]), memory_from


def _extent(zone: Zone) -> Range:
    return Range(zone.start_pfn * PAGE_SIZE, (zone.start_pfn + zone.spanned_pages) * PAGE_SIZE)


def _covered(snapshot: Snapshot) -> list[Range]:
    geometry = snapshot.table.geometry
    return [] if geometry is None else [Range(geometry.phys_base, geometry.end)]


def _strays(snapshot: Snapshot, ram: Sequence[Range]) -> Iterator[Range]:
    """Memory that is not RAM from its first set bit on; there should be none."""
    geometry, bitmap = snapshot.table.geometry, snapshot.table.bitmap
    assert geometry is not None and bitmap is not None
    for gap in rng.subtract(_covered(snapshot), ram):
        units = bits.units_of(geometry, *gap)
        for first, _ in islice(bits.runs(bitmap, units.start, units.stop), 1):
            yield Range(geometry.unit(first).start, gap.end)


def _grid(
    filled: Sequence[Range], unit: int, phys_base: int, columns: int, wide: int, units: int, window: Optional[Range]
) -> tuple[Grid, list[int]]:
    """The finest grid that has few enough rows, and their numbers; its smallest bin has so many units."""
    while True:
        # A larger bin begins where a byte does, which need not be a multiple of its own size.
        step = min(units, UNITS_PER_BYTE) * unit
        grid = Grid(phys_base % step, units * unit, columns)
        if window is not None:
            # Its first row begins where it does, and is no longer.
            origin = max(0, window.start - (window.start - phys_base) % step)
            grid = Grid(origin, grid.bin, min(columns, -(-(window.end - origin) // grid.bin)))
        numbers = grid.rows(filled, ROWS if units >= UNITS_PER_BYTE else FINE_ROWS)
        if numbers is not None:
            return grid, numbers
        if units >= UNITS_PER_BYTE and columns < wide:
            columns = wide
        else:
            units *= 2


def bytes_inside(ranges: Sequence[Range], grid: Grid, start: int) -> list[int]:
    """Bytes of sorted, disjoint ``ranges`` in each bin of the row that begins at ``start``."""
    inside = [0] * grid.columns
    for low, high in rng.clip(ranges, start, start + grid.row):
        for index in range((low - start) // grid.bin, -(-(high - start) // grid.bin)):
            begin = start + index * grid.bin
            inside[index] += min(high, begin + grid.bin) - max(low, begin)
    return inside


def set_bits(snapshot: Snapshot, grid: Grid, start: int) -> list[int]:
    """Set bits of each bin of the row that begins at ``start``."""
    geometry, bitmap = snapshot.table.geometry, snapshot.table.bitmap
    assert geometry is not None and bitmap is not None
    units = (bits.units_of(geometry, low, low + grid.bin) for low in range(start, start + grid.row, grid.bin))
    return [bits.count(bitmap, each.start, each.stop) for each in units]


def _left_out(grid: Grid, numbers: Sequence[int], shown: Layers) -> list[MapGap]:
    """Memory between the rows, and before the first where the grid does not begin at 0."""
    pairs = zip(numbers, numbers[1:])
    gaps = [Range(grid.start(one + 1), grid.start(next_)) for one, next_ in pairs if one + 1 < next_]
    if numbers and grid.origin and shown.ram and shown.ram[0].start < grid.origin:
        gaps.insert(0, Range(0, grid.origin))
    of_kind = [[rng.total(rng.clip(memory, *gap)) for memory in (shown.ram, shown.reserved)] for gap in gaps]
    return [
        {"start": start, "end": end, "ram_bytes": ram, "reserved_bytes": reserved}
        for (start, end), (ram, reserved) in zip(gaps, of_kind)
    ]
