# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a value may be beyond its Python type, as annotations: ``Annotated[int, Bounds(0, 7)]``."""

from __future__ import annotations

from typing import Annotated, NamedTuple, Union


class Bounds(NamedTuple):
    """Inclusive bounds of a number, or of the length of a text or a list."""

    low: int
    high: int


class Choices(NamedTuple):
    values: tuple[Union[str, int], ...]


U32 = Annotated[int, Bounds(0, (1 << 32) - 1)]
U64 = Annotated[int, Bounds(0, (1 << 64) - 1)]
#: An address, or the end of a range, which can be the end of the address space.
Edge = Annotated[int, Bounds(0, 2 << 64)]
#: A counter of the kernel, or a sum of some: signed, and beyond 64 bits only in a damaged target.
Count = Annotated[int, Bounds(-(1 << 100), 1 << 100)]
