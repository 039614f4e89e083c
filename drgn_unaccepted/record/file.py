# SPDX-License-Identifier: LGPL-2.1-or-later
"""Recordings: JSON lines. After a header, each line is a sample, as the difference from the previous one.

In a difference, a dataclass that changed is an object of its changed fields. A list of dataclasses of unchanged length
is an object by index. A bitmap is the runs of bits that were cleared. A list of chunks is the part of the previous list
that was kept, and the chunks that were appended. Everything else is written whole, as in a snapshot file. Earlier
versions also wrote runs of bits that were set, and several kept parts.

A recorder that is killed leaves at most one incomplete line, the last, which a reader drops with a message. A recording
is untrusted input, and is read one sample at a time.
"""

from __future__ import annotations

import dataclasses
import errno
import itertools
import json
import os
import reprlib
import time
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Optional

from drgn_unaccepted import limits
from drgn_unaccepted.codec import COLUMNS, Context, Hint, decode, encode, hint, hints, parse_json
from drgn_unaccepted.errors import SnapshotFileError
from drgn_unaccepted.files import open_dump
from drgn_unaccepted.model import bitmap as bits
from drgn_unaccepted.snapshot import ListedChunks, Sample, Snapshot
from drgn_unaccepted.snapshot_file import check_consistency

SCHEMA = "drgn-unaccepted-recording/1"

_SYNC_SECONDS = 1.0  #: Seconds between two fdatasync(2), and at most lost when a guest dies.


class Writer:
    """Writes a new recording; deletes it if an exception comes before the first sample.

    :raises FileExistsError: the file exists; a recording is never overwritten
    :raises OSError: it cannot be written
    """

    def __init__(self, path: str, interval: float) -> None:
        self.samples = 0  #: Number of samples written.
        self._path = path
        self._last: Optional[Snapshot] = None
        self._synced = time.monotonic()
        # Kernel addresses are for the owner alone, as in a snapshot file.
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, "exists already; a recording is never overwritten", path)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            self._write(_packed({"schema": SCHEMA, "interval": interval}))
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
            line["snapshot"] = encode(snapshot, hint(Snapshot))
        else:
            line["taken_at"] = snapshot.target.taken_at
            line["change"] = change(_taken_at(self._last, snapshot.target.taken_at), snapshot)
        data = _packed(line)
        again = _sample(bytearray(data), self.samples, self._last, Context())
        self._write(data)
        self._last = again.snapshot
        self.samples += 1

    def _write(self, line: bytes) -> None:
        left, end = memoryview(line), os.fstat(self._file).st_size
        try:
            while left:
                left = left[os.write(self._file, left) :]
        except OSError:
            os.ftruncate(self._file, end)
            raise
        if time.monotonic() - self._synced >= _SYNC_SECONDS:
            os.fdatasync(self._file)
            self._synced = time.monotonic()


