# SPDX-License-Identifier: LGPL-2.1-or-later
"""The keys that all answers share: the target, the state of the table, the source and the totals."""

from __future__ import annotations

from typing import Any, Optional, cast

from drgn_unaccepted.answer.documents import SCHEMA, Document, PlatformDocument, TableState
from drgn_unaccepted.answer.source import Source
from drgn_unaccepted.limits import PHYSICAL_END
from drgn_unaccepted.model import bitmap as bits
from drgn_unaccepted.snapshot import PAGE_SIZE, Platform, Snapshot, Table


def head(snapshot: Snapshot, source: Source, command: str) -> Document:
    """The beginning of an answer; the command adds its own keys."""
    target, table = snapshot.target, snapshot.table
    return {
        "schema": SCHEMA,
        "command": command,
        "target": {
            "kind": cast("Any", target.kind) if target.snapshot_path is None else "snapshot",
            "path": target.path if target.snapshot_path is None else target.snapshot_path,
            "release": target.release,
            "build_id": target.build_id,
            "debug_info": target.debug_info,
            "taken_at": target.taken_at,
        },
        "table": {
            "state": cast(TableState, table.state),
            "reason": table.reason,
            "address": table.address,
            "version": table.version,
            "unit_size": table.unit_size,
            "phys_base": table.phys_base,
            "bitmap_bytes": table.bitmap_bytes,
            "read_through": table.read_through,
            "same_boot": table.same_boot,
        },
        "source": source.name,
        "exact": source.exact,
        "source_reason": source.reason,
        "covered_bytes": covered_bytes(table),
        "unaccepted_bytes": unaccepted_bytes(snapshot, source),
        "nr_unaccepted_bytes": nr_unaccepted_bytes(snapshot),
        "torn": list(snapshot.torn),
    }


def source_name(answer: Document) -> str:
    """The source of an answer, and whether it is exact."""
    if answer["source"] == "none":
        return "none"
    return f"{answer['source']}, {'exact' if answer['exact'] else 'not exact'}"


def platform_document(platform: Optional[Platform]) -> Optional[PlatformDocument]:
    if platform is None:
        return None
    return {"kind": platform.kind, "cc_vendor": platform.cc_vendor, "lazy": platform.lazy}


def covered_bytes(table: Table) -> Optional[int]:
    """Bytes of address space that the bitmap has bits for, padding bits included."""
    geometry = table.geometry
    return None if geometry is None else geometry.units * geometry.unit_size


def unaccepted_bytes(snapshot: Snapshot, source: Source) -> Optional[int]:
    """Unaccepted bytes by this source; None where it may lack some.

    Page lists and counters count whole chunks. A saved table gives an upper bound.
    """
    if source.partial:
        return None
    if source.name == "bitmap":
        table = snapshot.table
        assert table.bitmap is not None and table.unit_size is not None
        return bits.count(table.bitmap) * table.unit_size
    if source.name == "page-lists":
        assert snapshot.zones is not None and snapshot.kernel is not None
        chunks = sum(len(zone.listed.pfns) for zone in snapshot.zones if zone.listed is not None)
        return chunks * snapshot.kernel.chunk_pages * PAGE_SIZE
    return nr_unaccepted_bytes(snapshot) if source.name == "counters" else None


def nr_unaccepted_bytes(snapshot: Snapshot) -> Optional[int]:
    """``NR_UNACCEPTED`` in bytes; None where it was not read, the kernel has none, or the number is impossible."""
    counters = snapshot.counters
    if counters is None or counters.unaccepted_pages is None:
        return None
    if not 0 <= counters.unaccepted_pages <= PHYSICAL_END // PAGE_SIZE:
        return None
    return counters.unaccepted_pages * PAGE_SIZE
