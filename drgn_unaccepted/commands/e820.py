# SPDX-License-Identifier: LGPL-2.1-or-later
"""``e820``: the e820 tables, in which unaccepted memory is ordinary RAM."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Optional, cast

from drgn_unaccepted.answer.documents import E820Answer, TypedRange
from drgn_unaccepted.answer.parts import e820
from drgn_unaccepted.commands import Arguments, Parser, Question
from drgn_unaccepted.model import e820 as e820_model
from drgn_unaccepted.views import lines
from drgn_unaccepted.views.tabular import columns
from drgn_unaccepted.words import count, safe, size, wrap


class E820(Question[E820Answer]):
    has_long_list = True

    def add_arguments(self, parser: Parser) -> None:
        parser.add_argument("--dmesg", action="store_true", help="all tables in the words of dmesg")

    def lack(self, answer: E820Answer) -> Optional[str]:
        if any(table is not None for table in answer["tables"].values()):
            return None
        return "e820: " + "; ".join(sorted(set(answer["missing"].values())))

    def text(self, answer: E820Answer, args: Arguments) -> Iterator[str]:
        tables = cast("dict[str, Optional[list[TypedRange]]]", answer["tables"])
        captured = {name: entries for name, entries in tables.items() if entries is not None}
        if args.dmesg:
            for name, found in captured.items():
                who = "BIOS-e820" if name == "firmware" else _title(name)
                for e in found:
                    word = e820_model.PRINTED.get(e["type"], f"type {e['type']}")
                    yield f"{who}: [mem {e['start']:#018x}-{e['end'] - 1:#018x}] {word}"
            return
        differences = answer["differences"]
        if differences is None:
            yield "e820: firmware's and current table: one of the two was not captured; all: --all"
        else:
            how = f"differ in {count(len(differences), 'range')}" if differences else "are the same"
            yield f"e820: firmware's and current table {how}; all tables: --all"
        for name, found in list(captured.items())[: None if args.all else 1]:
            ram = sum(e["end"] - e["start"] for e in found if e["type"] == e820_model.RAM)
            yield from ("", f"{_title(name)}: {size(ram)} of RAM")
            rows = [(*lines.extent(entry), entry["name"]) for entry in found]
            yield from columns(rows, ("start", "end", "size", "type"), args.all, 16)
        for name, reason in answer["missing"].items():
            yield from wrap(f"{_title(name)}: {safe(reason)}")
        if differences and args.all:
            yield ""
            kinds = ((d["firmware"] or "absent", d["current"] or "absent") for d in differences)
            rows = [(f"{d['start']:#x}", f"{d['end']:#x}", *kind) for d, kind in zip(differences, kinds)]
            yield from columns(rows, ("start", "end", "firmware", "current"))


def _title(name: str) -> str:
    return {"current": "e820_table", "boot_params": "boot_params.e820_table"}.get(name, f"e820_table_{name}")


COMMAND = E820(e820)