class Recording:
    """A recording to read; each iteration starts at the beginning."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.dropped: Optional[str] = None  #: Why the end of the file was dropped; set when the samples have been read.
        #: Fields that this version does not know; complete when the samples have been read.
        self.warnings: dict[str, None] = {}

    def __iter__(self) -> Iterator[Sample]:
        """The samples.

        :raises SnapshotFileError: it is not a recording, or a line is damaged; it and all that follow cannot be read
        :raises OSError: it cannot be read
        """
        self.dropped, number = None, 1
        last: Optional[Snapshot] = None
        with open_dump(self.path) as file:
            try:
                header = parse_json(_line(file, limits.RECORDING_HEADER_BYTES), SCHEMA)
                Context(self.warnings).unknown("header", header.keys() - {"schema", "interval"})
                for number in itertools.count(2):
                    line = _line(file, limits.RECORDING_LINE_BYTES)
                    if not line.endswith(b"\n"):
                        break
                    sample = _sample(line, number - 2, last, Context(self.warnings))
                    last = sample.snapshot
                    yield sample
            except SnapshotFileError as error:
                raise SnapshotFileError(f"line {number}: {error}") from None
        if line:
            why = "for example because the recorder was killed while it wrote"
            self.dropped = f"line {number} was dropped: it is cut short after {len(line)} bytes, {why}"


def _packed(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def _sample(line: bytearray, number: int, last: Optional[Snapshot], context: Context) -> Sample:
    value = parse_json(line)
    if not isinstance(value, dict) or value.get("sample") != number:
        raise SnapshotFileError(f"sample {number} is wanted")
    context.unknown("sample", value.keys() - {"sample", "elapsed", "cost", "taken_at", "snapshot", "change"})
    if last is None:
        snapshot: Snapshot = decode(value.get("snapshot"), hint(Snapshot), "snapshot", context)
        check_consistency(snapshot)
    else:
        taken_at = decode(value.get("taken_at"), hint(str), "taken_at")
        snapshot = apply(_taken_at(last, taken_at), value.get("change"), context)
    return Sample(number, _seconds(value, "elapsed"), _seconds(value, "cost"), snapshot)


def _line(file: BinaryIO, most: int) -> bytearray:
    line = file.readline(most + 1)
    if len(line) > most:
        raise SnapshotFileError(f"more than {most} bytes")
    return bytearray(line)


def _taken_at(snapshot: Snapshot, taken_at: str) -> Snapshot:
    """The time differs between any two samples, so it is not part of the change."""
    return dataclasses.replace(snapshot, target=dataclasses.replace(snapshot.target, taken_at=taken_at))


def _seconds(value: dict[str, Any], name: str) -> float:
    seconds: Any = value.get(name)
    if type(seconds) not in (int, float) or not 0 <= seconds < limits.RECORDING_SECONDS:
        raise SnapshotFileError(f"{name}: seconds are wanted")
    return float(seconds)


def change(old: Snapshot, new: Snapshot) -> dict[str, Any]:
    """The difference between ``old`` and ``new``; empty if they are equal. SnapshotFileError: as of encode()."""
    changed: dict[str, Any] = _change(old, new, hint(Snapshot))
    return changed


def apply(old: Snapshot, changed: Any, context: Context) -> Snapshot:
    """The snapshot that :func:`change` compared with ``old``. SnapshotFileError: ``changed`` does not fit ``old``."""
    new: Snapshot = _apply(old, changed, hint(Snapshot), "change", context)
    check_consistency(new)
    return new


def _change(old: Any, new: Any, expected: Hint) -> Any:
    small, kind, item = None, expected.kind, expected.item
    if old is None or new is None:
        pass
    elif kind is ListedChunks:
        small = _list_change(old, new)
    elif kind is bytes:
        small = _bits_change(old, new)
    elif expected.json is dict and kind is not Mapping:
        pairs = ((name, each, getattr(old, name), getattr(new, name)) for name, each in hints(kind).items())
        small = {name: _change(a, b, each) for name, each, a, b in pairs if a != b}
    elif item is not None and item.json is dict and len(old) == len(new):
        small = {str(n): _change(a, b, item) for n, (a, b) in enumerate(zip(old, new)) if a != b}
    return encode(new, expected) if small is None else small


def _apply(old: Any, value: Any, expected: Hint, where: str, context: Context) -> Any:
    kind, item = expected.kind, expected.item
    if old is None or not isinstance(value, dict) or kind is Mapping:
        return decode(value, expected, where, context)
    if kind is bytes:
        return _apply_bits_change(old, value, where)
    if kind is ListedChunks and "kept" in value:
        return _apply_list_change(old, value, where, context)
    if item is not None:
        items = list(old)
        for key, each in value.items():
            if not key.isdecimal() or len(key) > 9 or int(key) >= len(items):
                raise SnapshotFileError(f"{where}: no item {reprlib.repr(key)} before")
            items[int(key)] = _apply(items[int(key)], each, item, f"{where}.{key}", context)
        return tuple(items)
    if expected.json is dict and kind is not ListedChunks:
        known = hints(kind)
        context.unknown(kind.__name__, value.keys() - known.keys())
        names = known.keys() & value.keys()
        changed = {n: _apply(getattr(old, n), value[n], known[n], f"{where}.{n}", context) for n in sorted(names)}
        return dataclasses.replace(old, **changed)
    return decode(value, expected, where, context)


def _bits_change(old: bytes, new: bytes) -> Optional[dict[str, list[int]]]:
    """Runs of bits as first, end, first, end, ...; None if there are too many, or if bits were set."""
    was, now = int.from_bytes(old, "little"), int.from_bytes(new, "little")
    if len(old) != len(new) or now & ~was:
        return None
    runs = list(itertools.islice(bits.runs((was & ~now).to_bytes(len(old), "little")), limits.RECORDED_RUNS + 1))
    return {"cleared": list(itertools.chain.from_iterable(runs))} if len(runs) <= limits.RECORDED_RUNS else None


def _apply_bits_change(old: bytes, value: dict[str, Any], where: str) -> bytes:
    _check_keys(value, {"cleared", "set"}, where)
    bitmap = int.from_bytes(old, "little")
    cleared, set_ = (
        int.from_bytes(bits.from_runs(_pairs(value.get(name, []), 8 * len(old), f"{where}.{name}"), len(old)), "little")
        for name in ("cleared", "set")
    )
    if bitmap & cleared != cleared or bitmap & set_:
        raise SnapshotFileError(f"{where}: clears bits that are not set, or sets bits that are")
    return (bitmap & ~cleared | set_).to_bytes(len(old), "little")


def _list_change(old: ListedChunks, new: ListedChunks) -> Optional[dict[str, Any]]:
    """None if anything but the head was removed: the kernel takes chunks there, and adds them at the tail."""
    start = old.pfns.index(new.pfns[0]) if new.pfns and new.pfns[0] in old.pfns else len(old.pfns)
    kept = len(old.pfns) - start
    if any(getattr(old, name)[start:] != getattr(new, name)[:kept] for name in COLUMNS):
        return None
    changed: dict[str, Any] = {"kept": [start, len(old.pfns)], "problems": list(new.problems)}
    if kept < len(new.pfns):
        added = ListedChunks(**{name: getattr(new, name)[kept:] for name in COLUMNS})
        changed["added"] = encode(added, hint(ListedChunks))
    return changed


def _apply_list_change(old: ListedChunks, value: dict[str, Any], where: str, context: Context) -> ListedChunks:
    _check_keys(value, {"kept", "added", "problems"}, where)
    added = decode(value.get("added"), hint(Optional[ListedChunks]), f"{where}.added", context)
    columns = {name: array(code) for name, code in COLUMNS.items()}
    for name, column in columns.items():
        for start, end in _pairs(value["kept"], len(old.pfns), f"{where}.kept"):
            column.extend(getattr(old, name)[start:end])
        column.extend(getattr(added, name, ()))
    problems = decode(value.get("problems", []), hint(tuple[str, ...]), f"{where}.problems")
    return ListedChunks(**columns, problems=problems)


def _check_keys(value: dict[str, Any], known: set[str], where: str) -> None:
    """Refuse an unknown kind of difference: without it, the snapshot would be wrong."""
    if value.keys() - known:
        raise SnapshotFileError(f"{where}: unknown {reprlib.repr(min(value.keys() - known))}")


def _pairs(value: Any, most: int, where: str) -> list[tuple[int, int]]:
    """``first, end, first, end, ...``, ascending and at most ``most``."""
    numbers = decode(value, hint(tuple[int, ...]), where)
    if len(numbers) % 2 or len(numbers) > 2 * limits.RECORDED_RUNS:
        raise SnapshotFileError(f"{where}: at most {limits.RECORDED_RUNS} pairs are wanted")
    if [0, *numbers, most] != sorted([0, *numbers, most]):
        raise SnapshotFileError(f"{where}: numbers from 0 to {most} are wanted, ascending")
    return list(zip(numbers[::2], numbers[1::2]))
