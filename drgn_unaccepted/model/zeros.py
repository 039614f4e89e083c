# SPDX-License-Identifier: LGPL-2.1-or-later
"""Zeros are no evidence: a 0 in the bitmap says "accepted", and a page that was not captured is all zeros.

Only for vmcores: a live kernel accepts memory between two reads.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Optional

from drgn_unaccepted import limits
from drgn_unaccepted.model import bitmap as bits
from drgn_unaccepted.model.bitmap import PAGE_SHIFT, PAGE_SIZE, Geometry
from drgn_unaccepted.model.header import HEADER
from drgn_unaccepted.model.ranges import Range, chunk_ranges, total, trim
from drgn_unaccepted.words import size

#: Chunks listed under bits that are all zero which neither a race nor a guard explains: an accept clears a unit and the
#: guard behind it, and each CPU can be in one.
_MANY_CHUNKS = 8
#: Pages of a chunk on x86, where the kernel's own number is not known.
_X86_CHUNK_PAGES = 1024


class Bitmap(NamedTuple):
    """A bitmap and where it is."""

    #: Physical address of the table, whose header precedes the bitmap.
    table: int
    geometry: Geometry
    data: bytes


class Allocator(NamedTuple):
    """What the page allocator says of unaccepted memory."""

    #: First PFN of each listed chunk, as far as the lists could be followed.
    listed: Sequence[int]
    #: Every list was followed to its end.
    complete: bool
    #: NR_UNACCEPTED in bytes; None where it is not known.
    counted: Optional[int]
    #: Pages of a chunk; None where it is not known.
    chunk_pages: Optional[int]


class _ZeroPages(NamedTuple):
    """Neighbouring pages whose part of the bitmap is all zero."""

    #: Physical address of the first.
    page: int
    #: The memory that their bits cover.
    covered: Range
    #: One of them holds no header, so nothing shows that it was captured.
    without_header: bool


def has_zero_page(bitmap: Bitmap) -> bool:
    """Whether a page of the bitmap has no bit set: all accepted, or not captured."""
    return next(_zero_pages(bitmap), None) is not None


def doubt(bitmap: Bitmap, allocator: Allocator) -> Optional[str]:
    """Why not to believe the zeros of a bitmap: the page allocator contradicts them or could not be read."""
    geometry, data = bitmap.geometry, bitmap.data
    chunk_bytes = (allocator.chunk_pages or _X86_CHUNK_PAGES) * PAGE_SIZE
    zeros = list(_zero_pages(bitmap))
    reason = _listed_under_zeros(zeros, allocator.listed, geometry.unit_size, chunk_bytes)
    if reason is None and allocator.complete:
        reason = _listed_without_bits(allocator.listed, geometry, data, chunk_bytes)
    elif reason is None:
        reason = _without_lists(zeros)
    if reason is None and allocator.counted is not None:
        reason = _counted_without_bits(allocator.counted, geometry.unit_size, data, chunk_bytes)
    return reason


def _listed_under_zeros(
    zeros: Sequence[_ZeroPages], listed: Sequence[int], unit_size: int, chunk_bytes: int
) -> Optional[str]:
    """Bits are cleared after their chunk has left its list: such a page was not captured, or was overwritten."""
    if not zeros:
        return None
    enough = _MANY_CHUNKS * max(1, 2 * unit_size // chunk_bytes)
    starts = [run.covered.start for run in zeros]
    counts = [0] * len(zeros)
    for pfn in listed:
        start = pfn << PAGE_SHIFT
        number = bisect_right(starts, start) - 1
        # The unit behind the chunk may be its guard, with its bit in the next page.
        if number >= 0 and start + chunk_bytes + unit_size <= zeros[number].covered.end:
            counts[number] += 1
    for run, count in zip(zeros, counts):
        if count >= enough:
            return (
                f"the bits in its page at {run.page:#x} are all 0, and {count} chunks of what they cover are listed as "
                "unaccepted: not captured, or overwritten"
            )
    return None


def _listed_without_bits(listed: Sequence[int], geometry: Geometry, data: bytes, chunk_bytes: int) -> Optional[str]:
    # The units at the edges can be accepted as guards.
    inner = list(trim(chunk_ranges(listed, chunk_bytes >> PAGE_SHIFT), geometry.unit_size))
    bare = bits.unset_bytes(geometry, data, inner)
    if bare < _MANY_CHUNKS * max(chunk_bytes, 2 * geometry.unit_size) or 2 * bare <= total(inner):
        return None
    return f"of {size(total(inner))} in listed chunks {size(bare)} have no bit set: not what the kernel had"


def _without_lists(zeros: Sequence[_ZeroPages]) -> Optional[str]:
    for run in zeros:
        if run.without_header:
            return (
                f"the bits from its page at {run.page:#x} on are all 0 for {size(total([run.covered]))}, and no lists "
                "were read to compare them with: all accepted, or not captured"
            )
    return None


def _counted_without_bits(counted: int, unit_size: int, data: bytes, chunk_bytes: int) -> Optional[str]:
    """At each end of a run of bits one listed chunk may own just one unit, or its guard: allow for both."""
    found = bits.count(data) * unit_size
    if counted <= found:
        return None
    edges = bits.extent(data)
    slack = (_MANY_CHUNKS + (0 if edges is None else 2 * edges.runs)) * max(chunk_bytes, 2 * unit_size)
    if not found + slack <= counted <= limits.PHYSICAL_END:
        return None
    return f"NR_UNACCEPTED counts {size(counted)}, and the bits {size(found)}: not what the kernel had"


def _zero_pages(bitmap: Bitmap) -> Iterator[_ZeroPages]:
    data, start = bitmap.data, bitmap.table + HEADER.size
    run: Optional[int] = None
    at = 0
    while at < len(data):
        end = min(len(data), at + PAGE_SIZE - (start + at) % PAGE_SIZE)
        if data.count(0, at, end) == end - at:
            run = at if run is None else run
        elif run is not None:
            yield _zero_run(bitmap, run, at)
            run = None
        at = end
    if run is not None:
        yield _zero_run(bitmap, run, len(data))


def _zero_run(bitmap: Bitmap, first: int, end: int) -> _ZeroPages:
    """Bytes [first, end) of the bitmap."""
    start = bitmap.table + HEADER.size
    bytes_per_byte = 8 * bitmap.geometry.unit_size
    base = bitmap.geometry.phys_base
    covered = Range(base + first * bytes_per_byte, base + end * bytes_per_byte)
    header_page = (start - 1) // PAGE_SIZE
    return _ZeroPages((start + first) // PAGE_SIZE * PAGE_SIZE, covered, (start + end - 1) // PAGE_SIZE > header_page)
