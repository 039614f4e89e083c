# SPDX-License-Identifier: LGPL-2.1-or-later
"""Sorted, merged lists of physical address ranges.

All functions but :func:`merge` take lists as :func:`merge` returns them (sorted, disjoint, not adjacent, without
empty ranges) and return such lists. None goes through a whole list for each range of another.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Optional

from drgn_unaccepted.field_types import Edge, hexadecimal

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT

_BLOCK = 4096  # Chunks that are compared together.


@hexadecimal
class Range(NamedTuple):
    """Physical addresses from ``start`` up to but not including ``end``, in bytes."""

    start: Edge
    end: Edge


def merge(ranges: Iterable[tuple[int, int]]) -> list[Range]:
    """Sort the ranges, join those that overlap or touch, drop empty ones; ValueError where one is reversed."""
    merged: list[Range] = []
    for start, end in sorted(ranges):
        if end < start:
            raise ValueError(f"range ends before it starts: {start:#x}-{end:#x}")
        if merged and start <= merged[-1].end:
            merged[-1] = Range(merged[-1].start, max(end, merged[-1].end))
        elif start < end:
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
                    yield first << PAGE_SHIFT, end << PAGE_SHIFT
                first = pfn
            end = pfn + chunk_pages
    if end > first:
        yield first << PAGE_SHIFT, end << PAGE_SHIFT


def intersect(a: Sequence[Range], b: Sequence[Range]) -> list[Range]:
    """The addresses that are in both."""
    few, many = sorted((a, b), key=len)
    return [part for start, end in few for part in clip(many, start, end)]


def subtract(a: Sequence[Range], b: Sequence[Range]) -> list[Range]:
    """The addresses in ``a`` that are not in ``b``."""
    rest = []
    for start, end in a:
        for hole in clip(b, start, end):
            if start < hole.start:
                rest.append(Range(start, hole.start))
            start = hole.end
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
    return next((each for each in ranges[max(after - 1, 0) : after] if address < each.end), None)
