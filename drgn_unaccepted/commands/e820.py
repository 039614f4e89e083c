# SPDX-License-Identifier: LGPL-2.1-or-later
"""``e820``: the e820 tables, in which unaccepted memory is ordinary RAM."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Optional, cast

from drgn_unaccepted.answer.documents import E820Answer, E820Tables, TypedRange
from drgn_unaccepted.answer.head import head
from drgn_unaccepted.answer.judgement import Judgement
from drgn_unaccepted.commands.base import STATE, Arguments, Question
from drgn_unaccepted.commands.tables import table
from drgn_unaccepted.model import e820 as e820_model
from drgn_unaccepted.model.e820 import E820Entry
from drgn_unaccepted.snapshot import Snapshot
from drgn_unaccepted.words import safe, size

_TITLES = {"current": "e820_table", "boot_params": "boot_params.e820_table"}


class E820(Question[E820Answer]):
    parts = STATE | {"e820"}

    def answer(self, snapshot: Snapshot, judgement: Judgement, args: Arguments) -> E820Answer:
        return e820(snapshot, judgement)

    def lack(self, answer: E820Answer) -> Optional[str]:
        if any(table is not None for table in answer["tables"].values()):
            return None
        return "e820: " + "; ".join(sorted(set(answer["missing"].values())))

    def text(self, answer: E820Answer, args: Arguments) -> Iterator[str]:
        for name, found in answer["tables"].items():
            title = _TITLES.get(name, f"e820_table_{name}")
            entries = cast("Optional[list[TypedRange]]", found)
            if entries is None:
                yield f"{title}: {safe(answer['missing'][name])}"
            else:
                yield f"{title}: {len(entries)} entries"
                yield from table(
                    ((f"{e['start']:#x}", f"{e['end']:#x}", size(e["end"] - e["start"]), e["name"]) for e in entries),
                    ("start", "end", "size", "type"),
                )
            yield ""
        if answer["differences"] is None:
            yield "firmware and current: one of the two tables was not captured"
        elif not answer["differences"]:
            yield "firmware and current: no difference"
        else:
            yield "firmware and current differ:"
            yield from table(
                (
                    (f"{d['start']:#x}", f"{d['end']:#x}", d["firmware"] or "absent", d["current"] or "absent")
                    for d in answer["differences"]
                ),
                ("start", "end", "firmware", "current"),
            )


def e820(snapshot: Snapshot, judgement: Judgement) -> E820Answer:
    """The e820 tables, null where one was not captured. ``differences`` compares current with firmware."""
    captured = snapshot.e820
    tables: E820Tables = {
        "current": None if captured is None else _entries(captured.current),
        "kexec": None if captured is None else _entries(captured.kexec),
        "firmware": None if captured is None else _entries(captured.firmware),
        "boot_params": None if captured is None else _entries(captured.boot_params),
    }
    whole = snapshot.missing.get("e820", "not captured")
    differences = None
    if captured is not None and captured.current is not None and captured.firmware is not None:
        differences = e820_model.differences(captured.firmware, captured.current)
    return {
        **head(snapshot, judgement, "e820"),
        "tables": tables,
        "missing": {
            name: snapshot.missing.get(f"e820.{name}", whole) for name, entries in tables.items() if entries is None
        },
        "differences": None
        if differences is None
        else [
            {
                "start": difference.range.start,
                "end": difference.range.end,
                "firmware": _name(difference.a),
                "current": _name(difference.b),
            }
            for difference in differences
        ],
    }


def _entries(entries: Optional[Sequence[E820Entry]]) -> Optional[list[TypedRange]]:
    if entries is None:
        return None
    return [{"start": e.start, "end": e.end, "type": e.type, "name": e820_model.type_name(e.type)} for e in entries]


def _name(e820_type: Optional[int]) -> Optional[str]:
    return None if e820_type is None else e820_model.type_name(e820_type)


COMMAND = E820()
