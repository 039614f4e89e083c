# SPDX-License-Identifier: LGPL-2.1-or-later
"""The bitmap against text of ones and zeros, and against the kernel's walk written out unit by unit."""

from __future__ import annotations

from itertools import groupby

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drgn_unaccepted.model import bitmap as bits
from drgn_unaccepted.model.bitmap import Geometry
from drgn_unaccepted.model.ranges import Range

few = settings(max_examples=40)

UNIT = 4 * 4096  # small, so that every page can be tried


def text_of(bitmap: bytes) -> str:
    """Bit 0 first. Bytes as the ABI has them: little endian, least significant bit first."""
    return "".join(f"{byte:08b}"[::-1] for byte in bitmap)


def runs_of(text: str) -> list[tuple[int, int]]:
    found, position = [], 0
    for value, group in groupby(text):
        length = len(list(group))
        if value == "1":
            found.append((position, position + length))
        position += length
    return found


def bitmap_of(text: str) -> bytes:
    assert len(text) % 8 == 0
    return bytes(int(text[i : i + 8][::-1], 2) for i in range(0, len(text), 8))


#: Long stretches, so that whole blocks of 65,536 bits are skipped, and short ones, at any offset.
stretches = st.lists(
    st.tuples(st.booleans(), st.integers(1, 9) | st.integers(5_000, 30_000) | st.integers(65_000, 140_000)), max_size=4
)


def from_stretches(parts: list[tuple[bool, int]]) -> bytes:
    text = "".join("01"[value] * length for value, length in parts)
    return bitmap_of(text + "0" * (-len(text) % 8))


bitmaps = st.binary(max_size=40) | stretches.map(from_stretches)


@few
@given(bitmaps)
def test_runs_are_the_ones_of_the_text(bitmap: bytes) -> None:
    assert list(bits.runs(bitmap)) == runs_of(text_of(bitmap))


@few
@given(bitmaps, st.data())
def test_runs_between_two_bits(bitmap: bytes, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, 8 * len(bitmap)))
    end = data.draw(st.integers(start, 8 * len(bitmap)))
    inside = [(first + start, last + start) for first, last in runs_of(text_of(bitmap)[start:end])]
    assert list(bits.runs(bitmap, start, end)) == inside
    assert bits.count(bitmap, start, end) == text_of(bitmap)[start:end].count("1")


@few
@given(bitmaps)
def test_round_trip_count_and_extent(bitmap: bytes) -> None:
    assert bits.from_runs(bits.runs(bitmap), len(bitmap)) == bitmap
    assert bits.count(bitmap) == text_of(bitmap).count("1")
    runs = runs_of(text_of(bitmap))
    assert bits.extent(bitmap) == ((runs[0][0], runs[-1][1], len(runs)) if runs else None)
    geometry = Geometry(7 * UNIT, len(bitmap), UNIT)
    ranges = [Range((7 + first) * UNIT, (7 + end) * UNIT) for first, end in bits.runs(bitmap)]
    assert list(bits.unaccepted_ranges(geometry, bitmap)) == ranges


@given(st.binary(min_size=1, max_size=6), st.integers(0, 9))
def test_each_address_has_its_unit_and_bit(bitmap: bytes, base_unit: int) -> None:
    geometry = Geometry(base_unit * UNIT, len(bitmap), UNIT)
    text = text_of(bitmap)
    for address in [*range(0, geometry.end + 2 * UNIT, 1024), geometry.end - 1, geometry.phys_base]:
        unit = address // UNIT - base_unit
        covered = 0 <= unit < len(text)
        assert geometry.index(address) == (unit if covered else None)
        if covered:
            assert geometry.unit(unit).start <= address < geometry.unit(unit).end
    assert geometry.units == len(text)


@given(st.integers(0, 9), st.integers(1, 3), st.integers(0, 40 * 4), st.integers(0, 40 * 4))
def test_units_of_are_all_that_is_touched(base_unit: int, nbytes: int, start: int, pages: int) -> None:
    geometry = Geometry(base_unit * UNIT, nbytes, UNIT)
    touched = {geometry.index(page * 4096) for page in range(start, start + pages)} - {None}
    assert set(bits.units_of(geometry, start * 4096, (start + pages) * 4096)) == touched


