# SPDX-License-Identifier: LGPL-2.1-or-later
"""Zeros of a bitmap where no list can be asked: which are believed. With lists: tests/lab/test_adversary.py."""

from __future__ import annotations

from typing import Optional

import pytest
from drgn_unaccepted.model.zeros import Allocator, Bitmap, doubt, has_zero_page

from drgn_unaccepted.model.bitmap import PAGE_SIZE, Geometry

UNIT = 2 << 20
ADDRESS = 0x1F773018
#: Bytes of the bitmap in the header's page.
FIRST = PAGE_SIZE - ADDRESS % PAGE_SIZE - 24


def bitmap_of(data: bytes) -> Bitmap:
    return Bitmap(ADDRESS, Geometry(4 << 30, len(data), UNIT), data)


def reason(data: bytes, counted: Optional[int] = None) -> Optional[str]:
    return doubt(bitmap_of(data), Allocator((), False, counted, 1024))


def test_a_page_of_zeros_without_the_header_proves_nothing() -> None:
    bitmap = b"\xff" * FIRST + bytes(PAGE_SIZE) + b"\xff"
    assert has_zero_page(bitmap_of(bitmap))
    said = reason(bitmap)
    assert said is not None
    assert said.startswith("the bits from its page at 0x1f774000 on are all 0 for 64 GiB, and no lists were read")
    # A counter that agrees does not say which of them are set.
    assert reason(bitmap, 8 * (FIRST + 1) * UNIT) == said


def test_the_header_s_page_was_captured() -> None:
    assert has_zero_page(bitmap_of(bytes(FIRST)))
    assert reason(bytes(FIRST)) is None
    assert reason(bytes(FIRST - 1) + b"\1", UNIT) is None


def test_any_bit_shows_that_a_page_was_captured() -> None:
    bitmap = bytes(FIRST) + b"\1" + bytes(PAGE_SIZE - 1)
    assert reason(bitmap) is None


@pytest.mark.parametrize(("chunks", "doubted"), [(1, False), (10, False), (11, True)])
def test_a_counter_says_more_than_the_bits_and_their_edges(chunks: int, doubted: bool) -> None:
    """One run of two units, 4 MiB: a chunk at each end may be without a bit, and eight that are being accepted."""
    said = reason(b"\3" + bytes(FIRST - 1), chunks * (4 << 20))
    assert said == ("NR_UNACCEPTED counts 44 MiB, and the bits 4 MiB: not what the kernel had" if doubted else None)
