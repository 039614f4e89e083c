# SPDX-License-Identifier: LGPL-2.1-or-later
"""The options of ``scan`` and ``merge``. Every start of the command line reads this, so that it imports little."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from drgn_unaccepted.fleet.targets import Shard

_SIZES = {"M": 20, "G": 30, "T": 40}

#: A process does not even start in less.
_LEAST_MEMORY = 256 << 20


def add_scan_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "places",
        metavar="PATH|MANIFEST",
        nargs="+",
        help="vmcore, snapshot, directory of them, or a list: *.txt and *.list one path a line, *.jsonl objects with "
        "path and perhaps host, symbols, table, vmcoreinfo; - is a list on standard input",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="JSON lines, a record for each target; what is in it already is not done again (default: standard output)",
    )
    where.add_argument(
        "--beside",
        action="store_true",
        help="each record into PATH.unaccepted.json beside its target, unless it is there; no target is no error",
    )
    parser.add_argument(
        "-j", "--jobs", metavar="N", type=_from_1, help="targets at a time (default: CPUs that it may use)"
    )
    parser.add_argument(
        "--shard",
        metavar="I/N",
        type=_shard,
        help="only part I of N, from 0 (default: from SLURM_ARRAY_TASK_ID and SLURM_ARRAY_TASK_COUNT, or "
        "JOB_COMPLETION_INDEX and JOB_COMPLETION_COUNT)",
    )
    parser.add_argument(
        "--timeout", metavar="SECONDS", type=_from_1, default=600, help="for each target (default: %(default)s)"
    )
    parser.add_argument(
        "--memory",
        metavar="SIZE",
        type=_memory,
        default=4 << 30,
        help="address space of each target's process (default: 4G)",
    )
    parser.add_argument("--retry", action="store_true", help="look again at targets that gave no answer before")
    parser.add_argument(
        "--host", metavar="REGEX", type=_regex, help="its group, found in a path, is the name of the guest"
    )
    parser.add_argument("--quiet", action="store_true", help="say nothing of progress")


def add_merge_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "results",
        metavar="FILE",
        nargs="+",
        help="records of scan, or answers of check in JSON kept as HOST.json; or a directory of *.json and *.jsonl",
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="instead of standard output; parquet needs one")


def _from_1(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,7}", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: not a number from 1 to 9999999")
    return int(text)


def _memory(text: str) -> int:
    found = re.fullmatch(r"([0-9]{1,6})([MGT])", text)
    size = int(found[1]) << _SIZES[found[2]] if found else 0
    if size < _LEAST_MEMORY:
        raise argparse.ArgumentTypeError(f"{text}: not a size from 256M on, with a suffix M, G or T")
    return size


def _shard(text: str) -> Shard:
    from drgn_unaccepted.fleet.targets import parse_shard

    try:
        return parse_shard(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _regex(text: str) -> re.Pattern[str]:
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text}: {error}") from None
    if not pattern.groups:
        raise argparse.ArgumentTypeError(f"{text}: has no group, as in '/crash/([^/]+)/'")
    return pattern
