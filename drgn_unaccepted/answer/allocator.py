# SPDX-License-Identifier: LGPL-2.1-or-later
"""``zones``: what the page allocator believes. ``accepting``: the accepts in flight."""

from __future__ import annotations

from typing import Optional

from drgn_unaccepted.answer.documents import AcceptDocument, AcceptingAnswer, ZoneDocument, ZonesAnswer
from drgn_unaccepted.answer.head import head
from drgn_unaccepted.answer.source import Source, no_zones
from drgn_unaccepted.model.ranges import chunk_ranges
from drgn_unaccepted.snapshot import PAGE_SIZE, Accept, Snapshot, Zone


def zones(snapshot: Snapshot, source: Source) -> ZonesAnswer:
    """Populated zones in bytes, with the listed chunks merged into ranges; null where they were not captured."""
    shared, missing = head(snapshot, source, "zones"), no_zones(snapshot)
    if not snapshot.zones:
        return {**shared, "missing": missing, "chunk_bytes": None, "zones": None}
    assert snapshot.kernel is not None
    chunk = snapshot.kernel.chunk_pages * PAGE_SIZE
    return {**shared, "missing": missing, "chunk_bytes": chunk, "zones": [_zone(z, chunk) for z in snapshot.zones]}


def _zone(zone: Zone, chunk: int) -> ZoneDocument:
    marks = zone.watermarks
    return {
        "node": zone.node,
        "name": zone.name,
        "start": zone.start_pfn * PAGE_SIZE,
        "end": (zone.start_pfn + zone.spanned_pages) * PAGE_SIZE,
        "present_bytes": zone.present_pages * PAGE_SIZE,
        "managed_bytes": zone.managed_pages * PAGE_SIZE,
        "free_bytes": zone.free_pages * PAGE_SIZE,
        "buddy_bytes": zone.buddy_pages * PAGE_SIZE,
        "unaccepted_bytes": _bytes(zone.unaccepted_pages),
        "listed_chunks": None if zone.listed is None else len(zone.listed.pfns),
        "listed": None
        if zone.listed is None
        else [list(run) for run in chunk_ranges(zone.listed.pfns, chunk // PAGE_SIZE)],
        "list_problems": [] if zone.listed is None else list(zone.listed.problems),
        "watermarks": {
            "min": marks.min * PAGE_SIZE,
            "low": marks.low * PAGE_SIZE,
            "high": marks.high * PAGE_SIZE,
            "promo": _bytes(marks.promo),
            "boost": marks.boost * PAGE_SIZE,
        },
        "locked": zone.locked,
    }


def _bytes(pages: Optional[int]) -> Optional[int]:
    return None if pages is None else pages * PAGE_SIZE


def accepting(snapshot: Snapshot, source: Source) -> AcceptingAnswer:
    """Each entry of accepting_list with its range and the task on whose stack it lies."""
    shared, missing = head(snapshot, source, "accepting"), snapshot.missing.get("accepting")
    if snapshot.accepting is None:
        return {**shared, "missing": missing, "phys_base_from": None, "problems": [], "accepting": None}
    base, provenance = snapshot.unit_base()
    return {
        **shared,
        "missing": missing,
        "phys_base_from": provenance,
        "problems": list(snapshot.accepting.problems),
        "accepting": [_accept(entry, base) for entry in snapshot.accepting.entries],
    }


def _accept(entry: Accept, base: Optional[tuple[int, int]]) -> AcceptDocument:
    start = end = None
    if base is not None:
        start = base[0] + entry.start_unit * base[1]
        end = base[0] + entry.end_unit * base[1]
    return {
        "start_unit": entry.start_unit,
        "end_unit": entry.end_unit,
        "start": start,
        "end": end,
        "entry": entry.address,
        "task": None if entry.task is None else {"pid": entry.task.pid, "comm": entry.task.comm, "cpu": entry.task.cpu},
    }
