# SPDX-License-Identifier: LGPL-2.1-or-later
"""``merge``: the records of all shards and hosts as one, without doubles, and what stands out in them.

The files are read twice, a line at a time: first for which record of each target counts, then for what they say. Memory
goes by the number of targets and hosts, some hundred bytes each, not by the size of the records.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Callable, NamedTuple, Optional

from drgn_unaccepted import limits
from drgn_unaccepted.errors import CommandError
from drgn_unaccepted.fleet.records import STATUSES, Header, Problem, Record, read
from drgn_unaccepted.questions.document import SCHEMA, Document

#: Findings of these statuses count, worst first.
_FINDINGS = ("critical", "warning", "info")

#: Columns of the tables by release and by platform.
_COLUMNS = (*STATUSES, "failed")


class _Best(NamedTuple):
    """Which record of the same content counts: an answer before a failure, then the later one."""

    answers: bool
    finished_at: str
    number: int
    place: bytes

    @property
    def when(self) -> tuple[str, int]:
        return self.finished_at, self.number


class Merged:
    """Which records count, and what is wrong with the files."""

    def __init__(self, files: Sequence[str]) -> None:
        """Read the files for the first time.

        :raises CommandError: a file cannot be read, or none holds a record
        """
        self._files = files
        self.problems: list[Problem] = []
        self.problem_count = 0
        best: dict[bytes, _Best] = {}
        whole = _Wholeness()
        total = 0
        for item in read(files):
            if isinstance(item, Problem):
                self.problem_count += 1
                if len(self.problems) < limits.FLEET_NAMED:
                    self.problems.append(item)
                continue
            whole.add(item)
            if isinstance(item, Header):
                continue
            total += 1
            mine = _Best(item.failure is None, str(item.document.get("finished_at", "")), item.number, item.place)
            if item.id not in best and len(best) == limits.FLEET_TARGETS:
                raise CommandError(f"more than {limits.FLEET_TARGETS} targets")
            best[item.id] = max(best.get(item.id, mine), mine)
        if not total:
            raise CommandError("no record in these files" + (f": {self.problems[0]}" if self.problems else ""))
        self.incomplete = whole.lacks()
        self.doubles = total - len(best)
        # What a place held is replaced by what it holds, be that an answer or not.
        latest: dict[bytes, _Best] = {}
        for kept in best.values():
            latest[kept.place] = max(latest.get(kept.place, kept), kept, key=lambda one: one.when)
        self.replaced = len(best) - len(latest)
        #: Numbers of the records that count; None: all do, and there is nothing to look up.
        self._counts = {kept.number for kept in latest.values()} if len(latest) < total else None

    def __iter__(self) -> Iterator[Record]:
        """The records that count, read again."""
        for item in read(self._files):
            if isinstance(item, Record) and (self._counts is None or item.number in self._counts):
                yield item


class _Wholeness:
    """Whether each shard is there and has as many targets as it was to have."""

    def __init__(self) -> None:
        self._file: Optional[str] = None
        self._wanted: Optional[int] = None
        self._before = 0
        self._ids: set[bytes] = set()
        self._shards: dict[int, set[int]] = {}
        self._lacks: list[str] = []

    def add(self, item: Any) -> None:
        if item.file != self._file:
            self._close()
            self._file = item.file
        if isinstance(item, Header):
            self._wanted = item.targets
            if item.done is not None:
                # Records before this header may be of dumps that were written anew since.
                self._before, self._ids = item.done, set()
            self._shards.setdefault(item.count, set()).add(item.index)
        elif self._wanted is not None:
            self._ids.add(item.id)

    def _close(self) -> None:
        if self._wanted is not None and self._before + len(self._ids) < self._wanted:
            self._lacks.append(f"{self._file}: {self._before + len(self._ids)} of {self._wanted} targets")
        self._wanted, self._before, self._ids = None, 0, set()

    def lacks(self) -> list[str]:
        self._close()
        self._file = None
        for count, seen in sorted(self._shards.items()):
            missing = sorted(set(range(count)) - seen) if len(seen) < count else []
            if missing:
                names = ", ".join(map(str, missing[: limits.FLEET_NAMED]))
                more = f" and {len(missing) - limits.FLEET_NAMED} more" if len(missing) > limits.FLEET_NAMED else ""
                self._lacks.append(f"no file of shard {names}{more} of {count}")
        return self._lacks


def merge(files: Sequence[str], see: Callable[[Record], None] = lambda record: None) -> Document:
    """The summary of all records.

    :param see: is shown each record that counts, once
    :raises CommandError: a file cannot be read, or none holds a record
    """
    merged = Merged(files)
    summary = _Summary()
    for record in merged:
        summary.add(record)
        see(record)
    return {
        "schema": SCHEMA,
        "command": "merge",
        **summary.document(),
        "doubles": merged.doubles,
        "replaced": merged.replaced,
        "incomplete": merged.incomplete,
        "problems": [problem._asdict() for problem in merged.problems],
        "problem_count": merged.problem_count,
    }


class _Finding:
    """One rule in one status, over all targets."""

    def __init__(self) -> None:
        self.targets = 0
        self.releases: Counter[str] = Counter()
        self.platforms: Counter[str] = Counter()
        self.examples: list[dict[str, str]] = []


class _Summary:
    def __init__(self) -> None:
        self._targets = 0
        self._statuses: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()
        self._failed: dict[str, list[dict[str, str]]] = {}
        self._by_release: dict[Optional[str], Counter[str]] = {}
        self._by_platform: dict[Optional[str], Counter[str]] = {}
        self._findings: dict[tuple[str, str], _Finding] = {}
        #: For each host which of the findings it has, as bits in the order of ``_findings``.
        self._bits: dict[tuple[str, str], int] = {}
        self._hosts: dict[str, int] = {}

    def add(self, record: Record) -> None:
        document = record.document
        release, platform = document["target"]["release"], (document.get("platform") or {}).get("kind")
        failure = record.failure
        column = document["status"] if failure is None else "failed"
        self._targets += 1
        self._statuses[column] += 1
        self._by_release.setdefault(release, Counter())[column] += 1
        self._by_platform.setdefault(platform, Counter())[column] += 1
        if failure is not None:
            self._failures[failure] += 1
            _example(self._failed.setdefault(failure, []), record, document["error"]["reason"])
        has = self._hosts.get(record.host, 0)
        for finding in document["findings"]:
            if finding["status"] not in _FINDINGS:
                continue
            key = (finding["status"], finding["rule"])
            if key not in self._findings:
                self._findings[key] = _Finding()
                self._bits[key] = 1 << len(self._bits)
            has |= self._bits[key]
            entry = self._findings[key]
            entry.targets += 1
            entry.releases[str(release)] += 1
            entry.platforms[str(platform)] += 1
            _example(entry.examples, record, finding["message"])
        self._hosts[record.host] = has

    def document(self) -> Document:
        hosts_with = {key: sum(1 for has in self._hosts.values() if has & bit) for key, bit in self._bits.items()}
        worst = sorted(self._findings, key=lambda key: (_FINDINGS.index(key[0]), -hosts_with[key], key[1]))
        standing_out = self._standing_out(hosts_with)
        return {
            "targets": self._targets,
            "hosts": len(self._hosts),
            "statuses": {name: self._statuses[name] for name in _COLUMNS},
            "findings": [
                {
                    "rule": key[1],
                    "status": key[0],
                    "targets": self._findings[key].targets,
                    "hosts": hosts_with[key],
                    "releases": _most_common(self._findings[key].releases),
                    "platforms": _most_common(self._findings[key].platforms),
                    "examples": self._findings[key].examples,
                }
                for key in worst
            ],
            "failed": [
                {"kind": kind, "targets": count, "examples": self._failed[kind]}
                for kind, count in self._failures.most_common()
            ],
            "releases": _table("release", self._by_release),
            "platforms": _table("platform", self._by_platform),
            "standing_out": standing_out[: limits.FLEET_NAMED],
            "standing_out_hosts": len(standing_out),
        }

    def _standing_out(self, hosts_with: dict[tuple[str, str], int]) -> list[dict[str, Any]]:
        """Hosts that fail a rule which most others pass, the worst and rarest first."""
        total = len(self._hosts)
        rare = {
            key: self._bits[key]
            for key, hosts in sorted(hosts_with.items(), key=lambda item: (_FINDINGS.index(item[0][0]), item[1]))
            if key[0] != "info" and 2 * hosts < total
        }
        found = []
        for host, has in self._hosts.items():
            keys = [key for key, bit in rare.items() if has & bit]
            if keys:
                found.append((_FINDINGS.index(keys[0][0]), hosts_with[keys[0]], host, keys))
        return [
            {
                "host": host,
                "findings": [
                    {"rule": rule, "status": status, "hosts": hosts_with[status, rule]} for status, rule in keys
                ],
            }
            for _, _, host, keys in sorted(found)
        ]


def _example(examples: list[dict[str, str]], record: Record, message: str) -> None:
    if len(examples) < limits.FLEET_NAMED:
        examples.append({"host": record.host, "path": record.path, "message": message})


def _most_common(counts: Counter[str]) -> dict[str, int]:
    return dict(counts.most_common(limits.FLEET_NAMED))


def _table(name: str, counts: dict[Optional[str], Counter[str]]) -> list[dict[str, Any]]:
    """The rows with the worst first, then the most."""
    rows = [
        {name: key, "targets": sum(count.values()), **{column: count[column] for column in _COLUMNS}}
        for key, count in counts.items()
    ]
    return sorted(rows, key=lambda row: (-row["critical"], -row["warning"], -row["targets"], str(row[name])))
