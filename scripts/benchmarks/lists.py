# SPDX-License-Identifier: LGPL-2.1-or-later
"""``check`` of a guest with a million listed chunks against a plain list_for_each_entry walk in drgn.

    python scripts/benchmarks/lists.py BYTES LISTED summary|check|walk

does one of them on a guest of so many bytes, in a process of its own, whose peak memory can be read, and prints its
seconds.
"""

from __future__ import annotations

import contextlib
import os
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Optional

if __name__ == "__main__":
    sys.path.append(str(Path(__file__).resolve().parent.parent))

import drgn
from drgn.helpers.linux.list import list_for_each_entry

from benchmarks.grown import Grown
from benchmarks.measure import Command, Process, Row, drain, pairs, peak, row, run, timed
from drgn_unaccepted.checks import run_checks
from drgn_unaccepted.kernel.capture import capture
from drgn_unaccepted.snapshot import ALL_PARTS, Snapshot, Wanted

TIB = 1 << 40
MIB = 1 << 20


def checked(guest: Grown) -> Snapshot:
    """Ours: everything read, all rules run."""
    snapshot = capture(guest.opened, Wanted(ALL_PARTS))
    run_checks(snapshot)
    return snapshot


def walked(guest: Grown) -> Iterator[drgn.Object]:
    """drgn's: nothing but the walk."""
    pages: Iterator[drgn.Object] = list_for_each_entry("struct page", guest.list_head, "lru")
    return pages


def alone(what: str, size: int, listed: Optional[int] = None) -> tuple[float, Process]:
    """One of them in a process of its own: its seconds on the guest, and the process."""
    words = (str(Path(__file__).resolve()), str(size), str(size if listed is None else listed), what)
    process = run(Command((sys.executable, *words)))
    return float(process.output), process


def million(runs: int = 5) -> list[Row]:
    """check of 4 TiB of unaccepted memory, a million listed chunks, against the walk alone; how it grows; its memory"""
    peaks = [(peak(alone("check", 4 * TIB)[1]), 300 * MIB) for _ in range(3)]
    guest, quarter = Grown(4 * TIB), Grown(TIB)
    both = pairs(timed(lambda: checked(guest)), timed(lambda: drain(walked(guest))), runs)
    check_of_quarter = timed(lambda: checked(quarter))
    growth = pairs(timed(lambda: checked(guest)), lambda: 4 * check_of_quarter(), runs)
    return [
        row("check of a million listed chunks / list_for_each_entry", both, 1.0),
        row("check of a million listed chunks / 4 times a quarter of them", growth, 1.1),
        row("check of a million listed chunks: peak memory / 300 MiB", peaks, 1.0, "bytes"),
    ]


def answer(guest: Grown, name: str) -> None:
    """A command's answer from this guest, printed to nowhere."""
    from drgn_unaccepted import commands

    question = commands.COMMANDS[name]
    assert isinstance(question, commands.Question)
    from drgn_unaccepted.cli import parser

    args = parser().parse_args([name], Namespace(**commands.DEFAULTS))
    snapshot = capture(guest.opened, commands.wanted(question, args))
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        commands.print_answer(commands.ask(question, snapshot, args), args)


def main() -> None:
    size, listed, what = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    guest = Grown(size, listed)
    work = (lambda: drain(walked(guest))) if what == "walk" else (lambda: answer(guest, what))
    print(timed(work)())


if __name__ == "__main__":
    main()
