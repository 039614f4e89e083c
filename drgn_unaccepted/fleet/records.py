# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read the files that scans and checks leave, one line at a time. Damaged lines are reported and skipped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Optional, cast

from drgn_unaccepted import limits
from drgn_unaccepted.answer.documents import SCHEMA
from drgn_unaccepted.errors import CommandError, one_line
from drgn_unaccepted.fleet.documents import Problem, ScanHeader, ScanRecord

#: Statuses of a target, by the worst of its findings.
STATUSES = ("critical", "warning", "ok", "unknown")

_RESULTS = (".json", ".jsonl")
_NO_RECORD, _MALFORMED = "no record of scan or check", "not as scan and check write it"


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
    """A line of untrusted bytes. A record holds to :class:`ScanRecord` in all that this package reads of it."""

    def problem(reason: str) -> Line:
        return Line(file, problem={"where": where, "reason": reason})

    if len(data) > limits.FLEET_LINE_BYTES:
        return problem(f"more than {limits.FLEET_LINE_BYTES} bytes")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return problem("damaged" if data.endswith(b"\n") else "cut off")
    try:
        if document["schema"] != SCHEMA or document["command"] not in ("scan", "check"):
            return problem(_NO_RECORD)
        if "targets" in document:
            return Line(file, header=_header(document))
        return Line(file, record=_record(document, file))
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        return problem(_MALFORMED)


def _header(document: dict[str, Any]) -> ScanHeader:
    index, count = map(int, document["shard"])
    if not 0 <= index < count:
        raise ValueError
    targets = int(document["targets"])
    header: ScanHeader = {"schema": SCHEMA, "command": "scan", "shard": [index, count], "targets": targets}
    if document.get("done") is not None:
        header["done"] = int(document["done"])
    return header


def _record(document: dict[str, Any], file: str) -> ScanRecord:
    """Verify a record. An answer of ``check`` becomes one; its host is the name of its file, as in HOST.json."""
    document.setdefault("platform", None)
    target, findings, error = document["target"], document["findings"], document.setdefault("error", None)
    target["path"] = str(target["path"] or "/proc/kcore")
    host = document.get("host") or (Path(file).stem if document["command"] == "check" else None)
    document["host"] = str(host) if host else None
    if document["command"] == "check":
        document["id"] = digest(host, target["path"], target["taken_at"]).hex()
    document.setdefault("skipped", [finding["rule"] for finding in findings if finding["status"] == "skip"])
    bytes.fromhex(document["id"])
    if document["status"] not in STATUSES:
        raise ValueError
    texts = [finding[name] for finding in findings for name in ("rule", "status", "message")]
    texts += document["skipped"]
    if error is not None:
        texts += (error["kind"], error["reason"])
    optional = (
        target["release"],
        target.get("build_id"),
        platform_kind(cast(ScanRecord, document)),
        document["table"]["state"] if "table" in document else None,
    )
    if not all(isinstance(text, str) for text in (*texts, *(text for text in optional if text is not None))):
        raise TypeError
    return cast(ScanRecord, document)


def platform_kind(record: ScanRecord) -> Optional[str]:
    return record["platform"]["kind"] if record["platform"] is not None else None


def digest(*words: object) -> bytes:
    return hashlib.sha256("\0".join(map(str, words)).encode(errors="surrogatepass")).digest()[:16]
