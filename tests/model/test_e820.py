# SPDX-License-Identifier: LGPL-2.1-or-later
"""The e820 tables: bytes, lookups, and the differences of two tables, address by address."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drgn_unaccepted import limits
from drgn_unaccepted.model.e820 import E820Entry, decode_e820_entries, differences, find_entry, flatten

TOP = 40
tables = st.lists(
    st.builds(
        lambda start, size, type_: E820Entry(start, start + size, type_),
        st.integers(0, TOP),
        st.integers(0, 12),
        st.sampled_from([1, 1, 2, 3, 0xEFFFFFFF]),
    ),
    max_size=8,
)


def encode(entries: list[E820Entry]) -> bytes:
    return b"".join(struct.pack("<QQI", start, end - start, type_) for start, end, type_ in entries)


def types(table: list[E820Entry]) -> list[int | None]:
    """The type of each address; the highest where entries overlap."""
    return [
        max((type_ for start, end, type_ in table if start <= address < end), default=None)
        for address in range(TOP + 14)
    ]


@given(tables)
def test_round_trip(entries: list[E820Entry]) -> None:
    packed = encode(entries)
    room = bytes(20 * 3)  # the array has more room than entries
    assert decode_e820_entries(packed + room, len(entries)) == entries


def test_bounds() -> None:
    with pytest.raises(ValueError, match="of 3201 entries, over the limit of 3200"):
        decode_e820_entries(bytes(20 * 4000), limits.E820_ENTRIES + 1)
    with pytest.raises(ValueError, match="2 entries in 39 bytes"):
        decode_e820_entries(bytes(39), 2)
    with pytest.raises(ValueError, match="entry 1: 0x2000 bytes from 0xfffffffffffff000 wrap"):
        decode_e820_entries(encode([E820Entry(0, 1, 1)]) + struct.pack("<QQI", (1 << 64) - 4096, 8192, 1), 2)


@given(tables)
def test_lookup_and_flat_table_agree_with_each_address(table: list[E820Entry]) -> None:
    flat = flatten(table)
    assert types(flat) == types(table)
    for address, type_ in enumerate(types(table)):
        entry = find_entry(table, address)
        assert (entry.type if entry else None) == type_
        assert entry is None or entry in table
    for a, b in zip(flat, flat[1:]):
        assert a.end < b.start or (a.end == b.start and a.type != b.type)


@given(tables, tables)
def test_differences_are_those_of_each_address(a: list[E820Entry], b: list[E820Entry]) -> None:
    found = differences(a, b)
    expected = {address: (one, other) for address, (one, other) in enumerate(zip(types(a), types(b))) if one != other}
    assert {
        address: (item.a, item.b) for item in found for address in range(item.range.start, item.range.end)
    } == expected
    for one, other in zip(found, found[1:]):
        assert one.range.end <= other.range.start
        assert one.range.end < other.range.start or (one.a, one.b) != (other.a, other.b)
