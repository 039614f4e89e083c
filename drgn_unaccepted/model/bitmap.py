# SPDX-License-Identifier: LGPL-2.1-or-later
"""The bitmap of ``struct efi_unaccepted_memory``: one bit a unit, set while the unit is unaccepted.

Bit ``i`` is byte ``i >> 3``, mask ``1 << (i & 7)`` (x86 is little endian, so the kernel's ``unsigned long``
array reads the same bytewise). The bitmap ends after ``size`` bytes, which need not be a multiple of 8.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache, partial
from itertools import chain
from typing import NamedTuple, Optional, Union, cast

from drgn_unaccepted.model.ranges import Range

Bitmap = Union[bytes, bytearray, memoryview]

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT

#: What :func:`states` says of an address.
ACCEPTED, UNACCEPTED, UNCOVERED = 0, 1, 2

# The bitwise or of two of them: 1 if either is UNACCEPTED.
_EITHER = (0, 1, 0, 1)

_U64 = (1 << 64) - 1

# Bytes looked at together. What continues the run so far costs one comparison: a chunk, a part of another chunk, or
# a block of another part; the other blocks are decoded. The sizes are the best of several on 64 KiB with two runs, on
# 64 MiB with 250 and 1,000 holes of two units, and on random bits.
_CHUNK = 64 << 10
_PART = 8 << 10
_BLOCK = 512
_UNIFORM_CHUNK = (bytes(_CHUNK), b"\xff" * _CHUNK)
_UNIFORM_PART = (bytes(_PART), b"\xff" * _PART)
_UNIFORM_BLOCK = (bytes(_BLOCK), b"\xff" * _BLOCK)
_FULL = (1 << 8 * _BLOCK) - 1
_NONZERO = re.compile(rb"[^\0]+")


class Geometry(NamedTuple):
    """What a bitmap covers.

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
        """End (exclusive) of the covered addresses; the kernel takes what lies beyond as accepted."""
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
    bits = 0
    view = memoryview(bitmap)
    for offset in range(0, len(view), _CHUNK):
        chunk = bytes(view[offset : offset + _CHUNK])
        if chunk == _UNIFORM_CHUNK[1]:
            bits += 8 * _CHUNK
        elif chunk != _UNIFORM_CHUNK[0]:
            bits += _popcount(int.from_bytes(chunk, "little"))
    return bits


class Extent(NamedTuple):
    #: First set bit, the end (exclusive) of the last run, and how many runs there are.
    first: int
    end: int
    runs: int


def extent(bitmap: Bitmap) -> Optional[Extent]:
    """Where the set bits are, without a look at each run; None if none is set."""
    view = memoryview(bitmap)
    first, end, runs_, before = -1, 0, 0, 0
    for offset in range(0, len(view), _CHUNK):
        chunk = bytes(view[offset : offset + _CHUNK])
        if chunk == _UNIFORM_CHUNK[0]:
            before = 0
            continue
        number = int.from_bytes(chunk, "little")
        if number:
            if first < 0:
                first = 8 * offset + (number & -number).bit_length() - 1
            end = 8 * offset + number.bit_length()
        runs_ += _popcount(number & ~(number << 1 | before))
        before = number >> (8 * len(chunk) - 1)
    return None if first < 0 else Extent(first, end, runs_)


def _popcount_of_text(number: int) -> int:
    return bin(number).count("1")


# int.bit_count() is new in Python 3.10.
_popcount = getattr(int, "bit_count", _popcount_of_text)


def runs(bitmap: Bitmap, start_bit: int = 0, end_bit: Optional[int] = None) -> Iterator[tuple[int, int]]:
    """The runs of set bits as [first, end), longest possible and ascending, a block in memory at a time.

    :param start_bit: first bit looked at
    :param end_bit: end (exclusive) of the bits looked at, by default that of the bitmap
    :raises ValueError: these are not bits of the bitmap
    """
    bits = 8 * len(bitmap)
    end = bits if end_bit is None else end_bit
    if not 0 <= start_bit <= end <= bits:
        raise ValueError(f"bits {start_bit} to {end} are outside a bitmap of {bits} bits")
    return _pairs(bitmap, start_bit, end, 0, 1)


