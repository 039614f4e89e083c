# SPDX-License-Identifier: LGPL-2.1-or-later
"""``scan``: check many vmcores and snapshots, some at a time, each in its own process."""

from __future__ import annotations

import os
import re
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any, Callable

from drgn_unaccepted import exit_status
from drgn_unaccepted.answer.documents import SCHEMA
from drgn_unaccepted.commands import Action, Arguments, Parser, from_1, refuse
from drgn_unaccepted.errors import CommandError
from drgn_unaccepted.files import to_stderr
from drgn_unaccepted.fleet.process import Bounds, run, usable_cpus
from drgn_unaccepted.fleet.records import COLUMNS, Beside, Journal, Output, column
from drgn_unaccepted.fleet.targets import find_targets, in_shard, parse_shard, shard_of_environment
from drgn_unaccepted.fleet.text import Progress
from drgn_unaccepted.signals import stopped_by_signals
from drgn_unaccepted.words import count


class Scan(Action):
    def add_arguments(self, parser: Parser) -> None:
        help_ = (
            "a vmcore, a snapshot, a directory of them, or a list: *.txt and *.list with one path a line, *.jsonl with "
            "objects that have path and optionally host, symbols, table, vmcoreinfo; files are relative to the list; "
            "- is a list on standard input"
        )
        parser.add_argument("places", metavar="PATH|MANIFEST", nargs="+", help=help_)
        where = parser.add_mutually_exclusive_group()
        help_ = "JSON lines, one record for each target; targets in it already are skipped (default: standard output)"
        where.add_argument("-o", "--output", metavar="FILE", help=help_)
        help_ = "each record into PATH.unaccepted.json beside its target, unless it is there; succeeds without targets"
        where.add_argument("--beside", action="store_true", help=help_)
        help_ = "targets at a time (default: the CPUs this process may use)"
        parser.add_argument("-j", "--jobs", metavar="N", type=from_1, help=help_)
        help_ = "only part I of N, from 0 (default: as SLURM_ARRAY_TASK_* or JOB_COMPLETION_* say)"
        parser.add_argument("--shard", metavar="I/N", type=parse_shard, help=help_)
        help_ = "for each target (default: %(default)s)"
        parser.add_argument("--timeout", metavar="SECONDS", type=from_1, default=600, help=help_)
        help_ = "address space of each target's process (default: 4G)"
        parser.add_argument("--memory", metavar="SIZE", type=_memory, default=4 << 30, help=help_)
        parser.add_argument("--retry", action="store_true", help="repeat targets that gave no answer before")
        help_ = "regular expression whose group captures the guest's name in a path"
        parser.add_argument("--host", metavar="REGEX", type=_regex, help=help_)
        parser.add_argument("--quiet", action="store_true", help="print no progress")

    def run(self, args: Arguments, open_target: Callable[[], Any]) -> int:
        """Exit status 0: every target of the shard has a record, perhaps one that says why there is no answer.

        A place that is named and is not there ends in 3, when all else is done: it may have been a directory of many.
        """
        shard = args.shard or shard_of_environment(os.environ)
        skipped: list[Path] = []
        options = [word for path in args.symbols or () for word in ("-s", path)]
        targets = list(find_targets(args.places, args.host, options, skipped.append))
        if not targets:
            # A timer runs it with --beside, and in general nothing has crashed.
            if args.beside:
                return exit_status.ANSWERED
            raise CommandError(f"no vmcore and no snapshot in {', '.join(args.places)}")
        if skipped and not args.quiet:
            what = "that are neither dumps nor snapshots, for example"
            what = what if len(skipped) > 1 else "that is neither dump nor snapshot:"
            to_stderr(f"scan: skipped {count(len(skipped), 'file')} {what} {skipped[0]}")
        mine = [target for target in targets if in_shard(target.path, shard)]
        stream = Beside(mine) if args.beside else Output() if args.output is None else Journal(args.output)
        with closing(stream) as output, stopped_by_signals() as stop:
            done = output.done
            todo = [target for target in mine if target.id not in done or (args.retry and not done[target.id])]
            earlier = len(mine) - len(todo)
            header: Any = {"schema": SCHEMA, "command": "scan", "shard": shard, "targets": len(mine), "done": earlier}
            output.write(header)
            records = run(todo, Bounds(args.timeout, args.memory), args.jobs or usable_cpus(), stop)
            progress, counts = Progress(args.quiet), Counter[str]()

            def said() -> str:
                part = "" if shard == (0, 1) else f"shard {shard[0]}/{shard[1]}: "
                before = f" ({earlier} by an earlier run)" if earlier else ""
                found = ", ".join(f"{counts[name]} {name}" for name in COLUMNS if counts[name])
                done = f"{earlier + sum(counts.values())} of {count(len(mine), 'target')}"
                return f"scan: {part}{done}{before}" + (f": {found}" if found else "")

            with closing(records):
                for record in records:
                    output.write(record)
                    counts[column(record)] += 1
                    progress.show(said())
        progress.end()
        if not args.quiet:
            to_stderr(said())
        left = len(mine) - earlier - sum(counts.values())
        if left:
            again = "" if args.output is None else "; the same command continues"
            to_stderr(f"drgn-unaccepted: stopped with {count(left, 'target')} left{again}")
            return exit_status.INTERRUPTED
        for place in args.places:
            if place != "-" and not Path(place).exists():
                raise CommandError(f"{place}: No such file or directory; all else is done")
        return exit_status.ANSWERED


def _memory(text: str) -> int:
    found = re.fullmatch(r"([0-9]{1,6})([MGT])", text)
    size = int(found[1]) << {"M": 20, "G": 30, "T": 40}[found[2]] if found else 0
    # A process does not even start with less.
    if size < 256 << 20:
        refuse(f"{text}: not a size of at least 256M, with the suffix M, G or T")
    return size


def _regex(text: str) -> re.Pattern[str]:
    try:
        pattern = re.compile(text)
    except re.error as error:
        refuse(f"{text}: {error}")
    if not pattern.groups:
        refuse(f"{text}: has no group, unlike '/crash/([^/]+)/'")
    return pattern


COMMAND = Scan()
