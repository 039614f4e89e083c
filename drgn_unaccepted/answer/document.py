# SPDX-License-Identifier: LGPL-2.1-or-later
"""What every answer begins with: the target, the table's state, the source and the totals."""

from __future__ import annotations

from typing import Any, Optional

from drgn_unaccepted.answer.source import Source
from drgn_unaccepted.limits import PHYSICAL_END
from drgn_unaccepted.model import bitmap as bits
from drgn_unaccepted.snapshot import PAGE_SIZE, Platform, Snapshot, Table

SCHEMA = "drgn-unaccepted/1"

#: An answer: a JSON document, integers for addresses and bytes, None for unknown.
Document = dict[str, Any]


def document(snapshot: Snapshot, source: Source, command: str) -> Document:
    """The keys that all answers share; a command adds its own."""
    target = snapshot.target
    return {
        "schema": SCHEMA,
        "command": command,
        "target": {
            "kind": target.kind if target.snapshot_path is None else "snapshot",
            "path": target.path if target.snapshot_path is None else target.snapshot_path,
            "release": target.release,
            "build_id": target.build_id,
            "debug_info": target.debug_info,
            "taken_at": target.taken_at,
        },
        "table": table_document(snapshot.table),
        "source": source.name,
        "exact": source.exact,
        "source_reason": source.reason,
        "covered_bytes": covered_bytes(snapshot.table),
        "unaccepted_bytes": unaccepted_bytes(snapshot, source),
        "nr_unaccepted_bytes": nr_unaccepted_bytes(snapshot),
        "torn": list(snapshot.torn),
    }


def table_document(table: Table) -> Document:
    return {
        "state": table.state,
        "reason": table.reason,
        "address": table.address,
        "version": table.version,
        "unit_size": table.unit_size,
        "phys_base": table.phys_base,
        "bitmap_bytes": table.bitmap_bytes,
        "read_through": table.read_through,
        "same_boot": table.same_boot,
    }


def platform_document(platform: Optional[Platform]) -> Optional[Document]:
    if platform is None:
        return None
    return {"kind": platform.kind, "cc_vendor": platform.cc_vendor, "lazy": platform.lazy}


def covered_bytes(table: Table) -> Optional[int]:
    """Bytes of address space that the bitmap has bits for, padding bits included."""
    geometry = table.geometry
    return None if geometry is None else geometry.units * geometry.unit_size


def unaccepted_bytes(snapshot: Snapshot, source: Source) -> Optional[int]:
    """Unaccepted bytes as the source has them: of lists and counters whole chunks, of a saved table at most.

    None where the source may lack some.
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
    if source.name == "counters":
        return nr_unaccepted_bytes(snapshot)
    return None


def nr_unaccepted_bytes(snapshot: Snapshot) -> Optional[int]:
    """``NR_UNACCEPTED`` in bytes; None where it was not read, the kernel has none, or it is no such number."""
    counters = snapshot.counters
    if counters is None or counters.unaccepted_pages is None:
        return None
    if not 0 <= counters.unaccepted_pages <= PHYSICAL_END // PAGE_SIZE:
        return None
    return counters.unaccepted_pages * PAGE_SIZE
