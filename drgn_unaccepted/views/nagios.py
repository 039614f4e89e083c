# SPDX-License-Identifier: LGPL-2.1-or-later
"""``check`` as a monitoring plugin: one line with performance data, then a line for each finding, the worst first.

The line follows the Monitoring Plugins guidelines: ``SERVICE STATUS - text | 'label'=value[unit];warn;crit;min;max``.
The exit status goes with it: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN.
"""

from __future__ import annotations

from collections.abc import Iterator

from drgn_unaccepted.answer.documents import CheckAnswer
from drgn_unaccepted.words import about, count, safe

#: Runners cut the text off after some KiB (NRPE: 1 to 64), so the worst comes first.
_ORDER = ("critical", "warning", "info")


def nagios(answer: CheckAnswer) -> Iterator[str]:
    """The first line, one for each finding that is not a pass, and one for all rules with the same lack."""
    yield f"UNACCEPTED {answer['status'].upper()} - {_text(answer)} | {_performance(answer)}"
    for status in _ORDER:
        for finding in answer["findings"]:
            if finding["status"] == status:
                yield f"[{status.upper()}] {finding['rule']}: {_plain(finding['message'])}"
    skipped: dict[str, list[str]] = {}
    for finding in answer["findings"]:
        if finding["status"] == "skip":
            skipped.setdefault(finding["message"], []).append(finding["rule"])
    for message, rules in skipped.items():
        yield f"[SKIP] {', '.join(rules)}: {_plain(message)}"


def _text(answer: CheckAnswer) -> str:
    failed = [found["rule"] for found in answer["findings"] if found["status"] in ("warning", "critical")]
    if not failed:
        return _amount(answer)
    return f"{_amount(answer)}, {count(len(failed), 'rule')} failed: {', '.join(failed)}"


def _amount(answer: CheckAnswer) -> str:
    unaccepted, covered = answer["unaccepted_bytes"], answer["covered_bytes"]
    if unaccepted is None:
        absent = answer["table"]["state"] == "absent"
        return "no table of unaccepted memory" if absent else "unaccepted memory is not known"
    of = "" if covered is None else f" of {about(covered)}"
    not_exact = "" if answer["exact"] else ", not exact"
    return f"{about(unaccepted)}{of} unaccepted (source {answer['source']}{not_exact})"


def _performance(answer: CheckAnswer) -> str:
    unaccepted, covered = answer["unaccepted_bytes"], answer["covered_bytes"]
    value = "U" if unaccepted is None else f"{unaccepted}B"
    return f"unaccepted={value};;;0;{'' if covered is None else covered}"


def _plain(text: str) -> str:
    """Text without "|", which begins performance data. Names in it may come from a dump."""
    return safe(text).replace("|", "/")
