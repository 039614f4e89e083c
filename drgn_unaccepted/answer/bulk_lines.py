# SPDX-License-Identifier: LGPL-2.1-or-later
"""``resolve -f`` with numpy: all lines of a block at once, by columns.

Only the usual form is known here, ``0x`` and hexadecimal digits, each on a line of its own. A block with anything else
in it is left to :mod:`drgn_unaccepted.answer.bulk`, which gives the same answers an address at a time, and has the
words for what is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Callable, NamedTuple, Optional

import numpy as np
from numpy.typing import NDArray

from drgn_unaccepted.limits import PHYSICAL_END
from drgn_unaccepted.model.bitmap import UNCOVERED, Bitmap, Geometry

Numbers = NDArray[np.int64]
Bytes = NDArray[np.uint8]
Places = NDArray[np.intp]

#: As many hexadecimal digits as 64 bits have; more are read an address at a time.
_DIGITS = 16

#: As many may be left out: whether an address is beyond the last physical one is still seen.
_MOST_DROPPED = (PHYSICAL_END.bit_length() - 1) // 4 - 1

_SHORTEST = len("0x0")
_NEWLINE = ord("\n")


class Lines(NamedTuple):
    """Addresses one after the other, in the text that they were read from."""

    text: bytes
    #: Where in the text the newline of each is.
    ends: Places
    #: Bytes of a line with its newline, where all have as many, as kernels print addresses and sorted ones are.
    width: Optional[int]
    #: For each its place in ``Bulk.kinds``.
    kinds: Bytes


class LookUp(NamedTuple):
    """What tells the kinds of addresses without their last digits."""

    #: Hexadecimal digits at the end of an address that make no difference.
    dropped: int
    #: The kinds of addresses that lack these digits.
    kinds: Callable[[Numbers], Bytes]


def in_bitmap(geometry: Geometry, bitmap: Bitmap) -> LookUp:
    """As :func:`drgn_unaccepted.model.bitmap.states`."""
    base, nbytes, unit = geometry
    dropped = _zero_digits((base, unit))
    base, unit = base >> 4 * dropped, unit >> 4 * dropped
    data = np.frombuffer(bitmap, np.uint8)

    def kinds(addresses: Numbers) -> Bytes:
        index = (addresses - base) // unit
        # What lies below the bitmap is negative, and beyond all units when it is read as unsigned.
        outside = index.view(np.uint64) >= 8 * nbytes
        index[outside] = 0
        states: Bytes = data.take(index >> 3) >> (index & 7).astype(np.uint8) & np.uint8(1)
        states[outside] = UNCOVERED
        return states

    return LookUp(dropped, kinds)


def in_pieces(starts: Sequence[int], kinds_: bytes) -> LookUp:
    """
    :param starts: where each piece starts, ascending from 0; the last goes on to the end
    :param kinds_: the kind of each piece
    """
    dropped = _zero_digits(starts)
    from_ = np.array([start >> 4 * dropped for start in starts], np.int64)
    of_piece = np.frombuffer(kinds_, np.uint8)

    def kinds(addresses: Numbers) -> Bytes:
        return of_piece.take(np.searchsorted(from_, addresses, "right") - 1)

    return LookUp(dropped, kinds)


def _zero_digits(numbers: Sequence[int]) -> int:
    """How many hexadecimal digits are 0 at the end of all of them."""
    of_most = range(_MOST_DROPPED, -1, -1)
    return next(digits for digits in of_most if not any(number % 16**digits for number in numbers))


class _Columns(NamedTuple):
    ends: Places
    width: Optional[int]
    #: Characters of the longest line.
    longest: int
    #: The characters at a place from the start of each line, which is 0.
    characters: Callable[[int], Bytes]
    #: The values of the digits at a place from the newline of each line, whose last digit is 1.
    digits: Callable[[int], Bytes]


def _even(data: Bytes, count: int, width: int) -> Optional[_Columns]:
    """The columns of lines of the same width, each a slice; None if there are others, or too short ones."""
    if width <= _SHORTEST or len(data) != count * width or (data[width - 1 :: width] != _NEWLINE).any():
        return None
    ends = np.arange(width - 1, len(data), width)
    return _Columns(
        ends,
        width,
        width - 1,
        lambda place: data[place::width],
        lambda place: _values(data[width - 1 - place :: width].copy()),
    )


def _uneven(data: Bytes, count: int) -> Optional[_Columns]:
    """The columns of any lines; None if there are not as many, or one is too short."""
    ends = np.flatnonzero(data == _NEWLINE)
    if len(ends) != count:
        return None
    lengths = np.diff(ends, prepend=-1) - 1
    starts = ends - lengths
    shortest, longest = int(lengths.min()), int(lengths.max())
    if shortest < _SHORTEST:
        return None
    values: Bytes = _values(data)
    # Where a line has fewer digits than another, its 0x is read in their place.
    values[starts + 1] = 0

    in_all = shortest - len("0x")
    first_in_all = ends - in_all

    def digits(place: int) -> Bytes:
        found: Bytes = (
            values[in_all - place :].take(first_in_all)
            if place <= in_all
            else values.take(np.maximum(ends - place, starts))
        )
        return found

    return _Columns(ends, None, longest, lambda place: data[place:].take(starts), digits)


def _values(digits: Bytes) -> Bytes:
    # 0 to 9 are 0x30 to 0x39, A to F and a to f 0x41 and 0x61 on.
    values: Bytes = (digits & np.uint8(0xF)) + (digits >> np.uint8(6)) * np.uint8(9)
    return values


def lines(text: bytes, look_up: LookUp) -> Optional[Lines]:
    """The addresses of a block, or None where one is not in the usual form or beyond the last physical address."""
    if not text.endswith(b"\n"):
        return None
    data = np.frombuffer(text, np.uint8)
    # The x and the newline of each line, and nothing else.
    others = len(data) - np.count_nonzero(_is_digit(data))
    if others % 2:
        return None
    count = others // 2
    columns = _even(data, count, text.index(b"\n") + 1) or _uneven(data, count)
    if columns is None or columns.longest > len("0x") + _DIGITS:
        return None
    if (columns.characters(0) != ord("0")).any() or (columns.characters(1) != ord("x")).any():
        return None
    addresses = np.zeros(len(columns.ends), np.int64)
    for place in range(columns.longest - len("0x"), look_up.dropped, -1):
        addresses <<= 4
        addresses |= columns.digits(place)
    # Of 16 digits the first bit is the sign here.
    if addresses.min() < 0 or addresses.max() >= PHYSICAL_END >> 4 * look_up.dropped:
        return None
    return Lines(text, columns.ends, columns.width, look_up.kinds(addresses))


def _is_digit(data: Bytes) -> NDArray[np.bool_]:
    # Unsigned bytes wrap around, so that one comparison has both ends.
    letters: Bytes = (data | np.uint8(0x20)) - np.uint8(ord("a"))
    decimal: Bytes = data - np.uint8(ord("0"))
    return (letters < 6) | (decimal < 10)
