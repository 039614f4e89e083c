# SPDX-License-Identifier: LGPL-2.1-or-later
"""The bitmap of ``struct efi_unaccepted_memory``: one bit for each unit, set while the unit is unaccepted.

Bit ``i`` is byte ``i >> 3``, mask ``1 << (i & 7)``: x86 is little endian, so the kernel's ``unsigned long`` array has
the same bytes. The bitmap has ``size`` bytes, not necessarily a multiple of 8.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache, partial
from itertools import chain
from typing import NamedTuple, Optional, Union, cast

from drgn_unaccepted.model.ranges import PAGE_SIZE, Range

Bitmap = Union[bytes, bytearray, memoryview]

_U64 = (1 << 64) - 1

_BLOCK = 8192  # bytes that are decoded at once
_ZEROS, _FULL, _ONES = bytes(_BLOCK), b"\xff" * _BLOCK, (1 << 8 * _BLOCK) - 1
_FEW = 8  # changes in a block that are found one by one
_NONZERO = re.compile(rb"[^\0]+")


class Geometry(NamedTuple):
    """The addresses that a bitmap covers."""

    phys_base: int  #: Physical address of bit 0.
    bitmap_bytes: int  #: The C field ``size``.
    unit_size: int  #: Bytes that one bit stands for.

    @property
    def units(self) -> int:
        """Number of bits, the padding bits of the last byte included."""
        return self.bitmap_bytes * 8

    @property
    def end(self) -> int:
        """End (exclusive) of the covered addresses; the kernel treats memory beyond it as accepted."""
        return self.phys_base + self.units * self.unit_size

    def index(self, address: int) -> Optional[int]:  # type: ignore[override]  # nobody searches the tuple
        """The unit that holds ``address``, or None where the bitmap does not cover it."""
        if self.phys_base <= address < self.end:
            return (address - self.phys_base) // self.unit_size
        return None

    def unit(self, index: int) -> Range:
        """The addresses of unit ``index``; IndexError where the bitmap has no such bit."""
        if not 0 <= index < self.units:
            raise IndexError(f"unit {index} is outside a bitmap of {self.units} bits")
        start = self.phys_base + index * self.unit_size
        return Range(start, start + self.unit_size)


def count(bitmap: Bitmap, first: int = 0, end: Optional[int] = None) -> int:
    """Number of set bits from ``first`` up to ``end``, by default all."""
    return sum(_popcount(bits) for _, bits, _ in _blocks(bitmap, first, 8 * len(bitmap) if end is None else end))


class Extent(NamedTuple):
    first: int  #: The first set bit.
    end: int  #: Of the last run.
    runs: int


def extent(bitmap: Bitmap) -> Optional[Extent]:
    """Where the set bits are, without listing the runs; None if no bit is set."""
    first, end, number = -1, 0, 0
    for at, bits, before in _blocks(bitmap, 0, 8 * len(bitmap)):
        if bits:
            first = at + (bits & -bits).bit_length() - 1 if first < 0 else first
            end = at + bits.bit_length()
            number += _popcount(bits & ~(bits << 1 | before))
    return None if first < 0 else Extent(first, end, number)


_popcount = getattr(int, "bit_count", lambda number: bin(number).count("1"))  # int.bit_count() is new in Python 3.10.


def runs(
    bitmap: Bitmap, first: int = 0, end: Optional[int] = None, base: int = 0, unit: int = 1
) -> Iterator[tuple[int, int]]:
    """The runs of set bits from ``first`` up to ``end``, ascending. Only one block is decoded at a time.

    Bit ``i`` becomes ``base + i * unit``, so that addresses need no second pass.

    :raises ValueError: the bitmap does not have these bits
    """
    bits = 8 * len(bitmap)
    end = bits if end is None else end
    if not 0 <= first <= end <= bits:
        raise ValueError(f"bits {first} to {end} are outside a bitmap of {bits} bits")
    edges = chain.from_iterable(_edges(bitmap, first, end, base, unit))
    return zip(edges, edges)


def unaccepted_ranges(geometry: Geometry, bitmap: Bitmap) -> Iterator[Range]:
    """The unaccepted addresses, merged and ascending; ValueError where geometry and bitmap have not the same length."""
    if len(bitmap) != geometry.bitmap_bytes:
        raise ValueError(f"a bitmap of {len(bitmap)} bytes where the geometry says {geometry.bitmap_bytes}")
    pairs = runs(bitmap, base=geometry.phys_base, unit=geometry.unit_size)
    # Range._make() without its check of the length.
    return cast("Iterator[Range]", map(partial(tuple.__new__, Range), pairs))


def _edges(bitmap: Bitmap, first: int, end: int, base: int, unit: int) -> Iterator[list[int]]:
    """Where bits change, in lists: the start of a run, its end, the start of the next run and so on."""
    places = _places(unit)
    for at, bits, before in _blocks(bitmap, first, end):
        if before and bits == _ONES:
            continue
        changes = (bits ^ (bits << 1 | before)) & _ONES
        if _popcount(changes) <= _FEW:
            while changes:
                yield [base + unit * (at + (changes & -changes).bit_length() - 1)]
                changes &= changes - 1
            continue
        for changed in _NONZERO.finditer(changes.to_bytes(_BLOCK, "little")):
            start = base + unit * (at + 8 * changed.start())
            addresses = range(start, start + 8 * unit * len(changed.group()), 8 * unit)
            yield [address + place for address, byte in zip(addresses, changed.group()) for place in places[byte]]


def _blocks(bitmap: Bitmap, first: int, end: int) -> Iterator[tuple[int, int, int]]:
    """The number of the first bit of a block, its bits as a number, and the bit before it; not where all are 0."""
    view, before = memoryview(bitmap)[: -(-end // 8)], 0
    # One more block where the last run ends with a block.
    for offset in range(first // 8, end // 8 + 1, _BLOCK):
        at, block = 8 * offset, bytes(view[offset : offset + _BLOCK])
        if block == _ZEROS and not before:
            continue
        bits = _ONES if block == _FULL else int.from_bytes(block, "little")
        if first > at:
            bits = bits >> (first - at) << (first - at)
        if end < at + 8 * _BLOCK:
            bits &= (1 << (end - at)) - 1
        if bits or before:
            yield at, bits, before
        before = bits >> (8 * _BLOCK - 1)


@lru_cache(maxsize=4)
def _places(unit: int) -> list[tuple[int, ...]]:
    """The places of the set bits of each byte, ``unit`` apart."""
    return [tuple(bit * unit for bit in range(8) if byte >> bit & 1) for byte in range(256)]


def from_runs(runs_: Iterable[tuple[int, int]], nbytes: int) -> bytes:
    """The bitmap of ``nbytes`` bytes in which exactly these [first, end) bits are set; ValueError if it has not all."""
    bitmap = bytearray(nbytes)
    for first, end in runs_:
        if not 0 <= first <= end <= 8 * nbytes:
            raise ValueError(f"bits {first} to {end} are outside a bitmap of {8 * nbytes} bits")
        head, tail = (first + 7) >> 3, end >> 3
        if head < tail:
            bitmap[head:tail] = b"\xff" * (tail - head)
        for bit in (*range(first, min(8 * head, end)), *range(max(8 * tail, first), end)):
            bitmap[bit >> 3] |= 1 << (bit & 7)
    return bytes(bitmap)


def units_of(geometry: Geometry, start: int, end: int) -> range:
    """Indices of the covered units that [start, end) touches.

    Unlike the kernel's walk (:func:`range_contains_unaccepted_memory`) this rounds outwards and adds no guard unit.
    """
    start = max(start, geometry.phys_base) - geometry.phys_base
    end = min(end, geometry.end) - geometry.phys_base
    if end <= start:
        return range(0)
    return range(start // geometry.unit_size, -(-end // geometry.unit_size))


def range_contains_unaccepted_memory(
    geometry: Geometry, bitmap: Bitmap, start: int, size: int, *, whole_pages: bool = False
) -> bool:
    """What the kernel's function of this name returns for ``phys_addr_t start, unsigned long size``.

    This is the kernel's arithmetic, step by step (drivers/firmware/efi/unaccepted_memory.c, Linux 6.12; 6.5 to
    6.11 take the end instead of the size):

    * If the end is unit aligned, the next unit counts too: the guard against load_unaligned_zeropad().
    * A range that ends exactly at ``phys_base`` is not below the table; its guard is unit 0.
    * The walk starts at ``start``, aligned or not, and steps by whole units, so it can miss the last unit
      (if ``start % unit_size > end % unit_size``). That is harmless for the kernel's callers, whose blocks are
      naturally aligned. :func:`units_of` returns all units that a range touches.

    :param whole_pages: first round the range outwards to whole pages, as Linux 7.0 and later do (948a013a54c4)
    """
    phys_base, _, unit_size = geometry
    end = (start + size) & _U64
    if whole_pages:
        end = (end + PAGE_SIZE - 1) & -PAGE_SIZE & _U64
        start &= -PAGE_SIZE
    start = max(start, phys_base)
    if end < phys_base:
        return False
    start, end = start - phys_base, end - phys_base
    if end % unit_size == 0:
        end = (end + unit_size) & _U64
    end = min(end, geometry.units * unit_size)
    first = start // unit_size
    steps = -(-(end - start) // unit_size)
    return steps > 0 and any(runs(bitmap, first, first + steps))


def guard_pages(geometry: Geometry, bitmap: Bitmap) -> Iterator[Range]:
    """The accepted pages for which the kernel's pfn_is_unaccepted_memory() is true: the last before each run.

    /proc/kcore and /proc/vmcore show them as zeros (e538a5820978 and 7cd34dd3c9bf, Linux 6.7). If bit 0 is set, one
    of them is the page that ends at ``phys_base``, although the bitmap does not cover it.
    """
    starts = (run.start for run in unaccepted_ranges(geometry, bitmap))
    return (Range(start - PAGE_SIZE, start) for start in starts if start >= PAGE_SIZE)
