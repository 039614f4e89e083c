# SPDX-License-Identifier: LGPL-2.1-or-later
"""``report``: everything as one HTML page, small enough to travel.

Ranges are packed and compressed (:func:`pack`); nothing is thinned out. The script of the page looks states up in them
and derives none.
"""

from __future__ import annotations

import base64
import json
import math
import zlib
from array import array
from collections.abc import Iterable
from functools import reduce
from itertools import chain
from typing import Optional, cast

from drgn_unaccepted import limits
from drgn_unaccepted.answer.documents import CheckAnswer, Document, HistoryAnswer, ReportAnswer, State
from drgn_unaccepted.answer.judgement import Judgement
from drgn_unaccepted.answer.map import lanes, layers
from drgn_unaccepted.checks import explain
from drgn_unaccepted.commands import drawing
from drgn_unaccepted.commands.accepting import accepting
from drgn_unaccepted.commands.base import Arguments, Parser, Question
from drgn_unaccepted.commands.check import check
from drgn_unaccepted.commands.e820 import e820
from drgn_unaccepted.commands.efi import efi
from drgn_unaccepted.commands.summary import summary
from drgn_unaccepted.commands.zones import zones
from drgn_unaccepted.errors import CommandError
from drgn_unaccepted.model import bitmap as bits
from drgn_unaccepted.model.ranges import Range
from drgn_unaccepted.snapshot import ALL_MEMORY, ALL_PARTS, Snapshot, Table
from drgn_unaccepted.views.report import PackedRanges, PageDocument, report_page

#: What a source says of an address: state, covered, reason.
Said = tuple[State, Optional[bool], str]


class Report(Question[PageDocument]):
    parts = ALL_PARTS

    def add_arguments(self, parser: Parser) -> None:
        parser.add_argument(
            "-o", "--output", metavar="FILE.html", required=True, help="a page that needs no other file"
        )

    def where(self, args: Arguments) -> tuple[Range, ...]:
        return ALL_MEMORY

    def answer(self, snapshot: Snapshot, judgement: Judgement, args: Arguments) -> PageDocument:
        return report(snapshot, judgement)

    def output(self, answer: PageDocument, args: Arguments) -> Iterable[str]:
        return (write_page(answer, args.output, args.format),)


def write_page(answer: PageDocument, path: str, format_: str) -> str:
    """Write the page, and return the line that says so.

    :raises CommandError: it is too large, or cannot be written
    """
    page = report_page(answer)
    drawing.save(path, page)
    head = cast(Document, {key: value for key, value in answer.items() if key in Document.__annotations__})
    size, status = len(page.encode()), answer["checks"]["status"]
    written: ReportAnswer = {**head, "file": path, "file_bytes": size, "status": status}
    return json.dumps(written) if format_ == "json" else f"{path}: {size} bytes; checks: {status}"


