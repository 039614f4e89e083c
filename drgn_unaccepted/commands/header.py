# SPDX-License-Identifier: LGPL-2.1-or-later
"""``header``: the fields of ``struct efi_unaccepted_memory``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Optional

from drgn_unaccepted.answer.documents import HeaderAnswer, HeaderFields, document
from drgn_unaccepted.answer.head import head, table_reason
from drgn_unaccepted.answer.judgement import Judgement
from drgn_unaccepted.commands import Arguments, Question
from drgn_unaccepted.model import bitmap as bits
from drgn_unaccepted.snapshot import PAGE_SIZE, Snapshot
from drgn_unaccepted.views import lines
from drgn_unaccepted.words import count, safe, size, span


class Header(Question[HeaderAnswer]):
    answers_in_part = True  # The address is printed even where nothing else is known.

    def lack(self, answer: HeaderAnswer) -> Optional[str]:
        table = answer["table"]
        return table_reason(table) if table["version"] is None and table["state"] != "absent" else None

    def text(self, answer: HeaderAnswer, args: Arguments) -> Iterator[str]:
        table, fields, reason = answer["table"], answer["header"], table_reason(answer["table"])
        is_said = reason is None or self.lack(answer) is not None
        rows = [("state", table["state"] if is_said else f"{table['state']}: {safe(reason or '')}")]
        if table["address"] is not None:
            how = f", read through {table['read_through']}" if table["read_through"] else ""
            rows.append(("address", f"{table['address']:#x}, page offset {fields['page_offset']:#x}{how}"))
        if table["unit_size"] is not None:
            rows += [
                ("version", str(table["version"])),
                ("unit_size", f"{table['unit_size']:#x} ({size(table['unit_size'])})"),
                ("phys_base", f"{table['phys_base']:#x}"),
                ("size", f"{table['bitmap_bytes']:#x} ({table['bitmap_bytes']} bytes of bitmap)"),
            ]
            if fields["covered_end"] is not None:
                covers = span(table["phys_base"] or 0, fields["covered_end"])
                rows.append(("covers", f"{covers}, {count(fields['units'] or 0, 'unit')}"))
            if fields["set_bits"] is not None:
                unaccepted = size(fields["set_bits"] * table["unit_size"])
                rows.append(("set bits", f"{fields['set_bits']}, {unaccepted} unaccepted"))
        elif table["state"] != "absent":
            rows.append(("missing", "version, unit_size, phys_base, size, bitmap"))
        return lines.pairs(rows)


def header(snapshot: Snapshot, judgement: Judgement) -> HeaderAnswer:
    table, geometry = snapshot.table, snapshot.table.geometry
    return {
        **head(snapshot, judgement, "header"),
        "header": document(
            HeaderFields,
            table,
            size=table.bitmap_bytes,
            covered_end=None if geometry is None else geometry.end,
            units=None if geometry is None else geometry.units,
            set_bits=None if table.bitmap is None else bits.count(table.bitmap),
            page_offset=None if table.address is None else table.address % PAGE_SIZE,
        ),
    }


COMMAND = Header(header)
