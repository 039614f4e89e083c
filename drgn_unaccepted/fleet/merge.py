# SPDX-License-Identifier: LGPL-2.1-or-later
"""``merge``: the records of all shards and hosts as one, without duplicates, and what stands out in them.

The files are read twice, one line at a time: first to find the record of each target that counts, then to summarize.
Memory grows with the number of targets and hosts, some hundred bytes each, not with the size of the records.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

from drgn_unaccepted import limits
from drgn_unaccepted.answer.documents import SCHEMA
from drgn_unaccepted.errors import CommandError
from drgn_unaccepted.fleet.documents import MergeSummary, Problem, ScanHeader, ScanRecord
from drgn_unaccepted.fleet.records import digest, read
from drgn_unaccepted.fleet.summary import Summary


class _Candidate(NamedTuple):
    """A record of some content: an answer beats a failure, then the later one counts."""

    is_answer: bool
    finished_at: str
    #: Counts the records of all files.
    number: int
    place: bytes


@dataclass
class _Run:
    """The last run of a file."""

    targets: int
    done_before: int
    ids: set[bytes] = field(default_factory=set)


class Merged:
    """The records that count, and what is wrong with the files."""

    def __init__(self, files: Sequence[str]) -> None:
        """Read the files for the first time.

        :raises CommandError: a file cannot be read, or none has a record
        """
        self._files = files
        self._problems: list[Problem] = []
        self._problem_count = 0
        self._runs: dict[str, _Run] = {}
        #: Indexes for each number of shards.
        self._shards: dict[int, set[int]] = {}
        best: dict[bytes, _Candidate] = {}
        total = 0
        for file, header, record, problem in read(files):
            if problem is not None:
                self._problem_count += 1
                self._problems += [problem] if len(self._problems) < limits.FLEET_NAMED else []
            elif header is not None:
                self._begin_run(file, header)
            elif record is not None:
                candidate = _candidate(total, file, record)
                total += 1
                key = bytes.fromhex(record["id"])
                if key not in best and len(best) == limits.FLEET_TARGETS:
                    raise CommandError(f"more than {limits.FLEET_TARGETS} targets")
                best[key] = max(best.get(key, candidate), candidate)
                if file in self._runs:
                    self._runs[file].ids.add(key)
        if not total:
            first = "".join(f": {problem['where']}: {problem['reason']}" for problem in self._problems[:1])
            raise CommandError(f"no record in these files{first}")
        self._doubles = total - len(best)
        # A dump that was written anew replaces the earlier content of its place, whether or not there is an answer.
        latest: dict[bytes, _Candidate] = {}
        for kept in best.values():
            other = latest.get(kept.place, kept)
            latest[kept.place] = max(other, kept, key=lambda one: (one.finished_at, one.number))
        self._replaced = len(best) - len(latest)
        self._counts = {kept.number for kept in latest.values()}
        #: What is missing.
        self.incomplete = list(self._lacks())

    def __iter__(self) -> Iterator[tuple[str, ScanRecord]]:
        """The records that count with their files, read again."""
        records = ((line.file, line.record) for line in read(self._files) if line.record is not None)
        return (item for number, item in enumerate(records) if number in self._counts)

    def summary(self) -> MergeSummary:
        summary = Summary()
        for file, record in self:
            summary.add(file, record)
        return {
            "schema": SCHEMA,
            "command": "merge",
            **summary.document(),
            "doubles": self._doubles,
            "replaced": self._replaced,
            "incomplete": self.incomplete,
            "problems": self._problems,
            "problem_count": self._problem_count,
        }

    def _begin_run(self, file: str, header: ScanHeader) -> None:
        index, count = header["shard"]
        self._shards.setdefault(count, set()).add(index)
        if "done" in header or file not in self._runs:
            # Records before this header may be of dumps that were written anew since.
            self._runs[file] = _Run(header["targets"], header.get("done", 0))
        self._runs[file].targets = header["targets"]

    def _lacks(self) -> Iterator[str]:
        for file, run in self._runs.items():
            if run.done_before + len(run.ids) < run.targets:
                yield f"{file}: {run.done_before + len(run.ids)} of {run.targets} targets"
        for count, seen in sorted(self._shards.items()):
            # A damaged count can be 2^63.
            missing = list(islice((index for index in range(count) if index not in seen), limits.FLEET_NAMED))
            unnamed = count - len(seen) - len(missing)
            more = f" and {unnamed} more" if unnamed else ""
            if missing:
                yield f"no file of shard {', '.join(map(str, missing))}{more} of {count}"


def _candidate(number: int, file: str, record: ScanRecord) -> _Candidate:
    host, path = record["host"], record["target"]["path"]
    if record["command"] == "check":
        place = bytes.fromhex(record["id"])
    else:
        # Without a guest's name the same path in another file may be of another machine: /var/crash/STAMP/vmcore.
        place = digest("host", host, path) if host else digest("file", file, path)
    # Many targets share one string: those that finished in the same second.
    finished_at = sys.intern(record["finished_at"] or "")
    return _Candidate(record["error"] is None, finished_at, number, place)


def merge(files: Sequence[str]) -> MergeSummary:
    """The summary of all records.

    :raises CommandError: a file cannot be read, or none has a record
    """
    return Merged(files).summary()
