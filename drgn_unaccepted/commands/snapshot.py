# SPDX-License-Identifier: LGPL-2.1-or-later
"""``snapshot``: write all that can be read to a file, for ``--snapshot`` later and elsewhere."""

from __future__ import annotations

from collections.abc import Iterator

from drgn_unaccepted.answer.documents import SnapshotAnswer
from drgn_unaccepted.answer.head import head
from drgn_unaccepted.answer.judgement import Judgement
from drgn_unaccepted.commands import Arguments, Parser, Question
from drgn_unaccepted.errors import concerning
from drgn_unaccepted.snapshot import ALL_PARTS, Snapshot
from drgn_unaccepted.snapshot_file import write
from drgn_unaccepted.words import safe


class WriteSnapshot(Question[SnapshotAnswer]):
    parts = ALL_PARTS

    def add_arguments(self, parser: Parser) -> None:
        parser.add_argument("-o", "--output", metavar="FILE", required=True, help="written whole or not at all")

    def answer(self, snapshot: Snapshot, judgement: Judgement, args: Arguments) -> SnapshotAnswer:
        with concerning(args.output):
            write(snapshot, args.output)
        return {**head(snapshot, judgement, "snapshot"), "file": args.output, "missing": dict(snapshot.missing)}

    def text(self, answer: SnapshotAnswer, args: Arguments) -> Iterator[str]:
        yield f"{answer['file']}: table {answer['table']['state']}"
        for part, reason in sorted(answer["missing"].items()):
            yield f"without {safe(part)}: {safe(reason)}"


COMMAND = WriteSnapshot()
