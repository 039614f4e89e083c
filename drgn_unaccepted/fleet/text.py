# SPDX-License-Identifier: LGPL-2.1-or-later
"""The summary of ``merge`` for people: the worst finding is the first line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from drgn_unaccepted.answer.document import Document
from drgn_unaccepted.words import count, safe


def text(summary: Document) -> Iterator[str]:
    """Findings, totals, what is missing, then the tables."""
    return (safe(line) for line in _lines(summary))


def _lines(summary: Document) -> Iterator[str]:
    findings, unknown = summary["findings"], summary["unknown"]
    yield from (_finding(finding, summary) for finding in findings if finding["status"] != "info")
    if unknown["targets"]:
        of = count(summary["answered_hosts"], _noun(summary))
        yield f"UNKNOWN  could not be told: {unknown['hosts']} of {of}{_example(unknown)}"
    yield from (_finding(finding, summary) for finding in findings if finding["status"] == "info")
    if not findings and not unknown["targets"]:
        failed = summary["statuses"]["failed"]
        yield (
            f"UNKNOWN: no findings, {failed} of {count(summary['targets'], 'target')} gave no answer"
            if failed
            else ("OK: no findings")
        )
    yield ""
    statuses = ", ".join(f"{number} {name}" for name, number in summary["statuses"].items() if number)
    doubles = f"; {count(summary['doubles'], 'double')} dropped" if summary["doubles"] else ""
    replaced = f"; {summary['replaced']} replaced by a later scan" if summary["replaced"] else ""
    yield f"{count(summary['targets'], 'target')}{_of_hosts(summary)}: {statuses}{doubles}{replaced}"
    for lack in summary["incomplete"]:
        yield f"INCOMPLETE: {lack}"
    for problem in summary["problems"]:
        yield f"DAMAGED: {problem['where']}: {problem['reason']}"
    more = summary["problem_count"] - len(summary["problems"])
    if more:
        yield f"DAMAGED: {count(more, 'more line')}"
    for failed in summary["failed"]:
        yield from _failed(failed)
    yield from _standing_out(summary)
    yield from _table("release", summary["releases"])
    yield from _table("platform", summary["platforms"])


def _noun(summary: Document) -> str:
    return "target" if summary["unnamed_targets"] == summary["targets"] else "host"


def _of_hosts(summary: Document) -> str:
    unnamed = summary["unnamed_targets"]
    if unnamed == summary["targets"]:
        return " (scan --host names their guests)"
    return f" of {count(summary['hosts'], 'host')}" + (f", {unnamed} without a name" if unnamed else "")


def _finding(finding: dict[str, Any], summary: Document) -> str:
    of = count(finding["told_hosts"], _noun(summary))
    could = " that could tell" if finding["told_hosts"] < summary["hosts"] else ""
    return f"{finding['status'].upper():8} {finding['rule']}: {finding['hosts']} of {of}{could}{_example(finding)}"


def _example(finding: dict[str, Any]) -> str:
    example = finding["examples"][0]
    targets = "" if finding["targets"] == finding["hosts"] else f", {count(finding['targets'], 'target')}"
    return f"{targets}{':' if finding['targets'] == 1 else ', as'} {_name(example)}: {example['message']}"


def _name(example: dict[str, Any]) -> str:
    path: str = example["path"]
    return path if example["host"] is None else f"{example['host']} ({path})"


def _failed(failed: dict[str, Any]) -> Iterator[str]:
    yield ""
    yield f"no answer: {count(failed['targets'], 'target')}, {failed['kind']}"
    for example in failed["examples"]:
        reason = example["message"].removeprefix(f"{example['path']}: ")
        yield f"  {_name(example)}: {reason}"
    if failed["targets"] > len(failed["examples"]):
        yield f"  and {failed['targets'] - len(failed['examples'])} more"


def _standing_out(summary: Document) -> Iterator[str]:
    if not summary["standing_out"]:
        return
    yield ""
    noun = _noun(summary)
    yield f"standing out: {count(summary['standing_out_hosts'], noun)}"
    for host in summary["standing_out"]:
        findings = ", ".join(
            f"{found['rule']} ({found['status']}, {count(found['hosts'], noun)})" for found in host["findings"]
        )
        yield f"  {host['host']}: {findings}"
    if summary["standing_out_hosts"] > len(summary["standing_out"]):
        yield f"  and {summary['standing_out_hosts'] - len(summary['standing_out'])} more"


def _table(name: str, rows: list[dict[str, Any]]) -> Iterator[str]:
    from tabulate import tabulate

    shown = [{**row, name: safe(str(row[name] or "unknown"))} for row in rows]
    yield ""
    yield from tabulate(shown, headers="keys", disable_numparse=[0]).splitlines()
