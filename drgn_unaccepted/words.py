# SPDX-License-Identifier: LGPL-2.1-or-later
"""Values as text for people: exact sizes, hexadecimal addresses, and harmless text from the target."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable
from typing import Optional

WIDTH = 80  #: Columns of a screen.
KEPT_SPACE = "\xa0"  #: No-break space, which :func:`safe` lets through in no text from a target.

_UNITS = ((1 << 50, "PiB"), (1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


def size(nbytes: Optional[float]) -> str:
    """Bytes, exact where four digits do, else to a tenth: ``2142 MiB``, ``2009.5 MiB``, ``56 bytes``, ``0``."""
    if nbytes is None:
        return "unknown"
    whole = abs(round(nbytes))
    sign = "-" if round(nbytes) < 0 else ""
    for unit, name in _UNITS:
        if whole and whole % unit == 0 and whole < 10240 * unit:
            return f"{sign}{whole // unit} {name}"
    for unit, name in _UNITS:
        if whole >= 10 * unit:
            return f"{sign}{whole / unit:.1f} {name}"
    return f"{sign}{count(whole, 'byte')}" if whole else "0"


def share(part: int, whole: int) -> str:
    """A part in percent: ``0%`` only for nothing, ``100%`` only for everything, ``!`` for a part of nothing."""
    if whole <= 0:
        return "!" if part else ""
    if 0 < part * 100 < whole:
        return "<1%"
    if part < whole and part * 100 > 99 * whole:
        return ">99%"
    return f"{(200 * part + whole) // (2 * whole)}%"


def span(start: int, end: int) -> str:
    """A range with an exclusive end: ``0x100000000-0x140000000``."""
    return f"{start:#x}-{end:#x}"


def count(number: int, noun: str) -> str:
    """A number with a noun whose plural ends in s: ``1 range``, ``2 ranges``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def safe(text: str) -> str:
    """Text from a target on one line, with unprintable characters as escapes, so that a terminal cannot obey them."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def wrap(text: str, head: str = "", width: int = WIDTH, cut: bool = True) -> list[str]:
    """``head`` and a text in lines of at most ``width`` columns, the later ones indented, whole at kept spaces.

    :param cut: whether a longer word is cut
    """
    text, indent = re.sub("(?<=[0-9]) (?=[KMGTP]iB)", KEPT_SPACE, text), " " * len(head)
    found = textwrap.wrap(
        text, width, initial_indent=head, subsequent_indent=indent, break_long_words=cut, break_on_hyphens=False
    )
    return [line.replace(KEPT_SPACE, " ") for line in found or [head.rstrip()]]


def together(items: Iterable[str]) -> str:
    """The items in one text, for :func:`wrap` to break between items only."""
    return "  ".join(item.replace(" ", KEPT_SPACE) for item in items)
