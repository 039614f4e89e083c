# SPDX-License-Identifier: LGPL-2.1-or-later
"""A program as of a running kernel, which drgn makes of /proc/kcore only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from drgn import Object, Program, ProgramFlags

from drgn_unaccepted import limits
from tests.kernel.allocator_program import said


class _Live:
    def __init__(self, prog: Program, seen: Callable[[int], None]) -> None:
        self._prog, self._seen = prog, seen
        self.flags = prog.flags | ProgramFlags.IS_LIVE

    def read(self, address: int, size: int, physical: bool = False) -> bytes:
        self._seen(address)
        data: bytes = self._prog.read(address, size, physical)
        return data

    def __getitem__(self, name: str) -> Object:
        return self._prog[name]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._prog, name)


def live(prog: Program, seen: Callable[[int], None]) -> Program:
    """A program as of a running kernel, which drgn makes of /proc/kcore only; ``seen`` is called before each read."""
    return cast(Program, _Live(prog, seen))


def walked_again(
    prog: Program, start: int, broken: int, mend: Callable[[], None], read: Callable[[Program], Any]
) -> Any:
    """What is read of a running kernel of which so many walks, each from ``start``, find what ``mend()`` then repairs.

    It walks as often as a list is read before it counts as damaged.
    """
    walks = 0

    def seen(address: int) -> None:
        nonlocal walks
        walks += address == start
        if walks > broken:
            mend()

    found = said(lambda: read(live(prog, seen)))
    assert walks == limits.LIVE_ATTEMPTS
    return found
