# SPDX-License-Identifier: LGPL-2.1-or-later
"""How scripts/bench measures: ours and the other in turn, and the median of the ratios.

Turns are interleaved so that a machine whose speed drifts does not favour one, and the first of each is not counted.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Optional, TypeVar

TOP = Path(__file__).resolve().parent.parent.parent
SAMPLE = TOP / "vmcore-samples" / "6.12-fill" / "vmcore"
LAB = Path(os.environ.get("DRGN_UNACCEPTED_LAB", "~/.cache/drgn-unaccepted-lab")).expanduser()

if str(TOP) not in sys.path:
    sys.path.insert(0, str(TOP))

RUNS = 9

#: Seconds that a turn takes at least.
SHORTEST = 0.002

T = TypeVar("T")


class Row(NamedTuple):
    """One comparison. ``ours`` and ``other`` are medians, ``ratio`` is the median of the ratios of each pair."""

    name: str
    ours: float
    other: float
    #: ``s`` or ``bytes``.
    unit: str
    ratio: float
    #: The ratio that was wanted, as at most.
    wanted: float

    @property
    def met(self) -> bool:
        return self.ratio <= self.wanted


class Missing(Exception):
    """The input of a row is not there; the text says what brings it."""


class Command(NamedTuple):
    argv: Sequence[str]
    #: In its environment, besides :func:`environment`.
    env: Mapping[str, str] = MappingProxyType({})


#: Starts a process and tells about it. Linux takes the peak memory of whoever starts a process for that of the process,
#: until that has more; so it is started by one that is as small as Python can be, some 10 MiB.
_LAUNCHER = """
import os, sys, time
start = time.perf_counter()
pid = os.posix_spawn(sys.argv[2], sys.argv[2:], os.environ)
_, status, usage = os.wait4(pid, 0)
seconds = time.perf_counter() - start
own = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
os.write(int(sys.argv[1]), f"{seconds} {usage.ru_maxrss} {own} {os.waitstatus_to_exitcode(status)}".encode())
"""


class Process(NamedTuple):
    seconds: float
    #: None where it cannot be told, see _LAUNCHER.
    peak_bytes: Optional[int]
    output: bytes


def pairs(ours: Callable[[], T], other: Callable[[], T], runs: int = RUNS) -> list[tuple[T, T]]:
    """What the two return, in turns; the first turn is not in it."""
    ours(), other()
    return [(ours(), other()) for _ in range(runs)]


def row(name: str, measured: Iterable[tuple[float, float]], wanted: float, unit: str = "s") -> Row:
    """The medians of pairs.

    :raises ValueError: there are none
    """
    both = list(measured)
    if not both:
        raise ValueError(f"{name}: nothing was measured")
    return Row(
        name,
        statistics.median(ours for ours, _ in both),
        statistics.median(other for _, other in both),
        unit,
        statistics.median(ours / other for ours, other in both),
        wanted,
    )


def timed(work: Callable[[], object]) -> Callable[[], float]:
    """The same work, returning the seconds that it took; the mean of some, where one is too short to be told."""

    def seconds() -> float:
        start = time.perf_counter()
        times, took = 0, 0.0
        while took < SHORTEST:
            work()
            times, took = times + 1, time.perf_counter() - start
        return took / times

    return seconds


def drain(items: Iterable[object]) -> None:
    """Take all of them and keep none."""
    deque(items, maxlen=0)


def run(command: Command, output: Optional[Path] = None) -> Process:
    """One process: wall time, peak memory, and what it printed, or nothing where that goes to ``output``.

    :raises Missing: it did not end with exit status 0
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, tempfile.TemporaryFile() as told:
        with (Path(os.devnull) if output is None else output).open("wb") as elsewhere:
            subprocess.run(
                [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(told.fileno()), *command.argv],
                env={**environment(), **command.env},
                stdout=out if output is None else elsewhere,
                stderr=err,
                pass_fds=(told.fileno(),),
                check=True,
            )
        told.seek(0)
        seconds, peak_kib, hidden_kib, code = told.read().split()
        if int(code):
            err.seek(0)
            words = err.read().decode(errors="replace").strip().rpartition("\n")[2]
            raise Missing(f"{' '.join(command.argv)}: exit status {int(code)}: {words}")
        out.seek(0)
        peak_bytes = int(peak_kib) << 10 if int(peak_kib) > int(hidden_kib) else None
        return Process(float(seconds), peak_bytes, out.read())


_bytecode: Optional[tempfile.TemporaryDirectory[str]] = None


def environment() -> dict[str, str]:
    """What processes that are measured have in their environment, ours and the other alike.

    Bytecode is written and used, as that of an installed package is, whatever the caller has set; the turn that is
    not counted writes it. It goes to a directory of its own. Output is buffered, which PYTHONUNBUFFERED would change.
    """
    global _bytecode
    if _bytecode is None:
        _bytecode = tempfile.TemporaryDirectory(prefix="bench-bytecode-")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return {**kept, "PYTHONPYCACHEPREFIX": _bytecode.name, "PYTHONPATH": str(TOP)}


def program(*words: str) -> Command:
    """This program."""
    return Command((sys.executable, "-m", "drgn_unaccepted", *words))


def drgn(dump: Path, *words: str) -> Command:
    """drgn that opens a dump, for a user who has not installed this program and its plugin."""
    argv = (sys.executable, "-m", "drgn", "-q", "-c", str(dump), *words)
    return Command(argv, {"DRGN_DISABLE_PLUGINS": "unaccepted"})


def seconds(both: Iterable[tuple[Process, Process]]) -> list[tuple[float, float]]:
    return [(ours.seconds, other.seconds) for ours, other in both]


def peak(process: Process) -> int:
    """
    :raises Missing: it cannot be told
    """
    if process.peak_bytes is None:
        raise Missing("the peak memory of a process is hidden by that of what started it")
    return process.peak_bytes


def as_seconds_and_peak(
    name: str, measured: Sequence[tuple[Process, Process]], time_wanted: float, memory_wanted: float
) -> list[Row]:
    """Two rows of the same runs."""
    return [
        row(f"{name}: time", seconds(measured), time_wanted),
        row(f"{name}: peak memory", ((peak(a), peak(b)) for a, b in measured), memory_wanted, "bytes"),
    ]


def as_json(rows: Iterable[Row]) -> list[dict[str, Any]]:
    return [{**row._asdict(), "met": row.met} for row in rows]
