# SPDX-License-Identifier: LGPL-2.1-or-later
"""``e820``: the e820 tables, in which unaccepted memory is ordinary RAM."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Optional, cast

from drgn_unaccepted.answer.documents import E820Answer, E820Tables, TypedRange
from drgn_unaccepted.answer.head import head
from drgn_unaccepted.answer.judgement import Judgement
from drgn_unaccepted.commands.base import Arguments, Parser, Question
from drgn_unaccepted.commands.tables import add_all_argument, table
from drgn_unaccepted.model import e820 as e820_model
from drgn_unaccepted.model.e820 import E820Entry
from drgn_unaccepted.snapshot import Snapshot
from drgn_unaccepted.words import count, safe, size, wrap


class E820(Question[E820Answer]):
    def add_arguments(self, parser: Parser) -> None:
        parser.add_argument("--dmesg", action="store_true", help="all tables in the words of dmesg")
        add_all_argument(parser)

    def lack(self, answer: E820Answer) -> Optional[str]:
        if any(table is not None for table in answer["tables"].values()):
            return None
        return "e820: " + "; ".join(sorted(set(answer["missing"].values())))

    def text(self, answer: E820Answer, args: Arguments) -> Iterator[str]:
        captured = {name: entries for name, entries in _tables(answer) if entries is not None}
        if args.dmesg:
            for name, found in captured.items():
                who = "BIOS-e820" if name == "firmware" else _title(name)
                for e in found:
                    word = e820_model.PRINTED.get(e["type"], f"type {e['type']}")
                    yield f"{who}: [mem {e['start']:#018x}-{e['end'] - 1:#018x}] {word}"
            return
        yield _difference(answer)
        for name, found in list(captured.items())[: None if args.all else 1]:
            rows = [(f"{e['start']:#x}", f"{e['end']:#x}", size(e["end"] - e["start"]), e["name"]) for e in found]
            ram = sum(e["end"] - e["start"] for e in found if e["type"] == e820_model.RAM)
            yield ""
            yield f"{_title(name)}: {size(ram)} of RAM"
            yield from table(rows, ("start", "end", "size", "type"), args.all, 16)
        for name, reason in answer["missing"].items():
            yield from wrap(f"{_title(name)}: {safe(reason)}")
        if answer["differences"] and args.all:
            rows = [
                (f"{d['start']:#x}", f"{d['end']:#x}", d["firmware"] or "absent", d["current"] or "absent")
                for d in answer["differences"]
            ]
            yield ""
            yield from table(rows, ("start", "end", "firmware", "current"))


def _tables(answer: E820Answer) -> Iterator[tuple[str, Optional[list[TypedRange]]]]:
    return ((name, cast("Optional[list[TypedRange]]", entries)) for name, entries in answer["tables"].items())


def _title(name: str) -> str:
    return {"current": "e820_table", "boot_params": "boot_params.e820_table"}.get(name, f"e820_table_{name}")


def _difference(answer: E820Answer) -> str:
    if answer["differences"] is None:
        return "e820: firmware's and current table: one of the two was not captured; all: --all"
    number = len(answer["differences"])
    same = "are the same" if not number else f"differ in {count(number, 'range')}"
    return f"e820: firmware's and current table {same}; all tables: --all"


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


COMMAND = E820(e820)
