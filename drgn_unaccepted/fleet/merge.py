# SPDX-License-Identifier: LGPL-2.1-or-later
"""``merge``: the records of all shards and hosts as one, without duplicates, and what stands out in them.

Whose a record is follows from its file, not from what it says. In one file the newest record of a target counts, so
that a repaired host is well again. Of one content in several files the worst counts, so that no file hides what another
one found. Nor does a record hide anything whose time is in the future.

The files are read twice, one line at a time: first to find the records that count, then to summarize. Memory grows with
the number of targets and hosts, some hundred bytes each, not with the size of the records.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

from drgn_unaccepted import limits
from drgn_unaccepted.answer.documents import SCHEMA
from drgn_unaccepted.errors import CommandError
from drgn_unaccepted.fleet.documents import MergeSummary, Problem, ScanHeader, ScanRecord
from drgn_unaccepted.fleet.progress import Progress
from drgn_unaccepted.fleet.records import NO_RECORD, column, digest, finished, read
from drgn_unaccepted.fleet.summary import Summary

#: What a target's records in several files say, the worst first.
_WORST_FIRST = ("critical", "warning", "failed", "unknown", "ok")


class _Candidate(NamedTuple):
    finished: float
    #: Counts the records of all files.
    number: int
    #: Of the target and its content.
    content: bytes
    #: Index in :data:`_WORST_FIRST`.
    status: int
    #: Tells apart records with other findings.
    findings: int


@dataclass
class _Run:
    targets: int
    done_before: int
    ids: set[bytes] = field(default_factory=set)


class Merged:
    """The records that count, and what is wrong with the files."""

    def __init__(self, files: Mapping[str, bool], quiet: bool = True) -> None:
        """Read the files for the first time.

        :param files: those that map to False were found in a directory, and may be of other programs
        :raises CommandError: a file cannot be read, or none has a record
        """
        self._files, self._progress = files, Progress(quiet)
        self._problems: list[Problem] = []
        self._problem_count = 0
        #: Files of other programs.
        self.skipped: dict[str, None] = {}
        self._runs: dict[str, _Run] = {}
        #: Indexes for each number of shards.
        self._shards: dict[int, set[int]] = {}
        self._doubles = self._replaced = total = 0
        newest: dict[bytes, _Candidate] = {}
        for file, header, record, problem in read(self._files):
            if problem is not None and problem["reason"] == NO_RECORD and not self._files[file]:
                self.skipped[file] = None
            elif problem is not None:
                self._problem_count += 1
                self._problems += [problem] if len(self._problems) < limits.FLEET_NAMED else []
            if header is not None:
                self._begin_run(file, header)
            elif record is not None:
                place = digest(file, problem is None, record["host"], record["target"]["path"])
                one, other = _candidate(total, record), newest.get(place)
                total += 1
                if other is not None:
                    self._doubles += other.content == one.content
                    self._replaced += other.content != one.content
                elif len(newest) == limits.FLEET_TARGETS:
                    raise CommandError(f"more than {limits.FLEET_TARGETS} targets")
                newest[place] = one if other is None else max(other, one)
                if file in self._runs:
                    self._runs[file].ids.add(one.content)
                self._progress.show(f"merge: {total} records read")
        if not total:
            first = "".join(f": {problem['where']}: {problem['reason']}" for problem in self._problems[:1])
            raise CommandError(f"no record in these files{first}")
        worst: dict[bytes, int] = {}
        for one in newest.values():
            worst[one.content] = min(worst.get(one.content, one.status), one.status)
        # Of several that are as bad, those with other findings count too.
        counts = {hash((n.content, n.findings)): n.number for n in newest.values() if n.status == worst[n.content]}
        self._doubles += len(newest) - len(counts)
        self._counts = set(counts.values())
        #: What is missing.
        self.incomplete = list(self._lacks())

    def __iter__(self) -> Iterator[tuple[str, ScanRecord]]:
        """The records that count with their files, read again."""
        records = ((line.file, line.record) for line in read(self._files) if line.record is not None)
        for number, item in enumerate(records):
            if number in self._counts:
                yield item
            self._progress.show(f"merge: {number} records summarized")
        self._progress.end()

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
        if count in self._shards or len(self._shards) < limits.FLEET_ROWS:
            self._shards.setdefault(count, set()).add(index)
        if header["done"] is not None or file not in self._runs:
            # Records before this header may be of dumps that were written anew since.
            self._runs[file] = _Run(header["targets"], header["done"] or 0)
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


def _candidate(number: int, record: ScanRecord) -> _Candidate:
    content = digest(record["id"], record["host"], record["target"]["path"])
    findings = hash(frozenset((found["rule"], found["status"]) for found in record["findings"]))
    return _Candidate(finished(record), number, content, _WORST_FIRST.index(column(record)), findings)
