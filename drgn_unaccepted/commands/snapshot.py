# SPDX-License-Identifier: LGPL-2.1-or-later
"""``snapshot``: write all that can be read to a file, for ``--snapshot`` later and elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import NamedTuple

from drgn_unaccepted.answer.documents import SnapshotAnswer
from drgn_unaccepted.answer.head import head
from drgn_unaccepted.answer.judgement import Judgement
from drgn_unaccepted.commands.base import Arguments, Parser, Question
from drgn_unaccepted.errors import concerning
from drgn_unaccepted.snapshot import ALL_PARTS, Snapshot
from drgn_unaccepted.snapshot_file import write
from drgn_unaccepted.words import safe


class Taken(NamedTuple):
    document: SnapshotAnswer
    snapshot: Snapshot


class WriteSnapshot(Question[Taken]):
    parts = ALL_PARTS

    def add_arguments(self, parser: Parser) -> None:
        parser.add_argument("-o", "--output", metavar="FILE", required=True, help="written whole or not at all")

    def answer(self, snapshot: Snapshot, judgement: Judgement, args: Arguments) -> Taken:
        shared = head(snapshot, judgement, "snapshot")
        return Taken({**shared, "file": args.output, "missing": dict(snapshot.missing)}, snapshot)

    def output(self, answer: Taken, args: Arguments) -> Iterable[str]:
        with concerning(args.output):
            write(answer.snapshot, args.output)
        if args.format == "json":
            return (json.dumps(answer.document),)
        missing = sorted(answer.document["missing"].items())
        return (
            f"{args.output}: table {answer.document['table']['state']}",
            *(f"without {safe(part)}: {safe(reason)}" for part, reason in missing),
        )


COMMAND = WriteSnapshot()
