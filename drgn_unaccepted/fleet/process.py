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
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Optional

import drgn_unaccepted
from drgn_unaccepted import limits
from drgn_unaccepted.answer.document import SCHEMA, Document
from drgn_unaccepted.errors import INTERNAL_ERROR
from drgn_unaccepted.fleet.targets import Target, find_targets

#: Where the package is: a directory, or a zipapp.
_PACKAGE_PLACE = str(Path(drgn_unaccepted.__file__).parent.parent)

#: A child takes modules from where this process took its own, and never from a working directory.
_START = (
    "import sys; sys.path[:] = sys.argv.pop(1).split('\\n'); "
    "from drgn_unaccepted.fleet.worker import main; sys.exit(main(sys.argv[1:]))"
)

#: What a child gets to know of the environment: nothing that names code or configuration.
_ENVIRONMENT = ("PATH", "HOME", "TMPDIR", "TZ", "LANG", "LC_ALL", "LC_CTYPE", "LC_MESSAGES")

#: Options of the command line that take a file.
_FILE_OPTIONS = ("-s", "--table", "--vmcoreinfo")

#: What Python, the C library and the dynamic loader say of a limit of address space.
_OUT_OF_MEMORY = ("MemoryError", "Cannot allocate memory", "failed to map segment")

#: Seconds that a killed process has to be gone. One that waits for a dead file server never goes.
_GRACE = 10


class Bounds(NamedTuple):
    """What one target may cost."""

    seconds: int
    #: Of address space. Reading a dump takes about 200 MiB.
    memory_bytes: int


class Failure(NamedTuple):
    """Why a target has no answer."""

    #: ``unreadable`` (no dump, damaged, another architecture), ``crash``, ``timeout``, ``memory``; ``defect``: ours.
    kind: str
    reason: str


class Interrupted(Exception):
    """The scan ended before the target did: no record."""


class Process:
    """Runs one target; :meth:`kill` may be called from another thread."""

    def __init__(self, target: Target, bounds: Bounds) -> None:
        self._target = target
        self._bounds = bounds
        self._process: Optional[subprocess.Popen[bytes]] = None
        self._killed = False

    def kill(self) -> None:
        """End it; :meth:`record` then raises :exc:`Interrupted`."""
        self._killed = True
        self._end()

    def record(self) -> Document:
        """Look at the target.

        :raises Interrupted: :meth:`kill` was called
        """
        start = time.monotonic()
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            status = self._run(out, err)
            answer = _document(out)
            failure = None if answer is not None else self._failure(status, _last_words(err))
        return _record(self._target, answer, failure, time.monotonic() - start)

    def _run(self, out: BinaryIO, err: BinaryIO) -> Optional[int]:
        """The exit status; None: out of time."""
        argv = [
            *(sys.executable, "-I", "-c", _START, "\n".join(_module_path())),
            str(self._bounds.memory_bytes),
            # CPU time and the alarm are the second line; the first is this process, which can tell what happened.
            str(self._bounds.seconds + 2 * _GRACE),
            self._target.path,
            *_absolute_files(self._target.options),
        ]
        # Without DEBUGINFOD_URLS no server is asked for symbols. A session of its own: Ctrl-C in a terminal is for the
        # scan, which ends its processes itself.
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            cwd="/",
            env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
            start_new_session=True,
        )
        if self._killed:
            self._end()
        try:
            status: Optional[int] = self._process.wait(self._bounds.seconds)
        except subprocess.TimeoutExpired:
            self._end()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_GRACE)
            status = None
        if self._killed:
            raise Interrupted
        return status

    def _end(self) -> None:
        if self._process is not None and self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def _failure(self, status: Optional[int], words: str) -> Failure:
        if status is None or status in (-signal.SIGXCPU, -signal.SIGALRM):
            return Failure("timeout", f"no answer in {self._bounds.seconds} s")
        if any(sign in words for sign in _OUT_OF_MEMORY):
            return Failure("memory", f"more than {self._bounds.memory_bytes >> 20} MiB: {words}")
        if status < 0:
            return Failure("crash", f"the process was ended by {signal.Signals(-status).name}")
        if status == 3 and INTERNAL_ERROR in words:
            return Failure("defect", words.removeprefix("drgn-unaccepted: "))
        if status == 3:
            return Failure("unreadable", words.removeprefix("drgn-unaccepted: "))
        return Failure("defect", f"exit status {status}: {words}")


def _module_path() -> list[str]:
    """``sys.path`` without the working directory, unless this package itself is there."""
    here = str(Path.cwd())
    kept = [place for place in sys.path if Path(place).is_absolute() and place != here]
    return kept if _PACKAGE_PLACE in kept else [*kept, _PACKAGE_PLACE]


def _absolute_files(options: Sequence[str]) -> list[str]:
    before = ("", *options)
    return [str(Path(word).absolute()) if option in _FILE_OPTIONS else word for option, word in zip(before, options)]


def analyze(path: str, options: Sequence[str] = (), seconds: int = 600, memory_bytes: int = 4 << 30) -> Document:
    """The record of one vmcore or snapshot, for any engine that maps functions over files (Dask, Ray, Spark).

    :param options: of the command line, as ``("-s", "vmlinux")``
    """
    (target,) = find_targets([path], options=options)
    return Process(target, Bounds(seconds, memory_bytes)).record()


def _document(file: BinaryIO) -> Optional[dict[str, Any]]:
    file.seek(0)
    text = file.read(limits.FLEET_LINE_BYTES)
    try:
        answer = json.loads(text)
    except ValueError:
        return None
    return answer if isinstance(answer, dict) and answer.get("schema") == SCHEMA else None


def _last_words(file: BinaryIO) -> str:
    """The last line: of the command line's own words all, of a traceback the exception."""
    start = file.seek(max(0, file.seek(0, os.SEEK_END) - limits.FLEET_LAST_WORDS_BYTES))
    words = file.read().decode(errors="replace").rstrip()
    if not words:
        return "without a word"
    line = words.splitlines()[-1].strip()
    return f"...{line}" if start and "\n" not in words else line


def _record(target: Target, answer: Optional[Document], failure: Optional[Failure], seconds: float) -> Document:
    if answer is None:
        answer = {
            "target": {"kind": None, "path": target.path, "release": None, "build_id": None},
            "platform": None,
            "status": "unknown",
            "findings": [],
        }
    findings = answer.pop("findings")
    names = {status: [f["rule"] for f in findings if f["status"] == status] for status in ("pass", "skip")}
    return {
        "schema": SCHEMA,
        "command": "scan",
        "id": target.id,
        "host": target.host,
        "error": None if failure is None else failure._asdict(),
        **{key: value for key, value in answer.items() if key not in ("schema", "command")},
        # What passed needs no words, a thousand times over.
        "findings": [finding for finding in findings if finding["status"] not in names],
        "passed": names["pass"],
        "skipped": names["skip"],
        "file_bytes": target.size,
        "seconds": round(seconds, 3),
        "finished_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
