# SPDX-License-Identifier: LGPL-2.1-or-later
"""How fast memory is accepted, by whom, and how long it would go on: one document a sample."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Optional

from drgn_unaccepted.answer.accepts import accepting
from drgn_unaccepted.answer.allocator import amounts
from drgn_unaccepted.answer.best_source import judge
from drgn_unaccepted.answer.documents import ProgressAnswer, ZoneProgress, document
from drgn_unaccepted.answer.head import head
from drgn_unaccepted.answer.history import rate
from drgn_unaccepted.snapshot import PAGE_SIZE, Sample, Zone

RATE_SECONDS = 10.0  #: Seconds over which a rate is taken. Memory is accepted in bursts of whole chunks.


def progress(samples: Iterable[Sample], command: str, source: str) -> Iterator[ProgressAnswer]:
    """A document for each sample.

    Rates are bytes accepted in a second, over the last :data:`RATE_SECONDS` or what there is of them.
    """
    before: deque[ProgressAnswer] = deque()
    for sample in samples:
        snapshot, judgement = sample.snapshot, judge(sample.snapshot, source)
        shared, zones, flight = head(snapshot, judgement, command), snapshot.zones, accepting(snapshot, judgement)
        # Compare with the last sample that is old enough, or the oldest.
        while len(before) > 1 and sample.elapsed - before[1]["elapsed_seconds"] >= RATE_SECONDS:
            before.popleft()
        then = before[0] if before else None
        seconds = None if then is None else sample.elapsed - then["elapsed_seconds"]
        left, speed = shared["unaccepted_bytes"], None
        if then is not None and then["source"] == judgement.name:
            speed = rate(then["unaccepted_bytes"], left, seconds or 0)
        zones_then = {(one["node"], one["name"]): one["unaccepted_bytes"] for one in (then and then["zones"]) or ()}
        before.append(
            {
                **shared,
                "sample": sample.number,
                "elapsed_seconds": sample.elapsed,
                "cost_seconds": sample.cost,
                "rate_bytes_per_second": speed,
                "rate_seconds": seconds,
                "seconds_left": left / speed if left is not None and speed is not None and speed > 0 else None,
                "managed_bytes": None if zones is None else sum(zone.managed_pages for zone in zones) * PAGE_SIZE,
                "zones": None if zones is None else [_zone(zone, zones_then, seconds or 0) for zone in zones],
                "missing": {part: why for part, why in snapshot.missing.items() if part in ("zones", "accepting")},
                "accepting": flight["accepting"],
                "accepting_problems": flight["problems"],
            }
        )
        yield before[-1]


def _zone(zone: Zone, before: Mapping[tuple[int, str], Optional[int]], seconds: float) -> ZoneProgress:
    counts = amounts(zone)
    speed = rate(before.get((zone.node, zone.name)), counts["unaccepted_bytes"], seconds)
    return document(ZoneProgress, zone, **counts, rate_bytes_per_second=speed)
