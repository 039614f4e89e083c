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

from drgn_unaccepted.model.ranges import Range

Bitmap = Union[bytes, bytearray, memoryview]

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT

_U64 = (1 << 64) - 1

# Bytes that are compared with zeros and ones at once: a chunk, then its blocks. Only blocks in which bits change are
# decoded.
_CHUNK, _BLOCK = 8 << 10, 512
_UNIFORM_CHUNK = (bytes(_CHUNK), b"\xff" * _CHUNK)
_UNIFORM_BLOCK = (bytes(_BLOCK), b"\xff" * _BLOCK)
_NONZERO = re.compile(rb"[^\0]+")


class Geometry(NamedTuple):
    """The addresses that a bitmap covers.

    :ivar phys_base: physical address of bit 0 (``u64 phys_base``)
    :ivar bitmap_bytes: length of the bitmap in bytes (``u64 size``)
    :ivar unit_size: bytes that one bit stands for (``u32 unit_size``)
    """

    phys_base: int
    bitmap_bytes: int
    unit_size: int

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
        """The addresses of unit ``index``.

        :raises IndexError: the bitmap has no such bit
        """
        if not 0 <= index < self.units:
            raise IndexError(f"unit {index} is outside a bitmap of {self.units} bits")
        start = self.phys_base + index * self.unit_size
        return Range(start, start + self.unit_size)


def test_bit(bitmap: Bitmap, index: int) -> bool:
    """Whether bit ``index`` is set.

    :raises IndexError: the bitmap has no such bit
    """
    if index < 0:
        raise IndexError(f"bit {index} of a bitmap")
    return bool(bitmap[index >> 3] >> (index & 7) & 1)


def count(bitmap: Bitmap) -> int:
    """Number of set bits."""
    view = memoryview(bitmap)
    chunks = (bytes(view[offset : offset + _CHUNK]) for offset in range(0, len(view), _CHUNK))
    return sum(_popcount(int.from_bytes(chunk, "little")) for chunk in chunks if chunk != _UNIFORM_CHUNK[0])


class Extent(NamedTuple):
    #: First set bit, end (exclusive) of the last run, and number of runs.
    first: int
    end: int
    runs: int


def extent(bitmap: Bitmap) -> Optional[Extent]:
    """Where the set bits are, without listing the runs; None if no bit is set."""
    view = memoryview(bitmap)
    first, end, number, before = -1, 0, 0, 0
    for offset in range(0, len(view), _CHUNK):
        chunk = bytes(view[offset : offset + _CHUNK])
        bits = 0 if chunk == _UNIFORM_CHUNK[0] else int.from_bytes(chunk, "little")
        if bits:
            if first < 0:
                first = 8 * offset + (bits & -bits).bit_length() - 1
            end = 8 * offset + bits.bit_length()
            number += _popcount(bits & ~(bits << 1 | before))
        before = bits >> (8 * len(chunk) - 1)
    return None if first < 0 else Extent(first, end, number)


# int.bit_count() is new in Python 3.10.
_popcount = getattr(int, "bit_count", lambda number: bin(number).count("1"))


def runs(bitmap: Bitmap, start_bit: int = 0, end_bit: Optional[int] = None) -> Iterator[tuple[int, int]]:
    """The runs of set bits as [first, end), longest possible and ascending. Only one block is decoded at a time.

    :param start_bit: first bit to read
    :param end_bit: end (exclusive) of the bits to read, by default that of the bitmap
    :raises ValueError: the bitmap does not have these bits
    """
    bits = 8 * len(bitmap)
    end = bits if end_bit is None else end_bit
    if not 0 <= start_bit <= end <= bits:
        raise ValueError(f"bits {start_bit} to {end} are outside a bitmap of {bits} bits")
    return _pairs(bitmap, start_bit, end, 0, 1)


def unaccepted_ranges(geometry: Geometry, bitmap: Bitmap) -> Iterator[Range]:
    """The unaccepted addresses, merged and ascending. Only one block is decoded at a time.

    :raises ValueError: the bitmap does not have the length that the geometry says
    """
    if len(bitmap) != geometry.bitmap_bytes:
        raise ValueError(f"a bitmap of {len(bitmap)} bytes where the geometry says {geometry.bitmap_bytes}")
    pairs = _pairs(bitmap, 0, geometry.units, geometry.phys_base, geometry.unit_size)
    # Range._make() without its check of the length.
    return cast("Iterator[Range]", map(partial(tuple.__new__, Range), pairs))


def _pairs(bitmap: Bitmap, first: int, end: int, base: int, unit: int) -> Iterator[tuple[int, int]]:
    edges = chain.from_iterable(_edges(bitmap, first, end, base, unit))
    return zip(edges, edges)


def _edges(bitmap: Bitmap, first: int, end: int, base: int, unit: int) -> Iterator[list[int]]:
    """Where bits change, in lists: the start of a run, its end, the start of the next run and so on.

    Bit ``i`` becomes ``base + i * unit``, so that addresses need no second pass.
    """
    places = _places(unit)
    inside = 0  # the bit before the block
    for offset, block in _blocks(memoryview(bitmap)[: (end + 7) // 8], first // 8):
        if block == _UNIFORM_BLOCK[inside]:
            continue
        length = len(block)
        bits = int.from_bytes(block, "little")
        if first > 8 * offset:
            bits = bits >> (first - 8 * offset) << (first - 8 * offset)
        if end < 8 * (offset + length):
            bits &= (1 << (end - 8 * offset)) - 1
        changes = (bits ^ (bits << 1 | inside)) & ((1 << 8 * length) - 1)
        inside = bits >> (8 * length - 1)
        for changed in _NONZERO.finditer(changes.to_bytes(length, "little")):
            start = base + 8 * unit * (offset + changed.start())
            addresses = range(start, start + 8 * unit * len(changed.group()), 8 * unit)
            yield [address + place for address, byte in zip(addresses, changed.group()) for place in places[byte]]
    if inside:
        yield [base + end * unit]


def _blocks(view: memoryview, start: int) -> Iterator[tuple[int, bytes]]:
    """Offset and bytes of the blocks, without those that repeat the last bit of the chunk before them."""
    last = 0
    for offset in range(start, len(view), _CHUNK):
        chunk = bytes(view[offset : offset + _CHUNK])
        if chunk != _UNIFORM_CHUNK[last]:
            yield from ((offset + at, chunk[at : at + _BLOCK]) for at in range(0, len(chunk), _BLOCK))
            last = chunk[-1] >> 7


@lru_cache(maxsize=4)
def _places(unit: int) -> list[tuple[int, ...]]:
    """The places of the set bits of each byte, ``unit`` apart."""
    return [tuple(bit * unit for bit in range(8) if byte >> bit & 1) for byte in range(256)]


def from_runs(runs_: Iterable[tuple[int, int]], nbytes: int) -> bytes:
    """The bitmap of ``nbytes`` bytes in which exactly these [first, end) bits are set.

    :raises ValueError: a run is reversed or outside the bitmap
    """
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
    start -= phys_base
    end -= phys_base
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
    for run in unaccepted_ranges(geometry, bitmap):
        if run.start >= PAGE_SIZE:
            yield Range(run.start - PAGE_SIZE, run.start)