def unaccepted_ranges(geometry: Geometry, bitmap: Bitmap) -> Iterator[Range]:
    """The unaccepted addresses, merged and ascending, a block of the bitmap in memory at a time.

    :raises ValueError: the bitmap has not the length that the geometry says
    """
    _check_length(geometry, bitmap)
    pairs = _pairs(bitmap, 0, geometry.units, geometry.phys_base, geometry.unit_size)
    # Range._make without its check of the length, which costs as much again where every second bit is a run.
    return cast("Iterator[Range]", map(partial(tuple.__new__, Range), pairs))


def tile(geometry: Geometry, bitmap: Bitmap) -> Iterator[tuple[Range, bool]]:
    """All that the bitmap covers, as alternating ranges: ``(range, is unaccepted)``.

    :raises ValueError: the bitmap has not the length that the geometry says
    """
    _check_length(geometry, bitmap)
    return _tile(geometry, bitmap)


def _tile(geometry: Geometry, bitmap: Bitmap) -> Iterator[tuple[Range, bool]]:
    accepted_from = geometry.phys_base
    for run in unaccepted_ranges(geometry, bitmap):
        if accepted_from < run.start:
            yield Range(accepted_from, run.start), False
        yield run, True
        accepted_from = run.end
    if accepted_from < geometry.end:
        yield Range(accepted_from, geometry.end), False


def _check_length(geometry: Geometry, bitmap: Bitmap) -> None:
    if len(bitmap) != geometry.bitmap_bytes:
        raise ValueError(f"a bitmap of {len(bitmap)} bytes where the geometry says {geometry.bitmap_bytes}")


def _pairs(bitmap: Bitmap, first: int, end: int, base: int, unit: int) -> Iterator[tuple[int, int]]:
    edges = chain.from_iterable(_edges(bitmap, first, end, base, unit))
    return zip(edges, edges)


