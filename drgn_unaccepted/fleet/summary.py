# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the records that count say together: by rule, release and platform, and the hosts that stand out.

A host is what somebody named; a target without a name is a host of its own.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any, Optional, Union, cast

from drgn_unaccepted import limits
from drgn_unaccepted.fleet.documents import Occurrence, OddHost, Row, ScanRecord, StatusCounts, Totals
from drgn_unaccepted.fleet.records import COLUMNS, column, platform_kind

#: Statuses of the findings that count, worst first.
_FINDINGS = ("critical", "warning", "info")

#: Status and name of a rule; or "failed" and the kind of the error.
_Key = tuple[str, str]
_UNKNOWN: _Key = ("unknown", "")

#: The name of a host; for a target without one, its path and the file of its record.
_Host = Union[str, tuple[str, str]]
_Rows = defaultdict[Optional[str], Counter[str]]


class Summary:
    """Memory grows with hosts and rules, not with records."""

    def __init__(self) -> None:
        self._unnamed = 0
        self._releases: _Rows = defaultdict(Counter)
        self._platforms: _Rows = defaultdict(Counter)
        self._seen: defaultdict[_Key, Occurrence] = defaultdict(_occurrence)
        #: The findings of each host.
        self._found: dict[_Host, frozenset[_Key]] = {}
        #: For each host with an answer, the rules that all its answers skipped.
        self._skipped: dict[_Host, frozenset[str]] = {}
        self._sets: dict[frozenset[Any], frozenset[Any]] = {}

    def add(self, file: str, record: ScanRecord) -> None:
        error, release, platform = record["error"], record["target"]["release"], platform_kind(record)
        host = record["host"] or (record["target"]["path"], file)
        self._unnamed += record["host"] is None
        self._releases[release][column(record)] += 1
        self._platforms[platform][column(record)] += 1
        messages: dict[_Key, str] = {
            (f["status"], f["rule"]): f["message"] for f in record["findings"] if f["status"] in _FINDINGS
        }
        if error is not None:
            messages = {("failed", error["kind"]): error["reason"]}
        elif record["status"] == "unknown":
            messages[_UNKNOWN] = str(record.get("source_reason"))
        for key, message in messages.items():
            seen = self._seen[key]
            seen["targets"] += 1
            for counts, name in ((seen["releases"], str(release)), (seen["platforms"], str(platform))):
                counts[name] = counts.get(name, 0) + 1
            if len(seen["examples"]) < limits.FLEET_NAMED:
                path = record["target"]["path"]
                seen["examples"].append({"host": record["host"], "path": path, "message": message})
        self._found[host] = self._shared(self._found.get(host, frozenset()).union(messages))
        if error is None:
            skipped = frozenset(record["skipped"])
            self._skipped[host] = self._shared(self._skipped.get(host, skipped) & skipped)

    def _shared(self, names: frozenset[Any]) -> frozenset[Any]:
        """One set for the many hosts that have the same."""
        return self._sets.setdefault(names, names)

    def document(self) -> Totals:
        hosts = Counter(key for found in self._found.values() for key in found)
        skipped = Counter(rule for rules in self._skipped.values() for rule in rules)
        for key, seen in self._seen.items():
            seen["hosts"] = hosts[key]
            seen["releases"] = dict(Counter(seen["releases"]).most_common())
            seen["platforms"] = dict(Counter(seen["platforms"]).most_common())
        told = {key: len(self._skipped) - skipped[key[1]] for key in self._seen if key[0] in _FINDINGS}
        worst = sorted(told, key=lambda key: (_FINDINGS.index(key[0]), -hosts[key], key[1]))
        failed = [(kind, seen) for (status, kind), seen in self._seen.items() if status == "failed"]
        odd = self._standing_out(hosts, told)
        return {
            "targets": sum(sum(counts.values()) for counts in self._releases.values()),
            "unnamed_targets": self._unnamed,
            "hosts": len(self._found),
            "answered_hosts": len(self._skipped),
            "statuses": _statuses(sum(self._releases.values(), Counter())),
            "findings": [
                {"rule": key[1], "status": key[0], "told_hosts": told[key], **self._seen[key]} for key in worst
            ],
            "unknown": self._seen[_UNKNOWN],
            "failed": [
                {"kind": kind, "targets": seen["targets"], "examples": seen["examples"]}
                for kind, seen in sorted(failed, key=lambda item: -item[1]["targets"])
            ],
            "releases": _rows("release", self._releases),
            "platforms": _rows("platform", self._platforms),
            "standing_out": odd[: limits.FLEET_NAMED],
            "standing_out_hosts": len(odd),
        }

    def _standing_out(self, hosts: Counter[_Key], told: dict[_Key, int]) -> list[OddHost]:
        """Hosts that fail a rule which more of the others pass than fail, the worst and rarest first.

        The others are those that could tell: a host without an answer, or that skipped the rule, did not pass it.
        """
        rare = [key for key in told if key[0] != "info" and hosts[key] - 1 < told[key] - hosts[key]]
        rare.sort(key=lambda key: (_FINDINGS.index(key[0]), hosts[key]))
        odd = []
        for host, found in self._found.items():
            keys = [key for key in rare if key in found]
            if keys:
                name = host if isinstance(host, str) else host[0]
                odd.append((_FINDINGS.index(keys[0][0]), hosts[keys[0]], name, keys))
        return [
            {"host": name, "findings": [{"rule": key[1], "status": key[0], "hosts": hosts[key]} for key in keys]}
            for _, _, name, keys in sorted(odd)
        ]


def _occurrence() -> Occurrence:
    return {"targets": 0, "hosts": 0, "releases": {}, "platforms": {}, "examples": []}


def _statuses(counts: Counter[str]) -> StatusCounts:
    return cast(StatusCounts, {name: counts[name] for name in COLUMNS})


def _rows(column: str, counts: _Rows) -> list[Row]:
    """The rows of a table, the worst first, then the most."""

    def order(name: Optional[str]) -> tuple[object, ...]:
        count = counts[name]
        return -count["critical"], -count["warning"], -sum(count.values()), str(name)

    names = sorted(counts, key=order)
    return [cast(Row, {column: n, "targets": sum(counts[n].values()), **_statuses(counts[n])}) for n in names]
