# SPDX-License-Identifier: LGPL-2.1-or-later
"""``efi``: the EFI memory map, as the firmware reported it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Optional, cast

from drgn_unaccepted.answer.documents import EfiAnswer
from drgn_unaccepted.answer.head import head
from drgn_unaccepted.answer.judgement import Judgement
from drgn_unaccepted.commands.base import STATE, Arguments, Question
from drgn_unaccepted.commands.tables import table
from drgn_unaccepted.model import efi as efi_model
from drgn_unaccepted.snapshot import Snapshot
from drgn_unaccepted.words import count, safe, size


class Efi(Question[EfiAnswer]):
    parts = STATE | {"efi_map"}

    def answer(self, snapshot: Snapshot, judgement: Judgement, args: Arguments) -> EfiAnswer:
        return efi(snapshot, judgement)

    def lack(self, answer: EfiAnswer) -> Optional[str]:
        return None if answer["descriptors"] is not None else f"EFI memory map: {answer['note']}"

    def text(self, answer: EfiAnswer, args: Arguments) -> Iterator[str]:
        descriptors = answer["descriptors"] or []
        kind = "complete" if answer["complete"] else "incomplete"
        note = "" if answer["note"] is None else f"; {safe(answer['note'])}"
        number = count(len(descriptors), "descriptor")
        yield f"EFI memory map from the {answer['provenance']}, {kind}, {number}{note}"
        yield ""
        yield from table(
            (
                (
                    f"{d['start']:#x}",
                    f"{d['end']:#x}",
                    size(d["end"] - d["start"]),
                    d["type"],
                    d["name"],
                    "unknown" if d["attribute"] is None else f"{d['attribute']:#x}",
                )
                for d in descriptors
            ),
            ("start", "end", "size", "type", "name", "attribute"),
        )


def efi(snapshot: Snapshot, judgement: Judgement) -> EfiAnswer:
    """The EFI memory map in map order, with its provenance; ``none`` and null where it was not captured."""
    shared, efi_map = head(snapshot, judgement, "efi"), snapshot.efi_map
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


COMMAND = Efi()
