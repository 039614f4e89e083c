# SPDX-License-Identifier: LGPL-2.1-or-later
"""How many CPUs this process may use: what a container has is not what its node has."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def usable_cpus(proc: Path = Path("/proc/self/cgroup"), top: Path = Path("/sys/fs/cgroup")) -> int:
    """CPUs of the affinity mask, and no more than the quota of the cgroups (v2) that this process is in; at least 1.

    :param proc: ``/proc/PID/cgroup``, see cgroups(7)
    :param top: where the hierarchy is mounted; ``cpu.max`` as in the kernel's Documentation/admin-guide/cgroup-v2.rst
    """
    return max(1, min([len(os.sched_getaffinity(0)), *_quotas(proc, top)]))


def _quotas(proc: Path, top: Path) -> Iterator[int]:
    """In whole CPUs, of the cgroup and of those above it; none where nothing is limited or said."""
    directory = top
    with suppress(OSError, UnicodeDecodeError):
        (path,) = [line[4:] for line in proc.read_text().splitlines() if line.startswith("0::/")] or [""]
        # Without a namespace of its own a container sees a path outside of what is mounted.
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
