# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tables on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Union

from tabulate import tabulate

#: Columns of numbers.
_RIGHT = frozenset(("start", "end", "size", "managed", "free", "NR_UNACCEPTED", "min", "high", "promo", "attribute"))


def table(rows: Iterable[Sequence[Union[str, int]]], headers: Sequence[str]) -> Iterator[str]:
    align = ["right" if name in _RIGHT else "left" for name in headers]
    text = tabulate(list(rows), headers=headers, tablefmt="simple", colalign=align, disable_numparse=True)
    return (line.rstrip() for line in text.splitlines())
