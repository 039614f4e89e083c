# SPDX-License-Identifier: LGPL-2.1-or-later
"""Acceptance by time and address, out of the samples of a recording.

The kernel accepts from one end of each zone as memory runs short, so that the expected shape is a sweep; another shape
is the finding. Samples are read once, one in memory at a time.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Optional

from drgn_unaccepted.answer.document import Document, document, unaccepted_bytes
from drgn_unaccepted.answer.evidence import listed_ranges
from drgn_unaccepted.answer.map import UNITS_PER_BYTE, Grid, bytes_inside, memory_of, set_bits
from drgn_unaccepted.answer.source import Source, choose_source
from drgn_unaccepted.model import ranges as rng
from drgn_unaccepted.model.header import X86_UNIT_SIZE
from drgn_unaccepted.model.ranges import Range
from drgn_unaccepted.snapshot import Sample, Snapshot


class _Slice(NamedTuple):
    """The last of some consecutive samples."""

    elapsed: float
    samples: int
    source: str
    unaccepted: Optional[int]
    bins: Optional[list[Optional[int]]]


class _Axis(NamedTuple):
    """Bins that memory waiting for acceptance lay in when the recording began."""

    starts: list[int]
    #: Each bin is a row of one column.
    grid: Grid
    unit: int


class NoSamples(Exception):
    """The recording is empty."""


def history(samples: Iterable[Sample], wanted: str = "auto", columns: int = 64, lines: int = 40) -> Document:
    """The state of each bin over time, in at most ``columns`` bins and from ``lines / 2`` to ``lines`` slices of time.

    A slice shows the state at its end. Bins are bytes of the bitmap or more, as in ``map``. What has left page lists
    was accepted; a bin that no sample has known anything of is unknown.

    :param wanted: source, for each sample
    :raises NoSamples: there is none
    """
    slices: list[_Slice] = []
    axis: Optional[_Axis] = None
    last: Optional[tuple[Snapshot, Source]] = None
    total, began = 0, 0.0
    per_slice = 1
    known: set[int] = set()
    for sample in samples:
        snapshot = sample.snapshot
        source = choose_source(snapshot, wanted)
        last = snapshot, source
        if axis is None:
            began = sample.elapsed
            axis = _axis(snapshot, source, columns)
        bins = _bins(snapshot, source, axis, known)
        now = _Slice(sample.elapsed, 1, source.name, unaccepted_bytes(snapshot, source), bins)
        if slices and slices[-1].samples < per_slice:
            slices[-1] = now._replace(samples=slices[-1].samples + 1)
        else:
            slices.append(now)
        total += 1
        # The first sample stays by itself: it is where everything starts from.
        if len(slices) > lines:
            pairs = zip(slices[1::2], slices[2::2])
            merged = [after._replace(samples=before.samples + after.samples) for before, after in pairs]
            slices = [slices[0], *merged, *(slices[-1:] if len(slices) % 2 == 0 else ())]
            per_slice *= 2
    if last is None or axis is None:
        raise NoSamples("the recording has no samples")
    return {
        **document(*last, "history"),
        "samples": total,
        "elapsed_seconds": slices[-1].elapsed - began,
        "unit_size": axis.unit,
        "bytes_per_bin": axis.grid.bin,
        "units_per_bin": axis.grid.bin // axis.unit,
        "bins": axis.starts,
        "slices": [
            {
                "elapsed_seconds": now.elapsed,
                "samples": now.samples,
                "source": now.source,
                "unaccepted_bytes": now.unaccepted,
                "rate_bytes_per_second": _rate(slices[number - 1] if number else None, now),
                "bins_unaccepted_bytes": now.bins,
            }
            for number, now in enumerate(slices)
        ],
    }


def _axis(snapshot: Snapshot, source: Source, columns: int) -> _Axis:
    geometry = snapshot.table.geometry
    unit = X86_UNIT_SIZE if geometry is None else geometry.unit_size
    origin = 0 if geometry is None else geometry.phys_base % (UNITS_PER_BYTE * unit)
    if geometry is not None:
        where = rng.intersect(memory_of(snapshot).ram, [Range(geometry.phys_base, geometry.end)])
    else:
        listed = listed_ranges(snapshot)
        where = rng.intersect(memory_of(snapshot).ram, [Range(listed[0].start, listed[-1].end)]) if listed else []
    grid = Grid(origin, UNITS_PER_BYTE * unit, 1)
    while sum(len(touched) for touched in grid.rows(where)) > 2 * columns:
        grid = grid._replace(bin=2 * grid.bin)
    numbers = sorted({number for touched in grid.rows(where) for number in touched})
    while len(numbers) > columns:
        grid = grid._replace(bin=2 * grid.bin)
        numbers = sorted({number for touched in grid.rows(where) for number in touched})
    return _Axis([grid.start(number) for number in numbers], grid, unit)


def _bins(snapshot: Snapshot, source: Source, axis: _Axis, known: set[int]) -> Optional[list[Optional[int]]]:
    """Unaccepted bytes of each bin, None for one that is unknown; None where the source knows no addresses.

    :param known: indexes of the bins whose state is known since an earlier sample; this one's are added
    """
    geometry, bitmap = snapshot.table.geometry, snapshot.table.bitmap
    if source.exact:
        assert geometry is not None and bitmap is not None
        known.update(range(len(axis.starts)))
        return [set_bits(geometry, bitmap, axis.grid, start)[0] * axis.unit for start in axis.starts]
    if source.name != "page-lists":
        return None
    listed = listed_ranges(snapshot)
    bins: list[Optional[int]] = [bytes_inside(listed, axis.grid, start)[0] for start in axis.starts]
    known.update(index for index, nbytes in enumerate(bins) if nbytes)
    return [nbytes if nbytes or index in known else None for index, nbytes in enumerate(bins)]


def _rate(before: Optional[_Slice], now: _Slice) -> Optional[float]:
    """Bytes accepted in a second since the slice before; None where the two cannot be compared."""
    if before is None or before.unaccepted is None or now.unaccepted is None or before.source != now.source:
        return None
    seconds = now.elapsed - before.elapsed
    return (before.unaccepted - now.unaccepted) / seconds if seconds > 0 else None
