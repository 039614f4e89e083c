# SPDX-License-Identifier: LGPL-2.1-or-later
"""The keys that all answers share: the target, the table, the source and the totals; and what is known, in pieces."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Optional

from drgn_unaccepted.answer import documents as doc
from drgn_unaccepted.answer.judgement import Judgement
from drgn_unaccepted.answer.truth import NO_RAM, UNKNOWN, Piece
from drgn_unaccepted.limits import PHYSICAL_END
from drgn_unaccepted.snapshot import Snapshot


def head(snapshot: Snapshot, judgement: Judgement, command: str) -> doc.Document:
    """The beginning of an answer; the command adds its own keys."""
    target, table, geometry = snapshot.target, snapshot.table, judgement.geometry
    least, most = judgement.bounds
    from_file = {} if target.snapshot_path is None else {"kind": "snapshot", "path": target.snapshot_path}
    return {
        "schema": doc.SCHEMA,
        "command": command,
        "target": doc.document(doc.TargetDocument, target, **from_file),
        "table": doc.document(doc.TableDocument, table, reason=judgement.doubt or table.reason),
        "source": judgement.name,
        "exact": judgement.exact,
        "source_reason": judgement.reason,
        "covered_bytes": None if geometry is None else geometry.units * geometry.unit_size,
        "unaccepted_bytes": judgement.unaccepted_bytes,
        "nr_unaccepted_bytes": judgement.evidence.nr_unaccepted_bytes,
        "unaccepted_bytes_min": least,
        "unaccepted_bytes_max": most,
        "initially_unaccepted_bytes": judgement.initially_unaccepted_bytes,
        "torn": list(snapshot.torn),
    }


def source_name(answer: doc.Document) -> str:
    """The source of an answer, and whether it is exact."""
    if answer["source"] == "none":
        return "none"
    return f"{answer['source']}, {'exact' if answer['exact'] else 'not exact'}"


def table_reason(table: doc.TableDocument) -> Optional[str]:
    """Why the table says nothing, or is not believed, in one short line; ``table.reason`` has it in full, or None."""
    state, reason = table["state"], table["reason"]
    if reason is None:
        return None if state == "present" else f"the table is {state}"
    words = {"absent": "no table", "unsupported": "the table is not supported", "invalid": "the table is invalid"}
    if state in words:
        return f"{words[state]}: {reason.partition(', as in ')[0]}"
    if state == "present":
        if table["read_through"] != "file":
            return f"the table is not believed: {reason}"
        return f"the table was saved earlier{' in this boot' if table['same_boot'] else ', perhaps in another boot'}"
    if table["address"] is None:
        return f"the table was not found: {reason.removeprefix('not located: ')}"
    if "header read, bitmap not" in reason:
        return "of the table only the header is in this dump"
    if "reads as zeros" in reason:
        return "the table reads as zeros in this dump: not captured"
    why = reason.partition(". Since ")[0]
    bpf = why.partition("; bpf: ")[2]
    if bpf or "is not in this" not in why:
        return f"the table was not captured: {bpf or why}"
    return "the table is not in this dump: kdump omits ACPI memory"


def shortened(answer: doc.Document, text: str) -> str:
    """``text`` with the short reason of the table in place of the full one."""
    full, short = answer["table"]["reason"], table_reason(answer["table"])
    if full is None or short is None:
        return text
    long = f"was not captured: {full}"
    return text.replace(long, short.removeprefix("the table ")) if long in text else text.replace(full, short)


def reasons(answer: doc.Document) -> list[str]:
    """Why no better source was used: the table and the EFI memory map in a short line each, the others as they are."""
    table, said = answer["table"], answer["source_reason"]
    if said is None:
        return []
    full = table["reason"] or ""
    for prefix in (f"bitmap: table {table['state']}: {full}", f"bitmap: {full}", full):
        if prefix and said.startswith(prefix):
            rest = said.removeprefix(prefix).removeprefix("; ")
            if rest.startswith("reconstructed: no EFI memory map: ") and answer["source"] == "page-lists":
                rest = "no EFI memory map either: efi=debug, or keep, would make it exact"
            return [str(table_reason(table)), *([rest] if rest else [])]
    return [said]


def known(judgement: Judgement) -> Iterator[Piece]:
    """What the bitmap covers; where there is none, and from page lists, what is not unknown."""
    geometry = judgement.geometry
    if judgement.name in ("bitmap", "reconstructed") and geometry is not None:
        return judgement.pieces(geometry.phys_base, geometry.end)
    return (piece for piece in judgement.pieces(0, PHYSICAL_END) if piece.state not in (UNKNOWN, NO_RAM))


def joined(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """Neighbours of one state and one reason as one."""
    last: Optional[Piece] = None
    for piece in chain(pieces, (None,)):
        if last and piece and (last.end, last.state, last.reason) == (piece.start, piece.state, piece.reason):
            last = last._replace(end=piece.end)
            continue
        if last is not None:
            yield last
        last = piece
