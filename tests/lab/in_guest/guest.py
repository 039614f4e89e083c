# SPDX-License-Identifier: LGPL-2.1-or-later
"""The guest's own means, without the package: its record of accepts, memory to fill, the host's dump."""

from __future__ import annotations

import multiprocessing
import os
import random
import subprocess
import time
from pathlib import Path
from typing import Optional

from tests.lab.captures import CHUNK, noted_accepts, touched_units
from tests.waiting import wait_for

LAB = Path("/sys/kernel/debug/lab")
SHARE = Path("/share")
FILL = Path("/run/fill")

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
        text = (LAB / "accepted").read_text()
        ranges = noted_accepts(text)
        # A slot that is being written has no end.
        if len(ranges) == int(text.split()[2]) and all(end for _, end in ranges):
            return touched_units(ranges)


def mount_tmpfs(where: Path) -> None:
    where.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100%", "tmpfs", where], check=True)


class Filler:
    """A task on one CPU that allocates chunk after chunk of a tmpfs, until no more are wanted.

    fallocate() does not touch the pages, so that the host has no memory to find for them.
    """

    def __init__(self, cpu: int, directory: Path) -> None:
        self._pause = multiprocessing.Value("d", lock=False)
        self.pause(None)
        self._task = multiprocessing.Process(target=self._fill, args=(cpu, directory / f"cpu{cpu}"), daemon=True)
        self._task.start()

    def pause(self, seconds: Optional[float]) -> None:
        """How long it waits between two chunks, on average; 0: many at once; None: it allocates nothing."""
        self._pause.value = -1.0 if seconds is None else seconds

    def end(self) -> None:
        self._task.kill()
        self._task.join()

    def _fill(self, cpu: int, path: Path) -> None:
        os.sched_setaffinity(0, {cpu})
        file = os.open(path, os.O_RDWR | os.O_CREAT)
        size = burst = 0
        chance = random.Random(path.name)
        while True:
            time.sleep(0 if burst else TICK)
            pause = self._pause.value
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
