# SPDX-License-Identifier: LGPL-2.1-or-later
"""The walk against page tables that are written here, the way the processor's manual describes them."""

from __future__ import annotations

import struct

import pytest
from drgn import FaultError
from hypothesis import given, settings
from hypothesis import strategies as st

from drgn_unaccepted import limits
from drgn_unaccepted.targets.page_tables import PageTables

PAGE = 4096
MIB = 1 << 20
GIB = 1 << 30
PRESENT, WRITE, ACCESSED, LARGE, NX = 1 << 0, 1 << 1, 1 << 5, 1 << 7, 1 << 63
FLAGS = PRESENT | WRITE | ACCESSED | NX


class Memory:
    """Physical memory with page tables that grow as pages are mapped."""

    def __init__(self, levels: int = 4, c_bit: int = 0) -> None:
        self.levels, self.c_bit = levels, c_bit
        self.tables: dict[int, list[int]] = {0x1000: [0] * 512}
        self.bytes: dict[int, bytes] = {}

    def map(self, virtual: int, physical: int, size: int, flags: int = FLAGS) -> None:
        table = 0x1000
        shift = 12 + 9 * (self.levels - 1)
        while 1 << shift > size:
            slot = virtual >> shift & 511
            if not self.tables[table][slot] & PRESENT:
                new = 0x1000 + PAGE * len(self.tables)
                self.tables[new] = [0] * 512
                self.tables[table][slot] = new | FLAGS | self.c_bit
            table = self.tables[table][slot] & 0xFFFFFFFFFF000 & ~self.c_bit
            shift -= 9
        self.tables[table][virtual >> shift & 511] = physical | flags | self.c_bit | (LARGE if size > PAGE else 0)

    def read(self, address: int, size: int) -> bytes:
        if address in self.tables:
            return struct.pack("<512Q", *self.tables[address])[:size]
        page, offset = divmod(address, PAGE)
        if page * PAGE not in self.bytes:
            raise FaultError("no such memory", address)
        return self.bytes[page * PAGE][offset : offset + size]

    def page_tables(self) -> PageTables:
        return PageTables(self.read, 0x1000, self.levels, self.c_bit)


@pytest.mark.parametrize("c_bit", (0, 1 << 47, 1 << 51))
@pytest.mark.parametrize("levels", (4, 5))
@pytest.mark.parametrize("size", (PAGE, 2 * MIB, GIB))
def test_every_size_of_page_with_and_without_the_c_bit(size: int, levels: int, c_bit: int) -> None:
    virtual = (0xFF11000000000000 if levels == 5 else 0xFFFF888000000000) + 5 * GIB
    memory = Memory(levels, c_bit)
    memory.map(virtual, 1 << 40, size)
    tables = memory.page_tables()
    assert tables.translate(virtual) == (1 << 40, (1 << 40) + size)
    assert tables.translate(virtual + size - 1) == ((1 << 40) + size - 1, (1 << 40) + size)
    for outside in (virtual - 1, virtual + size):
        with pytest.raises(FaultError, match="not mapped"):
            tables.translate(outside)


@pytest.mark.parametrize(
    ("size", "flags"),
    # PAT of a large page, and of a small one, where it is the bit of a large one; protection keys and software's bits.
    ((2 * MIB, FLAGS | 1 << 12), (PAGE, FLAGS | LARGE), (PAGE, FLAGS | 0x7FF << 52 | 7 << 9)),
)
def test_bits_that_are_no_address(size: int, flags: int) -> None:
    memory = Memory()
    memory.map(0x600000, 6 * MIB, size, flags)
    assert memory.page_tables().translate(0x600008) == (6 * MIB + 8, 6 * MIB + size)


@settings(max_examples=50)
@given(st.permutations(range(16)), st.integers(0, 16 * PAGE - 1), st.integers(1, 16 * PAGE), st.sampled_from((4, 5)))
def test_what_is_read_is_what_stands_in_the_pages(order: list[int], start: int, size: int, levels: int) -> None:
    """16 pages in any order, so that some are contiguous and some are not."""
    memory = Memory(levels, order[0] % 2 << 51)
    virtual = 0xFFFFEA0000000000
    whole = b""
    for number, place in enumerate(order):
        physical = 0x40000000 + place * PAGE
        memory.map(virtual + number * PAGE, physical, PAGE)
        memory.bytes[physical] = bytes([number]) * 8 + bytes(range(256)) * 15 + bytes([place]) * 248
        whole += memory.bytes[physical]
    size = min(size, len(whole) - start)
    assert memory.page_tables().read(virtual + start, size) == whole[start : start + size]


def test_a_read_fails_where_one_page_of_it_is_missing() -> None:
    memory = Memory()
    memory.map(0x5000, 0x9000000, PAGE)
    memory.map(0x6000, 0xA000000, PAGE)
    memory.map(0x7000, 0xB000000, PAGE, FLAGS & ~PRESENT)
    memory.bytes[0x9000000] = bytes(PAGE)
    memory.tables[0x1000][1] = 0x123456000 | FLAGS
    tables = memory.page_tables()
    assert tables.read(0x5000, PAGE) == bytes(PAGE)
    with pytest.raises(FaultError, match="0xa000000"):
        tables.read(0x5FFF, 2)
    memory.bytes[0xA000000] = bytes(PAGE)
    with pytest.raises(FaultError, match="not mapped") as caught:
        tables.read(0x6FFF, 2)
    assert caught.value.address == 0x7000
    with pytest.raises(FaultError, match="0x123456000 is not in this target"):
        tables.translate(1 << 39)


def test_a_table_that_leads_to_itself_ends() -> None:
    """As firmware maps its tables, and as a damaged dump may: the levels are counted, not followed."""
    memory = Memory(levels=5)
    memory.tables[0x1000] = [0x1000 | FLAGS] * 512
    assert memory.page_tables().translate(0xFFFF888000001234) == (0x1234, 0x2000)


def test_a_large_bit_where_the_processor_reserves_it_is_not_followed_as_a_page() -> None:
    memory = Memory(levels=5)
    memory.map(0, 0x9000, PAGE)
    for table in memory.tables.values():
        if table[0] & 0xFFFFFFFFFF000 in memory.tables:
            table[0] |= LARGE
    # Of levels 5 and 4 there are no large pages; level 3 makes 1 GiB.
    assert memory.page_tables().translate(0x1000).end % GIB == 0


def test_many_tables_are_not_all_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PAGE_TABLES_KEPT", 8)
    memory = Memory()
    for number in range(64):
        memory.map(number * GIB, number * PAGE, PAGE)
    tables = memory.page_tables()
    assert [tables.translate(number * GIB).start for number in range(64)] == [number * PAGE for number in range(64)]
    assert tables._table.cache_info().currsize <= 8
