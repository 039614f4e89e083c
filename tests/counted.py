# SPDX-License-Identifier: LGPL-2.1-or-later
"""A list that counts its reads, for tests of how their number grows."""

from __future__ import annotations

from typing import TypeVar

T = TypeVar("T")


class Counted(list[T]):
    """Counts what is read of it by index or slice, not by iteration."""

    reads = 0

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        found = super().__getitem__(index)
        self.reads += len(found) if isinstance(index, slice) else 1
        return found
