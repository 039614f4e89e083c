# SPDX-License-Identifier: LGPL-2.1-or-later
"""Recordings: JSON lines, a header and then one line a sample, each the difference to the one before.

A line is written in one go, so that whatever ends the recorder leaves at most one that is cut short, the last. A reader
drops it and says so. A recording is read as untrusted input, one sample in memory at a time.
"""

from __future__ import annotations

import dataclasses
import json
import os
import reprlib
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Optional

from drgn_unaccepted import limits
from drgn_unaccepted.files import open_dump
from drgn_unaccepted.record.change import apply, change
from drgn_unaccepted.snapshot import Snapshot
from drgn_unaccepted.snapshot_file import (
    SnapshotFileError,
    check_outline,
    check_schema,
    decode,
    encode,
    parse_json,
)

SCHEMA = "drgn-unaccepted-recording/1"

#: Seconds between two requests to the disk to take what was written. A guest that dies loses no more than that.
_SYNC_SECONDS = 1.0


class RecordingError(Exception):
    """The file is no recording that can be read, or not from here on; the text says why in one line."""


class Sample(NamedTuple):
    """One snapshot of a recording."""

    #: Counted from 0.
    number: int
    #: Seconds since the recording began, by a clock that is never set (CLOCK_MONOTONIC).
    elapsed: float
    #: Seconds that it took to take this sample.
    cost: float
    snapshot: Snapshot


class Writer:
    """Writes a new recording.

    :raises FileExistsError: there is a file of this name: no recording is overwritten
    :raises OSError: it cannot be written
    """

    def __init__(self, path: str, interval: float) -> None:
        # As a snapshot file: for root, since it holds kernel addresses.
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._path = path
        self._end = 0
        self._synced = time.monotonic()
        self._last: Optional[Snapshot] = None
        self._number = 0
        try:
            self._line({"schema": SCHEMA, "interval": interval})
        except OSError:
            self.close()
            raise

    @property
    def samples(self) -> int:
        """How many were written."""
        return self._number

    def add(self, snapshot: Snapshot, elapsed: float, cost: float) -> None:
        """Append one sample.

        :raises OSError: it cannot be written; the file ends with the sample before, and is gone if there is none
        """
        line: dict[str, Any] = {"sample": self._number, "elapsed": round(elapsed, 3), "cost": round(cost, 4)}
        if self._last is None:
            line["snapshot"] = encode(snapshot)
        else:
            line["taken_at"] = snapshot.target.taken_at
            line["change"] = change(_taken_at(self._last, snapshot.target.taken_at), snapshot)
        self._line(line)
        self._last = snapshot
        self._number += 1

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _line(self, value: dict[str, Any]) -> None:
        line = (json.dumps(value, separators=(",", ":")) + "\n").encode()
        data = memoryview(line)
        try:
            while data:
                data = data[os.write(self._file, data) :]
        except OSError:
            self._take_back()
            raise
        self._end += len(line)
        now = time.monotonic()
        if now - self._synced >= _SYNC_SECONDS:
            os.fdatasync(self._file)
            self._synced = now

    def _take_back(self) -> None:
        """Leave no part of a line, and no file that has nothing to say and is in the way of the next recording."""
        with suppress(OSError):
            if self._number:
                os.ftruncate(self._file, self._end)
            else:
                Path(self._path).unlink()


class Recording:
    """A recording to be read, from the beginning each time that it is iterated over.

    :raises RecordingError: it is none
    :raises OSError: it cannot be read
    """

    def __init__(self, path: str) -> None:
        self.path = path
        #: What was dropped at the end of the file, and why; known when the samples were read.
        self.dropped: Optional[str] = None
        with open_dump(path) as file:
            header = _parse(_read_line(file, 1, limits.RECORDING_HEADER_BYTES), 1)
        try:
            check_schema(header, SCHEMA)
        except SnapshotFileError as error:
            raise RecordingError(str(error)) from None
        #: Seconds between two samples, as they were asked for.
        self.interval = _seconds(header, "interval", 1)

    def __iter__(self) -> Iterator[Sample]:
        """The samples.

        :raises RecordingError: a line is damaged, so that it and what follows cannot be read
        """
        self.dropped = None
        last: Optional[Snapshot] = None
        with open_dump(self.path) as file:
            _read_line(file, 1, limits.RECORDING_HEADER_BYTES)
            number = 1
            while True:
                number += 1
                line = _read_line(file, number, limits.RECORDING_LINE_BYTES)
                if not line:
                    return
                if not line.endswith(b"\n"):
                    self.dropped = (
                        f"line {number} was dropped: it is cut short after {len(line)} bytes, as by the end of the "
                        "recorder while it wrote"
                    )
                    return
                sample = _sample(_parse(line, number), last, number)
                last = sample.snapshot
                yield sample


def _read_line(file: BinaryIO, number: int, most: int) -> bytes:
    line = file.readline(most + 1)
    if len(line) > most:
        raise RecordingError(f"line {number}: more than {most} bytes")
    return line


def _parse(line: bytes, number: int) -> dict[str, Any]:
    try:
        value = parse_json(bytearray(line))
    except SnapshotFileError as error:
        raise RecordingError(f"line {number}: {error}") from None
    if not isinstance(value, dict):
        raise RecordingError(f"line {number}: an object is wanted")
    return value


def _sample(value: dict[str, Any], last: Optional[Snapshot], number: int) -> Sample:
    if value.get("sample") != number - 2:
        found = reprlib.repr(value.get("sample"))
        raise RecordingError(f"line {number}: sample {found} where {number - 2} is wanted")
    try:
        if "snapshot" in value:
            snapshot = decode(value["snapshot"], Snapshot, "snapshot")
            check_outline(snapshot)
        elif last is None:
            raise RecordingError(f"line {number}: the first sample is not whole")
        else:
            taken_at = decode(value.get("taken_at"), str, "taken_at")
            snapshot = apply(_taken_at(last, taken_at), value.get("change"))
    except SnapshotFileError as error:
        raise RecordingError(f"line {number}: {error}") from None
    return Sample(number - 2, _seconds(value, "elapsed", number), _seconds(value, "cost", number), snapshot)


def _taken_at(snapshot: Snapshot, taken_at: str) -> Snapshot:
    """What differs between any two samples has a place of its own."""
    return dataclasses.replace(snapshot, target=dataclasses.replace(snapshot.target, taken_at=taken_at))


def _seconds(value: dict[str, Any], name: str, number: int) -> float:
    seconds = value.get(name)
    # A bool is an int in Python, and no number in JSON.
    if isinstance(seconds, (int, float)) and type(seconds) is not bool and 0 <= seconds < limits.RECORDING_SECONDS:
        return float(seconds)
    raise RecordingError(f"line {number}: {name}: seconds are wanted")
