# SPDX-License-Identifier: LGPL-2.1-or-later
"""``scan``: check many vmcores and snapshots, some at a time, each in its own process."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

from drgn_unaccepted.answer.documents import SCHEMA
from drgn_unaccepted.commands.base import from_1, refuse
from drgn_unaccepted.errors import EXIT_ANSWERED, EXIT_INTERRUPTED, CommandError
from drgn_unaccepted.fleet.documents import ScanHeader
from drgn_unaccepted.fleet.journal import Beside, Journal, Output
from drgn_unaccepted.fleet.process import Bounds, run
from drgn_unaccepted.fleet.progress import Progress
from drgn_unaccepted.fleet.targets import find_targets, parse_shard, shard_of_environment
from drgn_unaccepted.record.loop import stopped_by_signals
from drgn_unaccepted.words import count, safe

_SIZES = {"M": 20, "G": 30, "T": 40}

#: A process does not even start with less.
_LEAST_MEMORY = 256 << 20


def add_scan_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "places",
        metavar="PATH|MANIFEST",
        nargs="+",
        help="a vmcore, a snapshot, a directory of them, or a list: *.txt and *.list with one path a line, *.jsonl "
        "with objects that have path and optionally host, symbols, table, vmcoreinfo; - is a list on standard input",
    )
    where = parser.add_mutually_exclusive_group()
    help_ = "JSON lines, one record for each target; targets in it already are skipped (default: standard output)"
    where.add_argument("-o", "--output", metavar="FILE", help=help_)
    help_ = "each record into PATH.unaccepted.json beside its target, unless it is there; succeeds without targets"
    where.add_argument("--beside", action="store_true", help=help_)
    help_ = "targets at a time (default: the CPUs this process may use)"
    parser.add_argument("-j", "--jobs", metavar="N", type=from_1, help=help_)
    help_ = (
        "only part I of N, from 0 (default: from SLURM_ARRAY_TASK_ID and SLURM_ARRAY_TASK_COUNT, or "
        "JOB_COMPLETION_INDEX and JOB_COMPLETION_COUNT)"
    )
    parser.add_argument("--shard", metavar="I/N", type=parse_shard, help=help_)
    help_ = "for each target (default: %(default)s)"
    parser.add_argument("--timeout", metavar="SECONDS", type=from_1, default=600, help=help_)
    help_ = "address space of each target's process (default: 4G)"
    parser.add_argument("--memory", metavar="SIZE", type=_memory, default=4 << 30, help=help_)
    parser.add_argument("--retry", action="store_true", help="repeat targets that gave no answer before")
    help_ = "regular expression whose group captures the guest's name in a path"
    parser.add_argument("--host", metavar="REGEX", type=_regex, help=help_)
    parser.add_argument("--quiet", action="store_true", help="print no progress")


def _memory(text: str) -> int:
    found = re.fullmatch(r"([0-9]{1,6})([MGT])", text)
    size = int(found[1]) << _SIZES[found[2]] if found else 0
    if size < _LEAST_MEMORY:
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


def run_scan(args: argparse.Namespace) -> int:
    """Exit status 0: every target of the shard has a record, perhaps one that says why there is no answer."""
    shard = args.shard or shard_of_environment(os.environ)
    skipped: list[Path] = []
    options = [word for path in args.symbols or () for word in ("-s", path)]
    targets = list(find_targets(args.places, args.host, options, skipped.append))
    if not targets and args.beside:
        # A timer runs it, and in general nothing has crashed.
        return EXIT_ANSWERED
    if not targets:
        raise CommandError(f"no vmcore and no snapshot in {', '.join(args.places)}")
    if skipped and not args.quiet:
        which = "that is neither dump nor snapshot:"
        if len(skipped) > 1:
            which = "that are neither dumps nor snapshots, for example"
        print(f"scan: skipped {count(len(skipped), 'file')} {which} {safe(str(skipped[0]))}", file=sys.stderr)
    mine = [target for target in targets if shard.has(target)]
    output = Beside(mine) if args.beside else Output() if args.output is None else Journal(args.output)
    with output, stopped_by_signals() as stop:
        done = output.done
        todo = [target for target in mine if target.id not in done or (args.retry and not done[target.id])]
        earlier = len(mine) - len(todo)
        header: ScanHeader = {
            "schema": SCHEMA,
            "command": "scan",
            "shard": [shard.index, shard.count],
            "targets": len(mine),
            "done": earlier,
        }
        output.begin(header)
        bounds, jobs = Bounds(args.timeout, args.memory), args.jobs or usable_cpus()
        results = closing(run(iter(todo), bounds, jobs, stop.wait, lambda: bool(stop)))
        with Progress(len(mine), earlier, shard, args.quiet) as progress, results as records:
            for record in records:
                output.add(record)
                progress.add(record)
    left = len(mine) - progress.done
    if not left:
        return EXIT_ANSWERED
    again = "" if args.output is None else "; the same command continues"
    print(f"drgn-unaccepted: stopped with {count(left, 'target')} left{again}", file=sys.stderr)
    return EXIT_INTERRUPTED


def usable_cpus(proc: Path = Path("/proc/self/cgroup"), top: Path = Path("/sys/fs/cgroup")) -> int:
    """CPUs of the affinity mask, and no more than the quota of the cgroups (v2) that this process is in; at least 1.

    A container can have fewer CPUs than its node.

    :param proc: ``/proc/PID/cgroup``, see cgroups(7)
    :param top: where the hierarchy is mounted; ``cpu.max`` as in Documentation/admin-guide/cgroup-v2.rst
    """
    return max(1, min([len(os.sched_getaffinity(0)), *_quotas(proc, top)]))


def _quotas(proc: Path, top: Path) -> Iterator[int]:
    """The limits of the cgroup and of those above it, in whole CPUs."""
    directory = top
    with suppress(OSError, UnicodeDecodeError):
        (path,) = [line[4:] for line in proc.read_text().splitlines() if line.startswith("0::/")] or [""]
        # A container without its own cgroup namespace sees a path outside of what is mounted.
        if ".." not in path:
            directory = top / path
    while True:
        # "max PERIOD": no limit.
        with suppress(OSError, ValueError, ZeroDivisionError):
            quota, period = (directory / "cpu.max").read_text().split()
            yield -(-int(quota) // int(period))
        if directory == top:
            return
        directory = directory.parent
