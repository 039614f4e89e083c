# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the records that count say together: by rule, release and platform, and the hosts that stand out.

A host is what somebody named; a target without a name is a host of its own.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from typing import Optional, cast

from drgn_unaccepted import limits
from drgn_unaccepted.checks import rule_names
from drgn_unaccepted.fleet.documents import (
    Example,
    Occurrence,
    OddFinding,
    OddHost,
    Row,
    ScanRecord,
    StatusCounts,
    Totals,
)
from drgn_unaccepted.fleet.records import COLUMNS, FAILURES, column, digest, platform_kind

#: Statuses of the findings that count, worst first.
_FINDINGS = ("critical", "warning", "info")

#: Stands for all rules that this version does not know, and for what else could be of any number.
_OTHER = "other"

#: Status and name of a rule; or "failed" and the kind of the error.
_Key = tuple[str, str]
_UNKNOWN: _Key = ("unknown", "")

#: Characters that are kept of a name.
_NAME = 256

_Rows = defaultdict[Optional[str], Counter[str]]


class Summary:
    """Memory grows with hosts: a set of rules is one integer, and of everything else there is a bounded number."""

    def __init__(self) -> None:
        self._unnamed = 0
        self._rules = frozenset(rule_names())
        self._releases: _Rows = defaultdict(Counter)
        self._platforms: _Rows = defaultdict(Counter)
        self._seen: defaultdict[_Key, Occurrence] = defaultdict(_occurrence)
        #: The bit of a key of ``_seen``, and of a rule that was skipped.
        self._bits: dict[_Key, int] = {}
        #: The findings of each host.
        self._found: dict[str, int] = {}
        #: For each host with an answer, the rules that all its answers skipped.
        self._skipped: dict[str, int] = {}

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
                seen["examples"].append(cast(Example, dict(zip(("host", "path", "message"), texts))))
            self._found[host] = self._found.get(host, 0) | self._bit(key)
        self._found.setdefault(host, 0)
        if error is None:
            skipped = sum({self._bit(("skip", rule)) for rule in record["skipped"] if rule in self._rules})
            self._skipped[host] = self._skipped.get(host, skipped) & skipped

    def _messages(self, record: ScanRecord) -> dict[_Key, str]:
        error = record["error"]
        if error is not None:
            return {("failed", error["kind"] if error["kind"] in FAILURES else _OTHER): error["reason"]}
        messages: dict[_Key, str] = {}
        for found in record["findings"]:
            rule, status = found["rule"], found["status"]
            if status in _FINDINGS and rule in self._rules:
                messages[status, rule] = found["message"]
            elif status in _FINDINGS:
                messages[status, _OTHER] = f"{rule}: {found['message']}"
        if record["status"] == "unknown":
            messages[_UNKNOWN] = str(record.get("source_reason"))
        return messages

    def _bit(self, key: _Key) -> int:
        return 1 << self._bits.setdefault(key, len(self._bits))

    def _hosts(self, sets: dict[str, int]) -> Counter[_Key]:
        """For each key, the hosts whose set has it."""
        hosts: Counter[_Key] = Counter()
        for keys, number in Counter(sets.values()).items():
            hosts.update({key: number for key, bit in self._bits.items() if keys >> bit & 1})
        return hosts

    def document(self) -> Totals:
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
            "targets": sum(sum(counts.values()) for counts in self._releases.values()),
            "unnamed_targets": self._unnamed,
            "hosts": len(self._found),
            "answered_hosts": len(self._skipped),
            "statuses": _statuses(sum(self._releases.values(), Counter())),
            "findings": [
                {"rule": key[1], "status": key[0], "told_hosts": told[key], **self._seen[key]} for key in worst
            ],
            "unknown": self._seen[_UNKNOWN],
            "failed": [{"kind": kind, **seen} for kind, seen in sorted(failed, key=lambda item: -item[1]["targets"])],
            "releases": _rows("release", self._releases),
            "platforms": _rows("platform", self._platforms),
            "standing_out": odd,
            "standing_out_hosts": odd_hosts,
        }

    def _standing_out(self, hosts: Counter[_Key], told: dict[_Key, int]) -> tuple[list[OddHost], int]:
        """Hosts that fail a rule which more of the others pass than fail, the worst and rarest first; and how many.

        The others are those that could tell: a host without an answer, or that skipped the rule, did not pass it.
        """
        rare = [key for key in told if key[0] != "info" and hosts[key] - 1 < told[key] - hosts[key]]
        rare.sort(key=lambda key: (_FINDINGS.index(key[0]), hosts[key]))
        any_rare = sum(map(self._bit, rare))

        def order(host: str) -> tuple[int, int, str]:
            worst = next(key for key in rare if self._found[host] & self._bit(key))
            return _FINDINGS.index(worst[0]), hosts[worst], host

        odd = [host for host, found in self._found.items() if found & any_rare]
        named: list[OddHost] = []
        for host in heapq.nsmallest(limits.FLEET_NAMED, odd, key=order):
            keys = [key for key in rare if self._found[host] & self._bit(key)]
            findings: list[OddFinding] = [{"rule": key[1], "status": key[0], "hosts": hosts[key]} for key in keys]
            named.append({"host": host.partition("\0")[0], "findings": findings})
        return named, len(odd)


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


def _occurrence() -> Occurrence:
    return {"targets": 0, "hosts": 0, "releases": {}, "platforms": {}, "examples": []}


def _statuses(counts: Counter[str]) -> StatusCounts:
    return cast(StatusCounts, {name: counts[name] for name in COLUMNS})


def _rows(column: str, counts: _Rows) -> list[Row]:
    def order(name: Optional[str]) -> tuple[object, ...]:
        count = counts[name]
        return -count["critical"], -count["warning"], -sum(count.values()), str(name)

    names = sorted(counts, key=order)
    return [cast(Row, {column: n, "targets": sum(counts[n].values()), **_statuses(counts[n])}) for n in names]
