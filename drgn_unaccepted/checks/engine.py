# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run the rules on a snapshot."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cache
from typing import Literal, NamedTuple, Optional

from drgn_unaccepted import limits
from drgn_unaccepted.answer.judgement import Judgement
from drgn_unaccepted.checks.facts import Facts, merged
from drgn_unaccepted.checks.rule import CRITICAL, INFO, RULES, WARNING, Fault, Finding, Pass, Rule, Skip, rules, some
from drgn_unaccepted.model.ranges import intersect
from drgn_unaccepted.snapshot import Snapshot

#: First words of the needs that an absent table leaves without meaning, which is an answer.
_OF_TABLE = {"table", "bitmap", "unaccepted"}


class Report(NamedTuple):
    status: Literal["ok", "warning", "critical", "unknown"]
    findings: tuple[Finding, ...]  #: In the order of the interface's table; known bugs last.


def run_checks(
    snapshot: Snapshot, only: Optional[Collection[str]] = None, judgement: Optional[Judgement] = None
) -> Report:
    """Compare the parts of a snapshot with each other.

    :param only: names of the rules to run; all by default
    :param judgement: of this snapshot, where it is at hand
    :raises ValueError: there is no rule of such a name
    """
    unknown = sorted(set(only or ()) - set(RULES))
    if unknown:
        raise ValueError(f"no such rule: {', '.join(unknown)}")

    finding_of = cache(lambda name: _run(RULES[name], facts))
    facts = Facts(snapshot, finding_of, judgement)
    wanted = [finding_of(rule.name) for rule in rules() if only is None or rule.name in only]
    findings = tuple(finding for finding in wanted if finding is not None)
    status = _worst(findings)
    return Report("unknown" if status != CRITICAL and _is_blind(facts, findings) else status, findings)


def confirm(earlier: Report, later: Report) -> Report:
    """``later``, with each warning that only this one of two samples of a live kernel shows reduced to ``info``.

    A live kernel changes while it is read: a warning counts only where an earlier sample shows it in the same place.
    """
    before = {finding.rule: finding for finding in earlier.findings}
    findings = tuple(_confirm(before.get(finding.rule), finding) for finding in later.findings)
    return Report(later.status if later.status == "unknown" else _worst(findings), findings)


def _confirm(earlier: Optional[Finding], later: Finding) -> Finding:
    rule = RULES[later.rule]
    if later.status != WARNING or rule.live != WARNING:
        return later
    places = [finding.ranges for finding in (earlier, later) if finding and finding.ranges]
    if earlier and earlier.status in (WARNING, CRITICAL) and (len(places) < 2 or intersect(*places)):
        return later._replace(status=rule.confirmed or WARNING)
    return later._replace(status=INFO, message=f"{later.message} (in one of two samples)")


def _run(rule: Rule, facts: Facts) -> Optional[Finding]:
    """The finding of a rule; None where it has nothing to say."""
    if rule.fixed_by and facts.has_fix(rule.fixed_by):
        return None
    lacks = facts.lacking(*rule.needs)
    outcome = Skip("; ".join(lacks)) if lacks else rule.function(facts)
    if outcome is None:
        return None
    is_older = facts.snapshot.table.is_saved and "unaccepted.now" in rule.needs
    by_lists = (is_older or not facts.has_bits) and any(need.startswith("unaccepted") for need in rule.needs)
    by_bits = not by_lists and any(need.startswith(("bitmap", "unaccepted")) for need in rule.needs)
    if isinstance(outcome, Pass) and by_bits and facts.judgement.doubt is not None:
        # A set bit that is wrong is a fault all the same, but a zero proves nothing.
        outcome = Skip("the bitmap cannot be trusted: see table-captured")
    if isinstance(outcome, Skip):
        return Finding(rule.name, "skip", outcome.message, needs=rule.needs)
    note = "by the lists, without the bitmap" if by_lists else ""
    if by_bits and facts.bitmap_cut:
        note = f"in the first {limits.CHECKED_RANGES} ranges of the bitmap"
    if isinstance(outcome, Pass):
        return Finding(rule.name, "pass", outcome.message + (f" ({note})" if note else ""), needs=rule.needs)
    faults = [_weigh(rule, facts, fault) for fault in ([outcome] if isinstance(outcome, Fault) else outcome)]
    ranges = merged(range_ for fault in faults for range_ in fault.ranges)
    message = some(faults, lambda fault: fault.message, "; ")
    if len(ranges) > limits.FINDING_RANGES:
        message += f" (ranges: the first {limits.FINDING_RANGES} of {len(ranges)})"
    if note:
        message += f" ({note})" if by_lists else f" (at least: {note})"
    severity = max((fault.severity or INFO for fault in faults), key=(INFO, WARNING, CRITICAL).index)
    return Finding(rule.name, severity, message, tuple(ranges[: limits.FINDING_RANGES]), rule.needs)


def _weigh(rule: Rule, facts: Facts, fault: Fault) -> Fault:
    """The fault with its severity, and what it depends on."""
    severity = fault.severity or (rule.live if facts.live else rule.severity)
    doubt = facts.unsettled(fault.zone) if rule.settled and severity != INFO else None
    if rule.fixed_by and facts.has_fix(rule.fixed_by) is None:
        doubt = "unknown for a backport, which" if facts.backports else "its release is not known, and it"
        doubt, severity = f"{doubt} may have the fix", INFO
    elif doubt is not None:
        severity = INFO if facts.live else WARNING
    return fault._replace(severity=severity, message=fault.message + (f" ({doubt})" if doubt else ""))


def _is_blind(facts: Facts, findings: Sequence[Finding]) -> bool:
    """Neither the table nor the lists could be read, or no rule of those that were asked for had its evidence."""
    zones, table, kernel = facts.snapshot.zones, facts.snapshot.table, facts.snapshot.kernel
    if table.state == "absent":
        findings = [each for each in findings if not {need.partition(".")[0] for need in each.needs} & _OF_TABLE]
    if findings and all(finding.status == "skip" for finding in findings):
        return True
    if table.state == "absent" or (table.bitmap is not None and facts.judgement.doubt is None):
        return False
    # The lists of a booting kernel are not complete.
    return not zones or bool(kernel and kernel.is_booting) or any(zone.listed is None for zone in zones)


def _worst(findings: Sequence[Finding]) -> Literal["ok", "warning", "critical"]:
    statuses = {finding.status for finding in findings}
    return CRITICAL if CRITICAL in statuses else WARNING if WARNING in statuses else "ok"
