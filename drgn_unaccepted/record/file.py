# SPDX-License-Identifier: LGPL-2.1-or-later
"""Recordings: JSON lines. After a header, each line is a sample, as the difference from the previous one.

A recorder that is killed leaves at most one incomplete line, the last, which a reader drops with a message. A recording
is untrusted input, and is read one sample at a time.
"""

from __future__ import annotations

import dataclasses
import errno
import itertools
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Optional

from drgn_unaccepted import limits
from drgn_unaccepted.answer.history import Sample
from drgn_unaccepted.codec import Context, decode, encode, hint, parse_json
from drgn_unaccepted.consistency import check_consistency
from drgn_unaccepted.errors import SnapshotFileError
from drgn_unaccepted.files import open_dump
from drgn_unaccepted.record.change import apply, change
from drgn_unaccepted.snapshot import Snapshot

SCHEMA = "drgn-unaccepted-recording/1"

#: Seconds between two fdatasync(2), and at most lost when a guest dies.
_SYNC_SECONDS = 1.0


class Writer:
    """Writes a new recording; deletes it if an exception comes before the first sample.

    :raises FileExistsError: the file exists; a recording is never overwritten
    :raises OSError: it cannot be written
    """

    def __init__(self, path: str, interval: float) -> None:
        #: Number of samples written.
        self.samples = 0
        self._path = path
        self._last: Optional[Snapshot] = None
        self._end = 0
        self._synced = time.monotonic()
        # Kernel addresses are for the owner alone, as in a snapshot file.
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, "exists already; a recording is never overwritten", path)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            self._line({"schema": SCHEMA, "interval": interval})
        except OSError as error:
            self.__exit__(error)
            raise

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, error: Optional[object], *_: object) -> None:
        os.close(self._file)
        if error is not None and not self.samples:
            # A file without a sample would block the next recording.
            Path(self._path).unlink()

    def add(self, snapshot: Snapshot, elapsed: float, cost: float) -> None:
        """Append one sample.

        :raises OSError: it cannot be written; the file ends with the previous sample
        :raises SnapshotFileError: it could not be read again
        """
        line: dict[str, Any] = {"sample": self.samples, "elapsed": round(elapsed, 3), "cost": round(cost, 4)}
        if self._last is None:
            line["snapshot"] = encode(snapshot, hint(Snapshot), "snapshot")
        else:
            line["taken_at"] = snapshot.target.taken_at
            line["change"] = change(_taken_at(self._last, snapshot.target.taken_at), snapshot)
        self._line(line)
        self._last = snapshot
        self.samples += 1

    def _line(self, value: dict[str, Any]) -> None:
        line = (json.dumps(value, separators=(",", ":")) + "\n").encode()
        data = memoryview(line)
        try:
            while data:
                data = data[os.write(self._file, data) :]
        except OSError:
            os.ftruncate(self._file, self._end)
            raise
        self._end += len(line)
        now = time.monotonic()
        if now - self._synced >= _SYNC_SECONDS:
            os.fdatasync(self._file)
            self._synced = now


class Recording:
    """A recording to read; each iteration starts at the beginning.

    :raises SnapshotFileError: it is not a recording
    :raises OSError: it cannot be read
    """

    def __init__(self, path: str) -> None:
        self.path = path
        #: Why the end of the file was dropped; set when the samples have been read.
        self.dropped: Optional[str] = None
        #: Fields that this version does not know; complete when the samples have been read.
        self.warnings: dict[str, None] = {}
        with open_dump(path) as file:
            self._header(file)

    def __iter__(self) -> Iterator[Sample]:
        """The samples.

        :raises SnapshotFileError: a damaged line; it and all that follow cannot be read
        """
        self.dropped = None
        last: Optional[Snapshot] = None
        with open_dump(self.path) as file:
            self._header(file)
            for number in itertools.count():
                with _in_line(number + 2):
                    line = _line(file, limits.RECORDING_LINE_BYTES)
                    if not line.endswith(b"\n"):
                        break
                    sample = self._sample(line, number, last)
                last = sample.snapshot
                yield sample
        if line:
            self.dropped = (
                f"line {number + 2} was dropped: it is cut short after {len(line)} bytes, for example because the "
                "recorder was killed while it wrote"
            )

    def _header(self, file: BinaryIO) -> None:
        with _in_line(1):
            header = parse_json(_line(file, limits.RECORDING_HEADER_BYTES), SCHEMA)
        Context(self.warnings).unknown("header", header.keys() - {"schema", "interval"})

    def _sample(self, line: bytearray, number: int, last: Optional[Snapshot]) -> Sample:
        value = parse_json(line)
        if not isinstance(value, dict) or value.get("sample") != number:
            raise SnapshotFileError(f"sample {number} is wanted")
        context = Context(self.warnings)
        context.unknown("sample", value.keys() - {"sample", "elapsed", "cost", "taken_at", "snapshot", "change"})
        if last is None:
            snapshot: Snapshot = decode(value.get("snapshot"), hint(Snapshot), "snapshot", context)
            check_consistency(snapshot)
        else:
            taken_at = decode(value.get("taken_at"), hint(str), "taken_at")
            snapshot = apply(_taken_at(last, taken_at), value.get("change"), context)
        return Sample(number, _seconds(value, "elapsed"), _seconds(value, "cost"), snapshot)


@contextmanager
def _in_line(number: int) -> Iterator[None]:
    try:
        yield
    except SnapshotFileError as error:
        raise SnapshotFileError(f"line {number}: {error}") from None


def _line(file: BinaryIO, most: int) -> bytearray:
    line = file.readline(most + 1)
    if len(line) > most:
        raise SnapshotFileError(f"more than {most} bytes")
    return bytearray(line)


def _taken_at(snapshot: Snapshot, taken_at: str) -> Snapshot:
    """The time differs between any two samples, so it is not part of the change."""
    return dataclasses.replace(snapshot, target=dataclasses.replace(snapshot.target, taken_at=taken_at))


def _seconds(value: dict[str, Any], name: str) -> float:
    seconds = value.get(name)
    # A bool is an int in Python, but not a number in JSON.
    if isinstance(seconds, (int, float)) and type(seconds) is not bool and 0 <= seconds < limits.RECORDING_SECONDS:
        return float(seconds)
    raise SnapshotFileError(f"{name}: seconds are wanted")
