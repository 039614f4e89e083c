# SPDX-License-Identifier: LGPL-2.1-or-later
"""The guest's own means, without the package: its record of accepts, memory to fill, the host's dump."""

from __future__ import annotations

import ctypes
import mmap
import os
import random
import signal
import struct
import sys
import time
import traceback
from pathlib import Path
from typing import Optional

from tests.waiting import wait_for

LAB = Path("/sys/kernel/debug/lab")
SHARE = Path("/share")
UNIT = 2 << 20
CHUNK = 4 << 20

#: Bytes that are left unaccepted, so that the guest does not run out of memory.
REST = 256 << 20

#: Seconds after which a task decides again whether to allocate a chunk.
TICK = 0.005

#: Chunks that a task allocates without a pause, and seconds between two such bursts.
BURST = 8
BURST_PAUSE = 0.5


def nr_unaccepted() -> int:
    """Bytes, by /proc/vmstat."""
    for line in Path("/proc/vmstat").read_text().splitlines():
        name, _, value = line.partition(" ")
        if name == "nr_unaccepted":
            return int(value) * 4096
    raise LookupError("nr_unaccepted")


def accepted_units() -> set[int]:
    """Numbers (address / 2 MiB) of the units that the kernel had accepted when this returns, and perhaps some more.

    The lab's arch_accept_memory() notes a call before the kernel clears its bits.
    """
    while True:
        units: set[int] = set()
        calls = 0
        for line in (LAB / "accepted").read_text().splitlines():
            if line.startswith("#"):
                calls = int(line.split()[2])
                continue
            start, end = (int(word, 16) for word in line.split()[:2])
            if not end:
                break  # a slot that is being written
            units.update(range(start // UNIT, -(-end // UNIT)))
            calls -= 1
        if not calls:
            return units


def mount(kind: str, where: str, options: str = "") -> None:
    Path(where).mkdir(parents=True, exist_ok=True)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(kind.encode(), where.encode(), kind.encode(), 0, options.encode()):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), where)


class Filler:
    """A task on one CPU that allocates chunk after chunk of a tmpfs, until no more are wanted.

    fallocate() does not touch the pages, so that the host has no memory to find for them.
    """

    def __init__(self, cpu: int, directory: str) -> None:
        self._pause = mmap.mmap(-1, 8)
        self.pause(None)
        self._pid = os.fork()
        if self._pid == 0:
            try:
                os.sched_setaffinity(0, {cpu})
                self._fill(Path(directory) / f"cpu{cpu}")
            finally:
                # Nothing of the parent's, as its exit handlers, is for this task.
                if sys.exc_info()[0] is not None:
                    traceback.print_exc()
                os._exit(1)

    def pause(self, seconds: Optional[float]) -> None:
        """How long it waits between two chunks, on average; 0: many at once; None: it allocates nothing."""
        self._pause[:] = struct.pack("d", -1.0 if seconds is None else seconds)

    def end(self) -> None:
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)

    def _fill(self, path: Path) -> None:
        file = os.open(path, os.O_RDWR | os.O_CREAT)
        size = burst = 0
        chance = random.Random(path.name)
        while True:
            time.sleep(0 if burst else TICK)
            (pause,) = struct.unpack("d", self._pause[:])
            if pause == 0 and not burst and chance.random() < TICK / BURST_PAUSE:
                burst = BURST
            burst = max(0, burst - 1)
            if (burst or (pause > 0 and chance.random() < TICK / pause)) and nr_unaccepted() > REST:
                os.posix_fallocate(file, size, CHUNK)
                size += CHUNK


def dump(name: str) -> None:
    """Have the host stop this guest, dump its memory to /share/dump.NAME.elf, and let it go on."""
    (SHARE / "ask").mkdir(exist_ok=True)
    (SHARE / "ask" / f"dump.{name}").touch()
    wait_for((SHARE / "ask" / f"dump.{name}.done").exists, lambda: "the host made no dump")
