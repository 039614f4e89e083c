# SPDX-License-Identifier: LGPL-2.1-or-later
"""Records out of the files that scans and checks leave, a line at a time; damaged lines are told and passed over."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Optional, Union

from drgn_unaccepted import limits
from drgn_unaccepted.answer.document import SCHEMA, Document
from drgn_unaccepted.errors import CommandError

#: Of a target, by the worst of its findings.
STATUSES = ("critical", "warning", "ok", "unknown")

_RESULTS = (".json", ".jsonl")


@dataclass(frozen=True)
class Header:
    """What a run of ``scan`` was to do."""

    file: str
    index: int
    count: int
    targets: int
    #: Of these, how many had their record before the run; None: not said, as it was before 2026-11.
    done: Optional[int]


class Record(NamedTuple):
    """What is known of one target."""

    #: Counts the records of a merge; the same file read again gives the same numbers.
    number: int
    file: str
    id: bytes
    #: What of two answers the later one counts for, though the dump was written anew in between.
    place: bytes
    #: The guest; None where nobody said which.
    host: Optional[str]
    path: str
    document: Document

    @property
    def failure(self) -> Optional[str]:
        """Why there is no answer; None where there is one."""
        error = self.document.get("error")
        return None if error is None else str(error["kind"])

    @property
    def skipped(self) -> list[str]:
        """Rules that could not be told: of ``scan`` by name, of ``check`` among the findings."""
        if "skipped" in self.document:
            return list(self.document["skipped"])
        return [finding["rule"] for finding in self.document["findings"] if finding["status"] == "skip"]


class Problem(NamedTuple):
    """A line that is no record."""

    where: str
    reason: str


def result_files(places: Sequence[str]) -> list[str]:
    """The files named, and those in directories named, each once.

    :raises CommandError: there is no such file, or a directory has none
    """
    files: dict[str, None] = {}
    for place in places:
        path = Path(place)
        if path.is_dir():
            found = sorted(str(file) for file in path.rglob("*") if file.suffix in _RESULTS and file.is_file())
            if not found:
                raise CommandError(f"{place}: no file in it ends in {' or '.join(_RESULTS)}")
            files.update(dict.fromkeys(found))
        elif path.is_file():
            files[place] = None
        else:
            raise CommandError(f"{place}: {'not a regular file' if path.exists() else 'no such file or directory'}")
    return list(files)


def _whole(file: str) -> Optional[bytes]:
    """A file that is one document, on however many lines: what a host answered, and jq or Ansible set out."""
    if not file.endswith(".json"):
        return None
    with Path(file).open("rb") as content:
        data = content.read(limits.FLEET_LINE_BYTES + 1)
    lines = data.count(b"\n")
    if len(data) > limits.FLEET_LINE_BYTES or lines < 2:
        return None
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return None
    return data


def read(files: Sequence[str]) -> Iterator[Union[Header, Record, Problem]]:
    """All that the files hold, in order; no more than a line is in memory, or a document of no more bytes.

    :raises CommandError: a file cannot be read
    """
    number = 0
    for file in files:
        try:
            whole = _whole(file)
            with Path(file).open("rb") as lines:
                for where, line in _lines(file, lines) if whole is None else [(file, whole)]:
                    result = _parse(number, file, where, line)
                    number += isinstance(result, Record)
                    yield result
        except OSError as error:
            raise CommandError(f"{file}: {error.strerror}") from None


def _lines(file: str, lines: Any) -> Iterator[tuple[str, bytes]]:
    number = 0
    while line := lines.readline(limits.FLEET_LINE_BYTES + 1):
        number += 1
        yield f"{file}:{number}", line
        while len(line) > limits.FLEET_LINE_BYTES and not line.endswith(b"\n"):
            line = lines.readline(limits.FLEET_LINE_BYTES + 1)


def _parse(number: int, file: str, where: str, line: bytes) -> Union[Header, Record, Problem]:
    if len(line) > limits.FLEET_LINE_BYTES:
        return Problem(where, f"more than {limits.FLEET_LINE_BYTES} bytes")
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        return Problem(where, "damaged" if line.endswith(b"\n") else "cut off")
    try:
        if document["schema"] != SCHEMA or document["command"] not in ("scan", "check"):
            return Problem(where, "no record of scan or check")
        if "targets" in document:
            index, count = document["shard"]
            done = document.get("done")
            if not 0 <= index < count:
                raise ValueError
            return Header(file, int(index), int(count), int(document["targets"]), None if done is None else int(done))
        return _record(number, file, document)
    except (KeyError, TypeError, ValueError, OverflowError):
        return Problem(where, "not as scan and check write it")


def _record(number: int, file: str, document: dict[str, Any]) -> Record:
    path = str(document["target"]["path"] or "/proc/kcore")
    host = document.get("host")
    if document["command"] == "check":
        # What a host printed and somebody kept under its name, as HOST.json.
        host = host or Path(file).stem
        place = key = _digest(host, path, document["target"]["taken_at"])
    else:
        key = bytes.fromhex(document["id"])
        # Without a guest's name the same path in another file may be of another machine: /var/crash/STAMP/vmcore.
        place = _digest("host", host, path) if host else _digest("file", file, path)
    if document["status"] not in STATUSES or "release" not in document["target"]:
        raise ValueError
    _expect_text_or_nothing(document["target"], "release")
    _expect_text_or_nothing(document.get("platform") or {}, "kind")
    if document.get("error") is not None and not all(isinstance(document["error"][n], str) for n in ("kind", "reason")):
        raise ValueError
    for finding in document["findings"]:
        if not all(isinstance(finding[name], str) for name in ("rule", "status", "message")):
            raise ValueError
    if not all(isinstance(rule, str) for rule in document.get("skipped", ())):
        raise ValueError
    return Record(number, file, key, place, str(host) if host else None, path, document)


def _expect_text_or_nothing(part: dict[str, Any], name: str) -> None:
    if not isinstance(part, dict) or not isinstance(part.get(name), (str, type(None))):
        raise ValueError


def _digest(*words: object) -> bytes:
    return hashlib.sha256("\0".join(map(str, words)).encode(errors="surrogatepass")).digest()[:16]
