# SPDX-License-Identifier: LGPL-2.1-or-later
"""What ``merge`` prints: the summary, whose first line is the worst finding, and the records as CSV; and progress."""

from __future__ import annotations

import csv
import io
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from tabulate import tabulate

from drgn_unaccepted.files import to_stderr
from drgn_unaccepted.fleet.documents import Example, FindingSummary, MergeSummary, Occurrence, OddHost, ScanRecord
from drgn_unaccepted.fleet.records import platform_kind, rules
from drgn_unaccepted.words import count, safe

#: The columns of CSV. Rules are names with a space between.
COLUMNS = (
    *("host", "path", "status", "critical", "warning", "info", "failure", "reason", "release", "build_id", "platform"),
    *("table", "source", "exact", "covered_bytes", "unaccepted_bytes", "nr_unaccepted_bytes"),
    *("file_bytes", "seconds", "finished_at"),
)

#: Seconds before the first line; between two lines on a terminal, and elsewhere.
_FIRST, _RENEWED, _EVERY = 2.0, 0.2, 30.0


class Progress:
    """Of what takes more than two seconds: one line on stderr, renewed on a terminal, else now and then."""

    def __init__(self, quiet: bool) -> None:
        self._quiet, self._on_terminal = quiet, sys.stderr.isatty()
        self._next = time.monotonic() + (_FIRST if self._on_terminal else _EVERY)

    def show(self, line: str) -> None:
        now = time.monotonic()
        if not self._quiet and now >= self._next:
            self._next = now + (_RENEWED if self._on_terminal else _EVERY)
            if self._on_terminal:
                print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
            else:
                to_stderr(line)

    def end(self) -> None:
        """Leave the terminal's line empty for what follows."""
        if not self._quiet and self._on_terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def csv_lines(records: Iterable[ScanRecord]) -> Iterator[str]:
    """A row for each target, after the names of the columns."""
    yield ",".join(COLUMNS)
    for record in records:
        error, line = record["error"] or {"kind": None, "reason": None}, io.StringIO()
        values: dict[str, Any] = {**record, **record["target"], "platform": platform_kind(record)}
        values.update(failure=error["kind"], reason=error["reason"], table=record["table"] and record["table"]["state"])
        for status in ("critical", "warning", "info"):
            values[status] = " ".join(rules(record["findings"], status))
        csv.writer(line, lineterminator="").writerow([_cell(values.get(name)) for name in COLUMNS])
        yield line.getvalue()


def _cell(value: Any) -> Any:
    """Text from a dump without what a terminal obeys, and without what a spreadsheet takes for a formula."""
    if value is None or isinstance(value, (int, float)):
        return value
    text = safe(str(value))
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text


def text(summary: MergeSummary) -> Iterator[str]:
    """Findings, totals, what is missing, then the tables; not yet safe for a terminal."""
    findings, unknown = summary["findings"], summary["unknown"]
    yield from (_finding(finding, summary) for finding in findings if finding["status"] != "info")
    if unknown["targets"]:
        of = count(summary["answered_hosts"], _noun(summary))
        yield f"UNKNOWN  no verdict: {unknown['hosts']} of {of}{_example(unknown)}"
    yield from (_finding(finding, summary) for finding in findings if finding["status"] == "info")
    if not findings and not unknown["targets"]:
        failed, of = summary["statuses"]["failed"], count(summary["targets"], "target")
        yield f"UNKNOWN: no findings, {failed} of {of} gave no answer" if failed else "OK: no findings"
    yield ""
    yield _totals(summary)
    yield from (f"INCOMPLETE: {lack}" for lack in summary["incomplete"])
    yield from (f"DAMAGED: {problem['where']}: {problem['reason']}" for problem in summary["problems"])
    more = summary["problem_count"] - len(summary["problems"])
    if more:
        yield f"DAMAGED: {count(more, 'more line')}"
    for failure in summary["failed"]:
        title = f"no answer: {count(failure['targets'], 'target')}, {failure['kind']}"
        words = [f"{_name(one)}: {one['message'].removeprefix(one['path'] + ': ')}" for one in failure["examples"]]
        yield from _list(title, words, failure["targets"])
    odd, noun = summary["standing_out_hosts"], _noun(summary)
    if odd:
        hosts = [_odd(host, noun) for host in summary["standing_out"]]
        yield from _list(f"standing out: {count(odd, noun)}", hosts, odd)
    yield from _table("release", summary["releases"])
    yield from _table("platform", summary["platforms"])


def _list(title: str, lines: Sequence[str], number: int) -> Iterator[str]:
    yield from ("", title, *(f"  {line}" for line in lines))
    if number > len(lines):
        yield f"  and {number - len(lines)} more"


def _odd(host: OddHost, noun: str) -> str:
    findings = (f"{odd['rule']} ({odd['status']}, {count(odd['hosts'], noun)})" for odd in host["findings"])
    return f"{host['host']}: {', '.join(findings)}"


def _noun(summary: MergeSummary) -> str:
    return "target" if summary["unnamed_targets"] == summary["targets"] else "host"


def _totals(summary: MergeSummary) -> str:
    unnamed, doubles, replaced = summary["unnamed_targets"], summary["doubles"], summary["replaced"]
    hosts = f" of {count(summary['hosts'], 'host')}" + (f", {unnamed} without a name" if unnamed else "")
    if unnamed == summary["targets"]:
        hosts = " (scan --host names their guests)"
    statuses = ", ".join(f"{number} {name}" for name, number in summary["statuses"].items() if number)
    dropped = f"; {count(doubles, 'duplicate')} dropped" if doubles else ""
    dropped += f"; {replaced} replaced by a later scan" if replaced else ""
    return f"{count(summary['targets'], 'target')}{hosts}: {statuses}{dropped}"


def _finding(finding: FindingSummary, summary: MergeSummary) -> str:
    of = count(finding["told_hosts"], _noun(summary))
    could = " that could tell" if finding["told_hosts"] < summary["hosts"] else ""
    return f"{finding['status'].upper():8} {finding['rule']}: {finding['hosts']} of {of}{could}{_example(finding)}"


def _example(finding: Occurrence) -> str:
    example = finding["examples"][0]
    targets = "" if finding["targets"] == finding["hosts"] else f", {count(finding['targets'], 'target')}"
    return f"{targets}{':' if finding['targets'] == 1 else ', for example'} {_name(example)}: {example['message']}"


def _name(example: Example) -> str:
    return example["path"] if example["host"] is None else f"{example['host']} ({example['path']})"


def _table(name: str, rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    shown = [{**row, name: safe(str(row[name] or "unknown"))} for row in rows]
    yield from ("", *tabulate(shown, headers="keys", disable_numparse=[0]).splitlines())
