# SPDX-License-Identifier: LGPL-2.1-or-later
"""``accepting``: the accepts in flight, with task and CPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Optional

from drgn_unaccepted.answer.documents import AcceptDocument, AcceptingAnswer
from drgn_unaccepted.answer.head import head
from drgn_unaccepted.answer.judgement import Judgement
from drgn_unaccepted.commands.base import STATE, Arguments, Question
from drgn_unaccepted.snapshot import Accept, Snapshot
from drgn_unaccepted.words import count, safe, span


class Accepting(Question[AcceptingAnswer]):
    parts = STATE | {"accepting", "efi_map"}

    def answer(self, snapshot: Snapshot, judgement: Judgement, args: Arguments) -> AcceptingAnswer:
        return accepting(snapshot, judgement)

    def lack(self, answer: AcceptingAnswer) -> Optional[str]:
        return None if answer["accepting"] is not None else f"accepting_list: {answer['missing']}"

    def text(self, answer: AcceptingAnswer, args: Arguments) -> Iterator[str]:
        for problem in answer["problems"]:
            yield f"accepting_list: {safe(problem)}"
        entries = answer["accepting"]
        if not entries:
            yield "accepting_list: empty, no accept is in flight"
            return
        guessed = answer["phys_base_from"] == "EFI memory map"
        note = " (addresses from the lowest type 15 of the EFI memory map)" if guessed else ""
        yield f"accepting_list: {count(len(entries), 'accept')} in flight{note}"
        yield from map(_line, entries)


def _line(entry: AcceptDocument) -> str:
    where = "addresses unknown: phys_base is in the table, which was not captured"
    if entry["start"] is not None and entry["end"] is not None:
        where = span(entry["start"], entry["end"])
    task = entry["task"]
    who = "on no task's stack"
    if task is not None:
        cpu = "unknown" if task["cpu"] is None else task["cpu"]
        who = f"pid {task['pid']} ({safe(task['comm'])}) on CPU {cpu}"
    return f"{where}, units {entry['start_unit']}-{entry['end_unit']}: {who}"


def accepting(snapshot: Snapshot, judgement: Judgement) -> AcceptingAnswer:
    """Each entry of accepting_list with its range and the task on whose stack it lies."""
    shared, missing = head(snapshot, judgement, "accepting"), snapshot.missing.get("accepting")
    if snapshot.accepting is None:
        return {**shared, "missing": missing, "phys_base_from": None, "problems": [], "accepting": None}
    base, provenance = snapshot.unit_base()
    return {
        **shared,
        "missing": missing,
        "phys_base_from": provenance,
        "problems": list(snapshot.accepting.problems),
        "accepting": [_accept(entry, base) for entry in snapshot.accepting.entries],
    }


def _accept(entry: Accept, base: Optional[tuple[int, int]]) -> AcceptDocument:
    start = end = None
    if base is not None:
        start = base[0] + entry.start_unit * base[1]
        end = base[0] + entry.end_unit * base[1]
    return {
        "start_unit": entry.start_unit,
        "end_unit": entry.end_unit,
        "start": start,
        "end": end,
        "entry": entry.address,
        "task": None if entry.task is None else {"pid": entry.task.pid, "comm": entry.task.comm, "cpu": entry.task.cpu},
    }


COMMAND = Accepting()