def report(
    snapshot: Snapshot, judgement: Judgement, checks: Optional[CheckAnswer] = None, past: Optional[HistoryAnswer] = None
) -> PageDocument:
    """The data of the page.

    :param checks: the answer of ``check``, by default made here
    :param past: the answer of :func:`~drgn_unaccepted.answer.history.history` for a recording that ends here
    :raises CommandError: the state of memory changes too often for a page
    """
    found = _states(judgement)
    shown = layers(snapshot, judgement)
    findings = check(snapshot, judgement) if checks is None else checks
    zone_list, efi_map = zones(snapshot, judgement), efi(snapshot, judgement)
    for zone in zone_list["zones"] or ():
        zone["listed"] = None  # in "listed", packed
    for descriptor in efi_map["descriptors"] or ():
        if descriptor["attribute"] is not None:
            # A script's numbers have 53 bits.
            descriptor["attribute"] = f"{descriptor['attribute']:#x}"  # type: ignore[typeddict-item]
    explained = {
        finding["rule"]: [" ".join(part.split()) for part in explain(finding["rule"]).split("\n\n")[1:]]
        for finding in findings["findings"]
        if finding["status"] not in ("pass", "skip")
    }
    summed = summary(snapshot, judgement)
    if zone_list["missing"]:
        summed["missing"]["zones"] = zone_list["missing"]
    return {
        **summed,
        "command": "report",
        "unit_size": judgement.evidence.unit,
        "saved": snapshot.table.is_saved,
        "bits": None if judgement.by_bits else pack(_set_bits(snapshot.table)),
        "states": [
            {"state": state, "covered": covered, "reason": reason, "runs": pack(zip(edges[::2], edges[1::2]))}
            for (state, covered, reason), edges in found.items()
        ],
        "listed": pack(judgement.evidence.listed),
        "accepting_ranges": lanes(snapshot)["accepting"] or [],
        "elsewhere": _elsewhere(snapshot, judgement),
        "memory_from": shown.memory_from,
        "filled": pack(shown.filled),
        "layers": {
            "reserved": pack(shown.reserved),
            "ram": pack(shown.ram),
            "outside": pack(shown.uncovered),
            "unknown": pack(shown.unknown),
            "guard": pack(shown.guards),
        },
        "efi": efi_map,
        "e820": e820(snapshot, judgement),
        "zones": zone_list["zones"],
        "accepting": accepting(snapshot, judgement),
        "checks": {**findings, "explain": explained},
        "recording": None if past is None else _deflated(json.dumps(past).encode()),
    }


def _set_bits(table: Table) -> Iterable[Range]:
    if table.geometry is None or table.bitmap is None:
        return ()
    return bits.unaccepted_ranges(table.geometry, table.bitmap)


def _elsewhere(snapshot: Snapshot, judgement: Judgement) -> dict[str, Optional[int]]:
    table, flight = snapshot.table, snapshot.accepting
    cut = any(zone.listed is not None and zone.listed.problems for zone in snapshot.zones or ())
    bit = None if table.bitmap is None or judgement.doubt is not None else 0
    is_placed = flight is not None and (not flight.entries or snapshot.unit_base()[0] is not None)
    return {
        "bit": bit,
        "kernel_predicate": False if judgement.evidence.no_table or (bit == 0 and not table.is_saved) else None,
        "listed": False if snapshot.zones and not cut else None,
        "in_flight": False if flight is not None and is_placed and not flight.problems else None,
    }


def _states(judgement: Judgement) -> dict[Said, array[int]]:
    """Starts and ends in turns, by what is said of the ranges. Together they are all addresses."""
    found: dict[Said, array[int]] = {}
    count = 0
    geometry = judgement.geometry
    edges_of_bitmap = () if geometry is None else (geometry.phys_base, geometry.end)
    places = sorted({0, *edges_of_bitmap, limits.PHYSICAL_END})
    for piece in chain.from_iterable(map(judgement.pieces, places, places[1:])):
        edges = found.setdefault((piece.state, piece.covered, piece.reason), array("Q"))
        if edges and edges[-1] == piece.start:
            edges[-1] = piece.end
        else:
            edges.extend((piece.start, piece.end))
            count += 1
        if count > limits.REPORT_PIECES:
            raise CommandError(f"memory changes its state over {limits.REPORT_PIECES} times: too much for a page")
    return found


def pack(ranges: Iterable[tuple[int, int]]) -> PackedRanges:
    """Sorted, disjoint ranges as LEB128 pairs (gap since the last end, length), deflated, in base64.

    The numbers are multiples of ``grain``, which makes most of them one byte.
    """
    edges = array("Q", chain.from_iterable(ranges))
    grain = reduce(math.gcd, edges, 0) or 1
    packed = bytearray()
    last = 0
    for edge in edges:
        number = (edge - last) // grain
        while number > 0x7F:
            packed.append(number & 0x7F | 0x80)
            number >>= 7
        packed.append(number)
        last = edge
    return {"grain": grain, "count": len(edges) // 2, "data": _deflated(bytes(packed))}


def _deflated(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data, 9)).decode("ascii")


COMMAND = Report()
