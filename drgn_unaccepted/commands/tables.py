# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tables on a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Union

from tabulate import tabulate

from drgn_unaccepted.answer.documents import Extent
from drgn_unaccepted.commands.base import Parser
from drgn_unaccepted.words import WIDTH, count, size, wrap

#: Rows of a long table that leave room for the rest of a screen of 24 lines.
_SHOWN = 12

#: Columns of text.
_LEFT = frozenset(("state", "type", "name", "attributes", "zone", "firmware", "current", "note"))


def add_all_argument(parser: Parser) -> None:
    parser.add_argument("--all", action="store_true", help="all of a long list")


def extent(of: Extent) -> tuple[str, str, str]:
    """Start, end and size."""
    return f"{of['start']:#x}", f"{of['end']:#x}", size(of["end"] - of["start"])


def table(
    rows: Sequence[Sequence[Union[str, int]]], headers: Sequence[str], everything: bool = True, shown: int = _SHOWN
) -> Iterator[str]:
    """Columns under their headers; of many rows the first unless ``everything`` is wanted, and the number of others."""
    align = ["left" if name in _LEFT else "right" for name in headers]
    cut = list(rows if everything or len(rows) <= shown + 1 else rows[:shown])
    text = tabulate(cut, headers=headers, tablefmt="simple", colalign=align, disable_numparse=True)
    for line in text.splitlines():
        yield from wrap(line.rstrip()) if len(line.rstrip()) > WIDTH else [line.rstrip()]
    if len(cut) < len(rows):
        yield f"and {count(len(rows) - len(cut), 'more row')}: --all"
