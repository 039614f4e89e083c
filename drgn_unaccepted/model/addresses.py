# SPDX-License-Identifier: LGPL-2.1-or-later
"""Physical addresses and ranges, as users write them."""

from __future__ import annotations

from typing import NamedTuple, Optional

from drgn_unaccepted.limits import PHYSICAL_END
from drgn_unaccepted.model.ranges import Range


class Query(NamedTuple):
    """A physical address, or a range of them."""

    start: int
    #: Exclusive; None for a single address.
    end: Optional[int]
    #: As it was written.
    text: str = ""

    @property
    def range(self) -> Range:
        return Range(self.start, self.start + 1 if self.end is None else self.end)


_HEXADECIMAL = "0123456789abcdefABCDEF"
_SUFFIXES = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def parse_query(text: str) -> Query:
    """``ADDR``, ``ADDR-END`` (END exclusive) or ``ADDR+LEN``.

    :raises ValueError: one line that says what is wrong with it
    """
    for mark in "-+":
        first, found, second = text.partition(mark)
        if found:
            start, other = parse_address(first), parse_address(second)
            end = other if mark == "-" else start + other
            if end <= start:
                raise ValueError(f"{text}: the range is empty (its end is exclusive)")
            return _bounded(text, Query(start, end, text))
    return _bounded(text, Query(parse_address(text), None, text))


def parse_address(text: str) -> int:
    """A hexadecimal number with ``0x``, or a decimal one with a suffix K, M, G or T (powers of 1024).

    Digits alone are refused: ``100000000`` out of /proc/iomem is hexadecimal, out of JSON decimal.
    """
    if text[:2].lower() == "0x":
        # int() alone takes signs, underscores and another 0x.
        if not text[2:] or text[2:].strip(_HEXADECIMAL):
            raise ValueError(f"{text}: not an address")
        return int(text, 16)
    if text[-1:].upper() in _SUFFIXES and text[:-1].isascii() and text[:-1].isdecimal():
        return int(text[:-1]) * _SUFFIXES[text[-1].upper()]
    if text and not text.strip("0"):
        return 0
    if text.isascii() and text.isdecimal():
        raise ValueError(f"{text}: decimal or hexadecimal? write 0x{text}, or a suffix K, M, G or T")
    raise ValueError(f"{text}: not an address (0x and hexadecimal digits, or a number with K, M, G or T)")


def _bounded(text: str, query: Query) -> Query:
    if query.range.end > PHYSICAL_END:
        raise ValueError(f"{text}: beyond the last physical address, {PHYSICAL_END - 1:#x}")
    return query
