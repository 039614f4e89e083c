# SPDX-License-Identifier: LGPL-2.1-or-later
"""Changes of a snapshot, as functions that can be chained with :func:`both`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Optional

from drgn_unaccepted.snapshot import Accept, AcceptingList, Snapshot, Task

from . import build

Change = Callable[[Snapshot], Snapshot]


def table(**fields: Any) -> Change:
    return lambda snapshot: build.with_table(snapshot, **fields)


def part(name: str, **fields: Any) -> Change:
    return lambda snapshot: build.with_part(snapshot, name, **fields)


def both(*changes: Change) -> Change:
    def change(snapshot: Snapshot) -> Snapshot:
        for each in changes:
            snapshot = each(snapshot)
        return snapshot

    return change


def bits(first: int, end: int, value: int) -> Change:
    return lambda snapshot: build.with_bits(snapshot, first, end, value)


def pages(start: int, end: int, state: str) -> Change:
    return lambda snapshot: build.with_page_state(snapshot, start, end, state)


def listing(*pfns: int) -> Change:
    return lambda snapshot: build.with_listed_pfns(snapshot, pfns)


def trimmed(name: str, start: int, end: int, type_: Optional[int] = None) -> Change:
    """RAM taken out of one e820 table, or made another type."""

    def change(snapshot: Snapshot) -> Snapshot:
        left = build.with_ram_removed(getattr(snapshot.e820, name), start, end)
        entry = left[0]._replace(start=start, end=end, type=type_)
        return build.with_part(snapshot, "e820", **{name: left if type_ is None else (*left, entry)})

    return change


def accepting(*units: tuple[int, int]) -> Change:
    tasks = [Task(pid, "abc"[pid], 0) for pid in range(len(units))]
    entries = tuple(Accept(0xA000 + task.pid, *unit, task) for unit, task in zip(units, tasks))
    return lambda snapshot: replace(snapshot, accepting=AcceptingList(entries))


def without(name: str) -> Change:
    return lambda snapshot: build.without(snapshot, name)
