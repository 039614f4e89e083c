# SPDX-License-Identifier: LGPL-2.1-or-later
"""``report``: everything as one HTML page."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import cast

from drgn_unaccepted.answer.documents import Document, ReportAnswer
from drgn_unaccepted.answer.report import PageDocument, report
from drgn_unaccepted.answer.source import Source
from drgn_unaccepted.commands import drawing
from drgn_unaccepted.commands.base import Arguments, Parser, Question
from drgn_unaccepted.model.ranges import Range
from drgn_unaccepted.snapshot import ALL_MEMORY, ALL_PARTS, Snapshot
from drgn_unaccepted.views.report import report_page


class Report(Question[PageDocument]):
    parts = ALL_PARTS

    def add_arguments(self, parser: Parser) -> None:
        parser.add_argument(
            "-o", "--output", metavar="FILE.html", required=True, help="a page that needs no other file"
        )

    def where(self, args: Arguments) -> tuple[Range, ...]:
        return ALL_MEMORY

    def answer(self, snapshot: Snapshot, source: Source, args: Arguments) -> PageDocument:
        return report(snapshot, source)

    def output(self, answer: PageDocument, args: Arguments) -> Iterable[str]:
        written = write_page(answer, args.output)
        return (json.dumps(written) if args.format == "json" else written_line(written),)


def write_page(answer: PageDocument, path: str) -> ReportAnswer:
    """Write the page.

    :raises CommandError: it is too large, or cannot be written
    """
    page = report_page(answer)
    drawing.save(path, page)
    head = cast(Document, {key: value for key, value in answer.items() if key in Document.__annotations__})
    return {**head, "file": path, "file_bytes": len(page.encode()), "status": answer["checks"]["status"]}


def written_line(answer: ReportAnswer) -> str:
    return f"{answer['file']}: {answer['file_bytes']} bytes; checks: {answer['status']}"


COMMAND = Report()
