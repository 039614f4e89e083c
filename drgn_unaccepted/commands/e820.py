# SPDX-License-Identifier: LGPL-2.1-or-later
"""``e820``: the e820 tables, in which unaccepted memory is ordinary RAM."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Optional, cast

from drgn_unaccepted.answer.documents import E820Answer, TypedRange
from drgn_unaccepted.answer.firmware_maps import e820
from drgn_unaccepted.answer.source import Source
from drgn_unaccepted.commands import lines
from drgn_unaccepted.commands.base import STATE, Arguments, Question
from drgn_unaccepted.snapshot import Snapshot
from drgn_unaccepted.words import safe, size

_TITLES = {"current": "e820_table", "boot_params": "boot_params.e820_table"}


class E820(Question[E820Answer]):
    parts = STATE | {"e820"}

    def answer(self, snapshot: Snapshot, source: Source, args: Arguments) -> E820Answer:
        return e820(snapshot, source)

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
                yield from lines.table(
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
            yield from lines.table(
                (
                    (f"{d['start']:#x}", f"{d['end']:#x}", d["firmware"] or "absent", d["current"] or "absent")
                    for d in answer["differences"]
                ),
                ("start", "end", "firmware", "current"),
            )


COMMAND = E820()
