# SPDX-License-Identifier: LGPL-2.1-or-later
"""Columns under headers, by tabulate, for the commands that print some: it takes a thirtieth of a start."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Union

from tabulate import tabulate

from drgn_unaccepted.words import WIDTH, count, wrap

_SHOWN = 12  #: Rows of a long table that leave room for the rest of a screen of 24 lines.
_LEFT = frozenset(("state", "type", "name", "attributes", "zone", "firmware", "current"))  #: Columns of text.


def columns(
    rows: Sequence[Sequence[Union[str, int]]], headers: Sequence[str], everything: bool = True, shown: int = _SHOWN
) -> Iterator[str]:
    """Columns under their headers; of many rows the first unless ``everything`` is wanted, and the number of others."""
    align = ["left" if name in _LEFT else "right" for name in headers] if rows else None  # tabulate 0.9 needs rows
    cut = rows if everything or len(rows) <= shown + 1 else rows[:shown]
    text = tabulate(cut, headers=headers, tablefmt="simple", colalign=align, disable_numparse=True)
    for line in map(str.rstrip, text.splitlines()):
        yield from wrap(line) if len(line) > WIDTH else [line]
    if len(cut) < len(rows):
        yield f"and {count(len(rows) - len(cut), 'more row')}: --all"
