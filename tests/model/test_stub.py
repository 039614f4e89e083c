# SPDX-License-Identifier: LGPL-2.1-or-later
"""The stub's algorithm against a model that goes page by page, and on the cases that its source names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drgn_unaccepted.model.bitmap import Geometry
from drgn_unaccepted.model.efi import CONVENTIONAL, UNACCEPTED, EfiDescriptor
from drgn_unaccepted.model.ranges import Range
from drgn_unaccepted.model.stub import allocate_unaccepted_bitmap, beyond_bitmap, process_unaccepted_memory

PAGE = 4096
PAGES_A_UNIT = 4
UNIT = PAGES_A_UNIT * PAGE
MIB = 1 << 20


def descriptor(start: int, end: int, type_: int = UNACCEPTED) -> EfiDescriptor:
    return EfiDescriptor(type_, start, end, 0xF)


#: Maps in any order, of pages 0 to 120, overlaps included (the stub does not look).
maps = st.lists(
    st.builds(
        lambda page, pages, type_: descriptor(page * PAGE, (page + pages) * PAGE, type_),
        st.integers(0, 100),
        st.integers(0, 20),
        st.sampled_from([UNACCEPTED, UNACCEPTED, UNACCEPTED, CONVENTIONAL]),
    ),
    max_size=6,
)


def page_by_page(descriptors: list[EfiDescriptor], geometry: Geometry) -> tuple[set[int], set[int]]:
    """Set bits and accepted pages, from the rules and not from the steps.

    A unit gets its bit if a descriptor of two units or more holds all of it and the bitmap covers it; every
    other page of a descriptor is accepted.
    """
    units, accepted = set(), set()
    for entry in descriptors:
        if entry.type != UNACCEPTED:
            continue
        pages = set(range(entry.start // PAGE, entry.end // PAGE))
        for page in sorted(pages):
            unit = page // PAGES_A_UNIT - geometry.phys_base // UNIT
            whole = set(range(page // PAGES_A_UNIT * PAGES_A_UNIT, (page // PAGES_A_UNIT + 1) * PAGES_A_UNIT))
            if len(pages) >= 2 * PAGES_A_UNIT and whole <= pages and 0 <= unit < geometry.bitmap_bytes * 8:
                units.add(unit)
            else:
                accepted.add(page)
    return units, accepted


def compare(descriptors: list[EfiDescriptor], geometry: Geometry) -> None:
    unaccepted, accepted = process_unaccepted_memory(descriptors, geometry)
    units, pages = page_by_page(descriptors, geometry)
    base = geometry.phys_base
    assert {(at - base) // UNIT for start, end in unaccepted for at in range(start, end, UNIT)} == units
    assert {page for start, end in accepted for page in range(start // PAGE, end // PAGE)} >= pages
    if not beyond_bitmap(descriptors, geometry):
        assert {page for start, end in accepted for page in range(start // PAGE, end // PAGE)} == pages


@given(maps)
def test_the_map_that_the_table_was_made_for(descriptors: list[EfiDescriptor]) -> None:
    geometry = allocate_unaccepted_bitmap(descriptors, UNIT)
    unaccepted = [entry for entry in descriptors if entry.type == UNACCEPTED]
    if geometry is None:
        assert not unaccepted
        return
    assert unaccepted
    assert geometry.phys_base % UNIT == 0
    for entry in unaccepted:
        assert geometry.phys_base <= entry.start
        assert entry.end <= geometry.end
    low, high = min(entry.start for entry in unaccepted), max(entry.end for entry in unaccepted)
    assert low - geometry.phys_base < UNIT
    assert geometry.end - high < 8 * UNIT + UNIT
    assert not beyond_bitmap(unaccepted, geometry)
    compare(descriptors, geometry)


@given(maps, st.integers(0, 20), st.integers(1, 3))
def test_a_reused_table_of_another_size(descriptors: list[EfiDescriptor], base_unit: int, nbytes: int) -> None:
    compare(descriptors, Geometry(base_unit * UNIT, nbytes, UNIT))


@pytest.mark.parametrize(
    ("ranges", "unaccepted", "accepted"),
    [
        ([(0, 0x300000), (0x300000, 0x600000)], [], [(0, 0x600000)]),
        ([(0, 0x600000)], [(0, 0x600000)], []),
        ([(4096, 4 * MIB)], [], [(4096, 4 * MIB)]),
        ([(MIB, 8 * MIB + 4096)], [(2 * MIB, 8 * MIB)], [(MIB, 2 * MIB), (8 * MIB, 8 * MIB + 4096)]),
    ],
    ids=["neighbours are not merged", "one descriptor", "less than two units (the kernel's comment)", "edges"],
)
def test_examples(
    ranges: list[tuple[int, int]], unaccepted: list[tuple[int, int]], accepted: list[tuple[int, int]]
) -> None:
    found = process_unaccepted_memory([descriptor(*each) for each in ranges], Geometry(0, 1, 2 * MIB))
    assert found == (unaccepted, accepted)


def test_a_descriptor_above_the_bitmap_is_reported() -> None:
    geometry = Geometry(0, 1, 2 * MIB)
    at_the_end, above = descriptor(16 * MIB, 20 * MIB), descriptor(18 * MIB, 22 * MIB)
    assert beyond_bitmap([at_the_end, above], geometry) == [above]
    assert process_unaccepted_memory([above], geometry) == ([], [Range(16 * MIB, 22 * MIB)])
