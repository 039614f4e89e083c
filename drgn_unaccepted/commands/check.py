# SPDX-License-Identifier: LGPL-2.1-or-later
"""``check``: cross-check the bitmap, the EFI memory map, e820 and the page allocator."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from difflib import get_close_matches
from itertools import chain
from typing import Any, Optional

from drgn_unaccepted import exit_status
from drgn_unaccepted.answer.best_source import judge
from drgn_unaccepted.answer.documents import CheckAnswer, FindingDocument, PlatformDocument, document
from drgn_unaccepted.answer.head import head, reasons, shortened, source_name, table_reason
from drgn_unaccepted.answer.judgement import Judgement
from drgn_unaccepted.checks import confirm, explain, run_checks
from drgn_unaccepted.checks.rule import RULES, rules
from drgn_unaccepted.commands import Arguments, Parser, Question, _drawing, refuse
from drgn_unaccepted.errors import concerning
from drgn_unaccepted.files import write_atomically
from drgn_unaccepted.snapshot import ALL_PARTS, Snapshot
from drgn_unaccepted.views import lines
from drgn_unaccepted.views.monitoring import junit, nagios, prometheus
from drgn_unaccepted.words import count, safe, wrap

#: What rules need, by the reason for which it is missing.
_NEEDED = {
    "the table was not captured": "need the table, which was not captured",
    lines.NO_EFI_MAP: "need the EFI memory map (see efi)",
}

#: Select Graphic Rendition: white on red, black on yellow, faint.
_COLORS = {"critical": "1;37;41", "warning": "30;43", "skip": "2"}

_WORST_FIRST = ("critical", "warning", "info", "pass", "skip")


class Check(Question[CheckAnswer]):
    parts = ALL_PARTS
    formats = {"nagios": nagios, "prometheus": prometheus, "junit": junit}
    answers_in_part = True  # What was found is printed even where the status is unknown.

    def add_arguments(self, parser: Parser) -> None:
        is_rule: dict[str, Any] = {"metavar": "RULE", "type": _rule, "choices": [*RULES]}
        parser.add_argument("--rule", **is_rule, action="append", help="run this rule only (may be repeated)")
        parser.add_argument("-o", "--output", metavar="FILE", help="write to FILE, whole or not at all")
        parser.add_argument("--all", action="store_true", help="the rules that passed or were skipped too")
        parser.add_argument("--list", action="store_true", help="list the rules")
        parser.add_argument("--explain", **is_rule, help="a rule by name or C number: reason, next step")

    def offline(self, args: Arguments) -> Optional[str]:
        if args.list:
            heads = (f"{f'C{rule.number}' if rule.number else '':4} {rule.name}: " for rule in rules())
            return "\n".join(line for rule, head in zip(rules(), heads) for line in wrap(rule.texts[0], head))
        return None if args.explain is None else explain(args.explain)

    def answer(self, snapshot: Snapshot, judgement: Judgement, args: Arguments) -> CheckAnswer:
        return check(snapshot, judgement, args.rule)

    def confirmed(self, answer: CheckAnswer, first: Snapshot, more: Iterator[Snapshot], args: Arguments) -> CheckAnswer:
        again = next(more, None) if answer["status"] != "ok" else None
        return answer if again is None else check(again, judge(again, args.source), args.rule, first)

    def lack(self, answer: CheckAnswer) -> Optional[str]:
        why = reasons(answer) or [str(table_reason(answer["table"]))]
        return "; ".join(why) if answer["status"] == "unknown" else None

    def exit_status(self, answer: CheckAnswer) -> int:
        return exit_status.OF_CHECK[answer["status"]]

    def text(self, answer: CheckAnswer, args: Arguments) -> Iterator[str]:
        by_status = {status: [f for f in answer["findings"] if f["status"] == status] for status in _WORST_FIRST}
        found = ", ".join(f"{len(by_status[status])} {status}" for status in _WORST_FIRST[:2] if by_status[status])
        yield from wrap(f"{answer['status']}: {found or 'nothing wrong was found'}; source: {source_name(answer)}")
        yield ""
        paint = _drawing.is_colored() and args.output is None
        everything = args.all or args.rule
        shown = [f for status in (_WORST_FIRST if everything else _WORST_FIRST[:3]) for f in by_status[status]]
        # An accept that the kernel died in is the answer, whatever else is wrong.
        for finding in sorted(shown, key=lambda f: f["status"] != "critical" or f["rule"] != "accepting-ranges-sane"):
            color, status = _COLORS.get(finding["status"]) if paint else None, f"{finding['status'].upper():8}"
            yield f"\x1b[{color}m{status}\x1b[0m  {finding['rule']}" if color else f"{status}  {finding['rule']}"
            yield from wrap(safe(lines.brief(shortened(answer, finding["message"]))), " " * 10)
            if finding["status"] in ("critical", "warning"):
                yield from wrap(re.split(r"\.(?: |$)|(?<=\?) ", RULES[finding["rule"]].texts[2])[0], "    next: ")
        if everything:
            return
        yield from [""] if shown else []
        skipped = [_causes(lines.brief(finding["message"])) for finding in by_status["skip"]]
        several = ", some for several reasons" if any(len(causes) > 1 for causes in skipped) else ""
        ended = f", {len(skipped)} skipped{several}:" if skipped else ""
        yield f"{count(len(by_status['pass']), 'rule')} passed{ended}"
        for cause, number in Counter(chain.from_iterable(skipped)).most_common():
            yield from wrap(safe(cause), f"  {number:2} ")
        yield "each of them: --all; meaning of a rule: --explain RULE"

    def output(self, answer: CheckAnswer, args: Arguments) -> Iterable[str]:
        text = super().output(answer, args)
        if args.output is None:
            return text
        with concerning(args.output):
            # Metrics are for node_exporter, which runs as another user. Messages can have addresses of kernel memory.
            mode = 0o644 if args.format == "prometheus" else 0o600
            write_atomically(args.output, "".join(f"{line}\n" for line in text), mode)
        return ()


def _causes(message: str) -> list[str]:
    """Why a rule was skipped, without the names of parts of a snapshot, where the reason says enough."""
    bare = "not in this snapshot"
    reasons = (each if each.endswith(bare) else each.partition(": ")[2] or each for each in message.split("; "))
    return list(dict.fromkeys(_NEEDED.get(reason, reason) for reason in reasons))


def _rule(text: str) -> str:
    """A rule by its name, or by its number in the interface: ``table-aligned``, ``C5``."""
    by_number = {f"C{rule.number}": rule.name for rule in rules() if rule.number}
    name = by_number.get(text.upper(), text)
    if name not in RULES:
        near = get_close_matches(text.lower(), [*RULES, *by_number], 3, 0.5)
        refuse(f"{text}: no such rule; " + (f"did you mean {', '.join(near)}?" if near else "see check --list"))
    return name


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
        "platform": None if snapshot.platform is None else document(PlatformDocument, snapshot.platform),
        "status": report.status,
        "findings": [
            document(FindingDocument, one, ranges=[*map(list, one.ranges)], needs=list(one.needs))
            for one in report.findings
        ],
    }


COMMAND = Check()
