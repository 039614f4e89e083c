# SPDX-License-Identifier: LGPL-2.1-or-later
"""``resolve``: the unit of a physical address, whether it was accepted, and what the maps say of it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Optional

from drgn_unaccepted.answer.bulk import Bulk
from drgn_unaccepted.answer.documents import AddressDocument, ResolveAnswer
from drgn_unaccepted.answer.head import head
from drgn_unaccepted.answer.resolve import resolve
from drgn_unaccepted.answer.source import Source
from drgn_unaccepted.commands import lines
from drgn_unaccepted.commands.base import STATE, Arguments, CommandError, Parser, Question, refuse
from drgn_unaccepted.errors import one_line
from drgn_unaccepted.files import open_input
from drgn_unaccepted.model.addresses import Query, parse_query
from drgn_unaccepted.model.ranges import Range
from drgn_unaccepted.snapshot import ALL_MEMORY, Snapshot
from drgn_unaccepted.words import safe, span


class Resolved(NamedTuple):
    document: ResolveAnswer
    #: With ``-f``: the states of all addresses.
    bulk: Optional[Bulk]


class Resolve(Question[Resolved]):
    parts = STATE | {"efi_map", "e820", "accepting"}

    def add_arguments(self, parser: Parser) -> None:
        which = parser.add_mutually_exclusive_group(required=True)
        which.add_argument(
            "-f",
            "--file",
            metavar="FILE",
            help="the state of every address in FILE (- is standard input), one line each; with --format json, JSON "
            "lines after a first one without addresses",
        )
        which.add_argument(
            "queries",
            metavar="ADDR[-END|+LEN]",
            nargs="*",
            default=[],
            type=_query,
            help="physical address or range: hexadecimal with 0x, or a number with K, M, G or T; END is exclusive",
        )

    def where(self, args: Arguments) -> tuple[Range, ...]:
        return ALL_MEMORY if args.file is not None else tuple(query.range for query in args.queries)

    def answer(self, snapshot: Snapshot, source: Source, args: Arguments) -> Resolved:
        if args.file is not None:
            return Resolved(
                {**head(snapshot, source, "resolve"), "missing": {}, "addresses": None}, Bulk(snapshot, source)
            )
        return Resolved(resolve(snapshot, source, args.queries), None)

    def lack(self, answer: Resolved) -> Optional[str]:
        document = answer.document
        addresses = document["addresses"]
        if addresses is None or document["source"] == "counters":
            return lines.no_addresses(document)
        if all(entry["state"] == "unknown" for entry in addresses):
            return addresses[0]["reason"]
        return None

    def output(self, answer: Resolved, args: Arguments) -> Iterable[str]:
        if args.format == "json":
            yield json.dumps(answer.document)
        elif self.lack(answer) is None:
            yield from _text(answer.document)
        if answer.bulk is not None and self.lack(answer) is None:
            yield from _of_file(answer.bulk, args)


def _of_file(bulk: Bulk, args: Arguments) -> Iterator[str]:
    try:
        with os.fdopen(0, "rb", closefd=False) if args.file == "-" else open_input(args.file) as text:
            yield from bulk.json_lines(text) if args.format == "json" else bulk.lines(text)
    except (OSError, ValueError) as error:
        raise CommandError(one_line(error, args.file)) from None


def _text(answer: ResolveAnswer) -> Iterator[str]:
    yield from lines.preface(answer)
    for number, entry in enumerate(answer["addresses"] or ()):
        if number:
            yield ""
        yield from _entry(answer, entry)


def _entry(answer: ResolveAnswer, entry: AddressDocument) -> Iterator[str]:
    missing = {name: f"unknown: {safe(reason)}" for name, reason in answer["missing"].items()}
    is_range = "end" in entry
    where = span(entry["address"], entry["end"]) if is_range else f"{entry['address']:#x}"
    rows = [(where, entry["state"]), ("reason", safe(entry["reason"]))]
    unit = entry["unit"]
    if unit is not None:
        # A bit of a present table is null where it is 0 and not believed.
        unknown = "reads as 0, which is not believed" if answer["table"]["state"] == "present" else "not read"
        bit = unknown if unit["bit"] is None else unit["bit"]
        name = "first unit" if is_range else "unit"
        rows.append((name, f"{unit['index']}, {span(unit['start'], unit['end'])}, bit {bit}"))
    if entry["kernel_predicate"] is not None:
        function = "range_contains_unaccepted_memory()" if is_range else "pfn_is_unaccepted_memory()"
        rows.append((function, str(entry["kernel_predicate"]).lower()))
    holders = (("efi", entry["efi"], "in no single descriptor"), ("e820", entry["e820"], "in no single entry"))
    for name, holder, nobody in holders:
        text = missing.get(name, nobody)
        if holder is not None:
            text = f"{holder['name']} (type {holder['type']}), {span(holder['start'], holder['end'])}"
        rows.append((name, text))
    zone = missing.get("zone", "in no single zone")
    rows.append(("zone", zone if entry["zone"] is None else f"node {entry['node']}, {safe(entry['zone'])}"))
    listed = {True: "on zone->unaccepted_pages", False: "no", None: missing.get("listed", "a part of it")}
    rows.append(("listed", listed[entry["listed"]]))
    if entry["in_flight"]:
        rows.append(("in flight", "being accepted: see accepting"))
    elif entry["in_flight"] is None:
        rows.append(("in flight", missing.get("in_flight", "a part of it: see accepting")))
    return lines.pairs(rows)


def _query(text: str) -> Query:
    try:
        return parse_query(text)
    except ValueError as error:
        refuse(str(error))


COMMAND = Resolve()
