# SPDX-License-Identifier: LGPL-2.1-or-later
"""The loop that takes samples at an interval, until a signal or a count stops it."""

from __future__ import annotations

import itertools
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Callable, Optional

from drgn_unaccepted.answer.history import Sample
from drgn_unaccepted.record.file import Writer
from drgn_unaccepted.snapshot import Snapshot

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stop:
    """A flag for signal handlers to set, and a wait that it ends.

    threading.Event will not do: its set() takes a lock that the interrupted wait() can hold.
    """

    def __init__(self) -> None:
        self._stopped = False
        self._waiting = threading.Lock()  # held until set()
        self._waiting.acquire()

    def set(self) -> None:
        if not self._stopped:
            self._stopped = True
            self._waiting.release()

    def __bool__(self) -> bool:
        return self._stopped

    def wait(self, seconds: float) -> bool:
        """Wait, at most until :meth:`set`; returns whether it was called."""
        if not self._stopped and self._waiting.acquire(timeout=min(max(0.0, seconds), threading.TIMEOUT_MAX)):
            self._waiting.release()
        return self._stopped


@contextmanager
def stopped_by_signals() -> Iterator[Stop]:
    """The first SIGINT, SIGTERM or SIGHUP stops after the current sample; the second one interrupts.

    Ignored signals stay ignored: SIGHUP under nohup(1), SIGINT in a background job.
    """
    stop = Stop()

    def handle(number: int, frame: Optional[FrameType]) -> None:
        if stop:
            raise KeyboardInterrupt
        stop.set()

    before = {n: signal.signal(n, handle) for n in _SIGNALS if signal.getsignal(n) is not signal.SIG_IGN}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
