# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read the files that scans and checks leave, one line at a time. Damaged lines are reported and skipped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Optional

from drgn_unaccepted import limits
from drgn_unaccepted.answer.documents import SCHEMA, FindingDocument
from drgn_unaccepted.errors import CommandError, one_line
from drgn_unaccepted.fleet.documents import Problem, ScanHeader, ScanRecord
from drgn_unaccepted.typed import checker

#: The columns of :class:`StatusCounts`.
COLUMNS = ("critical", "warning", "ok", "unknown", "failed")

_RESULTS = (".json", ".jsonl")
_NO_RECORD, _MALFORMED = "no record of scan or check", "not as scan and check write it"

_is_header, _is_record = checker(ScanHeader), checker(ScanRecord)


class Line(NamedTuple):
    """What a line of a file holds: one of header, record and problem."""

    file: str
    header: Optional[ScanHeader] = None
    record: Optional[ScanRecord] = None
    problem: Optional[Problem] = None


def result_files(places: Sequence[str]) -> list[str]:
    """The files named, and those in directories named, each once.

    :raises CommandError: there is no such file, or a directory has none
    """
    files: list[str] = []
    for place in places:
        path, found = Path(place), [place]
        if path.is_dir():
            found = sorted(str(file) for file in path.rglob("*") if file.suffix in _RESULTS and file.is_file())
            if not found:
                raise CommandError(f"{place}: no file in it ends in {' or '.join(_RESULTS)}")
        elif not path.is_file():
            raise CommandError(f"{place}: {'not a regular file' if path.exists() else 'no such file or directory'}")
        files += found
    return list(dict.fromkeys(files))


def read(files: Sequence[str]) -> Iterator[Line]:
    """All lines of the files, in order. No more is in memory than :data:`limits.FLEET_LINE_BYTES` at a time.

    :raises CommandError: a file cannot be read
    """
    for file in files:
        try:
            with Path(file).open("rb") as content:
                if file.endswith(".json"):
                    # One document, perhaps on several lines, as jq and Ansible lay out an answer.
                    line = parse(file, file, content.read(limits.FLEET_LINE_BYTES + 1))
                    if line.problem is None or line.problem["reason"] in (_NO_RECORD, _MALFORMED):
                        yield line
                        continue
                    content.seek(0)
                for number, data in enumerate(bounded_lines(content), 1):
                    yield parse(file, f"{file}:{number}", data)
        except OSError as error:
            raise CommandError(one_line(error, file)) from None


def bounded_lines(content: BinaryIO) -> Iterator[bytes]:
    """The lines; of a longer one the first :data:`limits.FLEET_LINE_BYTES` bytes and one more."""
    while line := content.readline(limits.FLEET_LINE_BYTES + 1):
        yield line
        while len(line) > limits.FLEET_LINE_BYTES and not line.endswith(b"\n"):
            line = content.readline(limits.FLEET_LINE_BYTES + 1)


def parse(file: str, where: str, data: bytes) -> Line:
    """A line of untrusted bytes."""

    def problem(reason: str) -> Line:
        return Line(file, problem={"where": where, "reason": reason})

    if len(data) > limits.FLEET_LINE_BYTES:
        return problem(f"more than {limits.FLEET_LINE_BYTES} bytes")
    try:
        document: Any = json.loads(data)
    except (ValueError, RecursionError):
        return problem("damaged" if data.endswith(b"\n") else "cut off")
    try:
        if document["schema"] != SCHEMA or document["command"] not in ("scan", "check"):
            return problem(_NO_RECORD)
        if "targets" not in document:
            _complete(document, file)
            if _is_record(document) and bytes.fromhex(document["id"]):
                return Line(file, record=document)
        elif _is_header(document):
            index, shards = document["shard"]
            if 0 <= index < shards:
                return Line(file, header=document)
    except (AttributeError, KeyError, TypeError, ValueError):
        pass
    return problem(_MALFORMED)


def _complete(document: dict[str, Any], file: str) -> None:
    """Make a record of an answer of ``check``. Its host is the name of its file, as in HOST.json."""
    target = document["target"]
    target["path"] = target["path"] or "/proc/kcore"
    if document["command"] == "check":
        document["host"] = document.get("host") or Path(file).stem
        document["id"] = digest(document["host"], target["path"], target["taken_at"]).hex()
        document.setdefault("passed", rules(document["findings"], "pass"))
        document.setdefault("skipped", rules(document["findings"], "skip"))
    document["host"] = document.get("host") or None


def rules(findings: Sequence[FindingDocument], status: str) -> list[str]:
    """The rules with this status."""
    return [finding["rule"] for finding in findings if finding["status"] == status]


def column(record: ScanRecord) -> str:
    """The column of :class:`StatusCounts` that counts a target."""
    return record["status"] if record["error"] is None else "failed"


def platform_kind(record: ScanRecord) -> Optional[str]:
    return record["platform"]["kind"] if record["platform"] is not None else None


def digest(*words: object) -> bytes:
    return hashlib.sha256("\0".join(map(str, words)).encode(errors="surrogatepass")).digest()[:16]
