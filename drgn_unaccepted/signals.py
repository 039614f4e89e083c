# SPDX-License-Identifier: LGPL-2.1-or-later
"""Signals that end a loop in good order."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Optional

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
