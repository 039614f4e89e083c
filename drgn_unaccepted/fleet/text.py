# SPDX-License-Identifier: LGPL-2.1-or-later
"""The summary of ``merge`` for people: the worst finding is the first line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from drgn_unaccepted.questions.document import Document
from drgn_unaccepted.words import count, safe


def text(summary: Document) -> Iterator[str]:
    """Findings, totals, what is missing, then the tables."""
    return (safe(line) for line in _lines(summary))


def _lines(summary: Document) -> Iterator[str]:
    for finding in summary["findings"]:
        yield _finding(finding, summary["hosts"])
    if not summary["findings"]:
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
    yield f"{count(summary['targets'], 'target')} of {count(summary['hosts'], 'host')}: {statuses}{doubles}{replaced}"
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


def _finding(finding: dict[str, Any], hosts: int) -> str:
    example = finding["examples"][0]
    targets = "" if finding["targets"] == finding["hosts"] else f", {count(finding['targets'], 'target')}"
    one = ":" if finding["targets"] == 1 else ", as"
    return (
        f"{finding['status'].upper():8} {finding['rule']}: {finding['hosts']} of {count(hosts, 'host')}{targets}"
        f"{one} {_name(example)}: {example['message']}"
    )


def _name(example: dict[str, str]) -> str:
    if example["host"] == example["path"]:
        return example["path"]
    return f"{example['host']} ({example['path']})"


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
    yield f"standing out: {count(summary['standing_out_hosts'], 'host')}"
    for host in summary["standing_out"]:
        findings = ", ".join(
            f"{found['rule']} ({found['status']}, {count(found['hosts'], 'host')})" for found in host["findings"]
        )
        yield f"  {host['host']}: {findings}"
    if summary["standing_out_hosts"] > len(summary["standing_out"]):
        yield f"  and {summary['standing_out_hosts'] - len(summary['standing_out'])} more"


def _table(name: str, rows: list[dict[str, Any]]) -> Iterator[str]:
    from tabulate import tabulate

    shown = [{**row, name: safe(str(row[name] or "unknown"))} for row in rows]
    yield ""
    yield from tabulate(shown, headers="keys", disable_numparse=[0]).splitlines()