def kernel_walk(geometry: Geometry, text: str, start: int, size: int) -> bool:
    """range_contains_unaccepted_memory() as the reference describes it, one unit at a time."""
    end = start + size
    start = max(start, geometry.phys_base)
    if end < geometry.phys_base:
        return False
    start -= geometry.phys_base
    end -= geometry.phys_base
    if end % geometry.unit_size == 0:
        end += geometry.unit_size
    end = min(end, len(text) * geometry.unit_size)
    while start < end:
        if text[start // geometry.unit_size] == "1":
            return True
        start += geometry.unit_size
    return False


@given(
    st.binary(min_size=1, max_size=3),
    st.integers(0, 3),
    st.lists(st.tuples(st.integers(0, 40 * UNIT), st.integers(0, 12 * UNIT)), max_size=20),
)
def test_the_kernels_predicate(bitmap: bytes, base_unit: int, asked: list[tuple[int, int]]) -> None:
    geometry = Geometry(base_unit * UNIT, len(bitmap), UNIT)
    text = text_of(bitmap)
    edges = [(a * 4096, b * 4096) for a in range(0, 20) for b in (1, 2, 3, 4, 5, 8, 9)]
    for start, size in asked + edges:
        assert bits.range_contains_unaccepted_memory(geometry, bitmap, start, size) == kernel_walk(
            geometry, text, start, size
        )


def test_linux_7_rounds_to_whole_pages() -> None:
    """One byte short of a unit's end: only the rounded range ends on the boundary and has a guard."""
    geometry = Geometry(0, 1, UNIT)
    assert not bits.range_contains_unaccepted_memory(geometry, b"\x02", 0, UNIT - 1)
    assert bits.range_contains_unaccepted_memory(geometry, b"\x02", 0, UNIT - 1, whole_pages=True)
    assert bits.range_contains_unaccepted_memory(geometry, b"\x01", UNIT - 1, 0, whole_pages=True)


@given(st.binary(min_size=1, max_size=4), st.integers(0, 3))
def test_guard_pages_are_the_accepted_pages_that_the_kernel_masks(bitmap: bytes, base_unit: int) -> None:
    geometry = Geometry(base_unit * UNIT, len(bitmap), UNIT)
    text = text_of(bitmap)
    masked = []
    for pfn in range((geometry.end + 2 * UNIT) // 4096):
        predicate = bits.range_contains_unaccepted_memory(geometry, bitmap, pfn * 4096, 4096)
        assert predicate == kernel_walk(geometry, text, pfn * 4096, 4096)
        unit = pfn * 4096 // UNIT - base_unit
        if predicate and not (0 <= unit < len(text) and text[unit] == "1"):
            masked.append(Range(pfn * 4096, (pfn + 1) * 4096))
    assert list(bits.guard_pages(geometry, bitmap)) == masked


def test_addresses_beyond_63_bits_are_not_lost() -> None:
    geometry = Geometry(1 << 63, 1, 1 << 62)
    assert list(bits.unaccepted_ranges(geometry, b"\x80")) == [Range((1 << 63) + (7 << 62), (1 << 63) + (8 << 62))]


def test_what_is_outside_the_bitmap_is_refused() -> None:
    geometry = Geometry(0, 1, UNIT)
    for index in (-1, 8):
        with pytest.raises(IndexError):
            geometry.unit(index)
    for start, end in ((-1, 3), (3, 2), (0, 9)):
        with pytest.raises(ValueError, match="outside a bitmap of 8 bits"):
            bits.runs(b"\xff", start, end)
        with pytest.raises(ValueError, match="outside a bitmap of 8 bits"):
            bits.from_runs([(start, end)], 1)
    with pytest.raises(ValueError, match="2 bytes where the geometry says 1"):
        bits.unaccepted_ranges(geometry, bytes(2))
