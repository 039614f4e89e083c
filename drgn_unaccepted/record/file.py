# SPDX-License-Identifier: LGPL-2.1-or-later
"""Recordings: JSON lines. After a header, each line is a sample, as the difference from the previous one.

A recorder that is killed leaves at most one incomplete line, the last, which a reader drops with a message. A recording
is untrusted input, and is read one sample at a time.
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
from typing import Any, BinaryIO, Optional

from drgn_unaccepted import limits
from drgn_unaccepted.codec import Context, check_schema, decode, encode, parse_json
from drgn_unaccepted.errors import SnapshotFileError
from drgn_unaccepted.files import open_dump
from drgn_unaccepted.record.change import apply, change
from drgn_unaccepted.snapshot import Sample, Snapshot
from drgn_unaccepted.snapshot_file import check_consistency

SCHEMA = "drgn-unaccepted-recording/1"

_SAMPLE_FIELDS = ("sample", "elapsed", "cost", "taken_at", "snapshot", "change")

#: Seconds between two fdatasync(2), and at most lost when a guest dies.
_SYNC_SECONDS = 1.0


class RecordingError(Exception):
    """A recording cannot be read, or not beyond some line; the text is the reason, in one line."""


class Writer:
    """Writes a new recording.

    :raises FileExistsError: the file exists; a recording is never overwritten
    :raises OSError: it cannot be written
    """

    def __init__(self, path: str, interval: float) -> None:
        # Kernel addresses are for the owner alone, as in a snapshot file.
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
        """Number of samples written."""
        return self._number

    def add(self, snapshot: Snapshot, elapsed: float, cost: float) -> None:
        """Append one sample.

        :raises OSError: it cannot be written; the file ends with the previous sample, or is gone if there is none
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
        """Leave no part of a line, and no file without a sample: it would block the next recording."""
        with suppress(OSError):
            if self._number:
                os.ftruncate(self._file, self._end)
            else:
                Path(self._path).unlink()


class Recording:
    """A recording to read; each iteration starts at the beginning.

    :raises RecordingError: it is not a recording
    :raises OSError: it cannot be read
    """

    def __init__(self, path: str) -> None:
        self.path = path
        #: Why the end of the file was dropped; set when the samples have been read.
        self.dropped: Optional[str] = None
        #: Fields that this version does not know; complete when the samples have been read.
        self.warnings: dict[str, None] = {}
        with open_dump(path) as file:
            header = _parse(_read_line(file, 1, limits.RECORDING_HEADER_BYTES), 1)
        try:
            check_schema(header, SCHEMA)
        except SnapshotFileError as error:
            raise RecordingError(str(error)) from None
        #: Requested seconds between two samples.
        self.interval = _seconds(header, "interval", 1)
        self._context("header", header, "schema", "interval")

    def __iter__(self) -> Iterator[Sample]:
        """The samples.

        :raises RecordingError: a damaged line; it and all that follow cannot be read
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
                value = _parse(line, number)
                context = self._context("sample", value, *_SAMPLE_FIELDS)
                sample = _sample(value, last, number, context)
                last = sample.snapshot
                yield sample

    def _context(self, place: str, value: dict[str, Any], *known: str) -> Context:
        """For one line, with the warnings of all."""
        context = Context()
        context.warnings = self.warnings
        context.unknown(place, value.keys() - set(known))
        return context


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


def _sample(value: dict[str, Any], last: Optional[Snapshot], number: int, context: Context) -> Sample:
    if value.get("sample") != number - 2:
        found = reprlib.repr(value.get("sample"))
        raise RecordingError(f"line {number}: sample {found} where {number - 2} is wanted")
    try:
        if "snapshot" in value:
            snapshot: Snapshot = decode(value["snapshot"], Snapshot, "snapshot", context)
            check_consistency(snapshot)
        elif last is None:
            raise RecordingError(f"line {number}: the first sample is not whole")
        else:
            taken_at = decode(value.get("taken_at"), str, "taken_at")
            snapshot = apply(_taken_at(last, taken_at), value.get("change"), context)
    except SnapshotFileError as error:
        raise RecordingError(f"line {number}: {error}") from None
    return Sample(number - 2, _seconds(value, "elapsed", number), _seconds(value, "cost", number), snapshot)


def _taken_at(snapshot: Snapshot, taken_at: str) -> Snapshot:
    """The time differs between any two samples, so it is not part of the change."""
    return dataclasses.replace(snapshot, target=dataclasses.replace(snapshot.target, taken_at=taken_at))


def _seconds(value: dict[str, Any], name: str, number: int) -> float:
    seconds = value.get(name)
    # A bool is an int in Python, but not a number in JSON.
    if isinstance(seconds, (int, float)) and type(seconds) is not bool and 0 <= seconds < limits.RECORDING_SECONDS:
        return float(seconds)
    raise RecordingError(f"line {number}: {name}: seconds are wanted")
