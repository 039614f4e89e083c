# SPDX-License-Identifier: LGPL-2.1-or-later
"""The accepts in flight, and how they are written."""

from __future__ import annotations

from typing import Optional

from drgn_unaccepted.answer.documents import AcceptDocument, AcceptingAnswer, TaskDocument, document
from drgn_unaccepted.answer.head import head
from drgn_unaccepted.answer.judgement import Judgement
from drgn_unaccepted.snapshot import Accept, Snapshot
from drgn_unaccepted.words import count, safe, span


def accept_document(entry: Accept, base: Optional[tuple[int, int]]) -> AcceptDocument:
    units = (entry.start_unit, entry.end_unit)
    start, end = (None, None) if base is None else (base[0] + unit * base[1] for unit in units)
    task = None if entry.task is None else document(TaskDocument, entry.task)
    return document(AcceptDocument, entry, start=start, end=end, entry=entry.address, task=task)


def where(entry: AcceptDocument) -> str:
    """The memory of an accept: its addresses where they are known, and its units by number."""
    first, end = entry["start_unit"], entry["end_unit"]
    units = f"{count(end - first, 'unit')} from unit {first}" if first < end else f"no unit, {first} to {end}"
    if entry["start"] is None or entry["end"] is None or first >= end:
        return units
    return f"{span(entry['start'], entry['end'])} ({units})"


def who(entry: AcceptDocument) -> str:
    """The task of an accept, as the kernel's log names tasks."""
    task = entry["task"]
    if task is None:
        return "on no task's stack"
    return f"{safe(task['comm'])} (pid {task['pid']}), CPU {'unknown' if task['cpu'] is None else task['cpu']}"


def died_in(snapshot: Snapshot) -> list[AcceptDocument]:
    """The accepts in flight when the kernel panicked because it could not accept memory."""
    if snapshot.accepting is None or "accept memory" not in (snapshot.panic or ""):
        return []
    base, _ = snapshot.unit_base()
    return [accept_document(entry, base) for entry in snapshot.accepting.entries]


def accepting(snapshot: Snapshot, judgement: Judgement) -> AcceptingAnswer:
    """Each entry of accepting_list with its range and the task on whose stack it lies."""
    captured, (base, provenance) = snapshot.accepting, snapshot.unit_base()
    return {
        **head(snapshot, judgement, "accepting"),
        "missing": snapshot.missing.get("accepting"),
        "phys_base_from": None if captured is None else provenance,
        "problems": [] if captured is None else list(captured.problems),
        "accepting": None if captured is None else [accept_document(entry, base) for entry in captured.entries],
    }
