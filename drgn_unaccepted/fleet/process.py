# SPDX-License-Identifier: LGPL-2.1-or-later
"""One target, one process, one record, whatever happens to the process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Optional, cast

import drgn_unaccepted
from drgn_unaccepted import exit_status, limits
from drgn_unaccepted.answer.documents import SCHEMA, CheckAnswer
from drgn_unaccepted.errors import INTERNAL_ERROR, CommandError, one_line
from drgn_unaccepted.fleet.documents import RecordTarget, ScanRecord
from drgn_unaccepted.fleet.records import checker, rules
from drgn_unaccepted.fleet.targets import Target, find_targets
from drgn_unaccepted.signals import Stop

#: The program of a child, which takes its module path from its first argument.
_START = (
    "import sys; sys.path[:] = sys.argv.pop(1).split('\\n'); "
    "from drgn_unaccepted.worker import main; sys.exit(main(sys.argv[1:]))"
)

#: What a child inherits from the environment: nothing that names code, configuration or a server of symbols.
_ENVIRONMENT = ("PATH", "HOME", "TMPDIR", "TZ", "LANG", "LC_ALL", "LC_CTYPE", "LC_MESSAGES")

#: How Python, the C library and the dynamic loader report a limit of address space.
_OUT_OF_MEMORY = ("MemoryError", "Cannot allocate memory", "failed to map segment")

_GRACE = 10  #: Seconds that a killed process gets to end. A process that waits for a dead file server never ends.


class Bounds(NamedTuple):
    seconds: int
    memory_bytes: int


class Process:
    """Checks one target. OSError: no process or no temporary file can be made."""

    def __init__(self, target: Target, bounds: Bounds) -> None:
        self._target, self._bounds = target, bounds
        self._out = tempfile.TemporaryFile()  # noqa: SIM115
        self._err = tempfile.TemporaryFile()  # noqa: SIM115
        # The parent kills in time and can say what happened. Limits of CPU time and the alarm are the second line.
        seconds = bounds.seconds + 2 * _GRACE
        argv = (_module_path(), str(bounds.memory_bytes), str(seconds), target.path, *target.options)
        self._start = time.monotonic()
        # In a session of its own: Ctrl-C in a terminal stops the scan, which then ends its processes.
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-c", _START, *argv],
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=self._err,
            cwd="/",
            env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
            start_new_session=True,
        )

    def kill(self, grace: float = 0) -> None:
        if self._process.poll() is None:
            with suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait(grace)

    def poll(self) -> Optional[ScanRecord]:
        """The record; None while the process runs. A process out of time is killed."""
        status, seconds = self._process.poll(), time.monotonic() - self._start
        if status is None:
            if seconds >= self._bounds.seconds:
                self.kill()
            if seconds < self._bounds.seconds + _GRACE:
                return None
        with self._out, self._err:
            answer, words = _answer(self._out), _last_words(self._err)
        found: Any = answer or {"target": {}, "status": "unknown", "findings": []}
        findings = found["findings"]
        kind, reason = self._failure(status, seconds, words)
        record = {
            **dict.fromkeys(ScanRecord.__annotations__),
            **found,
            # Which target it is, the child does not say: hostile bytes may have taken it over.
            **{"schema": SCHEMA, "command": "scan", "id": self._target.id, "host": self._target.host},
            "error": None if answer else {"kind": kind, "reason": reason},
            "target": {**dict.fromkeys(RecordTarget.__annotations__), **found["target"], "path": self._target.path},
            "findings": [finding for finding in findings if finding["status"] not in ("pass", "skip")],
            # Of rules that passed, the names are enough.
            "passed": rules(findings, "pass"),
            "skipped": rules(findings, "skip"),
            "file_bytes": self._target.size,
            "seconds": round(seconds, 3),
            "finished_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }
        return cast(ScanRecord, record)

    def _failure(self, status: Optional[int], seconds: float, words: str) -> tuple[str, str]:
        is_late = status == -signal.SIGKILL and seconds >= self._bounds.seconds
        if is_late or status in (None, -signal.SIGXCPU, -signal.SIGALRM):
            return "timeout", f"no answer in {self._bounds.seconds} s"
        if any(sign in words for sign in _OUT_OF_MEMORY):
            return "memory", f"more than {self._bounds.memory_bytes >> 20} MiB: {words}"
        if status < 0:
            return "crash", f"the process was ended by {signal.Signals(-status).name}"
        if status != exit_status.CANNOT:
            return "defect", f"exit status {status}: {words}"
        return "defect" if INTERNAL_ERROR in words else "unreadable", words.removeprefix("drgn-unaccepted: ")


def run(targets: Sequence[Target], bounds: Bounds, jobs: int, stop: Stop) -> Generator[ScanRecord, None, None]:
    """The records of all targets, in the order in which they come. No process outlives the iterator.

    :param jobs: processes at a time
    :param stop: ends the iterator before all targets have their records
    :raises CommandError: no process or no temporary file can be made
    """
    todo = iter(targets)
    running: list[Process] = []
    try:
        while not stop:
            for target in islice(todo, jobs - len(running)):
                running.append(Process(target, bounds))
            if not running:
                return
            stop.wait(0.005)
            for process in tuple(running):
                record = process.poll()
                if record is not None:
                    running.remove(process)
                    yield record
    except OSError as error:
        raise CommandError(f"cannot start the process of a target: {one_line(error)}") from None
    finally:
        for process in running:
            process.kill(_GRACE)


def analyze(path: str, options: Sequence[str] = (), seconds: int = 600, memory_bytes: int = 4 << 30) -> ScanRecord:
    """The record of one vmcore or snapshot, for any engine that maps functions over files (Dask, Ray, Spark).

    :param options: options of the command line, for example ``("-s", "vmlinux")``
    """
    (record,) = run(list(find_targets([path], options=options)), Bounds(seconds, memory_bytes), 1, Stop())
    return record


def usable_cpus(proc: Path = Path("/proc/self/cgroup"), top: Path = Path("/sys/fs/cgroup")) -> int:
    """CPUs of the affinity mask, and no more than the quota of a container, those of the cgroups (v2) of this process.

    ``/proc/PID/cgroup``: see cgroups(7); ``cpu.max``: see Documentation/admin-guide/cgroup-v2.rst.
    """
    inside = Path()
    with suppress(OSError, ValueError):
        (path,) = [line[4:] for line in proc.read_text().splitlines() if line.startswith("0::/")]
        # A container without its own cgroup namespace sees a path outside of what is mounted.
        inside = Path("" if ".." in path else path)
    cpus = [len(os.sched_getaffinity(0))]
    for group in (inside, *inside.parents):
        # "max PERIOD": no limit.
        with suppress(OSError, ValueError, ZeroDivisionError):
            quota, period = (top / group / "cpu.max").read_text().split()
            cpus.append(-(-int(quota) // int(period)))
    return max(1, min(cpus))


def _module_path() -> str:
    """``sys.path`` for a child, one place a line: not the working directory; this package last."""
    places = [place for place in sys.path if Path(place).is_absolute() and place != str(Path.cwd())]
    return "\n".join(dict.fromkeys((*places, str(Path(drgn_unaccepted.__file__).parent.parent))))


def _answer(file: BinaryIO) -> Optional[CheckAnswer]:
    file.seek(0)
    with suppress(ValueError, RecursionError):
        answer: Any = json.loads(file.read(limits.FLEET_LINE_BYTES))
        return answer if checker(CheckAnswer)(answer) else None
    return None


def _last_words(file: BinaryIO) -> str:
    """The last line: the command line's message, or the exception of a traceback."""
    start = file.seek(max(0, file.seek(0, os.SEEK_END) - limits.FLEET_LAST_WORDS_BYTES))
    words = file.read().decode(errors="replace").rstrip()
    if not words:
        return "without a word"
    line = words.splitlines()[-1].strip()
    return f"...{line}" if start and "\n" not in words else line
