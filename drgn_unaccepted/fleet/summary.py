# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the records that count say together: by rule, release and platform, and which hosts stand out.

A host is what somebody named; where nobody did, each target is one by itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, Optional, Union

from drgn_unaccepted import limits
from drgn_unaccepted.answer.document import Document
from drgn_unaccepted.fleet.records import STATUSES, Record

#: Findings of these statuses count, worst first.
_FINDINGS = ("critical", "warning", "info")

#: Columns of the tables by release and by platform.
_COLUMNS = (*STATUSES, "failed")

#: The name of a host; of a target without one its path and the file of its record.
_Host = Union[str, tuple[str, str]]


class _Finding:
    """One rule in one status, or "unknown", over all targets."""

    def __init__(self) -> None:
        self.targets = 0
        self.releases: Counter[str] = Counter()
        self.platforms: Counter[str] = Counter()
        self.examples: list[dict[str, Optional[str]]] = []

    def add(self, record: Record, message: str) -> None:
        self.targets += 1
        self.releases[_release(record)] += 1
        self.platforms[str(_platform(record))] += 1
        if len(self.examples) < limits.FLEET_NAMED:
            self.examples.append({"host": record.host, "path": record.path, "message": message})


class _Bits:
    """For each host a set of names, as bits in the order in which the names were first seen."""

    def __init__(self) -> None:
        self._bit: dict[Any, int] = {}
        self.of: dict[_Host, int] = {}

    def bits(self, names: Iterable[Any]) -> int:
        bits = 0
        for name in names:
            bit = self._bit.get(name)
            if bit is None:
                bit = self._bit[name] = 1 << len(self._bit)
            bits |= bit
        return bits

    def count(self, name: Any) -> int:
        """Hosts that have it."""
        bit = self._bit.get(name, 0)
        return sum(1 for has in self.of.values() if has & bit)


class Summary:
    """Memory goes by hosts and by rules, not by records."""

    def __init__(self) -> None:
        self._targets = self._unnamed = 0
        self._statuses: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()
        self._failed: dict[str, list[dict[str, Optional[str]]]] = {}
        self._by_release: dict[Optional[str], Counter[str]] = {}
        self._by_platform: dict[Optional[str], Counter[str]] = {}
        self._findings: dict[tuple[str, str], _Finding] = {}
        self._unknown = _Finding()
        #: Of every host the findings that it has.
        self._has = _Bits()
        #: Of every host with an answer the rules that none of its answers could tell.
        self._skipped = _Bits()

    def add(self, record: Record) -> None:
        document, failure = record.document, record.failure
        host = record.host or (record.path, record.file)
        self._targets += 1
        self._unnamed += record.host is None
        column = document["status"] if failure is None else "failed"
        self._statuses[column] += 1
        self._by_release.setdefault(document["target"]["release"], Counter())[column] += 1
        self._by_platform.setdefault(_platform(record), Counter())[column] += 1
        self._has.of.setdefault(host, 0)
        if failure is not None:
            self._failures[failure] += 1
            examples = self._failed.setdefault(failure, [])
            if len(examples) < limits.FLEET_NAMED:
                reason = document["error"]["reason"]
                examples.append({"host": record.host, "path": record.path, "message": reason})
            return
        if column == "unknown":
            self._unknown.add(record, str(document.get("source_reason")))
            self._has.of[host] |= self._has.bits(["unknown"])
        skipped = self._skipped.bits(record.skipped)
        self._skipped.of[host] = self._skipped.of.get(host, skipped) & skipped
        for finding in document["findings"]:
            if finding["status"] not in _FINDINGS:
                continue
            key = (finding["status"], finding["rule"])
            if key not in self._findings:
                self._findings[key] = _Finding()
            self._findings[key].add(record, finding["message"])
            self._has.of[host] |= self._has.bits([key])

    def document(self) -> Document:
        hosts_with = {key: self._has.count(key) for key in self._findings}
        answered = len(self._skipped.of)
        told = {key: answered - self._skipped.count(key[1]) for key in self._findings}
        worst = sorted(self._findings, key=lambda key: (_FINDINGS.index(key[0]), -hosts_with[key], key[1]))
        standing_out = self._standing_out(hosts_with, told)
        return {
            "targets": self._targets,
            "unnamed_targets": self._unnamed,
            "hosts": len(self._has.of),
            "answered_hosts": answered,
            "statuses": {name: self._statuses[name] for name in _COLUMNS},
            "findings": [
                {
                    "rule": key[1],
                    "status": key[0],
                    "targets": self._findings[key].targets,
                    "hosts": hosts_with[key],
                    "told_hosts": told[key],
                    "releases": dict(self._findings[key].releases.most_common()),
                    "platforms": dict(self._findings[key].platforms.most_common()),
                    "examples": self._findings[key].examples,
                }
                for key in worst
            ],
            "unknown": {
                "targets": self._unknown.targets,
                "hosts": self._has.count("unknown"),
                "releases": dict(self._unknown.releases.most_common()),
                "platforms": dict(self._unknown.platforms.most_common()),
                "examples": self._unknown.examples,
            },
            "failed": [
                {"kind": kind, "targets": count, "examples": self._failed[kind]}
                for kind, count in self._failures.most_common()
            ],
            "releases": _table("release", self._by_release),
            "platforms": _table("platform", self._by_platform),
            "standing_out": standing_out[: limits.FLEET_NAMED],
            "standing_out_hosts": len(standing_out),
        }

    def _standing_out(
        self, hosts_with: dict[tuple[str, str], int], told: dict[tuple[str, str], int]
    ) -> list[dict[str, Any]]:
        """Hosts that fail a rule which more of the others pass than fail, the worst and rarest first.

        Others are those that could tell: who gave no answer, or skipped the rule, did not pass it.
        """
        rare = {
            key: self._has.bits([key])
            for key, hosts in sorted(hosts_with.items(), key=lambda item: (_FINDINGS.index(item[0][0]), item[1]))
            if key[0] != "info" and hosts - 1 < told[key] - hosts
        }
        found = []
        for host, has in self._has.of.items():
            keys = [key for key, bit in rare.items() if has & bit]
            if keys:
                name = host if isinstance(host, str) else host[0]
                found.append((_FINDINGS.index(keys[0][0]), hosts_with[keys[0]], name, keys))
        return [
            {
                "host": host,
                "findings": [
                    {"rule": rule, "status": status, "hosts": hosts_with[status, rule]} for status, rule in keys
                ],
            }
            for _, _, host, keys in sorted(found)
        ]


def _release(record: Record) -> str:
    return str(record.document["target"]["release"])


def _platform(record: Record) -> Optional[str]:
    kind: Optional[str] = (record.document.get("platform") or {}).get("kind")
    return kind


def _table(name: str, counts: dict[Optional[str], Counter[str]]) -> list[dict[str, Any]]:
    """The rows with the worst first, then the most."""
    rows = [
        {name: key, "targets": sum(count.values()), **{column: count[column] for column in _COLUMNS}}
        for key, count in counts.items()
    ]
    return sorted(rows, key=lambda row: (-row["critical"], -row["warning"], -row["targets"], str(row[name])))
