# SPDX-License-Identifier: LGPL-2.1-or-later
"""The records of scans and checks: where a scan writes them, and how the files are read, one line at a time.

A scan writes to standard output, to a file that grows and that a later run continues, or to a file beside each target.
Damaged lines are reported and skipped.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
import typing
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional, Union

from drgn_unaccepted import limits
from drgn_unaccepted.answer.documents import SCHEMA, FindingDocument
from drgn_unaccepted.errors import CommandError, concerning, one_line
from drgn_unaccepted.files import check_replaceable, open_directory, read_trusted, to_stdout, write_atomically
from drgn_unaccepted.fleet.documents import Problem, ScanHeader, ScanRecord
from drgn_unaccepted.fleet.targets import BESIDE, Target, bounded_lines

COLUMNS = ("critical", "warning", "ok", "unknown", "failed")  #: Statuses of targets.
#: What :class:`ErrorDocument` may have as its kind.
FAILURES = ("unreadable", "crash", "timeout", "memory", "defect", "no-answer")
NO_RECORD = "no record of scan or check"  #: The problem with JSON of another program.
_MALFORMED = "not as scan and check write it"

_HEAD = json.dumps({"schema": SCHEMA, "command": "scan"})[:-1].encode()  #: The beginning of each line.
_SKEW = 3600  #: Seconds that clocks may differ.


@cache
def checker(kind: Any) -> Callable[[Any], bool]:
    """A function that tells whether a value out of JSON has a type.

    It adds a key that is missing as None where None is allowed, because older versions did not write all keys.
    Unknown keys stay.

    :param kind: a TypedDict, a list or union of such, a Literal of text, or a scalar type
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    scalars = _scalars(kind)
    if scalars:
        return lambda value: type(value) in scalars
    if origin is typing.Literal:
        return lambda value: isinstance(value, str) and value in arguments
    if origin is typing.Union:
        checks = [checker(argument) for argument in arguments]
        return lambda value: any(check(value) for check in checks)
    if origin is list:
        items = _scalars(arguments[0])
        if items:
            return lambda value: isinstance(value, list) and items.issuperset(map(type, value))
        item = checker(arguments[0])
        return lambda value: isinstance(value, list) and all(map(item, value))
    keys = {name: checker(hint) for name, hint in typing.get_type_hints(kind).items()}
    nullable = [name for name in keys if name in kind.__required_keys__ and keys[name](None)]
    needed = kind.__required_keys__.difference(nullable)

    def is_object(value: Any) -> bool:
        if not isinstance(value, dict) or not needed <= value.keys():
            return False
        for name, holds in keys.items():
            if name in value and not holds(value[name]):
                return False
        for name in nullable:
            value.setdefault(name)
        return True

    return is_object


def _scalars(kind: Any) -> frozenset[type]:
    """The classes of a scalar type, or of a union of such; empty for another type. A bool is no int here."""
    if typing.get_origin(kind) is typing.Union:
        parts = [_scalars(part) for part in typing.get_args(kind)]
        return frozenset().union(*parts) if all(parts) else frozenset()
    return frozenset((int, float) if kind is float else (kind,) if kind in (str, int, bool, type(None)) else ())


_is_header, _is_record = checker(ScanHeader), checker(ScanRecord)


class Line(NamedTuple):
    """What a line of a file holds: one of header, record and problem; also a record with a problem, its time."""

    file: str
    header: Optional[ScanHeader] = None
    record: Optional[ScanRecord] = None
    problem: Optional[Problem] = None


def result_files(places: Sequence[str]) -> dict[str, bool]:
    """The files named (True) and in directories named (False), each once. CommandError: a place without a file."""
    files: dict[str, bool] = {}
    for place in places:
        path = Path(place)
        if path.is_dir():
            found = sorted(str(f) for f in path.rglob("*.json*") if f.suffix in (".json", ".jsonl") and f.is_file())
            if not found:
                raise CommandError(f"{place}: no file in it ends in .json or .jsonl")
            files = {**dict.fromkeys(found, False), **files}
        elif path.is_file():
            files[place] = True
        else:
            raise CommandError(f"{place}: {'not a regular file' if path.exists() else 'no such file or directory'}")
    return files


def read(files: Iterable[str]) -> Iterator[Line]:
    """All lines, in order; at most :data:`limits.FLEET_LINE_BYTES` in memory. CommandError: a file cannot be read."""
    for file in files:
        with concerning(file), Path(file).open("rb") as content:
            if file.endswith(".json"):
                # One document, perhaps on several lines, as jq and Ansible lay out an answer.
                line = parse(file, file, content.read(limits.FLEET_LINE_BYTES + 1))
                if line.problem is None or line.record or line.problem["reason"] in (NO_RECORD, _MALFORMED):
                    yield line
                    continue
                content.seek(0)
            for number, data in enumerate(bounded_lines(content), 1):
                yield parse(file, f"{file}:{number}", data)


def parse(file: str, where: str, data: bytes) -> Line:
    """A line of untrusted bytes."""

    def problem(reason: str, record: Optional[ScanRecord] = None) -> Line:
        return Line(file, record=record, problem={"where": where, "reason": reason})

    if len(data) > limits.FLEET_LINE_BYTES:
        return problem(f"more than {limits.FLEET_LINE_BYTES} bytes")
    try:
        document: Any = json.loads(data)
    except (ValueError, RecursionError):
        return problem("damaged" if data.endswith(b"\n") else "cut off")
    is_ours = isinstance(document, dict) and document.get("schema") == SCHEMA
    if not is_ours or document.get("command") not in ("scan", "check"):
        return problem(NO_RECORD)
    with suppress(AttributeError, KeyError, TypeError, ValueError):
        if "targets" not in document:
            _complete(document, file)
            is_record = _is_record(document) and len(bytes.fromhex(document["id"])) == 16
            if is_record and (document["error"] or None not in (document["table"], document["source"])):
                if finished(document) > time.time() + _SKEW:
                    return problem(f"its time is in the future: {document['finished_at']}", document)
                return Line(file, record=document)
        elif _is_header(document):
            index, shards = document["shard"]
            if 0 <= index < shards:
                return Line(file, header=document)
    return problem(_MALFORMED)


def _complete(document: dict[str, Any], file: str) -> None:
    """Make a record of an answer of ``check``. Its host is the name of its file, HOST.json, whatever it says."""
    target = document["target"]
    target["path"] = target["path"] or "/proc/kcore"
    if document["command"] == "check":
        document["host"] = Path(file).stem
        document["finished_at"] = target["taken_at"]
        document["id"] = digest(document["host"], target["path"], target["taken_at"]).hex()
        document.setdefault("passed", rules(document["findings"], "pass"))
        document.setdefault("skipped", rules(document["findings"], "skip"))
    document["host"] = document.get("host") or None


def rules(findings: Sequence[FindingDocument], status: str) -> list[str]:
    return [finding["rule"] for finding in findings if finding["status"] == status]


def finished(record: ScanRecord) -> float:
    """When the target was read, in seconds since the epoch; 0 if nobody knows. ValueError: it is no time."""
    if record["finished_at"] is None:
        return 0
    moment = datetime.fromisoformat(record["finished_at"])
    return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()


def column(record: ScanRecord) -> str:
    """Which of :data:`COLUMNS` counts a target."""
    return record["status"] if record["error"] is None else "failed"


def platform_kind(record: ScanRecord) -> Optional[str]:
    return record["platform"]["kind"] if record["platform"] is not None else None


def digest(*words: object) -> bytes:
    return hashlib.sha256("\0".join(map(str, words)).encode(errors="surrogatepass")).digest()[:16]


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
