# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether the zeros of a bitmap are to be believed: a 0 says "accepted", and a page that was not captured is all zeros.

Only for vmcores; a live kernel accepts memory between two reads.
"""

from __future__ import annotations

import dataclasses
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import NamedTuple, Optional

from drgn_unaccepted import limits
from drgn_unaccepted.model import bitmap as bits
from drgn_unaccepted.model.bitmap import Geometry
from drgn_unaccepted.model.header import HEADER
from drgn_unaccepted.model.ranges import Range, chunk_ranges, total, trim
from drgn_unaccepted.snapshot import PAGE_SIZE, Counters, Table, Zone
from drgn_unaccepted.words import size

#: Chunks listed under bits that are all zero which no race and no guard explains: an accept clears a unit and the guard
#: behind it, and of these there can be one for each CPU.
_MANY_CHUNKS = 8
#: Pages of a chunk on x86, where the kernel's own number is not known.
_X86_CHUNK_PAGES = 1024


class _ZeroPages(NamedTuple):
    """Neighbouring pages whose part of the bitmap is all zero."""

    #: Physical address of the first.
    page: int
    #: What their bits stand for.
    covered: Range
    #: One of them holds nothing else of the table: that it was captured does not show.
    without_header: bool


def has_zero_page(table: Table) -> bool:
    """Whether a page of the bitmap has no bit set: all accepted, or not captured."""
    if table.geometry is None or table.bitmap is None or table.address is None:
        return False
    return next(_zero_pages(table.address, table.geometry, table.bitmap), None) is not None


def doubt(
    table: Table, zones: Optional[Sequence[Zone]], counters: Optional[Counters], chunk_pages: Optional[int]
) -> Table:
    """The table, with a reason not to believe its zeros if the page allocator contradicts them, or cannot be asked.

    :param zones: None where they could not be read
    :param chunk_pages: pages of a chunk; None where it is not known
    """
    geometry, bitmap = table.geometry, table.bitmap
    if geometry is None or bitmap is None or table.address is None or table.is_saved:
        return table
    chunk_bytes = (chunk_pages or _X86_CHUNK_PAGES) * PAGE_SIZE
    zeros = list(_zero_pages(table.address, geometry, bitmap))
    reason = _listed_under_zeros(zeros, zones or (), geometry, chunk_bytes)
    if reason is None:
        if zones and all(zone.listed is not None and not zone.listed.problems for zone in zones):
            reason = _listed_without_bits(zones, geometry, bitmap, chunk_bytes)
        else:
            reason = _not_held_against_lists(zeros)
    if reason is None and counters is not None and counters.unaccepted_pages is not None:
        reason = _counted_without_bits(counters.unaccepted_pages * PAGE_SIZE, geometry, bitmap, chunk_bytes)
    return table if reason is None else dataclasses.replace(table, reason=reason)


def _listed_under_zeros(
    zeros: Sequence[_ZeroPages], zones: Sequence[Zone], geometry: Geometry, chunk_bytes: int
) -> Optional[str]:
    """Bits clear only after a chunk has left its list: such a page was not captured, or something overwrote it."""
    enough = _MANY_CHUNKS * max(1, 2 * geometry.unit_size // chunk_bytes)
    starts = [run.covered.start for run in zeros]
    counts = [0] * len(zeros)
    for zone in zones if zeros else ():
        for pfn in () if zone.listed is None else zone.listed.pfns:
            start = pfn * PAGE_SIZE
            number = bisect_right(starts, start) - 1
            # The unit behind the chunk may be its guard, and its bit in the page that follows.
            if number >= 0 and start + chunk_bytes + geometry.unit_size <= zeros[number].covered.end:
                counts[number] += 1
    for run, count in zip(zeros, counts):
        if count >= enough:
            return (
                f"the bits in its page at {run.page:#x} are all 0, and {count} chunks of what they cover are listed as "
                "unaccepted: not captured, or overwritten"
            )
    return None


def _listed_without_bits(zones: Sequence[Zone], geometry: Geometry, bitmap: bytes, chunk_bytes: int) -> Optional[str]:
    pfns = chain.from_iterable(zone.listed.pfns for zone in zones if zone.listed is not None)
    # Without the units at the edges, which can be accepted as guards.
    inner = list(trim(chunk_ranges(pfns, chunk_bytes // PAGE_SIZE), geometry.unit_size))
    bare = bits.unset_bytes(geometry, bitmap, inner)
    if bare < _MANY_CHUNKS * max(chunk_bytes, 2 * geometry.unit_size) or 2 * bare <= total(inner):
        return None
    return f"of {size(total(inner))} in listed chunks {size(bare)} have no bit set: not what the kernel had"


def _not_held_against_lists(zeros: Sequence[_ZeroPages]) -> Optional[str]:
    for run in zeros:
        if run.without_header:
            return (
                f"the bits from its page at {run.page:#x} on are all 0 for {size(total([run.covered]))}, and no lists "
                "were read to hold them against: all accepted, or not captured"
            )
    return None


def _counted_without_bits(counted: int, geometry: Geometry, bitmap: bytes, chunk_bytes: int) -> Optional[str]:
    """More is counted than has bits. A run of bits can have a chunk at each end of which it is a unit, or the guard."""
    found = bits.count(bitmap) * geometry.unit_size
    if counted <= found:
        return None
    edges = bits.extent(bitmap)
    slack = (_MANY_CHUNKS + (0 if edges is None else 2 * edges.runs)) * max(chunk_bytes, 2 * geometry.unit_size)
    if not found + slack <= counted <= limits.PHYSICAL_END:
        return None
    return f"NR_UNACCEPTED counts {size(counted)}, and the bits {size(found)}: not what the kernel had"


def _zero_pages(table: int, geometry: Geometry, bitmap: bytes) -> Iterator[_ZeroPages]:
    """:param table: its physical address"""
    start = table + HEADER.size
    run: Optional[int] = None
    at = 0
    while at < len(bitmap):
        end = min(len(bitmap), at + PAGE_SIZE - (start + at) % PAGE_SIZE)
        if bitmap.count(0, at, end) == end - at:
            run = at if run is None else run
        elif run is not None:
            yield _zero_run(start, geometry, run, at)
            run = None
        at = end
    if run is not None:
        yield _zero_run(start, geometry, run, len(bitmap))


def _zero_run(start: int, geometry: Geometry, first: int, end: int) -> _ZeroPages:
    """Bytes [first, end) of a bitmap that starts at ``start``, a byte behind the header."""
    covering = 8 * geometry.unit_size
    covered = Range(geometry.phys_base + first * covering, geometry.phys_base + end * covering)
    header_page = (start - 1) // PAGE_SIZE
    return _ZeroPages((start + first) // PAGE_SIZE * PAGE_SIZE, covered, (start + end - 1) // PAGE_SIZE > header_page)
