# SPDX-License-Identifier: LGPL-2.1-or-later
"""A scan's records in a file that grows: a record is in it whole or not at all, and a scan goes on where one ended."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from types import TracebackType
from typing import BinaryIO, Optional

from drgn_unaccepted import limits
from drgn_unaccepted.answer.document import SCHEMA, Document
from drgn_unaccepted.errors import CommandError
from drgn_unaccepted.files import check_replaceable, open_dump, write_atomically
from drgn_unaccepted.fleet.targets import BESIDE, Shard, Target


class Journal:
    """JSON lines: for each run a header that says what it was to do, then a record for each target."""

    def __init__(self, path: str) -> None:
        """Open or make the file, and see what is done.

        :raises CommandError: it cannot be used, is another scan's, or holds something else
        """
        self._path = path
        #: Ids with a record, and whether it is an answer.
        self.done: dict[str, bool] = {}
        try:
            check_replaceable(path)
            self._file: BinaryIO = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b", buffering=0)
        except OSError as error:
            raise CommandError(f"{path}: {error.strerror}") from None
        try:
            self._take()
            self._end = self._read()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self._file.close()

    def begin(self, shard: Shard, targets: int, done: int) -> None:
        """Say what this run is to do, so that whoever reads the file can tell whether it is whole.

        :param done: of the targets, how many have their record already
        """
        self._write(_header(shard, targets, done))

    def add(self, record: Document) -> None:
        """Append a record.

        :raises CommandError: it cannot be written; the file is as it was
        """
        self._write(record)
        self.done[record["id"]] = record["error"] is None

    def _take(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CommandError(f"{self._path}: another scan is writing it") from None
        except OSError:
            # A file system without locks: two scans into one file are then the user's care.
            return

    def _read(self) -> int:
        """Note what is done; where the next line goes. A line without an end was cut off when a scan was killed."""
        end = 0
        with os.fdopen(os.dup(self._file.fileno()), "rb") as lines:
            while line := lines.readline(limits.FLEET_LINE_BYTES + 1):
                if not line.endswith(b"\n"):
                    if len(line) > limits.FLEET_LINE_BYTES:
                        raise self._foreign()
                    break
                self._note(line)
                end += len(line)
        return end

    def _note(self, line: bytes) -> None:
        try:
            record = json.loads(line)
            if record["schema"] != SCHEMA or record["command"] != "scan":
                raise self._foreign()
            if "id" in record:
                self.done[str(record["id"])] = record["error"] is None
        except (ValueError, TypeError, KeyError, RecursionError):
            raise self._foreign() from None

    def _foreign(self) -> CommandError:
        return CommandError(f"{self._path}: holds something else than a scan's records, and is left alone")

    def _write(self, document: Document) -> None:
        data = json.dumps(document).encode() + b"\n"
        try:
            self._file.truncate(self._end)
            self._file.seek(self._end)
            if self._file.write(data) != len(data):
                raise OSError(0, "written in part only: is the disk full?")
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(self._end)
            raise CommandError(f"{self._path}: {error.strerror}") from None
        self._end += len(data)


class Beside:
    """Each record in a file of its own beside its target, ``PATH.unaccepted.json``."""

    def __init__(self, targets: Iterable[Target]) -> None:
        self._targets = {target.id: target for target in targets}
        self.done: dict[str, bool] = {}
        for target in self._targets.values():
            self._note(target)

    def __enter__(self) -> Beside:
        return self

    def __exit__(self, *unused: object) -> None:
        pass

    def begin(self, shard: Shard, targets: int, done: int) -> None:
        pass

    def add(self, record: Document) -> None:
        """
        :raises CommandError: it cannot be written
        """
        path = _beside(self._targets[record["id"]])
        try:
            write_atomically(path, json.dumps(record) + "\n")
        except OSError as error:
            raise CommandError(f"{path}: {error.strerror}") from None

    def _note(self, target: Target) -> None:
        try:
            with open_dump(_beside(target)) as file:
                record = json.loads(file.read(limits.FLEET_LINE_BYTES))
            if record["id"] == target.id:
                self.done[target.id] = record["error"] is None
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            # None, or of a dump that was here before: it is written anew.
            return


def _beside(target: Target) -> str:
    return f"{target.path}{BESIDE}"


class Output:
    """Records to standard output, where nobody asked for a file to go on with."""

    def __init__(self) -> None:
        self.done: dict[str, bool] = {}

    def __enter__(self) -> Output:
        return self

    def __exit__(self, *unused: object) -> None:
        pass

    def begin(self, shard: Shard, targets: int, done: int) -> None:
        print(json.dumps(_header(shard, targets, done)), flush=True)

    def add(self, record: Document) -> None:
        print(json.dumps(record), flush=True)


def _header(shard: Shard, targets: int, done: int) -> Document:
    return {
        "schema": SCHEMA,
        "command": "scan",
        "shard": [shard.index, shard.count],
        "targets": targets,
        "done": done,
    }
