# SPDX-License-Identifier: LGPL-2.1-or-later
"""The words that findings are made of, beside those that all answers share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from drgn_unaccepted.model.ranges import Range
from drgn_unaccepted.words import count, size, span

__all__ = ["SHOWN", "count", "has_have", "is_are", "size", "some", "span", "spans"]

#: Ranges and parts of a finding that its message spells out. The rest is counted there.
SHOWN = 3


def spans(ranges: Sequence[Range]) -> str:
    """The first ranges in full, the others as a number."""
    return some([span(*range_) for range_ in ranges[:SHOWN]], len(ranges))


def some(parts: Iterable[str], number: int, separator: str = ", ") -> str:
    """``parts`` joined, and how many more there are where they are not all of ``number``."""
    shown = list(parts)[:SHOWN]
    text = separator.join(shown)
    return text if len(shown) >= number else f"{text} and {number - len(shown)} more"


def is_are(number: int) -> str:
    return "is" if number == 1 else "are"


def has_have(number: int) -> str:
    return "has" if number == 1 else "have"
