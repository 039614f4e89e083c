# SPDX-License-Identifier: LGPL-2.1-or-later
"""``resolve``: the unit of a physical address, whether it was accepted, and what the maps say of it."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from io import BufferedReader
from itertools import islice
from typing import Any, Optional, cast

from drgn_unaccepted.answer import documents as doc
from drgn_unaccepted.answer.allocator import zone_name
from drgn_unaccepted.answer.head import head, reasons, source_name
from drgn_unaccepted.answer.judgement import Judgement
from drgn_unaccepted.answer.translation import physical
from drgn_unaccepted.answer.truth import ACCEPTED, NO_RAM, UNACCEPTED, UNKNOWN, Piece
from drgn_unaccepted.commands import Arguments, Parser, Question
from drgn_unaccepted.errors import CommandError, one_line
from drgn_unaccepted.files import open_input
from drgn_unaccepted.limits import ADDRESS_TEXT_BYTES, BULK_PIECES, PHYSICAL_END, RESOLVED_PIECES
from drgn_unaccepted.model import bitmap as bits
from drgn_unaccepted.model import e820 as e820_model
from drgn_unaccepted.model import ranges as rng
from drgn_unaccepted.model.addresses import Query, bounded, parse_address, parse_query, split_queries
from drgn_unaccepted.model.ranges import Range
from drgn_unaccepted.snapshot import PAGE_SIZE, Snapshot, Wanted
from drgn_unaccepted.views import lines
from drgn_unaccepted.words import safe, span, wrap

_NAMES = 14  #: Columns of the names before their values.
#: A physical address in the usual form; the others need the parser, which takes ten times as long.
_PLAIN = re.compile(r"0x[0-9a-fA-F]{1,13}").fullmatch
_BLOCK = 1 << 20  #: Bytes of text that are read at once.

_TOO_LONG = f"more than {ADDRESS_TEXT_BYTES} characters without a blank"


class _Queries(argparse.Action):
    """Words, of which those of one ``[mem 0xa-0xb]`` belong together, to queries."""

    def __call__(self, parser: Any, args: Arguments, words: Any, option: Optional[str] = None) -> None:
        try:
            args.queries = [parse_query(text) for text in split_queries(words)]
        except ValueError as error:
            raise CommandError(f"resolve: {error}") from None


class Resolve(Question[doc.ResolveAnswer]):
    def add_arguments(self, parser: Parser) -> None:
        help_ = "the state of every address in FILE (- is standard input), one line each; in JSON after a first line"
        parser.add_argument("-f", "--file", metavar="FILE", help=help_)
        help_ = (
            "physical: 0x125a00000, pfn:0x125a00, 4G, [mem 0x125a00000-0x137ffffff] as in dmesg; or kernel "
            "virtual, 16 hexadecimal digits as in an oops; END is exclusive"
        )
        parser.add_argument("queries", metavar="ADDR[-END|+LEN]", nargs="*", action=_Queries, default=[], help=help_)

    def wanted(self, args: Arguments) -> Wanted:
        if args.file is None and not args.queries:
            raise CommandError("resolve: which address? for example: resolve 0x125a00000, or -f FILE")
        if args.file is not None and args.queries:
            raise CommandError(f"resolve: -f/--file or {args.queries[0].text}: one of them")
        virtual = tuple(query.start for query in args.queries if query.is_virtual and query.end is None)
        return dataclasses.replace(super().wanted(args), virtual=virtual)

    def answer(self, snapshot: Snapshot, judgement: Judgement, args: Arguments) -> doc.ResolveAnswer:
        answer = resolve(snapshot, judgement, args.queries)
        if args.file is None:
            return answer
        # What is in the file is answered as it is read.
        args.bulk = Bulk(snapshot, judgement, args.format == "json")
        return {**answer, "missing": {}, "addresses": None}

    def lack(self, answer: doc.ResolveAnswer) -> Optional[str]:
        addresses = answer["addresses"]
        if addresses is None or answer["source"] == "counters":
            return lines.no_addresses(answer)
        if any(entry["state"] != UNKNOWN for entry in addresses):
            return None
        of = "" if addresses[0]["address"] is not None else f"resolve: {addresses[0]['asked']}: "
        return f"{of}{_why(answer, addresses[0])}"

    def output(self, answer: doc.ResolveAnswer, args: Arguments) -> Iterable[str]:
        if args.format == "json":
            yield json.dumps(answer)
        elif args.file is None:
            yield from _text(answer)
        if args.file is not None and self.lack(answer) is None:
            yield from lines.preface(answer) if args.format == "text" else ()
            try:
                with open_input(args.file) as text:
                    yield from args.bulk.lines(text)
            except (OSError, ValueError) as error:
                raise CommandError(one_line(error, args.file)) from None


def _text(answer: doc.ResolveAnswer) -> Iterator[str]:
    for entry in answer["addresses"] or ():
        where = entry["asked"] if entry["address"] is None else f"{entry['address']:#x}"
        echo = "" if entry["asked"] == where else f"({safe(entry['asked'])})"
        if "end" in entry:
            where, echo = span(entry["address"] or 0, entry["end"]), ""
        if entry["mapping"] is not None:
            echo = f"({entry['mapping']} {entry['virtual']:#x})"
        width = max(_NAMES, len(where) + 3)
        yield f"{where:{width}}{entry['state'].replace('-ram', ' RAM'):17}{echo}".rstrip()
        for name, text in _rows(answer, entry):
            yield from wrap(safe(lines.brief(text)), f"{name:{width}}")
        yield ""
    yield from wrap(source_name(answer), f"{'source':{_NAMES}}")


def _why(answer: doc.ResolveAnswer, entry: doc.AddressDocument) -> str:
    """The proof of a state, or why there is none; the reason for a source that knows none in short."""
    if entry["in_flight"] and entry["state"] == UNKNOWN:
        return "an accept of it is in flight (see accepting)"
    return "; ".join(reasons(answer)) if entry["reason"] == answer["source_reason"] else entry["reason"]


def _rows(answer: doc.ResolveAnswer, entry: doc.AddressDocument) -> Iterator[tuple[str, str]]:
    missing = {name: f"unknown: {reason}" for name, reason in answer["missing"].items()}
    is_range = "end" in entry
    none = "in no single" if is_range else "in no"
    if entry["state"] != NO_RAM:
        yield "why" if entry["state"] == UNKNOWN else "proof", _why(answer, entry)
    if entry["address"] is None:
        return
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
    for name, holder, printed in (("EFI", entry["efi"], {}), ("e820", entry["e820"], e820_model.PRINTED)):
        if holder is not None:
            kind = printed.get(holder["type"], f"{holder['name']} ({holder['type']})")
            yield name, f"{kind:18}{span(holder['start'], holder['end'])}"
        else:
            yield name, missing.get(name.lower(), f"{none} {'descriptor' if name == 'EFI' else 'entry'}")
    if entry["zone"] is not None:
        listed = {True: "listed", False: "not listed", None: missing.get("listed", "a part of it listed")}
        yield "zone", f"node {entry['node']} {entry['zone']}, {listed[entry['listed']]}"
    else:
        yield "zone", missing.get("zone", f"{none} zone")
    if entry["in_flight"] and entry["state"] != UNKNOWN:
        yield "in flight", "being accepted: see accepting"
    elif entry["in_flight"] is None:
        yield "in flight", missing.get("in_flight", "a part of it: see accepting")


def resolve(snapshot: Snapshot, judgement: Judgement, queries: Sequence[Query]) -> doc.ResolveAnswer:
    """One entry for an address; for a range one for each piece of one state, with its ``end``.

    ``missing`` says why a column is null where it could not be known; a null without a reason there is an answer: no
    one descriptor, e820 entry or zone holds the address, or (of ``listed`` and ``in_flight``) not all of the range.
    Nothing is known of an address that cannot be translated.

    :raises CommandError: the ranges are made of more than :data:`limits.RESOLVED_PIECES`
    """
    context = _Context(snapshot, judgement)
    entries: list[doc.AddressDocument] = []
    for asked in queries:
        try:
            query = physical(snapshot, asked)
        except ValueError as error:
            entries.append(_untranslated(asked, str(error)))
            continue
        start, end = query.range
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


def _untranslated(asked: Query, why: str) -> doc.AddressDocument:
    known = {"state": UNKNOWN, "reason": why.removeprefix(f"{asked.text}: "), "asked": asked.text}
    nothing = dict.fromkeys((*doc.AddressRequired.__annotations__, "mapping", "hint"))
    return cast(doc.AddressDocument, {**nothing, **known, "virtual": asked.start})


def _hint(judgement: Judgement, piece: Piece) -> Optional[str]:
    """What an address without RAM may be meant for: memory, with a bit that marks it as encrypted or shared."""
    for bit in range(51, 35, -1) if piece.state == NO_RAM else ():
        other = judgement.at(piece.start ^ 1 << bit)
        if piece.start >> bit & 1 and other.state != NO_RAM:
            return f"without bit {bit} (C-bit or shared bit?): {other.start:#x}, {other.state}"
    return None


class _Context:
    """The columns beside the state: unit, predicate, EFI, e820, zone, list, accepts in flight."""

    def __init__(self, snapshot: Snapshot, judgement: Judgement) -> None:
        table, tables, efi_map, accepting = snapshot.table, snapshot.e820, snapshot.efi_map, snapshot.accepting
        no_zones, doubt = judgement.evidence.no_zones, judgement.doubt
        if doubt is None and table.state == "absent" and no_zones and not (efi_map and efi_map.is_whole):
            doubt = f"nothing confirms that there is no table: {no_zones}"
        self._table, self._zones, self._doubted = table, snapshot.zones or (), doubt is not None
        self._descriptors = () if efi_map is None else efi_map.descriptors
        current = None if tables is None else tables.current or tables.firmware
        self._current = current or ()
        # Without the header, bit 0 is where the stub put it.
        self._geometry = table.geometry or judgement.geometry
        self._listed = None if judgement.evidence.no_lists else judgement.evidence.listed
        self._in_flight = [] if accepting is not None and not accepting.entries else snapshot.in_flight()
        lacking = defaultdict(lambda: "not captured", snapshot.missing)
        no_table = doubt if table.state == "absent" else f"table {table.state}: {table.reason}"
        no_efi = no_accepting = None
        if efi_map is None:
            no_efi = lacking["efi_map"]
        elif not efi_map.complete:
            no_efi = f"not in the {efi_map.provenance}, which is incomplete: {efi_map.note}"
        if accepting is None:
            no_accepting = lacking["accepting"]
        elif accepting.problems:
            no_accepting = f"accepting_list: {accepting.problems[0]}"
        elif self._in_flight is None:
            no_accepting = f"accepting_list has units, and the address of unit 0 is not known: {no_table}"
        # Where the walk of a list ended early, the rest of it is not known.
        walked = ((zone_name(zone), problem) for zone in self._zones if zone.listed for problem in zone.listed.problems)
        damaged = (f"unaccepted_pages of {name} is damaged: {problem}" for name, problem in walked)
        no_bits = doubt or table.reason if table.is_saved or self._doubted else None
        reasons = {
            "unit": no_table if self._geometry is None else None,
            "kernel_predicate": no_table if table.geometry is None or table.bitmap is None else no_bits,
            "efi": no_efi,
            "e820": lacking["e820" if tables is None else "e820.current"] if current is None else None,
            "zone": no_zones,
            "listed": judgement.evidence.no_lists or next(damaged, None),
            "in_flight": no_accepting,
        }
        #: Why a column cannot be known, by its name.
        self.missing = {name: reason for name, reason in reasons.items() if reason is not None}

    def entry(self, piece: Piece) -> doc.AddressDocument:
        where = Range(piece.start, piece.end)
        # The spans of nodes can interleave.
        spans = ((zone, zone.start_pfn * PAGE_SIZE, zone.spanned_pages * PAGE_SIZE) for zone in self._zones)
        zones = [zone for zone, start, size in spans if start <= where.start and where.end <= start + size]
        zone = zones[0] if len(zones) == 1 else None
        listed, reason = self._within("listed", self._listed, where), piece.reason
        if listed and piece.state == ACCEPTED:
            reason += "; listed all the same, as a chunk with a guard can be (check: list-entries-without-bits)"
        return {
            "address": piece.start,
            "state": piece.state,
            "covered": piece.covered,
            "unit": self._unit(piece.start),
            "kernel_predicate": self._kernel_predicate(where),
            "efi": _holder(self._descriptors, where),
            "e820": _holder(self._current, where),
            "node": None if zone is None else zone.node,
            "zone": None if zone is None else zone.name,
            "listed": listed,
            "in_flight": self._within("in_flight", self._in_flight, where),
            "reason": reason,
        }

    def _unit(self, address: int) -> Optional[doc.UnitDocument]:
        geometry, bitmap = self._geometry, self._table.bitmap
        index = None if geometry is None else geometry.index(address)
        if geometry is None or index is None:
            return None
        bit = None if bitmap is None else bitmap[index >> 3] >> (index & 7) & 1
        start, end = geometry.unit(index)
        return {"index": index, "start": start, "end": end, "bit": None if not bit and self._doubted else bit}

    def _kernel_predicate(self, where: Range) -> Optional[bool]:
        """range_contains_unaccepted_memory() of its pages; of one page pfn_is_unaccepted_memory()."""
        table, found = self._table, False
        if table.state != "absent":
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
        is_part = 0 < inside < where.end - where.start
        return None if is_part or (not inside and name in self.missing) else bool(inside)


def _holder(entries: Sequence[Any], where: Range) -> Optional[doc.TypedRange]:
    """The one entry that holds all of the range; maps need not be sorted."""
    found = (entry for entry in entries if entry.start <= where.start and where.end <= entry.end)
    return next((doc.document(doc.TypedRange, entry) for entry in found), None)


class Bulk:
    """States of any number of addresses, in bounded memory; the columns of the maps take a hundred times as long."""

    def __init__(self, snapshot: Snapshot, judgement: Judgement, as_json: bool) -> None:
        self._snapshot, self._judgement, self._as_json = snapshot, judgement, as_json
        self._outside = "(no table)" if judgement.evidence.no_table else "(outside the bitmap)"
        pieces = list(islice(judgement.pieces(0, PHYSICAL_END), BULK_PIECES + 1))
        # A bitmap so scattered that its pieces are not for memory is asked for each address.
        self._pieces = pieces if len(pieces) <= BULK_PIECES else []
        self._starts = [piece.start for piece in self._pieces]

    def lines(self, text: BufferedReader) -> Iterator[str]:
        """Each address as it was written, and its state.

        In JSON ``{"address": 4294967296, "state": "accepted", "covered": true}``.

        :raises ValueError: one line that says what is no address, and where
        """
        for data, line in _blocks(text):
            for number, row in enumerate(data.decode("ascii", "backslashreplace").split("\n"), line):
                for word in row.split():
                    yield self._line(word, int(word, 16)) if _PLAIN(word) else self._asked(word, number)

    def _line(self, word: str, address: int) -> str:
        at = bisect_right(self._starts, address) - 1
        piece = self._pieces[at] if self._pieces else self._judgement.at(address)
        ending = self._ending(piece.state, piece.covered)
        return f'{{"address": {address}{ending}' if self._as_json else word + ending

    def _ending(self, state: str, covered: Optional[bool]) -> str:
        if self._as_json:
            return f', "state": "{state}", "covered": {json.dumps(covered)}}}'
        return f"  {state:>{len(UNACCEPTED)}}{f'  {self._outside}' if covered is False else ''}"

    def _asked(self, word: str, number: int) -> str:
        try:
            if len(word) > ADDRESS_TEXT_BYTES:
                raise ValueError(_TOO_LONG)
            query = bounded(Query(parse_address(word), None, word))
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
        try:
            address = physical(self._snapshot, query).start
        except ValueError as error:
            reason = str(error).removeprefix(f"{word}: ")
            if not self._as_json:
                return f"{word}{self._ending(UNKNOWN, None)}  ({reason})"
            return json.dumps({"address": None, "state": UNKNOWN, "covered": None, "asked": word, "reason": reason})
        return self._line(f"{word}={address:#x}" if query.is_virtual else word, address)


def _blocks(text: BufferedReader) -> Iterator[tuple[bytes, int]]:
    """Whole words for as much as can be read at once, and the number of their first line."""
    rest, line = b"", 1
    while data := text.read1(_BLOCK):
        data = rest + data
        # The last word may continue in the next block.
        end = max(data.rfind(b"\n"), data.rfind(b" "), data.rfind(b"\t")) + 1
        last = line + data.count(b"\n")
        if len(data) - end > ADDRESS_TEXT_BYTES:
            raise ValueError(f"line {last}: {_TOO_LONG}")
        yield data[:end], line
        rest, line = data[end:], last
    yield rest, line


COMMAND = Resolve()
