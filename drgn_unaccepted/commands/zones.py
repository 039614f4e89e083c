# SPDX-License-Identifier: LGPL-2.1-or-later
"""``zones``: ``zone->unaccepted_pages``, counters and watermarks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Optional

from drgn_unaccepted.answer.documents import ZoneDocument, ZonesAnswer
from drgn_unaccepted.answer.head import head
from drgn_unaccepted.answer.judgement import Judgement
from drgn_unaccepted.commands import lines
from drgn_unaccepted.commands.base import Arguments, Question
from drgn_unaccepted.commands.tables import table
from drgn_unaccepted.model.ranges import chunk_ranges
from drgn_unaccepted.snapshot import PAGE_SIZE, Snapshot, Zone
from drgn_unaccepted.words import safe, size, span


class Zones(Question[ZonesAnswer]):
    def answer(self, snapshot: Snapshot, judgement: Judgement, args: Arguments) -> ZonesAnswer:
        return zones(snapshot, judgement)

    def lack(self, answer: ZonesAnswer) -> Optional[str]:
        return None if answer["zones"] is not None else f"zones: {answer['missing']}"

    def text(self, answer: ZonesAnswer, args: Arguments) -> Iterator[str]:
        yield from lines.preface(answer)
        found = answer["zones"] or []
        yield from table(
            (
                (
                    z["node"],
                    safe(z["name"]),
                    size(z["managed_bytes"]),
                    size(z["free_bytes"]),
                    size(z["unaccepted_bytes"]),
                    "unknown" if z["listed_chunks"] is None else z["listed_chunks"],
                    size(z["watermarks"]["min"]),
                    size(z["watermarks"]["high"]),
                    size(z["watermarks"]["promo"]),
                    size(z["watermarks"]["boost"]),
                )
                for z in found
            ),
            ("node", "zone", "managed", "free", "NR_UNACCEPTED", "chunks", "min", "high", "promo", "boost"),
        )
        for zone in found:
            where = f"node {zone['node']} {safe(zone['name'])}"
            for start, end in zone["listed"] or ():
                yield f"{where}: listed {span(start, end)}, {size(end - start)}"
            for problem in zone["list_problems"]:
                yield f"{where}: unaccepted_pages: {safe(problem)}"


def zones(snapshot: Snapshot, judgement: Judgement) -> ZonesAnswer:
    """Populated zones in bytes, with the listed chunks merged into ranges; null where they were not captured."""
    shared, missing = head(snapshot, judgement, "zones"), judgement.evidence.no_zones
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
        else [list(run) for run in chunk_ranges(chunk // PAGE_SIZE, zone.listed.pfns)],
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


COMMAND = Zones()
