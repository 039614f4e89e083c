# SPDX-License-Identifier: LGPL-2.1-or-later
"""``report``: everything as one HTML page, small enough to travel."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable
from heapq import nlargest
from itertools import chain
from typing import Optional, cast

from drgn_unaccepted import limits
from drgn_unaccepted.answer.documents import Document, HistoryAnswer, ReportAnswer
from drgn_unaccepted.answer.head import head
from drgn_unaccepted.answer.judgement import Judgement
from drgn_unaccepted.answer.map import map_document
from drgn_unaccepted.answer.parts import accepting, e820, efi, zones
from drgn_unaccepted.answer.truth import UNACCEPTED
from drgn_unaccepted.checks.rule import RULES
from drgn_unaccepted.commands import Arguments, Parser, Question, _drawing
from drgn_unaccepted.commands.check import check
from drgn_unaccepted.commands.summary import rows, summary
from drgn_unaccepted.model.ranges import merge
from drgn_unaccepted.snapshot import ALL_PARTS, Snapshot
from drgn_unaccepted.views.report import PageDocument, Said, report_page
from drgn_unaccepted.views.svg import COLUMNS


class Report(Question[PageDocument]):
    parts = ALL_PARTS

    def add_arguments(self, parser: Parser) -> None:
        help_ = "a page that needs no other file"
        parser.add_argument("-o", "--output", metavar="FILE.html", required=True, help=help_)

    def output(self, answer: PageDocument, args: Arguments) -> Iterable[str]:
        return (write_page(answer, args.output, args.format),)


def write_page(answer: PageDocument, path: str, format_: str) -> str:
    """Write the page, and return the line that says so. CommandError: it cannot be written."""
    page = report_page(answer)
    _drawing.save(path, page)
    size, status = len(page.encode()), answer["checks"]["status"]
    shared = {key: value for key, value in answer.items() if key in Document.__annotations__}
    written = cast(ReportAnswer, {**shared, "file": path, "file_bytes": size, "status": status})
    return json.dumps(written) if format_ == "json" else f"{path}: {size} bytes; checks: {status}"


def report(snapshot: Snapshot, judgement: Judgement, past: Optional[HistoryAnswer] = None) -> PageDocument:
    """What the page shows, with the ``past`` of a recording that ends here."""
    findings = check(snapshot, judgement)
    states, is_whole = _states(judgement)
    runs = (zip(edges[::2], edges[1::2]) for (state, *_), edges in states.items() if state == UNACCEPTED)
    unaccepted = merge(chain.from_iterable(runs))
    faults = {one["rule"] for one in findings["findings"] if one["status"] not in ("pass", "skip")}
    return {
        **head(snapshot, judgement, "report"),
        # The findings are shown in full.
        "facts": rows(summary(snapshot, judgement, with_checks=False)),
        "missing": dict(snapshot.missing),
        "checks": findings,
        "rules": {rule: RULES[rule].texts for rule in faults},
        "map": map_document(snapshot, judgement, columns=COLUMNS, finest=1),
        "ranges": sorted(nlargest(limits.REPORT_ROWS, unaccepted, key=lambda one: one[1] - one[0])),
        "range_count": len(unaccepted),
        "efi": efi(snapshot, judgement),
        "e820": e820(snapshot, judgement),
        "zones": zones(snapshot, judgement),
        "accepting": accepting(snapshot, judgement),
        "past": past,
        "states": states if is_whole else None,
        "listed": judgement.evidence.listed,
        "guards": judgement.guards,
    }


def _states(judgement: Judgement) -> tuple[dict[Said, array[int]], bool]:
    """Starts and ends in turns, by what is said of the ranges, and whether they are all addresses."""
    found: dict[Said, array[int]] = {}
    count = 0
    for piece in judgement.pieces(0, limits.PHYSICAL_END):
        edges = found.setdefault((piece.state, piece.covered, piece.reason), array("Q"))
        if edges and edges[-1] == piece.start:
            edges[-1] = piece.end
        else:
            edges.extend((piece.start, piece.end))
            count += 1
        if count > limits.REPORT_PIECES:
            return found, False
    return found, True


COMMAND = Report(report)
