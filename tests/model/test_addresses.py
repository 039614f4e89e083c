# SPDX-License-Identifier: LGPL-2.1-or-later
"""Addresses as users type and paste them."""

from __future__ import annotations

import pytest

from drgn_unaccepted.model.addresses import Query, bounded, on_command_line, parse_query, split_queries

GIB = 1 << 30


@pytest.mark.parametrize(
    ("text", "start", "end"),
    (
        ("0x125a00000", 0x125A00000, None),
        ("0X125A00000", 0x125A00000, None),
        ("0", 0, None),
        ("4G", 4 * GIB, None),
        ("4096m-5g", 4 * GIB, 5 * GIB),
        ("0x1000+4K", 0x1000, 0x2000),
        ("pfn:0x148200", 0x148200000, None),
        ("PFN:0x148200+2M", 0x148200000, 0x148400000),
        ("pfn:0x100-pfn:0x200", 0x100000, 0x200000),
        # dmesg: the end is inclusive.
        ("[mem 0x0000000125a00000-0x0000000137ffffff]", 0x125A00000, 0x138000000),
        ("[mem 0x1000-0x1000]", 0x1000, 0x1001),
        # An oops prints 16 digits.
        ("ffff888125a00008", 0xFFFF888125A00008, None),
        ("FF11000125a00008", 0xFF11000125A00008, None),
        ("0xffffffff81000000-0xffffffff81200000", 0xFFFFFFFF81000000, 0xFFFFFFFF81200000),
        ("0000000100000000", 1 << 32, None),
        ("0xfffffffffffff", (1 << 52) - 1, None),
        ("0x0-0x10000000000000", 0, 1 << 52),
        ("0xfffffffffffffff0+0x10", (1 << 64) - 16, 1 << 64),
    ),
)
def test_what_can_be_typed(text: str, start: int, end: int) -> None:
    query = parse_query(text)
    assert (query.start, query.end, query.text, query.is_virtual) == (start, end, text, start >= 0xFF << 56)


@pytest.mark.parametrize(
    ("text", "words"),
    (
        ("100000000", "decimal or hexadecimal? write 0x5f5e100 or 0x100000000"),
        ("pfn:1344000", "decimal or hexadecimal? write 0x148200 or 0x1344000"),
        ("1234567890123456", "decimal or hexadecimal? write 0x462d53c8abac0 or"),
        ("100000000-137ffffff", "decimal or hexadecimal"),
        ("125a00000", "did you mean 0x125a00000?"),
        ("ffff88812560000", "did you mean"),
        ("", "not an address"),
        ("0x", "not an address"),
        ("0x12h", "not an address"),
        ("0x1_0", "not an address"),
        ("1.5G", "not an address"),
        ("-1", "not an address"),
        ("0x10-", "not an address"),
        ("[mem 0x10-0x20", "not an address"),
        ("[mem 10-20]", "not an address"),
        ("[mem 0x20-0x10]", "ends before it starts"),
        ("0x20-0x10", "ends before it starts"),
        ("0x20-0x20", "is empty"),
        ("0x20+0", "is empty"),
        ("0x10000000000000", "beyond the last physical address, 0xfffffffffffff"),
        ("0x1000-0xffff888125a00008", "beyond the last physical address"),
        ("0xfe00000000000000", "the kernel's begin at 0xff00000000000000"),
        ("0x1ffff888125a00008", "the last physical address"),
        ("0xfffffffffffffff0+0x11", "the last physical address"),
    ),
)
def test_what_cannot(text: str, words: str) -> None:
    with pytest.raises(ValueError, match="^" + text.replace("[", r"\[").replace("+", r"\+")) as refused:
        parse_query(text)
    assert words in str(refused.value)


def test_a_line_of_dmesg_is_one_query() -> None:
    words = ["4G", "[mem", "0x1000-0x1fff]", "[mem 0x0-0xfff]", "0x10", "[mem"]
    assert split_queries(words) == ["4G", "[mem 0x1000-0x1fff]", "[mem 0x0-0xfff]", "0x10", "[mem"]


@pytest.mark.parametrize(
    ("line", "found"),
    (
        ("quiet memmap=64M$4G,0x1000$0x2000 memmap=1K$4096", [(4 * GIB, 4 * GIB + (64 << 20)), (0x2000, 0x3000)]),
        ("memmap=64M@4G xmemmap=1M$1M memmap=1M memmap=$ memmap=1Q$1M memmap=0$1M memmap=1M$ memmap=64G$1T5", []),
        ("memmap=1M$4503599627370495", [((1 << 52) - 1, 1 << 52)]),
    ),
)
def test_ranges_on_the_command_line(line: str, found: list[tuple[int, int]]) -> None:
    more = [(4096, 5120)] if "memmap=1K" in line else []
    assert on_command_line(line, "memmap", "$#!") == found + more


def test_a_signed_pointer_is_no_address() -> None:
    """``int()`` of a signed drgn value, as a script can give it to a helper."""
    with pytest.raises(ValueError, match="negative"):
        bounded(Query(0xFFFF888125A00008 - (1 << 64), None, "p"))
