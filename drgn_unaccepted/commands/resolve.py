# SPDX-License-Identifier: LGPL-2.1-or-later
"""``resolve``: the unit of a physical address, whether it was accepted, and what the maps say of it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Optional, Union

from drgn_unaccepted.answer.allocator import zone_name
from drgn_unaccepted.answer.documents import (
    AddressDocument,
    Document,
    ResolveAnswer,
    TypedRange,
    UnitDocument,
    document,
)
from drgn_unaccepted.answer.head import head, reasons, source_name
from drgn_unaccepted.answer.judgement import Judgement
from drgn_unaccepted.answer.translation import physical
from drgn_unaccepted.answer.truth import ACCEPTED, NO_RAM, UNACCEPTED, UNKNOWN, Piece
from drgn_unaccepted.commands import lines
from drgn_unaccepted.commands.base import Arguments, Parser, Question
from drgn_unaccepted.commands.bulk import Bulk
from drgn_unaccepted.errors import CommandError, one_line
from drgn_unaccepted.files import open_input
from drgn_unaccepted.limits import PHYSICAL_END, RESOLVED_PIECES
from drgn_unaccepted.model import bitmap as bits
from drgn_unaccepted.model import e820 as e820_model
from drgn_unaccepted.model import ranges as rng
from drgn_unaccepted.model.addresses import Query, parse_query, split_queries
from drgn_unaccepted.model.e820 import E820Entry
from drgn_unaccepted.model.efi import EfiDescriptor
from drgn_unaccepted.model.ranges import Range
from drgn_unaccepted.snapshot import PAGE_SIZE, Snapshot, Wanted
from drgn_unaccepted.words import safe, span, wrap

#: Columns of the names before their values.
_NAMES = 14


class Resolved(NamedTuple):
    document: ResolveAnswer
    #: With ``-f``: the states of all addresses.
    bulk: Optional[Bulk]


class Resolve(Question[Resolved]):
    def add_arguments(self, parser: Parser) -> None:
        help_ = (
            "the state of every address in FILE (- is standard input), one line each; with --format json, JSON "
            "lines after a first one without addresses"
        )
        parser.add_argument("-f", "--file", metavar="FILE", help=help_)
        help_ = (
            "physical: 0x125a00000, pfn:0x125a00, 4G, [mem 0x125a00000-0x137ffffff] as in dmesg; or kernel "
            "virtual, 16 hexadecimal digits as in an oops; END is exclusive"
        )
        parser.add_argument("queries", metavar="ADDR[-END|+LEN]", nargs="*", default=[], help=help_)

    def wanted(self, args: Arguments) -> Wanted:
        queries = _queries(args)
        if args.file is None and not queries:
            raise CommandError("resolve: which address? for example: resolve 0x125a00000, or -f FILE")
        if args.file is not None and queries:
            raise CommandError(f"resolve: -f/--file or {queries[0].text}: one of them")
        virtual = tuple(query.start for query in queries if query.is_virtual and query.end is None)
        return dataclasses.replace(super().wanted(args), virtual=virtual)

    def answer(self, snapshot: Snapshot, judgement: Judgement, args: Arguments) -> Resolved:
        if args.file is not None:
            shared = head(snapshot, judgement, "resolve")
            return Resolved({**shared, "missing": {}, "addresses": None}, Bulk(snapshot, judgement))
        try:
            queries = [physical(snapshot, query) for query in _queries(args)]
        except ValueError as error:
            raise CommandError(f"resolve: {error}") from None
        return Resolved(resolve(snapshot, judgement, queries), None)

    def lack(self, answer: Resolved) -> Optional[str]:
        document, addresses = answer.document, answer.document["addresses"]
        if addresses is None or document["source"] == "counters":
            return lines.no_addresses(document)
        if all(entry["state"] == "unknown" for entry in addresses):
            return _why(document, addresses[0])
        return None

    def output(self, answer: Resolved, args: Arguments) -> Iterable[str]:
        if args.format == "json":
            yield json.dumps(answer.document)
        elif answer.bulk is None:
            yield from _text(answer.document)
        elif self.lack(answer) is None:
            yield from lines.preface(answer.document)
        if answer.bulk is not None and self.lack(answer) is None:
            yield from _of_file(answer.bulk, args)


def _of_file(bulk: Bulk, args: Arguments) -> Iterator[str]:
    try:
        with open_input(args.file) as text:
            yield from bulk.lines(text, args.format == "json")
    except (OSError, ValueError) as error:
        raise CommandError(one_line(error, args.file)) from None


def _queries(args: Arguments) -> list[Query]:
    try:
        return [parse_query(text) for text in split_queries(args.queries)]
    except ValueError as error:
        raise CommandError(f"resolve: {error}") from None


def _text(answer: ResolveAnswer) -> Iterator[str]:
    for entry in answer["addresses"] or ():
        yield from _entry(answer, entry)
        yield ""
    yield from wrap(source_name(answer), f"{'source':{_NAMES}}")


def _why(answer: Document, entry: AddressDocument) -> str:
    """The proof of a state, or why there is none; the reason for a source that knows none in short."""
    return "; ".join(reasons(answer)) if entry["reason"] == answer["source_reason"] else entry["reason"]


def _entry(answer: ResolveAnswer, entry: AddressDocument) -> Iterator[str]:
    is_range = "end" in entry
    where = span(entry["address"], entry["end"]) if is_range else f"{entry['address']:#x}"
    echo = "" if is_range or entry["asked"] == where else f"({safe(entry['asked'])})"
    if entry["virtual"] is not None:
        echo = f"({entry['mapping']} {entry['virtual']:#x})"
    width = max(_NAMES, len(where) + 3)
    yield f"{where:{width}}{entry['state'].replace('-ram', ' RAM'):17}{echo}".rstrip()
    for name, text in _rows(answer, entry, is_range):
        yield from wrap(safe(text), f"{name:{width}}")


def _rows(answer: ResolveAnswer, entry: AddressDocument, is_range: bool) -> Iterator[tuple[str, str]]:
    missing = {name: f"unknown: {reason}" for name, reason in answer["missing"].items()}
    single = "single " if is_range else ""
    if entry["state"] != NO_RAM:
        yield "why" if entry["state"] == UNKNOWN else "proof", _why(answer, entry)
    if entry["hint"] is not None:
        yield "hint", entry["hint"]
    if entry["kernel_predicate"] and entry["state"] != UNACCEPTED:
        what = "its last page" if is_range else "it"
        yield "guard", f"the kernel treats {what} as unaccepted, since an unaccepted unit follows"
    unit = entry["unit"]
    if unit is not None:
        bit = "" if unit["bit"] is None else f", bit {unit['bit']}"
        if unit["bit"] is None and answer["table"]["state"] == "present":
            bit = ", its bit reads as 0, which is not believed"
        yield "first unit" if is_range else "unit", f"{unit['index']}, {span(unit['start'], unit['end'])}{bit}"
    for name, holder in (("EFI", entry["efi"]), ("e820", entry["e820"])):
        text = missing.get(name.lower(), f"in no {single}{'descriptor' if name == 'EFI' else 'entry'}")
        if holder is not None:
            kind = f"{holder['name']} ({holder['type']})"
            kind = kind if name == "EFI" else e820_model.PRINTED.get(holder["type"], kind)
            text = f"{kind:18}{span(holder['start'], holder['end'])}"
        yield name, text
    text = missing.get("zone", f"in no {single}zone")
    if entry["zone"] is not None:
        listed = {True: "listed", False: "not listed", None: missing.get("listed", "a part of it listed")}
        text = f"node {entry['node']} {entry['zone']}, {listed[entry['listed']]}"
    yield "zone", text
    if entry["in_flight"]:
        yield "in flight", "being accepted: see accepting"
    elif entry["in_flight"] is None:
        yield "in flight", missing.get("in_flight", "a part of it: see accepting")


def resolve(snapshot: Snapshot, judgement: Judgement, queries: Sequence[Query]) -> ResolveAnswer:
    """One entry for an address; for a range one for each piece of one state, with its ``end``.

    ``missing`` says why a column is null where it could not be known; a null without a reason there is an answer: no
    one descriptor, e820 entry or zone holds the address, or (of ``listed`` and ``in_flight``) not all of the range.

    :raises ValueError: a query is empty or reaches beyond 2^52
    :raises CommandError: the ranges are made of more than :data:`limits.RESOLVED_PIECES`
    """
    context = _Context(snapshot, judgement)
    entries: list[AddressDocument] = []
    for query in queries:
        start, end = query.range
        if not 0 <= start < end <= PHYSICAL_END:
            raise ValueError(f"{start:#x}-{end:#x}: not a physical range below 2^52 ({PHYSICAL_END:#x})")
        for piece in judgement.pieces(start, end):
            entry = context.entry(piece)
            entry["asked"], entry["mapping"] = query.text, query.mapping
            entry["virtual"] = None if query.virtual is None else query.virtual + piece.start - start
            entry["hint"] = _hint(judgement, piece) if query.end is None else None
            if query.end is not None:
                entry["end"], entry["query"] = piece.end, [start, end]
                if len(entries) >= RESOLVED_PIECES:
                    raise CommandError(f"more than {RESOLVED_PIECES} pieces: ask for a smaller range, or see map")
            entries.append(entry)
    return {**head(snapshot, judgement, "resolve"), "missing": context.missing, "addresses": entries}


def _hint(judgement: Judgement, piece: Piece) -> Optional[str]:
    """What an address without RAM may be meant for: memory, with a bit that marks it as encrypted or shared."""
    if piece.state == NO_RAM:
        for bit in range(51, 35, -1):
            other = judgement.at(piece.start ^ 1 << bit)
            if piece.start >> bit & 1 and other.state != NO_RAM:
                return f"without bit {bit} (C-bit or shared bit?): {other.start:#x}, {other.state}"
    return None


class _Context:
    """The columns beside the state: unit, predicate, EFI, e820, zone, list, accepts in flight."""

    def __init__(self, snapshot: Snapshot, judgement: Judgement) -> None:
        table, tables, efi_map, accepting = snapshot.table, snapshot.e820, snapshot.efi_map, snapshot.accepting
        self._table, self._zones, self._efi_map = table, snapshot.zones or (), efi_map
        self._current = None if tables is None else tables.current or tables.firmware
        # Without the header, bit 0 is where the stub put it.
        self._geometry = table.geometry or judgement.geometry
        self._doubted = judgement.doubt is not None
        self._listed = None if judgement.evidence.no_zones else judgement.evidence.listed
        self._in_flight = snapshot.in_flight()
        if accepting is not None and not accepting.entries:
            self._in_flight = []
        no_table = judgement.doubt if table.state == "absent" else f"table {table.state}: {table.reason}"
        no_bits = judgement.doubt or table.reason if table.is_saved or judgement.doubt else None
        no_efi = snapshot.missing.get("efi_map")
        if efi_map is not None:
            partial = f"not in the {efi_map.provenance}, which is incomplete: {efi_map.note}"
            no_efi = None if efi_map.complete else partial
        no_e820 = snapshot.missing.get("e820") if tables is None else snapshot.missing.get("e820.current")
        if accepting is None:
            no_accepting = snapshot.missing.get("accepting", "not captured")
        elif accepting.problems:
            no_accepting = f"accepting_list: {accepting.problems[0]}"
        else:
            no_accepting = f"accepting_list has units, and the address of unit 0 is not known: {no_table}"
        # Where the walk of a list ended early, the rest of it is not known.
        damaged = (
            f"unaccepted_pages of {zone_name(zone)} is damaged: {zone.listed.problems[0]}"
            for zone in self._zones
            if zone.listed is not None and zone.listed.problems
        )
        reasons = {
            "unit": no_table if self._geometry is None else None,
            "kernel_predicate": no_table if table.geometry is None or table.bitmap is None else no_bits,
            "efi": no_efi,
            "e820": no_e820 if self._current is None else None,
            "zone": judgement.evidence.no_zones,
            "listed": judgement.evidence.no_zones or next(damaged, None),
            "in_flight": no_accepting if self._in_flight is None or (accepting and accepting.problems) else None,
        }
        #: Why a column cannot be known, by its name.
        self.missing = {name: reason for name, reason in reasons.items() if reason is not None}

    def entry(self, piece: Piece) -> AddressDocument:
        where = Range(piece.start, piece.end)
        # The spans of nodes can interleave.
        spans = ((zone, zone.start_pfn * PAGE_SIZE, zone.spanned_pages * PAGE_SIZE) for zone in self._zones)
        zones = [zone for zone, start, size in spans if start <= where.start and where.end <= start + size]
        zone = zones[0] if len(zones) == 1 else None
        listed = self._within("listed", self._listed, where)
        in_flight = self._within("in_flight", self._in_flight, where)
        reason = piece.reason
        if listed and piece.state == ACCEPTED:
            reason += "; listed all the same, as a chunk with a guard can be (check: list-entries-without-bits)"
        if in_flight and piece.state == UNKNOWN:
            reason += "; an accept of it is in flight (see accepting)"
        descriptors = () if self._efi_map is None else self._efi_map.descriptors
        return {
            "address": piece.start,
            "state": piece.state,
            "covered": piece.covered,
            "unit": self._unit(piece.start),
            "kernel_predicate": self._kernel_predicate(where),
            "efi": _holder(descriptors, where),
            "e820": _holder(self._current or (), where),
            "node": None if zone is None else zone.node,
            "zone": None if zone is None else zone.name,
            "listed": listed,
            "in_flight": in_flight,
            "reason": reason,
        }

    def _unit(self, address: int) -> Optional[UnitDocument]:
        geometry, bitmap = self._geometry, self._table.bitmap
        index = None if geometry is None else geometry.index(address)
        if geometry is None or index is None:
            return None
        bit = None if bitmap is None else int(bits.test_bit(bitmap, index))
        start, end = geometry.unit(index)
        return {"index": index, "start": start, "end": end, "bit": None if not bit and self._doubted else bit}

    def _kernel_predicate(self, where: Range) -> Optional[bool]:
        """range_contains_unaccepted_memory() of its pages; of one page pfn_is_unaccepted_memory()."""
        table = self._table
        if table.state == "absent":
            return None if self._doubted else False
        if table.geometry is None or table.bitmap is None or table.is_saved:
            return None
        start = where.start // PAGE_SIZE * PAGE_SIZE
        size = -(-where.end // PAGE_SIZE) * PAGE_SIZE - start
        found = bits.range_contains_unaccepted_memory(table.geometry, table.bitmap, start, size)
        return None if self._doubted and not found else found

    def _within(self, name: str, ranges: Optional[Sequence[Range]], where: Range) -> Optional[bool]:
        """Whether all of it (True) or none of it (False) is in ``ranges``; None for a part of it, or if not known."""
        if ranges is None:
            return None
        inside = rng.total(rng.intersect(ranges, [where]))
        if 0 < inside < where.end - where.start or (not inside and name in self.missing):
            return None
        return bool(inside)


def _holder(entries: Sequence[Union[EfiDescriptor, E820Entry]], where: Range) -> Optional[TypedRange]:
    """The one entry that holds all of the range; maps need not be sorted."""
    found = (entry for entry in entries if entry.start <= where.start and where.end <= entry.end)
    return next((document(TypedRange, entry) for entry in found), None)


COMMAND = Resolve()
