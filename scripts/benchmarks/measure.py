# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run two ways of doing the same thing in turns, and take the median of the ratios.

Turns alternate, so that a machine whose speed drifts favours neither. The first turn of each is not counted.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Optional, TypeVar

TOP = Path(__file__).resolve().parent.parent.parent
SAMPLE = TOP / "vmcore-samples" / "6.12-fill" / "vmcore"

if str(TOP) not in sys.path:
    sys.path.insert(0, str(TOP))

T = TypeVar("T")


class Row(NamedTuple):
    """One comparison. ``ours`` and ``other`` are medians; ``ratio`` is the median of the ratios of the turns."""

    name: str
    ours: float
    other: float
    #: ``s`` or ``bytes``.
    unit: str
    ratio: float
    #: The highest ratio that is allowed.
    limit: float


class Process(NamedTuple):
    seconds: float
    peak_bytes: int


def turns(ours: Callable[[], T], other: Callable[[], T], number: int) -> list[tuple[T, T]]:
    """The results of both, once a turn; one more turn comes first and is dropped."""
    return [(ours(), other()) for _ in range(number + 1)][1:]


def row(name: str, measured: Iterable[tuple[float, float]], limit: float, unit: str = "s") -> Row:
    both = list(measured)
    ours, other = (statistics.median(column) for column in zip(*both))
    return Row(name, ours, other, unit, statistics.median(one / two for one, two in both), limit)


def timed(work: Callable[[], object]) -> Callable[[], float]:
    """The same work, returning its seconds of CPU, which other processes disturb less than time."""

    def seconds() -> float:
        start = time.process_time()
        work()
        return time.process_time() - start

    return seconds


#: Starts a process and prints its seconds and peak memory. Linux counts the peak of the starting process too, until
#: exec(); so a Python that is as small as possible starts it.
_LAUNCHER = """
import os, sys, time
start = time.perf_counter()
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
_, status, usage = os.wait4(pid, 0)
print(time.perf_counter() - start, usage.ru_maxrss, file=sys.stderr)
sys.exit(os.waitstatus_to_exitcode(status) != 0)
"""


def run(argv: Sequence[object], env: Optional[dict[str, str]] = None, output: str = os.devnull) -> Process:
    """Run a process with its standard output in a file; wall time and peak memory.

    :raises subprocess.CalledProcessError: its exit status is not 0
    """
    with Path(output).open("wb") as out:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _LAUNCHER, *map(str, argv)],
            env={**_environment(), **(env or {})},
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
            check=True,
        )
    seconds, peak_kib = done.stderr.splitlines()[-1].split()
    return Process(float(seconds), int(peak_kib) << 10)


_bytecode: Optional[tempfile.TemporaryDirectory[str]] = None


def _environment() -> dict[str, str]:
    """The caller's environment without its PYTHON variables. Both sides use bytecode, as an installed package does."""
    global _bytecode
    if _bytecode is None:
        _bytecode = tempfile.TemporaryDirectory(prefix="bench-bytecode-")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return {**kept, "PYTHONPYCACHEPREFIX": _bytecode.name, "PYTHONPATH": str(TOP)}