def _edges(bitmap: Bitmap, first: int, end: int, base: int, unit: int) -> Iterator[list[int]]:
    """Where the bits change, in lists: the start of a run, its end, the start of the next and so on.

    Bit ``i`` is given as ``base + i * unit``, so that addresses need no second pass.
    """
    view = memoryview(bitmap)[: (end + 7) // 8]
    byte_span = 8 * unit
    places = _places(unit)
    inside = 0  # the value of the bit before the block
    for chunk_offset in range(first // 8, len(view), _CHUNK):
        chunk = bytes(view[chunk_offset : chunk_offset + _CHUNK])
        if chunk == _UNIFORM_CHUNK[inside]:
            continue
        for part in range(0, len(chunk), _PART):
            if chunk.startswith(_UNIFORM_PART[inside], part):
                continue
            for at in range(part, min(part + _PART, len(chunk)), _BLOCK):
                if chunk.startswith(_UNIFORM_BLOCK[inside], at):
                    continue
                block = chunk[at : at + _BLOCK]
                length = len(block)
                offset = chunk_offset + at
                bits = int.from_bytes(block, "little")
                if first > 8 * offset:
                    bits = bits >> (first - 8 * offset) << (first - 8 * offset)
                if end < 8 * (offset + length):
                    bits &= (1 << (end - 8 * offset)) - 1
                mask = _FULL if length == _BLOCK else (1 << 8 * length) - 1
                changes = (bits ^ (bits << 1 | inside)) & mask
                inside = bits >> (8 * length - 1)
                for changed in _NONZERO.finditer(changes.to_bytes(length, "little")):
                    addresses = range(
                        base + (offset + changed.start()) * byte_span,
                        base + (offset + changed.end()) * byte_span,
                        byte_span,
                    )
                    yield [
                        address + place for address, byte in zip(addresses, changed.group()) for place in places[byte]
                    ]
    if inside:
        yield [base + end * unit]


@lru_cache(maxsize=4)
def _places(unit: int) -> list[tuple[int, ...]]:
    """For each byte, the places of its set bits, ``unit`` apart."""
    return [tuple(bit * unit for bit in range(8) if byte >> bit & 1) for byte in range(256)]


def from_runs(runs_: Iterable[tuple[int, int]], nbytes: int) -> bytes:
    """The bitmap of ``nbytes`` bytes in which exactly these [first, end) bits are set.

    :raises ValueError: a run is reversed or outside the bitmap
    """
    bitmap = bytearray(nbytes)
    for first, end in runs_:
        if not 0 <= first <= end <= 8 * nbytes:
            raise ValueError(f"bits {first} to {end} are outside a bitmap of {8 * nbytes} bits")
        head, tail = first >> 3, end >> 3
        head_mask = 0xFF << (first & 7) & 0xFF
        tail_mask = (1 << (end & 7)) - 1
        if head == tail:
            if tail_mask:
                bitmap[head] |= head_mask & tail_mask
            continue
        bitmap[head] |= head_mask
        bitmap[head + 1 : tail] = b"\xff" * (tail - head - 1)
        if tail_mask:
            bitmap[tail] |= tail_mask
    return bytes(bitmap)


def units_of(geometry: Geometry, start: int, end: int) -> range:
    """Indices of all units that [start, end) touches, as far as the bitmap covers them.

    Unlike the kernel's walk (see :func:`range_contains_unaccepted_memory`) this rounds the start down and the
    end up, and takes no guard unit.
    """
    start = max(start, geometry.phys_base) - geometry.phys_base
    end = min(end, geometry.end) - geometry.phys_base
    if end <= start:
        return range(0)
    return range(start // geometry.unit_size, -(-end // geometry.unit_size))


def unset_bytes(geometry: Geometry, bitmap: Bitmap, ranges: Iterable[tuple[int, int]]) -> int:
    """Bytes of disjoint ranges that no set bit covers. Part of a unit counts as the unit does."""
    unset = 0
    for start, end in ranges:
        units = units_of(geometry, start, end)
        set_ = sum(last - first for first, last in runs(bitmap, units.start, units.stop))
        unset += max(0, end - start - set_ * geometry.unit_size)
    return unset


def states(geometry: Geometry, bitmap: Bitmap, addresses: Sequence[int]) -> bytes:
    """For each address one byte: :data:`ACCEPTED`, :data:`UNACCEPTED`, or :data:`UNCOVERED`.

    The kernel takes an uncovered address as accepted.

    :param addresses: none of them negative
    :raises ValueError: the bitmap has not the length that the geometry says
    """
    return States(geometry, bitmap).of(addresses)


class States:
    """:func:`states` for address after address of one bitmap.

    :raises ValueError: the bitmap has not the length that the geometry says
    """

    def __init__(self, geometry: Geometry, bitmap: Bitmap) -> None:
        _check_length(geometry, bitmap)
        self._geometry = geometry
        self._bitmap = bitmap
        self._looked_up = 0
        #: The state of each unit from address 0 on, and of all that lies behind them. One look-up is a quarter of the
        #: work of finding a bit, once there is a table to look into.
        self._table = b""
        self._shift = geometry.unit_size.bit_length() - 1

    def of(self, addresses: Sequence[int]) -> bytes:
        """The states of these addresses, none of which is negative."""
        self._looked_up += len(addresses)
        if not self._table and self._is_worth_a_table():
            before = self._geometry.phys_base >> self._shift
            units = b"".join(map(_units_of_byte().__getitem__, bytes(self._bitmap)))
            self._table = bytes((UNCOVERED,)) * before + units + bytes((UNCOVERED,))
        if not self._table:
            return self._bit_by_bit(addresses)
        table, shift = self._table, self._shift
        try:
            return bytes([table[address >> shift] for address in addresses])
        except IndexError:
            last = len(table) - 1
            return bytes([table[min(address >> shift, last)] for address in addresses])

    def _is_worth_a_table(self) -> bool:
        geometry = self._geometry
        entries = geometry.units + geometry.phys_base // geometry.unit_size
        is_shift = geometry.unit_size == 1 << self._shift and geometry.phys_base % geometry.unit_size == 0
        return is_shift and entries <= min(_TABLE_ENTRIES, 8 * self._looked_up)

    def _bit_by_bit(self, addresses: Sequence[int]) -> bytes:
        bitmap, (base, _, unit_size), end = self._bitmap, self._geometry, self._geometry.end
        return bytes(
            [
                bitmap[(unit := (address - base) // unit_size) >> 3] >> (unit & 7) & 1
                if base <= address < end
                else UNCOVERED
                for address in addresses
            ]
        )


#: Units whose states are put into a table: 32 TiB of memory.
_TABLE_ENTRIES = 1 << 24


@lru_cache(maxsize=1)
def _units_of_byte() -> list[bytes]:
    return [bytes(byte >> bit & 1 for bit in range(8)) for byte in range(256)]


def range_contains_unaccepted_memory(
    geometry: Geometry, bitmap: Bitmap, start: int, size: int, *, whole_pages: bool = False
) -> bool:
    """What the kernel's function of this name returns for ``phys_addr_t start, unsigned long size``.

    The kernel's arithmetic, step by step (drivers/firmware/efi/unaccepted_memory.c, Linux 6.12; 6.5 to 6.11
    take the end in place of the size):

    * Where the end is unit aligned, the next unit counts too: the guard against load_unaligned_zeropad().
    * A range that ends exactly at ``phys_base`` is not below the table: it goes on, and its guard is unit 0.
    * The walk starts at ``start``, aligned or not, and steps a unit at a time, so it can miss the last unit
      (when ``start % unit_size > end % unit_size``). That is harmless for the kernel's own callers, whose
      blocks are naturally aligned; to ask which units a range touches, use :func:`units_of`.

    :param whole_pages: round the range outwards to whole pages first, as from Linux 7.0 on (948a013a54c4); it
        makes no difference to a range of whole pages
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
    if end <= start:
        return False
    first = start // unit_size
    steps = -(-(end - start) // unit_size)
    return next(runs(bitmap, first, first + steps), None) is not None


def pfn_is_unaccepted_memory(geometry: Geometry, bitmap: Bitmap, pfn: int) -> bool:
    """What the kernel's function of this name (include/linux/mm.h) returns for ``unsigned long pfn``.

    It decides what /proc/kcore and /proc/vmcore show as zeros (e538a5820978 and 7cd34dd3c9bf, Linux 6.7), and
    is true also for the accepted pages of :func:`guard_pages`.
    """
    return range_contains_unaccepted_memory(geometry, bitmap, pfn << PAGE_SHIFT, PAGE_SIZE)


def kernel_predicates(geometry: Geometry, bitmap: Bitmap, addresses: Sequence[int]) -> bytes:
    """For each address 1 where :func:`pfn_is_unaccepted_memory` is true of its page, else 0.

    :raises ValueError: the bitmap has not the length that the geometry says
    """
    # A page lies in one unit; the next page lies in another one only where the guard counts.
    here = states(geometry, bitmap, addresses)
    after = states(geometry, bitmap, [(address | PAGE_SIZE - 1) + 1 for address in addresses])
    return bytes(map(_EITHER.__getitem__, map(int.__or__, here, after)))


def guard_pages(geometry: Geometry, bitmap: Bitmap) -> Iterator[Range]:
    """The accepted pages that :func:`pfn_is_unaccepted_memory` claims: the last before each unaccepted run.

    The page that ends at ``phys_base`` is one of them if bit 0 is set, although it is outside the bitmap: a
    range that ends there goes on, and its guard is unit 0.
    """
    for run in unaccepted_ranges(geometry, bitmap):
        if run.start >= PAGE_SIZE:
            yield Range(run.start - PAGE_SIZE, run.start)
