# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the records that count say together: by rule, release and platform, and the hosts that stand out.

A host is what somebody named; a target without a name is a host of its own.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Optional, Union

from drgn_unaccepted import limits
from drgn_unaccepted.fleet.documents import (
    Example,
    FailureSummary,
    FindingSummary,
    Occurrence,
    OddHost,
    ScanRecord,
    StatusCounts,
    StatusRow,
    Totals,
)
from drgn_unaccepted.fleet.records import platform_kind

#: Statuses of the findings that count, worst first.
_FINDINGS = ("critical", "warning", "info")

#: Status and name of a rule.
_Key = tuple[str, str]
_UNKNOWN: _Key = ("unknown", "")

#: The name of a host; for a target without one, its path and the file of its record.
_Host = Union[str, tuple[str, str]]


class Summary:
    """Memory grows with hosts and rules, not with records."""

    def __init__(self) -> None:
        self._unnamed = 0
        self._releases: dict[Optional[str], Counter[str]] = {}
        self._platforms: dict[Optional[str], Counter[str]] = {}
        self._failures: dict[str, FailureSummary] = {}
        self._occurrences: dict[_Key, Occurrence] = {_UNKNOWN: _occurrence()}
        #: The findings of each host.
        self._found: dict[_Host, frozenset[_Key]] = {}
        #: For each host with an answer, the rules that all its answers skipped.
        self._skipped: dict[_Host, frozenset[str]] = {}
        self._sets: dict[frozenset[Any], frozenset[Any]] = {}

    def add(self, file: str, record: ScanRecord) -> None:
        error, release, platform = record["error"], record["target"]["release"], platform_kind(record)
        host = record["host"] or (record["target"]["path"], file)
        found = self._found.setdefault(host, frozenset())
        column = record["status"] if error is None else "failed"
        self._unnamed += record["host"] is None
        self._releases.setdefault(release, Counter())[column] += 1
        self._platforms.setdefault(platform, Counter())[column] += 1
        if error is not None:
            nothing: FailureSummary = {"kind": error["kind"], "targets": 0, "examples": []}
            failure = self._failures.setdefault(error["kind"], nothing)
            failure["targets"] += 1
            _add_example(failure["examples"], record, error["reason"])
            return
        messages: dict[_Key, str] = {
            (f["status"], f["rule"]): f["message"] for f in record["findings"] if f["status"] in _FINDINGS
        }
        if column == "unknown":
            messages[_UNKNOWN] = str(record.get("source_reason"))
        for key, message in messages.items():
            occurrence = self._occurrences.setdefault(key, _occurrence())
            occurrence["targets"] += 1
            for counts, name in ((occurrence["releases"], str(release)), (occurrence["platforms"], str(platform))):
                counts[name] = counts.get(name, 0) + 1
            _add_example(occurrence["examples"], record, message)
        self._found[host] = self._shared(found.union(messages))
        skipped = frozenset(record["skipped"])
        self._skipped[host] = self._shared(self._skipped.get(host, skipped) & skipped)

    def _shared(self, names: frozenset[Any]) -> frozenset[Any]:
        """One set for the many hosts that have the same."""
        return self._sets.setdefault(names, names)

    def document(self) -> Totals:
        hosts = Counter(key for found in self._found.values() for key in found)
        skipped = Counter(rule for rules in self._skipped.values() for rule in rules)
        told = {key: len(self._skipped) - skipped[key[1]] for key in self._occurrences}
        for key, occurrence in self._occurrences.items():
            occurrence["hosts"] = hosts[key]
            for counts in (occurrence["releases"], occurrence["platforms"]):
                ordered = Counter(counts).most_common()
                counts.clear()
                counts.update(ordered)
        unknown = self._occurrences[_UNKNOWN]
        worst = sorted(
            self._occurrences.keys() - {_UNKNOWN}, key=lambda key: (_FINDINGS.index(key[0]), -hosts[key], key[1])
        )
        findings: list[FindingSummary] = [
            {"rule": key[1], "status": key[0], "told_hosts": told[key], **self._occurrences[key]} for key in worst
        ]
        standing_out = self._standing_out(hosts, told)
        return {
            "targets": sum(sum(counts.values()) for counts in self._releases.values()),
            "unnamed_targets": self._unnamed,
            "hosts": len(self._found),
            "answered_hosts": len(self._skipped),
            "statuses": _statuses(sum(self._releases.values(), Counter())),
            "findings": findings,
            "unknown": unknown,
            "failed": sorted(self._failures.values(), key=lambda failure: -failure["targets"]),
            "releases": [{"release": name, **row} for name, row in _rows(self._releases)],
            "platforms": [{"platform": name, **row} for name, row in _rows(self._platforms)],
            "standing_out": standing_out[: limits.FLEET_NAMED],
            "standing_out_hosts": len(standing_out),
        }

    def _standing_out(self, hosts: Counter[_Key], told: dict[_Key, int]) -> list[OddHost]:
        """Hosts that fail a rule which more of the others pass than fail, the worst and rarest first.

        The others are those that could tell: a host without an answer, or that skipped the rule, did not pass it.
        """
        rare = sorted(
            (
                key
                for key in self._occurrences
                if key[0] in ("critical", "warning") and hosts[key] - 1 < told[key] - hosts[key]
            ),
            key=lambda key: (_FINDINGS.index(key[0]), hosts[key]),
        )
        odd = []
        for host, found in self._found.items():
            keys = [key for key in rare if key in found]
            if keys:
                name = host if isinstance(host, str) else host[0]
                odd.append((_FINDINGS.index(keys[0][0]), hosts[keys[0]], name, keys))
        return [
            {
                "host": host,
                "findings": [{"rule": rule, "status": status, "hosts": hosts[status, rule]} for status, rule in keys],
            }
            for _, _, host, keys in sorted(odd)
        ]


def _occurrence() -> Occurrence:
    return {"targets": 0, "hosts": 0, "releases": {}, "platforms": {}, "examples": []}


def _add_example(examples: list[Example], record: ScanRecord, message: str) -> None:
    if len(examples) < limits.FLEET_NAMED:
        examples.append({"host": record["host"], "path": record["target"]["path"], "message": message})


def _statuses(count: Counter[str]) -> StatusCounts:
    return {
        "critical": count["critical"],
        "warning": count["warning"],
        "ok": count["ok"],
        "unknown": count["unknown"],
        "failed": count["failed"],
    }


def _rows(counts: dict[Optional[str], Counter[str]]) -> list[tuple[Optional[str], StatusRow]]:
    """The rows of a table, the worst first, then the most."""
    rows: list[tuple[Optional[str], StatusRow]] = [
        (name, {"targets": sum(count.values()), **_statuses(count)}) for name, count in counts.items()
    ]
    return sorted(rows, key=lambda row: (-row[1]["critical"], -row[1]["warning"], -row[1]["targets"], str(row[0])))
