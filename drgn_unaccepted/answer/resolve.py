# SPDX-License-Identifier: LGPL-2.1-or-later
"""``resolve``: which unit a physical address is in, whether it was accepted, and what the maps say of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Callable, Optional, Union

from drgn_unaccepted.answer.documents import AddressDocument, ResolveAnswer, TypedRange, UnitDocument
from drgn_unaccepted.answer.evidence import listed_ranges
from drgn_unaccepted.answer.head import head
from drgn_unaccepted.answer.source import Source, no_zones
from drgn_unaccepted.answer.state import ACCEPTED, UNKNOWN, Piece, StateMap
from drgn_unaccepted.errors import CommandError
from drgn_unaccepted.limits import PHYSICAL_END, RESOLVED_PIECES
from drgn_unaccepted.model import bitmap as bits
from drgn_unaccepted.model import e820 as e820_model
from drgn_unaccepted.model import efi as efi_model
from drgn_unaccepted.model import ranges as rng
from drgn_unaccepted.model.addresses import Query
from drgn_unaccepted.model.e820 import E820Entry
from drgn_unaccepted.model.efi import EfiDescriptor
from drgn_unaccepted.model.ranges import Range
from drgn_unaccepted.snapshot import PAGE_SHIFT, PAGE_SIZE, Snapshot


def resolve(snapshot: Snapshot, source: Source, queries: Sequence[Query]) -> ResolveAnswer:
    """One entry for an address; for a range one for each piece of one state, with its ``end``.

    ``missing`` says why a column is null where it could not be known; a null without a reason there is an answer: no
    one descriptor, e820 entry or zone holds the address, or (of ``listed`` and ``in_flight``) not all of the range.

    :raises ValueError: a query is empty or reaches beyond 2^52
    :raises CommandError: the ranges are made of more than :data:`limits.RESOLVED_PIECES`
    """
    states = StateMap(snapshot, source)
    context = _Context(snapshot)
    entries: list[AddressDocument] = []
    for query in queries:
        start, end = query.range
        if not 0 <= start < end <= PHYSICAL_END:
            raise ValueError(f"{start:#x}-{end:#x}: not a physical range below 2^52 ({PHYSICAL_END:#x})")
        for piece in states.pieces(start, end):
            entry = context.entry(piece)
            if query.end is not None:
                entry["end"] = piece.end
                entry["query"] = [start, end]
                if len(entries) >= RESOLVED_PIECES:
                    raise CommandError(f"more than {RESOLVED_PIECES} pieces: ask for a smaller range, or see map")
            entries.append(entry)
    return {**head(snapshot, source, "resolve"), "missing": context.missing(), "addresses": entries}


class _Context:
    """The columns beside the state: unit, predicate, EFI, e820, zone, list, in-flight accepts."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._listed = listed_ranges(snapshot)
        self._cut = self._cut_lists() is not None

    def entry(self, piece: Piece) -> AddressDocument:
        where = Range(piece.start, piece.end)
        node, zone = self._zone(where)
        listed, in_flight, reason = self._is_listed(where), self._in_flight(where), piece.reason
        if listed and piece.state == ACCEPTED:
            reason += "; listed all the same, as a chunk with a guard can be (check: list-entries-without-bits)"
        if in_flight and piece.state == UNKNOWN:
            reason += "; an accept of it is in flight (see accepting)"
        return {
            "address": piece.start,
            "state": piece.state,
            "covered": piece.covered,
            "unit": self._unit(piece.start),
            "kernel_predicate": self._kernel_predicate(where),
            "efi": self._efi(where),
            "e820": self._e820(where),
            "node": node,
            "zone": zone,
            "listed": listed,
            "in_flight": in_flight,
            "reason": reason,
        }

    def missing(self) -> dict[str, str]:
        """Why a column cannot be known, by its name."""
        snapshot = self._snapshot
        reasons = {
            "unit": self._no_table() if snapshot.table.geometry is None else None,
            "kernel_predicate": self._no_predicate(),
            "efi": self._no_efi(),
            "e820": self._no_e820(),
            "zone": no_zones(snapshot),
            "listed": no_zones(snapshot) or self._cut_lists(),
            "in_flight": self._no_accepting(),
        }
        return {name: reason for name, reason in reasons.items() if reason is not None}

    def _no_table(self) -> Optional[str]:
        table = self._snapshot.table
        return None if table.state == "absent" else f"table {table.state}: {table.reason}"

    def _no_predicate(self) -> Optional[str]:
        table = self._snapshot.table
        if table.geometry is None or table.bitmap is None:
            return self._no_table()
        return table.reason if table.is_saved or table.is_doubted else None

    def _no_efi(self) -> Optional[str]:
        efi_map = self._snapshot.efi_map
        if efi_map is None:
            return self._snapshot.missing["efi_map"]
        if efi_map.complete:
            return None
        return f"not in the {efi_map.provenance}, which is incomplete: {efi_map.note}"

    def _no_e820(self) -> Optional[str]:
        snapshot = self._snapshot
        if snapshot.e820 is None:
            return snapshot.missing["e820"]
        return None if snapshot.e820.current is not None else snapshot.missing["e820.current"]

    def _cut_lists(self) -> Optional[str]:
        """What ended the walk of a list early: what it did not find can be listed."""
        for zone in self._snapshot.zones or ():
            if zone.listed is not None and zone.listed.problems:
                return f"unaccepted_pages of node {zone.node} zone {zone.name} is damaged: {zone.listed.problems[0]}"
        return None

    def _no_accepting(self) -> Optional[str]:
        accepting = self._snapshot.accepting
        if accepting is None:
            return self._snapshot.missing["accepting"]
        if accepting.problems:
            return f"accepting_list: {accepting.problems[0]}"
        if accepting.entries and self._snapshot.unit_base()[0] is None:
            return f"accepting_list has units, and where unit 0 is is not known: {self._no_table()}"
        return None

    def _unit(self, address: int) -> Optional[UnitDocument]:
        geometry, bitmap = self._snapshot.table.geometry, self._snapshot.table.bitmap
        if geometry is None:
            return None
        index = geometry.index(address)
        if index is None:
            return None
        unit = geometry.unit(index)
        bit = None if bitmap is None else int(bits.test_bit(bitmap, index))
        if bit == 0 and self._snapshot.table.is_doubted:
            bit = None
        return {"index": index, "start": unit.start, "end": unit.end, "bit": bit}

    def _kernel_predicate(self, where: Range) -> Optional[bool]:
        """range_contains_unaccepted_memory() of its pages; of one page pfn_is_unaccepted_memory()."""
        table = self._snapshot.table
        if table.state == "absent":
            return False
        if table.geometry is None or table.bitmap is None or table.is_saved:
            return None
        start = where.start // PAGE_SIZE * PAGE_SIZE
        size = -(-where.end // PAGE_SIZE) * PAGE_SIZE - start
        found = bits.range_contains_unaccepted_memory(table.geometry, table.bitmap, start, size)
        return None if table.is_doubted and not found else found

    def _efi(self, where: Range) -> Optional[TypedRange]:
        efi_map = self._snapshot.efi_map
        return None if efi_map is None else _holder(efi_map.descriptors, where, efi_model.type_name)

    def _e820(self, where: Range) -> Optional[TypedRange]:
        tables = self._snapshot.e820
        if tables is None or tables.current is None:
            return None
        return _holder(tables.current, where, e820_model.type_name)

    def _zone(self, where: Range) -> tuple[Optional[int], Optional[str]]:
        """Node and zone whose span alone holds the range; spans of nodes can interleave."""
        if self._snapshot.zones is None:
            return None, None
        holders = [
            zone
            for zone in self._snapshot.zones
            if zone.start_pfn << PAGE_SHIFT <= where.start
            and where.end <= (zone.start_pfn + zone.spanned_pages) << PAGE_SHIFT
        ]
        return (holders[0].node, holders[0].name) if len(holders) == 1 else (None, None)

    def _is_listed(self, where: Range) -> Optional[bool]:
        if not self._snapshot.zones:
            return None
        listed = self._within(self._listed, where)
        return None if self._cut and not listed else listed

    def _within(self, ranges: Sequence[Range], where: Range) -> Optional[bool]:
        """Whether all of it (True) or none of it (False) lies in ``ranges``; None for some of it."""
        inside = rng.total(rng.intersect(ranges, [where]))
        return None if 0 < inside < where.end - where.start else bool(inside)

    def _in_flight(self, where: Range) -> Optional[bool]:
        accepting = self._snapshot.accepting
        if accepting is None:
            return None
        if not accepting.entries:
            return None if accepting.problems else False
        counted, _ = self._snapshot.unit_base()
        if counted is None:
            return None
        base, unit_size = counted
        ends = rng.merge(
            Range(base + entry.start_unit * unit_size, base + entry.end_unit * unit_size)
            for entry in accepting.entries
            if entry.start_unit < entry.end_unit
        )
        found = self._within(ends, where)
        return None if accepting.problems and not found else found


def _holder(
    entries: Sequence[Union[EfiDescriptor, E820Entry]], where: Range, type_name: Callable[[int], str]
) -> Optional[TypedRange]:
    """The one entry that holds all of the range; maps need not be sorted."""
    for entry in entries:
        if entry.start <= where.start and where.end <= entry.end:
            return {"type": entry.type, "name": type_name(entry.type), "start": entry.start, "end": entry.end}
    return None
