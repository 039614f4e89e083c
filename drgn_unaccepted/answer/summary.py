# SPDX-License-Identifier: LGPL-2.1-or-later
"""``summary``: how much memory is unaccepted, and how that is known. ``header``: the table's fields."""

from __future__ import annotations

from drgn_unaccepted.answer.documents import HeaderAnswer, SummaryAnswer
from drgn_unaccepted.answer.head import head, platform_document
from drgn_unaccepted.answer.source import Source
from drgn_unaccepted.model import bitmap as bits
from drgn_unaccepted.snapshot import PAGE_SIZE, Snapshot


def summary(snapshot: Snapshot, source: Source) -> SummaryAnswer:
    """The totals, the policy and the accepts in flight; parts that could not be read are null and named."""
    table, accepting, geometry = snapshot.table, snapshot.accepting, snapshot.table.geometry
    runs = span = None
    if source.name == "bitmap":
        assert table.bitmap is not None and geometry is not None
        extent = bits.extent(table.bitmap)
        runs = 0 if extent is None else extent.runs
        if extent is not None:
            span = [geometry.unit(extent.first).start, geometry.unit(extent.end - 1).end]
    listed = None
    if snapshot.zones and all(zone.listed is not None and not zone.listed.problems for zone in snapshot.zones):
        listed = sum(len(zone.listed.pfns) for zone in snapshot.zones if zone.listed is not None)
    return {
        **head(snapshot, source, "summary"),
        "covered": None if geometry is None else [geometry.phys_base, geometry.end],
        "unaccepted_runs": runs,
        "unaccepted_span": span,
        "listed_chunks": listed,
        "chunk_bytes": None if snapshot.kernel is None else snapshot.kernel.chunk_pages * PAGE_SIZE,
        "platform": platform_document(snapshot.platform),
        "in_flight": None if accepting is None else len(accepting.entries) or (None if accepting.problems else 0),
        "missing": dict(snapshot.missing),
    }


def header(snapshot: Snapshot, source: Source) -> HeaderAnswer:
    """The fields of ``struct efi_unaccepted_memory``."""
    table, geometry = snapshot.table, snapshot.table.geometry
    return {
        **head(snapshot, source, "header"),
        "header": {
            "version": table.version,
            "unit_size": table.unit_size,
            "phys_base": table.phys_base,
            "size": table.bitmap_bytes,
            "covered_end": None if geometry is None else geometry.end,
            "units": None if geometry is None else geometry.units,
            "set_bits": None if table.bitmap is None else bits.count(table.bitmap),
            "page_offset": None if table.address is None else table.address % PAGE_SIZE,
        },
    }
