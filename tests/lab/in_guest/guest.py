# SPDX-License-Identifier: LGPL-2.1-or-later
"""The guest's own means, without the package: its record of accepts, memory to fill, the host's dump."""

from __future__ import annotations

import ctypes
import os
import time
from pathlib import Path

LAB = Path("/sys/kernel/debug/lab")
SHARE = Path("/share")
UNIT = 2 << 20
CHUNK = 4 << 20


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
    """A task on one CPU that allocates 4 MiB of tmpfs for each chunk that it is told to, as fast as it can.

    fallocate() does not touch the pages, so that the host has no memory to find for them.
    """

    def __init__(self, cpu: int, directory: str) -> None:
        self._read, self._write = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                os.close(self._write)
                os.sched_setaffinity(0, {cpu})
                self._fill(Path(directory) / f"cpu{cpu}")
            finally:
                os._exit(0)
        os.close(self._read)

    def fill(self, chunks: int) -> None:
        if chunks:
            os.write(self._write, bytes([min(chunks, 255)]))

    def end(self) -> None:
        os.close(self._write)
        os.waitpid(self._pid, 0)

    def _fill(self, path: Path) -> None:
        file = os.open(path, os.O_RDWR | os.O_CREAT)
        size = 0
        while word := os.read(self._read, 1):
            for _ in range(word[0]):
                os.posix_fallocate(file, size, CHUNK)
                size += CHUNK


def dump(name: str) -> None:
    """Have the host stop this guest, dump its memory to /share/dump.NAME.elf, and let it go on."""
    (SHARE / "ask").mkdir(exist_ok=True)
    (SHARE / "ask" / f"dump.{name}").touch()
    deadline = time.monotonic() + 300
    while not (SHARE / "ask" / f"dump.{name}.done").exists():
        if time.monotonic() > deadline:
            raise TimeoutError("the host made no dump")
        time.sleep(0.05)
