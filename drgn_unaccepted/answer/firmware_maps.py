# SPDX-License-Identifier: LGPL-2.1-or-later
"""``efi``: what the firmware said. ``e820``: what the kernel made of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional, cast

from drgn_unaccepted.answer.documents import E820Answer, E820Tables, EfiAnswer, TypedRange
from drgn_unaccepted.answer.head import head
from drgn_unaccepted.answer.source import Source
from drgn_unaccepted.model import e820 as e820_model
from drgn_unaccepted.model import efi as efi_model
from drgn_unaccepted.model.e820 import E820Entry
from drgn_unaccepted.snapshot import Snapshot


def efi(snapshot: Snapshot, source: Source) -> EfiAnswer:
    """The EFI memory map in map order, with its provenance; ``none`` and null where it was not captured."""
    shared, efi_map = head(snapshot, source, "efi"), snapshot.efi_map
    if efi_map is None:
        note = snapshot.missing.get("efi_map")
        return {**shared, "provenance": "none", "complete": False, "note": note, "descriptors": None}
    return {
        **shared,
        "provenance": cast("Any", efi_map.provenance),
        "complete": efi_map.complete,
        "note": efi_map.note,
        "descriptors": [
            {
                "type": d.type,
                "name": efi_model.type_name(d.type),
                "start": d.start,
                "end": d.end,
                "attribute": d.attribute,
            }
            for d in efi_map.descriptors
        ],
    }


def e820(snapshot: Snapshot, source: Source) -> E820Answer:
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
        **head(snapshot, source, "e820"),
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
