# SPDX-License-Identifier: LGPL-2.1-or-later
"""The loop that takes samples at an interval, until a signal or a count stops it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import Callable, Optional

from drgn_unaccepted.record.file import Writer
from drgn_unaccepted.signals import Stop
from drgn_unaccepted.snapshot import Sample, Snapshot


def samples(
    take: Callable[[], Snapshot],
    interval: float,
    count: Optional[int],
    stop: Stop,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Sample]:
    """A sample every ``interval`` seconds, from start to start; one that takes longer delays the next.

    :param count: number of samples; None: until ``stop``
    """
    start = began = clock()
    for number in itertools.count() if count is None else range(count):
        if number:
            stop.wait(start + interval - clock())
        if stop:
            return
        start = clock()
        snapshot = take()
        yield Sample(number, start - began, clock() - start, snapshot)


def record(take: Callable[[], Snapshot], path: str, interval: float, count: Optional[int], stop: Stop) -> int:
    """Write a recording; returns the number of its samples. Raises what :class:`Writer` raises."""
    with Writer(path, interval) as writer:
        for sample in samples(take, interval, count, stop):
            writer.add(sample.snapshot, sample.elapsed, sample.cost)
        return writer.samples
