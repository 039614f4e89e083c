# SPDX-License-Identifier: LGPL-2.1-or-later
"""``check``: cross-check the bitmap, the EFI memory map, e820 and the page allocator."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any, Optional, cast

from drgn_unaccepted.answer.documents import CheckAnswer, FindingDocument
from drgn_unaccepted.answer.head import head, platform_document, reasons, table_reason
from drgn_unaccepted.answer.judgement import Judgement
from drgn_unaccepted.checks import Finding, confirm, explain, rule_names, run_checks
from drgn_unaccepted.commands import lines
from drgn_unaccepted.commands.base import Arguments, Parser, Question, refuse
from drgn_unaccepted.errors import EXIT_STATUS, CommandError, one_line
from drgn_unaccepted.files import write_atomically
from drgn_unaccepted.snapshot import ALL_PARTS, Snapshot
from drgn_unaccepted.views.junit import junit
from drgn_unaccepted.views.nagios import nagios
from drgn_unaccepted.views.prometheus import prometheus
from drgn_unaccepted.words import safe

_WORST_FIRST = ("critical", "warning", "info", "pass", "skip")


class Check(Question[CheckAnswer]):
    parts = ALL_PARTS
    formats = cast("Any", {"nagios": nagios, "prometheus": prometheus, "junit": junit})

    def add_arguments(self, parser: Parser) -> None:
        parser.add_argument(
            "--rule", metavar="NAME", type=_rule, action="append", help="run this rule only (may be repeated)"
        )
        parser.add_argument("-o", "--output", metavar="FILE", help="write to FILE, whole or not at all")
        parser.add_argument("--explain", metavar="NAME", type=_rule, help="explain a rule: meaning, reason, next step")

    def offline(self, args: Arguments) -> Optional[str]:
        return None if args.explain is None else explain(args.explain)

    def answer(self, snapshot: Snapshot, judgement: Judgement, args: Arguments) -> CheckAnswer:
        return check(snapshot, judgement, args.rule)

    def is_suspect(self, answer: CheckAnswer) -> bool:
        return answer["status"] != "ok"

    def confirmed(self, before: Snapshot, now: Snapshot, judgement: Judgement, args: Arguments) -> CheckAnswer:
        return check(now, judgement, args.rule, before)

    def lack(self, answer: CheckAnswer) -> Optional[str]:
        if answer["status"] != "unknown":
            return None
        return "; ".join(reasons(answer) or [str(table_reason(answer["table"]))])

    def exit_status(self, answer: CheckAnswer) -> int:
        return EXIT_STATUS[answer["status"]]

    def text(self, answer: CheckAnswer, args: Arguments) -> Iterator[str]:
        by_status = {status: [f for f in answer["findings"] if f["status"] == status] for status in _WORST_FIRST}
        counts = ", ".join(f"{len(found)} {status}" for status, found in by_status.items() if found)
        yield f"{answer['status']}: {counts}; source: {lines.source(answer)}"
        yield ""
        width = max((len(finding["rule"]) for finding in answer["findings"]), default=0)
        for status, found in by_status.items():
            for finding in found:
                yield f"{status.upper():8}  {finding['rule']:{width}}  {safe(finding['message'])}"
        if by_status["critical"] or by_status["warning"]:
            yield ""
            yield "meaning and next step of a rule: check --explain RULE"

    def output(self, answer: CheckAnswer, args: Arguments) -> Iterable[str]:
        # What was found is printed even where the status is unknown.
        text = self.text(answer, args) if args.format == "text" else super().output(answer, args)
        if args.output is None:
            return text
        try:
            # Metrics are for node_exporter, which runs as another user. Messages can have addresses of kernel memory.
            mode = 0o644 if args.format == "prometheus" else 0o600
            write_atomically(args.output, "".join(f"{line}\n" for line in text), mode)
        except OSError as error:
            raise CommandError(one_line(error, args.output)) from None
        return ()


def _rule(text: str) -> str:
    if text not in rule_names():
        refuse(f"{text}: no such rule; the rules are {', '.join(rule_names())}")
    return text


def check(
    snapshot: Snapshot, judgement: Judgement, only: Optional[Collection[str]] = None, earlier: Optional[Snapshot] = None
) -> CheckAnswer:
    """The findings, and the worst of them as the overall status.

    :param only: rules to run; all by default
    :param earlier: an earlier sample of the same live kernel; a warning counts only if both samples show it
    :raises ValueError: there is no rule of such a name
    """
    report = run_checks(snapshot, only, judgement)
    if earlier is not None:
        report = confirm(run_checks(earlier, only), report)
    return {
        **head(snapshot, judgement, "check"),
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


COMMAND = Check()
