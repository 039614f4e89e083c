# SPDX-License-Identifier: LGPL-2.1-or-later
"""``map``: the state of memory in bins of equal size, and the maps beside it as lanes.

A bin is one byte of the bitmap (8 units, 16 MiB on x86) where the guest is small enough, else a power of two of such
bytes; with a window it can be 4, 2 or 1 units. Bins begin where bytes of the bitmap begin, so that counts are exact.
Rows with neither RAM nor unaccepted memory are left out, and named in the document.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Callable, Literal, NamedTuple, Optional, Union

from drgn_unaccepted import limits
from drgn_unaccepted.answer.documents import Lanes, MapAnswer, MapGap, MapRow, Span, TypedRange, ZoneSpan
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

#: The most rows of bins that are a byte of the bitmap or more, and of finer bins.
ROWS, FINE_ROWS = 64, 16

OUTSIDE, HOLE, RESERVED, GUARD = "outside", "hole", "reserved", "guard"
#: How a bin is shown: its unaccepted eighths (1 to 8), a word above, :data:`ACCEPTED` or :data:`UNKNOWN`.
Kind = Union[int, str]

MemoryFrom = Optional[Literal["e820", "efi", "zones"]]


class Layers(NamedTuple):
    ram: list[Range]
    reserved: list[Range]
    #: ``zones`` are their spans. None: without a map, all that the bitmap covers counts as RAM.
    memory_from: MemoryFrom
    #: Empty for an exact source: the bits say it.
    unaccepted: list[Range]
    #: RAM of unknown state, and RAM outside the bitmap where the bitmap is the source.
    unknown: list[Range]
    uncovered: list[Range]
    #: Unaccepted units that may be accepted as guards.
    guards: list[Range]
    #: RAM and unaccepted memory: what is worth a row.
    filled: list[Range]


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
    touched, touched_guards = (rng.outwards(ranges, unit, phys_base) for ranges in (shown.unaccepted, shown.guards))
    rows: list[MapRow] = []
    for start in map(grid.start, numbers):
        if judgement.by_bits and window is None:
            units = set_bits(snapshot, grid, start)
            unaccepted_bytes = [count * unit for count in units]
        else:
            units = [inside // unit for inside in bytes_inside(touched, grid, start)]
            unaccepted_bytes = bytes_inside(shown.unaccepted, grid, start)
        rows.append(
            {
                "start": start,
                "unaccepted_units": units,
                "unaccepted_bytes": unaccepted_bytes,
                "ram_bytes": bytes_inside(shown.ram, grid, start),
                "reserved_bytes": bytes_inside(shown.reserved, grid, start),
                "unknown_bytes": bytes_inside(shown.unknown, grid, start),
                "uncovered_bytes": bytes_inside(shown.uncovered, grid, start),
                "guard_units": [inside // unit for inside in bytes_inside(touched_guards, grid, start)],
                "guard_bytes": bytes_inside(shown.guards, grid, start),
            }
        )
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
        "totals": {
            "units": sum(sum(row["unaccepted_units"]) for row in rows),
            "unaccepted_bytes": sum(sum(row["unaccepted_bytes"]) for row in rows),
            "ram_bytes": sum(sum(row["ram_bytes"]) for row in rows),
            "reserved_bytes": sum(sum(row["reserved_bytes"]) for row in rows),
            "unknown_bytes": sum(sum(row["unknown_bytes"]) for row in rows),
            "uncovered_bytes": sum(sum(row["uncovered_bytes"]) for row in rows),
        },
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
    found: dict[str, list[Range]] = {UNACCEPTED: [], UNKNOWN: []}
    by_all_bits = judgement.by_bits and window is None
    for piece in () if by_all_bits else judgement.pieces(*window or (0, limits.PHYSICAL_END)):
        if piece.state in found:
            found[piece.state].append(Range(piece.start, piece.end))
    unaccepted = rng.merge(found[UNACCEPTED])
    return Layers(
        ram,
        reserved,
        memory_from,
        unaccepted,
        unknown=rng.intersect(ram, rng.merge(found[UNKNOWN])),
        uncovered=rng.subtract(ram, _covered(snapshot)) if judgement.name == "bitmap" else [],
        guards=[] if judgement.by_bits else rng.intersect(judgement.guards, unaccepted),
        filled=rng.merge([*ram, *unaccepted, *(_strays(snapshot, ram) if by_all_bits else ())]),
    )


def lanes(snapshot: Snapshot) -> Lanes:
    """The other maps as segments of one value, by address, neighbours joined; None where one was not captured."""
    efi_map, tables = snapshot.efi_map, snapshot.e820
    zones = None if snapshot.zones is None else [(*_extent(zone), zone) for zone in snapshot.zones]
    efi_entries = None if efi_map is None else [E820Entry(d.start, d.end, d.type) for d in efi_map.descriptors]
    return {
        "efi": _segments(efi_entries, efi_model.type_name),
        "efi_provenance": None if efi_map is None else efi_map.provenance,
        "efi_complete": None if efi_map is None else efi_map.complete,
        "e820": _segments(None if tables is None else tables.current, e820_model.type_name),
        "zones": None
        if zones is None
        else [{"start": low, "end": high, "node": one.node, "name": one.name} for low, high, one in zones],
        "accepting": _accepting(snapshot),
    }


def _zone_span(zone: Zone) -> ZoneSpan:
    start, end = _extent(zone)
    return {"start": start, "end": end, "node": zone.node, "name": zone.name}


def _segments(entries: Optional[Sequence[E820Entry]], name: Callable[[int], str]) -> Optional[list[TypedRange]]:
    """The entries of a map by address; if they overlap, the highest type wins."""
    flat = e820_model.flatten(entries or ())
    segments: list[TypedRange] = [{"start": low, "end": high, "type": n, "name": name(n)} for low, high, n in flat]
    return None if entries is None else segments


def _accepting(snapshot: Snapshot) -> Optional[list[Span]]:
    """The accepts in flight; None where they, or the address of unit 0, are unknown."""
    found = snapshot.in_flight()
    return None if found is None else [list(range_) for range_ in rng.clip(found, 0, limits.PHYSICAL_END)]


def memory_of(snapshot: Snapshot) -> tuple[list[Range], list[Range], MemoryFrom]:
    """RAM, reserved memory, and where they are from: the first e820 table, else the EFI map, else the zones."""
    e820, efi_map = snapshot.e820, snapshot.efi_map
    tables = () if e820 is None else (e820.current, e820.firmware, e820.kexec, e820.boot_params)
    table = next((one for one in tables if one is not None), None)
    memory_from: MemoryFrom = "e820"
    if table is not None:
        entries = [(e.start, e.end, e.type in e820_model.RAM_TYPES) for e in table]
    elif efi_map is not None and efi_map.complete:
        entries, memory_from = [(d.start, d.end, d.type in efi_model.RAM_TYPES) for d in efi_map.descriptors], "efi"
    elif snapshot.zones:
        entries, memory_from = [(*_extent(zone), True) for zone in snapshot.zones], "zones"
    else:
        return _covered(snapshot), [], None
    kinds: dict[bool, list[Range]] = {True: [], False: []}
    for start, end, is_ram in entries:
        end = min(end, limits.PHYSICAL_END)
        if start < end:
            kinds[is_ram].append(Range(start, end))
    # Where entries overlap, the kernel takes the higher type. RAM has the lowest, 1.
    reserved = rng.merge(kinds[False])
    return rng.subtract(rng.merge(kinds[True]), reserved), reserved, memory_from


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
    """The finest grid that has few enough rows, and their numbers.

    :param units: in the smallest bin
    """
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
    counts = []
    for low in range(start, start + grid.row, grid.bin):
        units = bits.units_of(geometry, low, low + grid.bin)
        if len(units) >= UNITS_PER_BYTE:
            # The grid begins where a byte of the bitmap does, and so does each of its bins.
            counts.append(bits.count(bitmap[units.start >> 3 : units.stop >> 3]))
        else:
            of_byte = bitmap[units.start >> 3] >> (units.start & 7) & (1 << len(units)) - 1 if units else 0
            counts.append(bin(of_byte).count("1"))
    return counts


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
