# SPDX-License-Identifier: LGPL-2.1-or-later
"""The keys that all answers share: the target, the state of the table, the source and the totals."""

from __future__ import annotations

from typing import Any, Optional, cast

from drgn_unaccepted.answer.documents import SCHEMA, Document, PlatformDocument, TableState
from drgn_unaccepted.answer.judgement import Judgement
from drgn_unaccepted.snapshot import Platform, Snapshot


def head(snapshot: Snapshot, judgement: Judgement, command: str) -> Document:
    """The beginning of an answer; the command adds its own keys."""
    target, table, geometry = snapshot.target, snapshot.table, judgement.geometry
    least, most = judgement.bounds
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
            "reason": judgement.doubt or table.reason,
            "address": table.address,
            "version": table.version,
            "unit_size": table.unit_size,
            "phys_base": table.phys_base,
            "bitmap_bytes": table.bitmap_bytes,
            "read_through": table.read_through,
            "same_boot": table.same_boot,
        },
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


def source_name(answer: Document) -> str:
    """The source of an answer, and whether it is exact."""
    if answer["source"] == "none":
        return "none"
    return f"{answer['source']}, {'exact' if answer['exact'] else 'not exact'}"


def platform_document(platform: Optional[Platform]) -> Optional[PlatformDocument]:
    if platform is None:
        return None
    return {"kind": platform.kind, "cc_vendor": platform.cc_vendor, "lazy": platform.lazy}
