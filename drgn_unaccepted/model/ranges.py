# SPDX-License-Identifier: LGPL-2.1-or-later
"""Sorted, merged lists of physical address ranges.

All functions but :func:`merge` take lists as :func:`merge` returns them (sorted, disjoint, not adjacent, without
empty ranges) and return such lists, in time linear in their length.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Optional

from drgn_unaccepted.bounds import Edge, hexadecimal

_PAGE_SHIFT = 12

# Chunks that are compared together.
_BLOCK = 4096


@hexadecimal
class Range(NamedTuple):
    """Physical addresses from ``start`` up to but not including ``end``, in bytes."""

    start: Edge
    end: Edge


def merge(ranges: Iterable[tuple[int, int]]) -> list[Range]:
    """Sort the ranges, join those that overlap or touch, drop empty ones.

    :raises ValueError: a range ends before it starts
    """
    merged: list[Range] = []
    last_start = last_end = -1
    for start, end in sorted(ranges):
        if end <= start:
            if end < start:
                raise ValueError(f"range ends before it starts: {start:#x}-{end:#x}")
            continue
        if merged and start <= last_end:
            if end > last_end:
                last_end = end
                merged[-1] = Range(last_start, end)
        else:
            last_start, last_end = start, end
            merged.append(Range(start, end))
    return merged


def outwards(ranges: Iterable[tuple[int, int]], step: int, base: int = 0) -> list[Range]:
    """The ranges rounded outwards to multiples of ``step`` from ``base`` on."""
    return merge((start - (start - base) % step, end + (base - end) % step) for start, end in ranges)


def chunk_ranges(chunk_pages: int, *lists: Iterable[int]) -> list[Range]:
    """The chunks with the first PFNs in these lists, in any order, as merged ranges."""
    columns = (pfns if isinstance(pfns, array) else array("Q", pfns) for pfns in lists)
    return merge(run for pfns in columns for run in chunk_runs(pfns, chunk_pages))


def chunk_runs(pfns: array[int], chunk_pages: int) -> Iterator[tuple[int, int]]:
    """Runs of chunks that follow each other both in the list and in memory, in listed order, as addresses."""
    first = end = 0
    for at in range(0, len(pfns), _BLOCK):
        block = pfns[at : at + _BLOCK]
        # In a large guest almost all blocks continue the run.
        following = range(end, end + len(block) * chunk_pages, chunk_pages)
        if block[0] == end and following.stop < 1 << 64 and block == array("Q", following):
            end = following.stop
            continue
        for pfn in block:
            if pfn != end:
                if end > first:
                    yield first << _PAGE_SHIFT, end << _PAGE_SHIFT
                first = pfn
            end = pfn + chunk_pages
    if end > first:
        yield first << _PAGE_SHIFT, end << _PAGE_SHIFT


def are_aligned(values: Iterable[int], alignment: int) -> bool:
    """Whether all values are multiples of ``alignment``."""
    return not any(map(alignment.__rmod__, values))


def intersect(a: Sequence[Range], b: Sequence[Range]) -> list[Range]:
    """The addresses that are in both."""
    common = []
    i = j = 0
    while i < len(a) and j < len(b):
        start = max(a[i].start, b[j].start)
        end = min(a[i].end, b[j].end)
        if start < end:
            common.append(Range(start, end))
        if a[i].end <= b[j].end:
            i += 1
        else:
            j += 1
    return common


def subtract(a: Sequence[Range], b: Sequence[Range]) -> list[Range]:
    """The addresses in ``a`` that are not in ``b``."""
    rest = []
    j = 0
    for start, end in a:
        while j < len(b) and b[j].end <= start:
            j += 1
        k = j
        while k < len(b) and b[k].start < end:
            if start < b[k].start:
                rest.append(Range(start, b[k].start))
            start = b[k].end
            k += 1
        # Only the last of these can reach into the next range of a.
        j = max(j, k - 1)
        if start < end:
            rest.append(Range(start, end))
    return rest


def clip(ranges: Sequence[Range], start: int, end: int) -> Iterator[Range]:
    """The parts of the ranges in [start, end). Ranges before it are not read."""
    # A one-element tuple sorts before every range that starts at its value.
    for index in range(max(0, bisect_left(ranges, (start + 1,)) - 1), len(ranges)):
        found = Range(max(ranges[index].start, start), min(ranges[index].end, end))
        if found.start >= end:
            return
        if found.start < found.end:
            yield found


def total(ranges: Iterable[tuple[int, int]]) -> int:
    """The sum of their sizes, in bytes."""
    return sum(end - start for start, end in ranges)


def find(ranges: Sequence[Range], address: int) -> Optional[Range]:
    """The range with ``address``, or None."""
    # A one-element tuple sorts before every range that starts at its value.
    after = bisect_left(ranges, (address + 1,))
    if after and address < ranges[after - 1].end:
        return ranges[after - 1]
    return None
