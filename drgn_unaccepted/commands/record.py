# SPDX-License-Identifier: LGPL-2.1-or-later
"""``record``: samples of the running kernel over time, to a file; and the loop that takes them, for ``watch`` too."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Callable, Optional

from drgn_unaccepted import exit_status
from drgn_unaccepted.commands import Action, Arguments, Parser, from_1, refuse
from drgn_unaccepted.errors import concerning
from drgn_unaccepted.files import to_stdout
from drgn_unaccepted.kernel.capture import sampler
from drgn_unaccepted.record.file import Writer
from drgn_unaccepted.signals import Stop, stopped_by_signals
from drgn_unaccepted.snapshot import Sample, Snapshot


class Record(Action):
    def add_arguments(self, parser: Parser) -> None:
        add_sampling_arguments(parser)
        parser.add_argument("-o", "--output", metavar="FILE", required=True, help="a new file, in JSON lines")

    def run(self, args: Arguments, open_target: Callable[[], Any]) -> int:
        take = sampler(open_target())
        with concerning(args.output), stopped_by_signals() as stop, Writer(args.output, args.interval) as writer:
            for sample in samples(take, args.interval, args.count, stop):
                writer.add(sample.snapshot, sample.elapsed, sample.cost)
        to_stdout((f"{args.output}: {writer.samples} samples",))
        return exit_status.ANSWERED


def add_sampling_arguments(parser: Parser) -> None:
    help_ = "from one sample to the next (default: 1)"
    parser.add_argument("--interval", metavar="SECONDS", type=_seconds, default=1.0, help=help_)
    parser.add_argument("--count", metavar="N", type=from_1, help="stop after so many samples (default: never)")


def _seconds(text: str) -> float:
    with suppress(ValueError):
        if 0 <= float(text) < float("inf"):
            return float(text)
    refuse(f"{text}: not a number of seconds")


def samples(take: Callable[[], Snapshot], interval: float, count: Optional[int], stop: Stop) -> Iterator[Sample]:
    """``count`` samples, or all until ``stop``, every ``interval`` seconds; one that takes longer delays the next."""
    start = began = time.monotonic()
    for number in itertools.count() if count is None else range(count):
        if number:
            stop.wait(start + interval - time.monotonic())
        if stop:
            return
        start = time.monotonic()
        snapshot = take()
        yield Sample(number, start - began, time.monotonic() - start, snapshot)


COMMAND = Record()
