# SPDX-License-Identifier: LGPL-2.1-or-later
"""``zones``: what the page allocator believes. ``accepting``: the accepts in flight."""

from __future__ import annotations

from typing import Optional

from drgn_unaccepted.answer.document import Document, document
from drgn_unaccepted.answer.source import Source, no_zones
from drgn_unaccepted.model.ranges import chunk_ranges
from drgn_unaccepted.snapshot import PAGE_SIZE, Accept, Snapshot, Zone


def zones(snapshot: Snapshot, source: Source) -> Document:
    """Populated zones in bytes, with the listed chunks merged into ranges; null where they were not captured."""
    answer = document(snapshot, source, "zones")
    answer["missing"] = no_zones(snapshot)
    if not snapshot.zones:
        answer["zones"] = None
        return answer
    assert snapshot.kernel is not None
    chunk = snapshot.kernel.chunk_pages * PAGE_SIZE
    answer["chunk_bytes"] = chunk
    answer["zones"] = [_zone(zone, chunk) for zone in snapshot.zones]
    return answer


def _zone(zone: Zone, chunk: int) -> Document:
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


def accepting(snapshot: Snapshot, source: Source) -> Document:
    """Each entry of accepting_list with its range and the task on whose stack it lies."""
    answer = document(snapshot, source, "accepting")
    answer["missing"] = snapshot.missing.get("accepting")
    answer["accepting"] = None
    if snapshot.accepting is not None:
        base, provenance = snapshot.unit_base()
        answer["phys_base_from"] = provenance
        answer["problems"] = list(snapshot.accepting.problems)
        answer["accepting"] = [_accept(entry, base) for entry in snapshot.accepting.entries]
    return answer


def _accept(entry: Accept, base: Optional[tuple[int, int]]) -> Document:
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
