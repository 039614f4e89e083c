# SPDX-License-Identifier: LGPL-2.1-or-later
"""The header, on the figures of a real report (Edgeless Systems, February 2026) and on broken ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drgn_unaccepted.model.header import HEADER, Header, decode_header, judge_header, unreserved_tail
from drgn_unaccepted.model.ranges import Range

#: version=1 unit_size=2097152 phys_base=0x100000000 size=0xfdc, the table at 0x7d624018.
EDGELESS = Header(1, 2097152, 0x100000000, 0xFDC)
EDGELESS_ADDRESS = 0x7D624018
EDGELESS_BYTES = bytes.fromhex("01000000 00002000 0000000001000000 dc0f000000000000")


def test_the_reported_header() -> None:
    assert HEADER.size == 24
    assert decode_header(EDGELESS_BYTES + b"bitmap") == EDGELESS
    assert judge_header(EDGELESS, EDGELESS_ADDRESS) == ("present", None)
    assert EDGELESS.geometry.units == 32480
    assert EDGELESS.geometry.end == 0x100000000 + 32480 * 0x200000
    # The fault was at ...625008, in the first page after the reservation.
    assert unreserved_tail(Range(EDGELESS_ADDRESS, EDGELESS_ADDRESS + 24 + EDGELESS.bitmap_bytes)) == Range(
        0x7D625000, 0x7D62500C
    )


@given(st.integers(0, 1 << 40).map(lambda n: n * 8), st.integers(1, 1 << 20))
def test_reservation_predicate_is_the_references(address: int, size: int) -> None:
    page_aligned = (24 + size + 4095) & ~4095
    assert (unreserved_tail(Range(address, address + 24 + size)) is not None) == (
        (address & 0xFFF) + 24 + size > page_aligned
    )


def judge(**changed: int) -> tuple[str, str | None]:
    return judge_header(EDGELESS._replace(**changed), EDGELESS_ADDRESS)


def test_what_is_no_header_of_version_1() -> None:
    with pytest.raises(ValueError, match="23 bytes"):
        decode_header(bytes(23))
    zeros = decode_header(bytes(24))
    assert judge_header(zeros, EDGELESS_ADDRESS) == ("not-captured", "the header reads as zeros")
    for version, words in ((2, "two bitmaps"), (0, "version 0, only version 1 is known"), (0xFFFFFFFF, "version")):
        state, reason = judge(version=version)
        assert state == "unsupported" and words in reason


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"unit_size": 0}, "unit_size"),
        ({"unit_size": 3}, "unit_size"),
        ({"unit_size": 2048}, "unit_size"),
        ({"unit_size": 0x300000}, "unit_size"),
        ({"phys_base": 0x100000001}, "phys_base"),
        ({"phys_base": 0x100001000}, "phys_base"),
        ({"bitmap_bytes": 0}, "size"),
        ({"bitmap_bytes": (256 << 20) + 1}, "size"),
        ({"bitmap_bytes": 1 << 60}, "size"),
        ({"phys_base": (1 << 52) - 0x200000}, "phys_base"),
        (
            {"phys_base": (1 << 64) - 0x200000},
            "phys_base, size: the bitmap covers up to 0x10000000fdbe00000, which wraps",
        ),
        ({"unit_size": 1 << 31, "bitmap_bytes": 1 << 28}, "phys_base"),
    ],
)
def test_invalid_headers_name_the_field(changed: dict[str, int], field: str) -> None:
    state, reason = judge(**changed)
    assert state == "invalid"
    assert reason.startswith(field)


def test_the_bounds_themselves_are_valid() -> None:
    for unit_size in (4096, 128 << 20, 256 << 20):
        assert judge(unit_size=unit_size) == ("present", None)
    assert judge_header(EDGELESS, (1 << 52) - 24)[0] == "invalid"
    whole = Header(1, 2 << 20, 0, 256 << 20)
    assert whole.geometry.end == 1 << 52
    assert judge_header(whole, EDGELESS_ADDRESS) == ("present", None)
