# SPDX-License-Identifier: LGPL-2.1-or-later
"""``merge``: the records of all shards and hosts as one, without duplicates, and what stands out in them.

Whose a record is follows from its file, not from what it says. In one file the newest record of a target counts, so
that a repaired host is well again. Of one content in several files the worst counts, so that no file hides what another
one found. Nor does a record hide anything whose time is in the future.

The files are read twice, one line at a time: first to find the records that count, then to summarize. Memory grows with
the number of targets and hosts, some hundred bytes each: a set of rules is one integer, and of everything else there is
a bounded number. A host is what somebody named; a target without a name is a host of its own.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple, Optional, cast

from drgn_unaccepted import limits
from drgn_unaccepted.answer.documents import SCHEMA
from drgn_unaccepted.checks import rule_names
from drgn_unaccepted.errors import CommandError
from drgn_unaccepted.fleet import documents
from drgn_unaccepted.fleet.documents import ScanHeader, ScanRecord
from drgn_unaccepted.fleet.records import COLUMNS, FAILURES, NO_RECORD, column, digest, finished, platform_kind, read
from drgn_unaccepted.fleet.text import Progress

_FINDINGS = ("critical", "warning", "info")  #: Statuses of the findings that count, worst first.
_OTHER = "other"  #: Stands for all rules that this version does not know, and for what else could be of any number.
_NAME = 256  #: Characters that are kept of a name.

_Key = tuple[str, str]  #: Status and name of a rule; or "failed" and the kind of the error.
_UNKNOWN: _Key = ("unknown", "")
_Rows = defaultdict[Optional[str], Counter[str]]

#: What a target's records in several files say, the worst first.
_WORST_FIRST = ("critical", "warning", "failed", "unknown", "ok")


class _Candidate(NamedTuple):
    finished: float
    number: int  #: Counts the records of all files.
    content: bytes  #: Of the target and its content.
    status: int  #: Index in :data:`_WORST_FIRST`.
    findings: int  #: Tells apart records with other findings.


class Merged:
    """The records that count, and what is wrong with the files."""

    def __init__(self, files: Mapping[str, bool], quiet: bool = True) -> None:
        """Read the files for the first time.

        :param files: those that map to False were found in a directory, and may be of other programs
        :raises CommandError: a file cannot be read, or none has a record
        """
        self._files, self._progress = files, Progress(quiet)
        self.problems: list[documents.Problem] = []
        self.problem_count = 0
        self.skipped: dict[str, None] = {}  #: Files of other programs.
        #: For each file the targets of its last run, how many were done before it, and the others that have a record.
        self._runs: dict[str, tuple[int, int, set[bytes]]] = {}
        self._shards: dict[int, set[int]] = {}  #: Indexes for each number of shards.
        self.doubles = self.replaced = total = 0
        newest: dict[bytes, _Candidate] = {}
        for file, header, record, problem in read(self._files):
            if problem is not None and problem["reason"] == NO_RECORD and not self._files[file]:
                self.skipped[file] = None
            elif problem is not None:
                self.problem_count += 1
                self.problems += [problem] if len(self.problems) < limits.FLEET_NAMED else []
            if header is not None:
                self._begin_run(file, header)
            elif record is not None:
                place = digest(file, problem is None, record["host"], record["target"]["path"])
                one, other = _candidate(total, record), newest.get(place)
                total += 1
                if other is not None:
                    self.doubles += other.content == one.content
                    self.replaced += other.content != one.content
                elif len(newest) == limits.FLEET_TARGETS:
                    raise CommandError(f"more than {limits.FLEET_TARGETS} targets")
                newest[place] = one if other is None else max(other, one)
                if file in self._runs:
                    self._runs[file][2].add(one.content)
                self._progress.show(f"merge: {total} records read")
        if not total:
            first = "".join(f": {problem['where']}: {problem['reason']}" for problem in self.problems[:1])
            raise CommandError(f"no record in these files{first}")
        worst = {one.content: one.status for one in sorted(newest.values(), key=lambda one: -one.status)}
        # Of several that are as bad, those with other findings count too.
        counts = {hash((n.content, n.findings)): n.number for n in newest.values() if n.status == worst[n.content]}
        self.doubles += len(newest) - len(counts)
        self._counts = set(counts.values())
        self.incomplete = list(self._lacks())

    def __iter__(self) -> Iterator[tuple[str, ScanRecord]]:
        """The records that count with their files, read again."""
        records = ((line.file, line.record) for line in read(self._files) if line.record is not None)
        for number, item in enumerate(records):
            if number in self._counts:
                yield item
            self._progress.show(f"merge: {number} records summarized")
        self._progress.end()

    def summary(self) -> documents.MergeSummary:
        summary = _Summary()
        for file, record in self:
            summary.add(file, record)
        return summary.document(self)

    def _begin_run(self, file: str, header: ScanHeader) -> None:
        index, count = header["shard"]
        if count in self._shards or len(self._shards) < limits.FLEET_ROWS:
            self._shards.setdefault(count, set()).add(index)
        # Records before this header may be of dumps that were written anew since.
        done, ids = header["done"] or 0, set[bytes]()
        if header["done"] is None and file in self._runs:
            _, done, ids = self._runs[file]
        self._runs[file] = header["targets"], done, ids

    def _lacks(self) -> Iterator[str]:
        for file, (targets, done, ids) in self._runs.items():
            if done + len(ids) < targets:
                yield f"{file}: {done + len(ids)} of {targets} targets"
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


class _Summary:
    def __init__(self) -> None:
        self._unnamed = 0
        self._rules = frozenset(rule_names())
        self._releases: _Rows = defaultdict(Counter)
        self._platforms: _Rows = defaultdict(Counter)
        self._seen = defaultdict[_Key, documents.Occurrence](
            lambda: {"targets": 0, "hosts": 0, "releases": {}, "platforms": {}, "examples": []}
        )
        self._bits: dict[_Key, int] = {}  #: The bit of a key of ``_seen``, and of a rule that was skipped.
        self._found: dict[str, int] = {}  #: The findings of each host.
        self._skipped: dict[str, int] = {}  #: For each host with an answer, the rules that all its answers skipped.

    def add(self, file: str, record: ScanRecord) -> None:
        error, path = record["error"], record["target"]["path"]
        host = _host(file, record["host"], path)
        self._unnamed += record["host"] is None
        release = _count(self._releases, record["target"]["release"], record)
        platform = _count(self._platforms, platform_kind(record), record)
        for key, message in self._messages(record).items():
            seen = self._seen[key]
            seen["targets"] += 1
            seen["releases"][release] = seen["releases"].get(release, 0) + 1
            seen["platforms"][platform] = seen["platforms"].get(platform, 0) + 1
            if len(seen["examples"]) < limits.FLEET_NAMED:
                texts = (text and text[: limits.FLEET_TEXT] for text in (record["host"], path, message))
                seen["examples"].append(cast(documents.Example, dict(zip(("host", "path", "message"), texts))))
            self._found[host] = self._found.get(host, 0) | self._bit(key)
        self._found.setdefault(host, 0)
        if error is None:
            skipped = sum({self._bit(("skip", rule)) for rule in record["skipped"] if rule in self._rules})
            self._skipped[host] = self._skipped.get(host, skipped) & skipped

    def _messages(self, record: ScanRecord) -> dict[_Key, str]:
        error = record["error"]
        if error is not None:
            return {("failed", error["kind"] if error["kind"] in FAILURES else _OTHER): error["reason"]}
        messages = {_UNKNOWN: str(record["source_reason"])} if record["status"] == "unknown" else {}
        for found in record["findings"]:
            rule, status, message = found["rule"], found["status"], found["message"]
            if rule not in self._rules:
                rule, message = _OTHER, f"{rule}: {message}"
            if status in _FINDINGS:
                messages[status, rule] = message
        return messages

    def _bit(self, key: _Key) -> int:
        return 1 << self._bits.setdefault(key, len(self._bits))

    def _hosts(self, sets: dict[str, int]) -> Counter[_Key]:
        """For each key, the hosts whose set has it."""
        hosts: Counter[_Key] = Counter()
        for keys, number in Counter(sets.values()).items():
            hosts.update({key: number for key, bit in self._bits.items() if keys >> bit & 1})
        return hosts

    def document(self, merged: Merged) -> documents.MergeSummary:
        hosts, skipped = self._hosts(self._found), self._hosts(self._skipped)
        for key, seen in self._seen.items():
            seen["hosts"] = hosts[key]
            seen["releases"] = dict(Counter(seen["releases"]).most_common())
            seen["platforms"] = dict(Counter(seen["platforms"]).most_common())
        told = {key: len(self._skipped) - skipped["skip", key[1]] for key in self._seen if key[0] in _FINDINGS}
        worst = sorted(told, key=lambda key: (_FINDINGS.index(key[0]), -hosts[key], key[1]))
        failed = [(kind, seen) for (status, kind), seen in self._seen.items() if status == "failed"]
        odd, odd_hosts = self._standing_out(hosts, told)
        return {
            "schema": SCHEMA,
            "command": "merge",
            "targets": sum(sum(counts.values()) for counts in self._releases.values()),
            "unnamed_targets": self._unnamed,
            "hosts": len(self._found),
            "answered_hosts": len(self._skipped),
            "statuses": {column: sum(row[column] for row in self._releases.values()) for column in COLUMNS},
            "findings": [
                {"rule": key[1], "status": key[0], "told_hosts": told[key], **self._seen[key]} for key in worst
            ],
            "unknown": self._seen[_UNKNOWN],
            "failed": [{"kind": kind, **seen} for kind, seen in sorted(failed, key=lambda item: -item[1]["targets"])],
            "releases": _rows("release", self._releases),
            "platforms": _rows("platform", self._platforms),
            "standing_out": odd,
            "standing_out_hosts": odd_hosts,
            "doubles": merged.doubles,
            "replaced": merged.replaced,
            "incomplete": merged.incomplete,
            "problems": merged.problems,
            "problem_count": merged.problem_count,
        }

    def _standing_out(self, hosts: Counter[_Key], told: dict[_Key, int]) -> tuple[list[documents.OddHost], int]:
        """Hosts that fail a rule which more of the others pass than fail, the worst and rarest first; and how many.

        The others are those that could tell: a host without an answer, or that skipped the rule, did not pass it.
        """
        rare = [key for key in told if key[0] != "info" and hosts[key] - 1 < told[key] - hosts[key]]
        ranks = {key: (_FINDINGS.index(key[0]), hosts[key]) for key in rare}
        rare.sort(key=ranks.__getitem__)
        any_rare = sum(map(self._bit, rare))

        def findings(host: str) -> Iterator[_Key]:
            return (key for key in rare if self._found[host] & self._bit(key))

        odd = [host for host, found in self._found.items() if found & any_rare]
        worst = heapq.nsmallest(limits.FLEET_NAMED, odd, key=lambda host: (ranks[next(findings(host))], host))
        return [
            {
                "host": host.partition("\0")[0],
                "findings": [{"rule": key[1], "status": key[0], "hosts": hosts[key]} for key in findings(host)],
            }
            for host in worst
        ], len(odd)


def _host(file: str, host: Optional[str], path: str) -> str:
    """The key of a host: its name; of a target without one its path, and after a null character the file."""
    name = host or f"{path}\0{file}"
    return name if len(name) <= _NAME else f"{name[: _NAME - 32]}\0{digest(name).hex()}"


def _count(rows: _Rows, name: Optional[str], record: ScanRecord) -> str:
    """Count a record in the row of a name; once there are too many, names that are new share one."""
    label = None if name is None else name[:_NAME]
    if label not in rows and len(rows) >= limits.FLEET_ROWS:
        label = _OTHER
    rows[label][column(record)] += 1
    return str(label)


def _rows(kind: str, counts: _Rows) -> list[dict[str, Any]]:
    rows: list[Any] = [
        {kind: name, "targets": sum(row.values()), **{column: row[column] for column in COLUMNS}}
        for name, row in counts.items()
    ]
    return sorted(rows, key=lambda row: (-row["critical"], -row["warning"], -row["targets"], str(row[kind])))
