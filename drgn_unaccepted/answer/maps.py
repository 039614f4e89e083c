# SPDX-License-Identifier: LGPL-2.1-or-later
"""``efi``: what the firmware said. ``e820``: what the kernel made of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

from drgn_unaccepted.answer.document import Document, document
from drgn_unaccepted.answer.source import Source
from drgn_unaccepted.model import e820 as e820_model
from drgn_unaccepted.model import efi as efi_model
from drgn_unaccepted.model.e820 import E820Entry
from drgn_unaccepted.snapshot import Snapshot

E820_TABLES = ("current", "kexec", "firmware", "boot_params")


def efi(snapshot: Snapshot, source: Source) -> Document:
    """The EFI memory map in map order, with its provenance; ``none`` and null where it was not captured."""
    answer = document(snapshot, source, "efi")
    efi_map = snapshot.efi_map
    if efi_map is None:
        answer.update(provenance="none", complete=False, note=snapshot.missing.get("efi_map"), descriptors=None)
        return answer
    answer.update(
        provenance=efi_map.provenance,
        complete=efi_map.complete,
        note=efi_map.note,
        descriptors=[
            {
                "type": d.type,
                "name": efi_model.type_name(d.type),
                "start": d.start,
                "end": d.end,
                "attribute": d.attribute,
            }
            for d in efi_map.descriptors
        ],
    )
    return answer


def e820(snapshot: Snapshot, source: Source) -> Document:
    """The e820 tables; one that was not captured is null. ``differences`` hold current against firmware."""
    answer = document(snapshot, source, "e820")
    tables = {name: None if snapshot.e820 is None else getattr(snapshot.e820, name) for name in E820_TABLES}
    answer["tables"] = {name: _entries(entries) for name, entries in tables.items()}
    answer["missing"] = {
        name: snapshot.missing.get(f"e820.{name}", snapshot.missing.get("e820"))
        for name, entries in tables.items()
        if entries is None
    }
    answer["differences"] = None
    if tables["current"] is not None and tables["firmware"] is not None:
        answer["differences"] = [
            {
                "start": difference.range.start,
                "end": difference.range.end,
                "firmware": _name(difference.a),
                "current": _name(difference.b),
            }
            for difference in e820_model.differences(tables["firmware"], tables["current"])
        ]
    return answer


def _entries(entries: Optional[Sequence[E820Entry]]) -> Optional[list[Document]]:
    if entries is None:
        return None
    return [{"start": e.start, "end": e.end, "type": e.type, "name": e820_model.type_name(e.type)} for e in entries]


def _name(e820_type: Optional[int]) -> Optional[str]:
    return None if e820_type is None else e820_model.type_name(e820_type)
