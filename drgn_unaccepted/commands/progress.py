# SPDX-License-Identifier: LGPL-2.1-or-later
"""How fast memory is accepted, by whom, and how long it would go on: one document a sample."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple, Optional

from drgn_unaccepted.answer.documents import ProgressAnswer, ZoneProgress
from drgn_unaccepted.answer.head import head
from drgn_unaccepted.answer.judgement import judge
from drgn_unaccepted.commands.accepting import accepting
from drgn_unaccepted.snapshot import PAGE_SIZE, Sample, Zone

#: Seconds over which a rate is taken. Memory is accepted in bursts of whole chunks.
RATE_SECONDS = 10.0


class _Point(NamedTuple):
    elapsed: float
    source: str
    unaccepted: Optional[int]
    #: ``NR_UNACCEPTED`` in bytes by (node, name).
    zones: dict[tuple[int, str], Optional[int]]


class Progress:
    """Turns samples, in their order, into documents.

    Rates are bytes accepted in a second, over the last :data:`RATE_SECONDS` or what there is of them.
    """

    def __init__(self, command: str, source: str = "auto") -> None:
        self._command = command
        self._wanted = source
        self._points: deque[_Point] = deque()

    def document(self, sample: Sample) -> ProgressAnswer:
        """The answer for one sample, compared with those before."""
        snapshot = sample.snapshot
        judgement = judge(snapshot, self._wanted)
        shared, zones = head(snapshot, judgement, self._command), snapshot.zones
        now = _Point(
            sample.elapsed,
            judgement.name,
            shared["unaccepted_bytes"],
            {(zone.node, zone.name): _bytes(zone.unaccepted_pages) for zone in zones or ()},
        )
        then = self._then(now)
        rate = _rate(then, now, then and then.unaccepted, now.unaccepted)
        flight = accepting(snapshot, judgement)
        return {
            **shared,
            "sample": sample.number,
            "elapsed_seconds": sample.elapsed,
            "cost_seconds": sample.cost,
            "rate_bytes_per_second": rate,
            "rate_seconds": None if then is None else now.elapsed - then.elapsed,
            "seconds_left": None if not rate or rate < 0 or now.unaccepted is None else now.unaccepted / rate,
            "managed_bytes": None if zones is None else sum(zone.managed_pages for zone in zones) * PAGE_SIZE,
            "zones": None if zones is None else [self._zone(zone, then, now) for zone in zones],
            "missing": {part: why for part, why in snapshot.missing.items() if part in ("zones", "accepting")},
            "accepting": flight["accepting"],
            "accepting_problems": flight["problems"],
        }

    def _then(self, now: _Point) -> Optional[_Point]:
        """The sample to compare with: the last that is :data:`RATE_SECONDS` old, or the oldest; kept in mind."""
        points = self._points
        while len(points) > 1 and now.elapsed - points[1].elapsed >= RATE_SECONDS:
            points.popleft()
        then = points[0] if points else None
        points.append(now)
        return then

    def _zone(self, zone: Zone, then: Optional[_Point], now: _Point) -> ZoneProgress:
        key = (zone.node, zone.name)
        return {
            "node": zone.node,
            "name": zone.name,
            "managed_bytes": zone.managed_pages * PAGE_SIZE,
            "free_bytes": zone.free_pages * PAGE_SIZE,
            "unaccepted_bytes": now.zones[key],
            "listed_chunks": None if zone.listed is None else len(zone.listed.pfns),
            "rate_bytes_per_second": _rate(then, now, then and then.zones.get(key), now.zones[key], same_source=False),
        }


def _rate(
    then: Optional[_Point], now: _Point, before: Optional[int], after: Optional[int], same_source: bool = True
) -> Optional[float]:
    """Bytes accepted in a second; None without two values to compare."""
    if then is None or before is None or after is None or now.elapsed <= then.elapsed:
        return None
    if same_source and then.source != now.source:
        return None
    return (before - after) / (now.elapsed - then.elapsed)


def _bytes(pages: Optional[int]) -> Optional[int]:
    return None if pages is None else pages * PAGE_SIZE
