# SPDX-License-Identifier: LGPL-2.1-or-later
"""``check`` as a monitoring plugin: one line with performance data, then a line for each finding, the worst first.

The line follows the Monitoring Plugins guidelines: ``SERVICE STATUS - text | 'label'=value[unit];warn;crit;min;max``.
The exit status goes with it: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Optional

from drgn_unaccepted.words import count, safe

#: Runners cut the text off after some KiB (NRPE: 1 to 64): what it was run for comes first.
_ORDER = ("critical", "warning", "info")

_UNITS = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


def nagios(answer: dict[str, Any]) -> Iterator[str]:
    """The first line, one for each finding that is not a pass, and one for all rules that lacked the same."""
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


def _text(answer: dict[str, Any]) -> str:
    failed = [found["rule"] for found in answer["findings"] if found["status"] in ("warning", "critical")]
    if not failed:
        return _amount(answer)
    return f"{_amount(answer)}, {count(len(failed), 'rule')} failed: {', '.join(failed)}"


def _amount(answer: dict[str, Any]) -> str:
    unaccepted: Optional[int] = answer["unaccepted_bytes"]
    covered: Optional[int] = answer["covered_bytes"]
    if unaccepted is None:
        absent = answer["table"]["state"] == "absent"
        return "no table of unaccepted memory" if absent else "unaccepted memory is not known"
    of = "" if covered is None else f" of {_about(covered)}"
    not_exact = "" if answer["exact"] else ", not exact"
    return f"{_about(unaccepted)}{of} unaccepted (source {answer['source']}{not_exact})"


def _performance(answer: dict[str, Any]) -> str:
    unaccepted, covered = answer["unaccepted_bytes"], answer["covered_bytes"]
    value = "U" if unaccepted is None else f"{unaccepted}B"
    return f"unaccepted={value};;;0;{'' if covered is None else covered}"


def _about(nbytes: int) -> str:
    """In GiB, and what is less than one in a smaller unit: 40 MiB are not 0.0 GiB."""
    for unit, name in _UNITS:
        if nbytes >= unit:
            return f"{nbytes / unit:.1f} {name}"
    return count(nbytes, "byte")


def _plain(text: str) -> str:
    """Without what would begin performance data; names in it may come out of a dump."""
    return safe(text).replace("|", "/")
