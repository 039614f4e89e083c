# SPDX-License-Identifier: LGPL-2.1-or-later
"""Acceptance over time: by address, from the samples of a recording; how fast, by whom, and how long it would go on.

The kernel accepts from one end of each zone as memory runs short. So the expected shape is a sweep, and any other shape
is the finding. Samples are read once, and one is in memory at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Optional

from drgn_unaccepted.answer.allocator import amounts
from drgn_unaccepted.answer.best_source import judge
from drgn_unaccepted.answer.documents import HistoryAnswer, HistorySlice, ProgressAnswer, ZoneProgress, document
from drgn_unaccepted.answer.head import head
from drgn_unaccepted.answer.judgement import Judgement
from drgn_unaccepted.answer.map import UNITS_PER_BYTE, Grid, bytes_inside, layers, memory_of, set_bits
from drgn_unaccepted.answer.parts import accepting
from drgn_unaccepted.errors import SnapshotFileError
from drgn_unaccepted.model import ranges as rng
from drgn_unaccepted.model.ranges import Range
from drgn_unaccepted.snapshot import PAGE_SIZE, Sample, Snapshot, Zone

RATE_SECONDS = 10.0  #: Seconds over which a rate is taken. Memory is accepted in bursts of whole chunks.


def history(samples: Iterable[Sample], wanted: str = "auto", columns: int = 64, lines: int = 40) -> HistoryAnswer:
    """The state of each bin over time, in at most ``columns`` bins and from ``lines / 2`` to ``lines`` slices of time.

    A slice shows the state at its end. Bins are bytes of the bitmap or more, as in ``map``. Memory that has left the
    page lists was accepted; a bin of which no sample so far knew anything is unknown.

    :param wanted: source, for each sample
    :raises SnapshotFileError: there is no sample
    """
    slices: list[HistorySlice] = []
    last: Optional[tuple[Snapshot, Judgement]] = None
    per_slice = 1
    known: set[int] = set()
    for _, elapsed, _, snapshot in samples:
        judgement = judge(snapshot, wanted)
        if last is None:
            grid, starts = _axis(snapshot, judgement, columns)
            unit = judgement.evidence.unit
        last = snapshot, judgement
        bins = _bins(snapshot, judgement, grid, starts, known)
        now: HistorySlice = {
            "elapsed_seconds": elapsed,
            "samples": 1,
            "source": judgement.name,
            "unaccepted_bytes": judgement.unaccepted_bytes,
            "rate_bytes_per_second": None,
            "bins_unaccepted_bytes": bins,
        }
        if slices and slices[-1]["samples"] < per_slice:
            now["samples"] += slices.pop()["samples"]
        slices.append(now)
        # The first sample keeps a slice of its own: it is the start of everything.
        if len(slices) > lines:
            for before, after in zip(slices[1::2], slices[2::2]):
                after["samples"] += before["samples"]
            slices = [slices[0], *slices[2::2], *(slices[-1:] if len(slices) % 2 == 0 else ())]
            per_slice *= 2
    if last is None:
        raise SnapshotFileError("the recording has no samples")
    for before, after in zip(slices, slices[1:]):
        if before["source"] == after["source"]:
            seconds = after["elapsed_seconds"] - before["elapsed_seconds"]
            after["rate_bytes_per_second"] = rate(before["unaccepted_bytes"], after["unaccepted_bytes"], seconds)
    return {
        **head(*last, "history"),
        "samples": sum(one["samples"] for one in slices),
        "elapsed_seconds": slices[-1]["elapsed_seconds"] - slices[0]["elapsed_seconds"],
        "unit_size": unit,
        "bytes_per_bin": grid.bin,
        "units_per_bin": grid.bin // unit,
        "bins": starts,
        "slices": slices,
    }


def rate(before: Optional[int], after: Optional[int], seconds: float) -> Optional[float]:
    """Bytes accepted in a second; None without two values to compare."""
    return None if before is None or after is None or seconds <= 0 else (before - after) / seconds


def _axis(snapshot: Snapshot, judgement: Judgement, columns: int) -> tuple[Grid, list[int]]:
    """The bins of memory that waited for acceptance when the recording began. Each is a row of one column."""
    geometry, unit = snapshot.table.geometry, judgement.evidence.unit
    origin = 0 if geometry is None else geometry.phys_base % (UNITS_PER_BYTE * unit)
    listed = judgement.evidence.listed
    waiting = [Range(listed[0].start, listed[-1].end)] if listed else []
    if geometry is not None:
        waiting = [Range(geometry.phys_base, geometry.end)]
    where = rng.intersect(memory_of(snapshot)[0], waiting)
    grid = Grid(origin, UNITS_PER_BYTE * unit, 1)
    while (numbers := grid.rows(where, columns)) is None:
        grid = grid._replace(bin=2 * grid.bin)
    return grid, [grid.start(number) for number in numbers]


def _bins(
    snapshot: Snapshot, judgement: Judgement, grid: Grid, starts: list[int], known: set[int]
) -> Optional[list[Optional[int]]]:
    """Unaccepted bytes of each bin, None for one that was never ``known``; None where the source knows no addresses."""
    if judgement.by_bits:
        known.update(starts)
        return [set_bits(snapshot, grid, start)[0] * judgement.evidence.unit for start in starts]
    if judgement.name in ("counters", "none"):
        return None
    shown = layers(snapshot, judgement)
    bins = [bytes_inside(shown.unaccepted, grid, start)[0] for start in starts]
    unknown = [bytes_inside(shown.unknown, grid, start)[0] for start in starts]
    known.update(start for start, waiting, nothing in zip(starts, bins, unknown) if waiting or not nothing)
    return [waiting if start in known else None for start, waiting in zip(starts, bins)]


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
