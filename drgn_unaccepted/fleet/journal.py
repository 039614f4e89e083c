# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where the records of a scan go: standard output, a file that grows and that a later run continues, or many files."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Union

from drgn_unaccepted import limits
from drgn_unaccepted.answer.documents import SCHEMA
from drgn_unaccepted.errors import CommandError, concerning, one_line
from drgn_unaccepted.files import check_replaceable, open_directory, read_trusted, to_stdout, write_atomically
from drgn_unaccepted.fleet.documents import ScanHeader, ScanRecord
from drgn_unaccepted.fleet.records import bounded_lines, parse
from drgn_unaccepted.fleet.targets import BESIDE, Target

_HEAD = json.dumps({"schema": SCHEMA, "command": "scan"})[:-1].encode()  #: The beginning of each line.


class Output:
    """JSON lines on standard output: a header that says what the run is to do, then a record for each target."""

    def __init__(self) -> None:
        #: IDs of the targets that earlier runs wrote a record for, and whether it is an answer.
        self.done: dict[str, bool] = {}

    def write(self, document: Union[ScanHeader, ScanRecord]) -> None:
        """:raises CommandError: it cannot be written"""
        to_stdout([json.dumps(document)])

    def close(self) -> None: ...


class Journal(Output):
    """JSON lines in a file, each whole: a header of each run, and its records. A new file without any is deleted."""

    def __init__(self, path: str) -> None:
        """Read what is done. CommandError: it cannot be used, another scan writes it, or it holds something else."""
        super().__init__()
        self._path = path
        with concerning(path):
            check_replaceable(path)
            self._is_new = not os.path.lexists(path)
            self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "r+b", buffering=0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.fstat(self._file.fileno()).st_nlink:
                raise BlockingIOError  # It was deleted before the lock was there.
        except BlockingIOError:
            self._file.close()
            raise CommandError(f"{path}: another scan is writing it") from None
        except OSError:
            # A file system without locks: the user must take care not to run two scans into one file.
            pass
        self._end = 0  #: The offset of the next line. A killed scan can leave a last line without an end, or zeros.
        with os.fdopen(os.dup(self._file.fileno()), "rb") as file:
            for data in bounded_lines(file):
                is_cut = not data.endswith(b"\n") and len(data) <= limits.FLEET_LINE_BYTES
                if is_cut and _HEAD.startswith(data.rstrip(b"\0")[: len(_HEAD)]):
                    break
                _, header, record, _ = parse(path, path, data)
                found = header or record
                if is_cut or not found or found["command"] != "scan":
                    raise CommandError(f"{path}: holds something else than a scan's records, and is left alone")
                if record is not None:
                    self.done[record["id"]] = record["error"] is None
                self._end += len(data)

    def write(self, document: Union[ScanHeader, ScanRecord]) -> None:
        data = json.dumps(document).encode() + b"\n"
        try:
            self._file.truncate(self._end)
            if self._file.write(data) != len(data):
                raise OSError(0, "written in part only: is the disk full?")
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(self._end)
            raise CommandError(one_line(error, self._path)) from None
        self._end += len(data)

    def close(self) -> None:
        if self._is_new and not self._end:
            with suppress(OSError):
                Path(self._path).unlink()
        self._file.close()


class Beside(Output):
    """Each record in a file of its own beside its target, ``PATH.unaccepted.json``.

    Whoever can write into the directory of a dump can leave such a file, and links: a record counts only if this user
    wrote it, and no link of another user is followed.
    """

    def __init__(self, targets: Iterable[Target]) -> None:
        super().__init__()
        self._paths = {target.id: os.path.split(f"{target.path}{BESIDE}") for target in targets}
        for id_, (place, name) in self._paths.items():
            # A target without such a file, or with that of an earlier content, is done again.
            with suppress(OSError), open_directory(place) as directory:
                record = parse(name, name, read_trusted(name, limits.FLEET_LINE_BYTES, directory)).record
                if record is not None and record["id"] == id_:
                    self.done[id_] = record["error"] is None

    def write(self, document: Union[ScanHeader, ScanRecord]) -> None:
        if "targets" in document:
            return  # The header.
        place, name = self._paths[document["id"]]
        with concerning(str(Path(place, name))), open_directory(place) as directory:
            write_atomically(name, json.dumps(document) + "\n", directory=directory)
