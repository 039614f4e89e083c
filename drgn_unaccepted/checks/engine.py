# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run the rules on a snapshot."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Optional

from drgn_unaccepted import limits
from drgn_unaccepted.checks import words
from drgn_unaccepted.checks.advisory import ADVISORIES, Advisory
from drgn_unaccepted.checks.facts import Facts, merged
from drgn_unaccepted.checks.needs import lacking
from drgn_unaccepted.checks.rule import (
    CRITICAL,
    HARD,
    INFO,
    NOTE,
    PASS,
    RULES,
    SKIP,
    SOFT,
    STATUS_OF,
    WARNING,
    Fault,
    Outcome,
    Pass,
    Rule,
    Skip,
)
from drgn_unaccepted.model.ranges import Range, intersect
from drgn_unaccepted.snapshot import Snapshot

OK, UNKNOWN = "ok", "unknown"

#: Exit status of ``check`` by overall status, as monitoring plugins have them.
EXIT_STATUS = {OK: 0, WARNING: 1, CRITICAL: 2, UNKNOWN: 3}

_ORDER = (SKIP, PASS, NOTE, WARNING, CRITICAL)


@dataclass(frozen=True)
class Finding:
    """What one rule or advisory says."""

    rule: str
    #: ``pass``, ``info``, ``warning``, ``critical`` or ``skip``.
    status: str
    message: str
    #: Physical addresses that it is about, sorted and merged, at most :data:`limits.FINDING_RANGES`.
    ranges: tuple[Range, ...] = ()
    needs: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The finding as the JSON contract has it."""
        return {
            "rule": self.rule,
            "status": self.status,
            "message": self.message,
            "ranges": [list(range_) for range_ in self.ranges],
            "needs": list(self.needs),
        }


@dataclass(frozen=True)
class Report:
    #: ``ok``, ``warning``, ``critical`` or ``unknown``.
    status: str
    #: In the order of the interface's table; advisories last.
    findings: tuple[Finding, ...]

    @property
    def exit_status(self) -> int:
        return EXIT_STATUS[self.status]

    def as_dict(self) -> dict[str, Any]:
        """``status`` and ``findings`` as the JSON contract has them."""
        return {"status": self.status, "findings": [finding.as_dict() for finding in self.findings]}


def rules() -> list[Rule]:
    """All rules, C1 to C32."""
    return sorted(RULES.values(), key=lambda rule: rule.number)


def advisories() -> list[Advisory]:
    return list(ADVISORIES.values())


def run_checks(snapshot: Snapshot, only: Optional[Collection[str]] = None) -> Report:
    """Hold the parts of a snapshot against each other.

    :param only: names of the rules and advisories to run; all by default
    :raises ValueError: there is no rule of such a name
    """
    unknown = sorted(set(only or ()) - set(RULES) - set(ADVISORIES))
    if unknown:
        raise ValueError(f"no such rule: {', '.join(unknown)}")
    facts = Facts(snapshot)
    by_rule: dict[str, Finding] = {}
    findings = []

    def finding_of(name: str) -> Finding:
        if name not in by_rule:
            by_rule[name] = _run(RULES[name], facts)
        return by_rule[name]

    for rule in rules():
        if only is None or rule.name in only:
            findings.append(finding_of(rule.name))
    for advisory in advisories():
        if only is None or advisory.name in only:
            fault = advisory.function(facts, finding_of)
            if fault is not None:
                findings.append(_finding(advisory.name, (), STATUS_OF[fault.severity or INFO], [fault]))
    return Report(_overall(snapshot, findings), tuple(findings))


def confirm(earlier: Report, later: Report) -> Report:
    """``later``, with what only one of two samples of a live kernel shows taken back to ``info``.

    A live kernel changes while it is read: what is soft there counts only where a second sample shows it in the
    same place.
    """
    before = {finding.rule: finding for finding in earlier.findings}
    findings = [_confirm(before.get(finding.rule), finding) for finding in later.findings]
    status = later.status if later.status == UNKNOWN else _worst(findings)
    return Report(status, tuple(findings))


def _confirm(earlier: Optional[Finding], later: Finding) -> Finding:
    rule = RULES.get(later.rule)
    if rule is None or later.status != WARNING or rule.live != SOFT:
        return later
    seen = earlier is not None and earlier.status in (WARNING, CRITICAL)
    if seen and earlier is not None and earlier.ranges and later.ranges:
        seen = bool(intersect(earlier.ranges, later.ranges))
    if not seen:
        return replace(later, status=NOTE, message=f"{later.message} (in one of two samples)")
    return replace(later, status=STATUS_OF[rule.live_stable])


def _run(rule: Rule, facts: Facts) -> Finding:
    lacks = lacking(facts, rule.needs)
    outcome: Outcome = Skip("; ".join(lacks)) if lacks else rule.function(facts)
    if isinstance(outcome, Skip):
        return Finding(rule.name, SKIP, outcome.message, needs=rule.needs)
    if isinstance(outcome, Pass):
        table = facts.snapshot.table
        if table.is_doubted and _rests_on_bitmap(rule):
            # What its bits show is a fault all the same; what they do not show is nothing.
            return Finding(rule.name, SKIP, f"the bitmap is not to be believed: {table.reason}", needs=rule.needs)
        return Finding(rule.name, PASS, outcome.message + _looked_at(rule, facts), needs=rule.needs)
    faults = [outcome] if isinstance(outcome, Fault) else list(outcome)
    weighed = [_weigh(rule, facts, fault) for fault in faults]
    status = max((status for status, _ in weighed), key=_ORDER.index)
    found = _finding(rule.name, rule.needs, status, [fault for _, fault in weighed])
    return replace(found, message=found.message + _looked_at(rule, facts, "at least: "))


def _weigh(rule: Rule, facts: Facts, fault: Fault) -> tuple[str, Fault]:
    severity = fault.severity or (rule.live if facts.live else rule.vmcore)
    if rule.settled and severity != INFO:
        unsettled = facts.unsettled(fault.zone)
        if unsettled is not None:
            severity = INFO if facts.live else SOFT
            fault = fault._replace(message=f"{fault.message} ({unsettled})")
    return STATUS_OF[severity], fault


def _finding(name: str, needs: tuple[str, ...], status: str, faults: Sequence[Fault]) -> Finding:
    ranges = merged(range_ for fault in faults for range_ in fault.ranges)
    message = words.some([fault.message for fault in faults[: words.SHOWN]], len(faults), "; ")
    if len(ranges) > limits.FINDING_RANGES:
        message += f" (ranges: the first {limits.FINDING_RANGES} of {len(ranges)})"
    return Finding(name, status, message, tuple(ranges[: limits.FINDING_RANGES]), needs)


def _looked_at(rule: Rule, facts: Facts, at_least: str = "") -> str:
    """What a rule has to admit of its answer; of what a fault counts there may be more."""
    if _rests_on_bitmap(rule) and facts.bitmap_cut:
        return f" ({at_least}in the first {limits.CHECKED_RANGES} ranges of the bitmap)"
    return ""


def _rests_on_bitmap(rule: Rule) -> bool:
    return any(need.startswith("bitmap") for need in rule.needs)


def _overall(snapshot: Snapshot, findings: Sequence[Finding]) -> str:
    worst = _worst(findings)
    return UNKNOWN if worst != CRITICAL and _blind(snapshot) else worst


def _blind(snapshot: Snapshot) -> bool:
    """The table or the lists should be there, and neither could be read."""
    table = snapshot.table
    if table.state == "absent" or (table.bitmap is not None and not table.is_doubted):
        return False
    zones, kernel = snapshot.zones, snapshot.kernel
    # While the kernel boots its lists are not all of it.
    booting = kernel is not None and bool(kernel.is_booting)
    return not zones or booting or any(zone.listed is None for zone in zones)


def _worst(findings: Sequence[Finding]) -> str:
    statuses = {finding.status for finding in findings}
    return next((status for status in (CRITICAL, WARNING) if status in statuses), OK)


__all__ = [
    "EXIT_STATUS",
    "HARD",
    "SOFT",
    "Finding",
    "Report",
    "advisories",
    "confirm",
    "rules",
    "run_checks",
]
