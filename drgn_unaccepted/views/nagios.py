# SPDX-License-Identifier: LGPL-2.1-or-later
"""``check`` as a monitoring plugin: one line with performance data, then a line for each finding, the worst first.

The line follows the Monitoring Plugins guidelines: ``SERVICE STATUS - text | 'label'=value[unit];warn;crit;min;max``.
The exit status goes with it: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN.
"""

from __future__ import annotations

from collections.abc import Iterator

from drgn_unaccepted.answer.documents import CheckAnswer
from drgn_unaccepted.words import count, safe, size


def nagios(answer: CheckAnswer) -> Iterator[str]:
    """The first line, one for each finding that is not a pass, and one for all rules with the same lack."""
    unaccepted, covered = answer["unaccepted_bytes"], answer["covered_bytes"]
    failed = [found["rule"] for found in answer["findings"] if found["status"] in ("warning", "critical")]
    text = _amount(answer) + (f", {count(len(failed), 'rule')} failed: {', '.join(failed)}" if failed else "")
    value = "U" if unaccepted is None else f"{unaccepted}B"
    data = f"unaccepted={value};;;0;{'' if covered is None else covered}"
    yield f"UNACCEPTED {answer['status'].upper()} - {text} | {data}"
    # Runners cut the text off after some KiB (NRPE: 1 to 64), so the worst comes first.
    for status in ("critical", "warning", "info"):
        for found in answer["findings"]:
            if found["status"] == status:
                yield f"[{status.upper()}] {found['rule']}: {_plain(found['message'])}"
    skipped = [found for found in answer["findings"] if found["status"] == "skip"]
    for message in dict.fromkeys(found["message"] for found in skipped):
        rules = ", ".join(found["rule"] for found in skipped if found["message"] == message)
        yield f"[SKIP] {rules}: {_plain(message)}"


def _amount(answer: CheckAnswer) -> str:
    unaccepted, covered = answer["unaccepted_bytes"], answer["covered_bytes"]
    if unaccepted is None:
        absent = answer["table"]["state"] == "absent"
        return "no table of unaccepted memory" if absent else "unaccepted memory is not known"
    of = "" if covered is None else f" of {size(covered)}"
    return f"{size(unaccepted)}{of} unaccepted (source {answer['source']}{'' if answer['exact'] else ', not exact'})"


def _plain(text: str) -> str:
    """Text without "|", which begins performance data. Names in it may come from a dump."""
    return safe(text).replace("|", "/")
