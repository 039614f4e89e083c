# SPDX-License-Identifier: LGPL-2.1-or-later
"""The words that findings are made of: addresses in hexadecimal, sizes and counts with their units."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from drgn_unaccepted.model.ranges import Range

#: Ranges and parts of a finding that its message spells out. The rest is counted there.
SHOWN = 3

_UNITS = (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))


def span(start: int, end: int) -> str:
    """One range, its end exclusive: ``0x13a000000-0x13a400000``."""
    return f"{start:#x}-{end:#x}"


def spans(ranges: Sequence[Range]) -> str:
    """The first ranges in full, the others as a number."""
    return some([span(*range_) for range_ in ranges[:SHOWN]], len(ranges))


def some(parts: Iterable[str], number: int, separator: str = ", ") -> str:
    """``parts`` joined, and how many more there are where they are not all of ``number``."""
    shown = list(parts)[:SHOWN]
    text = separator.join(shown)
    return text if len(shown) >= number else f"{text} and {number - len(shown)} more"


def size(nbytes: int) -> str:
    """Bytes in the largest binary unit that needs no fraction: ``4 MiB``, ``2142 MiB``, ``0 bytes``."""
    for name, unit in _UNITS:
        if nbytes and nbytes % unit == 0:
            return f"{nbytes // unit} {name}"
    return count(nbytes, "byte")


def count(number: int, noun: str) -> str:
    """A number with its noun, which takes a plain plural: ``1 chunk``, ``536 chunks``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def is_are(number: int) -> str:
    return "is" if number == 1 else "are"


def has_have(number: int) -> str:
    return "has" if number == 1 else "have"
