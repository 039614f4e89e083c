# SPDX-License-Identifier: LGPL-2.1-or-later
"""``merge``: the results of scans and checks, the worst findings first."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Callable

from drgn_unaccepted import exit_status
from drgn_unaccepted.commands import Action, Arguments, Parser
from drgn_unaccepted.errors import concerning
from drgn_unaccepted.files import replacing, to_stderr, to_stdout
from drgn_unaccepted.fleet.merge import Merged
from drgn_unaccepted.fleet.records import result_files
from drgn_unaccepted.fleet.text import csv_lines, text
from drgn_unaccepted.words import count, safe


class Merge(Action):
    formats = ("csv",)

    def add_arguments(self, parser: Parser) -> None:
        help_ = "records of scan, or answers of check in JSON kept as HOST.json; or a directory of *.json and *.jsonl"
        parser.add_argument("results", metavar="FILE", nargs="+", help=help_)
        parser.add_argument("-o", "--output", metavar="FILE", help="write to FILE (default: standard output)")
        parser.add_argument("--quiet", action="store_true", help="print no progress, and no skipped files")

    def run(self, args: Arguments, open_target: Callable[[], Any]) -> int:
        merged = Merged(result_files(args.results), args.quiet)
        if merged.skipped and not args.quiet:
            first = next(iter(merged.skipped))
            more = f" and {count(len(merged.skipped) - 1, 'more file')}" if len(merged.skipped) > 1 else ""
            to_stderr(f"merge: skipped {first}{more}: not written by scan or check")
        if args.format == "csv":
            lines: Iterable[str] = csv_lines(record for _, record in merged)
        else:
            lines = [json.dumps(merged.summary())] if args.format == "json" else map(safe, text(merged.summary()))
        if args.output is None:
            to_stdout(lines)
        else:
            with concerning(args.output), replacing(args.output) as file:
                file.writelines(f"{line}\n".encode() for line in lines)
        for lack in merged.incomplete if args.format == "csv" else ():
            to_stderr(f"drgn-unaccepted: incomplete: {lack}")
        return exit_status.ANSWERED


COMMAND = Merge()
