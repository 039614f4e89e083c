# SPDX-License-Identifier: LGPL-2.1-or-later
"""``scan`` and ``merge``, from parsed options to what they print."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Optional

from drgn_unaccepted.errors import CommandError
from drgn_unaccepted.words import count, safe

Arguments = argparse.Namespace

_EXIT_INTERRUPTED = 130


def run_scan(args: Arguments) -> int:
    """Exit status 0: every target of the shard has a record, be it that there is no answer."""
    from drgn_unaccepted.fleet.cpus import usable_cpus
    from drgn_unaccepted.fleet.process import Bounds
    from drgn_unaccepted.fleet.scan import Scan, scan
    from drgn_unaccepted.fleet.targets import find_targets, shard_of_environment
    from drgn_unaccepted.record.loop import stopped_by_signals

    shard = args.shard or shard_of_environment(os.environ)
    options = [word for path in args.symbols or () for word in ("-s", os.path.abspath(path))]  # noqa: PTH100
    others = _Others()
    targets = list(find_targets(args.places, args.host, options, others.add))
    if not targets and args.beside:
        # Run by a timer, where as a rule nothing has crashed.
        return 0
    if not targets:
        raise CommandError(f"no vmcore and no snapshot in {', '.join(args.places)}")
    if others.count and not args.quiet:
        print(f"scan: {others}", file=sys.stderr)
    jobs = args.jobs or usable_cpus()
    how = Scan(shard, Bounds(args.timeout, args.memory), jobs, args.retry, args.quiet, args.beside)
    with stopped_by_signals() as stop:
        try:
            left = scan(targets, how, args.output, stop)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise CommandError(f"a target's process cannot be started: {error}") from None
    if not left:
        return 0
    again = "" if args.output is None else "; the same command goes on from here"
    print(f"drgn-unaccepted: stopped with {left} targets left{again}", file=sys.stderr)
    return _EXIT_INTERRUPTED


class _Others:
    """Files in the directories of a scan that are no targets."""

    def __init__(self) -> None:
        self.count = 0
        self._first: Optional[Path] = None

    def add(self, path: Path) -> None:
        self.count += 1
        self._first = self._first or path

    def __str__(self) -> str:
        as_ = ":" if self.count == 1 else ", as"
        return f"passed over {count(self.count, 'file')}, neither dump nor snapshot{as_} {safe(str(self._first))}"


def run_merge(args: Arguments) -> int:
    from drgn_unaccepted.fleet.merge import merge
    from drgn_unaccepted.fleet.records import result_files

    files = result_files(args.results)
    if args.format in ("csv", "parquet"):
        from drgn_unaccepted.fleet.table import csv_table, parquet_table

        if args.format == "csv":
            table = csv_table(args.output)
        elif args.output is None:
            raise CommandError("--format parquet: -o FILE says where")
        else:
            table = parquet_table(args.output)
        with table as see:
            summary = merge(files, see)
        for lack in summary["incomplete"]:
            print(f"drgn-unaccepted: incomplete: {lack}", file=sys.stderr)
        return 0
    summary = merge(files)
    if args.format == "json":
        lines = [json.dumps(summary)]
    else:
        from drgn_unaccepted.fleet.text import text

        lines = list(text(summary))
    if args.output is None:
        for line in lines:
            print(line)
    else:
        from drgn_unaccepted.files import write_atomically

        try:
            write_atomically(args.output, "\n".join(lines) + "\n")
        except OSError as error:
            raise CommandError(f"{args.output}: {error.strerror}") from None
    return 0
