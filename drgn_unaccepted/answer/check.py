# SPDX-License-Identifier: LGPL-2.1-or-later
"""``check``: the findings of all rules as a document."""

from __future__ import annotations

from collections.abc import Collection
from typing import Optional

from drgn_unaccepted.answer.documents import CheckAnswer, FindingDocument
from drgn_unaccepted.answer.head import head, platform_document
from drgn_unaccepted.answer.source import Source
from drgn_unaccepted.checks import Finding, confirm, run_checks
from drgn_unaccepted.snapshot import Snapshot


def check(
    snapshot: Snapshot, source: Source, only: Optional[Collection[str]] = None, earlier: Optional[Snapshot] = None
) -> CheckAnswer:
    """The findings, and the worst of them as the overall status.

    :param only: rules to run; all by default
    :param earlier: an earlier sample of the same live kernel; a warning counts only if both samples show it
    :raises ValueError: there is no rule of such a name
    """
    report = run_checks(snapshot, only)
    if earlier is not None:
        report = confirm(run_checks(earlier, only), report)
    return {
        **head(snapshot, source, "check"),
        "platform": platform_document(snapshot.platform),
        "status": report.status,
        "findings": [_finding_document(finding) for finding in report.findings],
    }


def _finding_document(finding: Finding) -> FindingDocument:
    return {
        "rule": finding.rule,
        "status": finding.status,
        "message": finding.message,
        "ranges": [list(range_) for range_ in finding.ranges],
        "needs": list(finding.needs),
    }
