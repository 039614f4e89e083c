# SPDX-License-Identifier: LGPL-2.1-or-later
"""Changes of a snapshot, for :func:`tests.checks.build.clean`."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Optional

from drgn_unaccepted.model.ranges import Range
from drgn_unaccepted.snapshot import Accept, AcceptingList, PageRun, Snapshot, Table, Task, Zone

from .build import CHUNK_PAGES, Change, both, listed, live


def change(made: Callable[..., Snapshot]) -> Callable[..., Change]:
    """Takes the snapshot away from a function's arguments: what is called with the others is a change."""
    return lambda *args, **kwargs: lambda snapshot: made(snapshot, *args, **kwargs)


#: Parts replaced as a whole.
put = change(replace)


@change
def part(snapshot: Snapshot, name: str, **fields: Any) -> Snapshot:
    """Fields of one part changed: ``part("kernel", cpus=4)``."""
    return replace(snapshot, **{name: replace(getattr(snapshot, name), **fields)})


@change
def without(snapshot: Snapshot, name: str, reason: str = "not in this target") -> Snapshot:
    """One part missing."""
    return replace(snapshot, **{name: None}, missing={**snapshot.missing, name: reason})


def torn(*texts: str) -> Change:
    """A live kernel that changed while it was read."""
    return lambda snapshot: live(snapshot, texts)


def release(release: Optional[str]) -> Change:
    return both(part("target", release=release), part("image", banner=release))


def table(**fields: Any) -> Change:
    return part("table", **fields)


absent_table = put(table=Table("absent", "efi.unaccepted is ~0"))


def not_captured(snapshot: Snapshot) -> Snapshot:
    return replace(snapshot, table=Table("not-captured", "not in this dump", address=snapshot.table.address))


@change
def bits(snapshot: Snapshot, first: int, end: int, value: int) -> Snapshot:
    """Bits ``first`` to ``end`` (exclusive) all 1 or all 0."""
    bitmap = bytearray(snapshot.table.bitmap)
    for bit in range(first, end):
        bitmap[bit // 8] = bitmap[bit // 8] & ~(1 << bit % 8) | value << bit % 8
    return table(bitmap=bytes(bitmap))(snapshot)


@change
def descriptors(snapshot: Snapshot, *more: Any, first: Optional[int] = None) -> Snapshot:
    """The EFI memory map, or its ``first`` descriptors, and more of them."""
    return part("efi_map", descriptors=(*snapshot.efi_map.descriptors[:first], *more))(snapshot)


def without_type_15(snapshot: Snapshot) -> Snapshot:
    """The firmware accepted everything."""
    accepted = (d._replace(type=7) if d.type == 15 else d for d in snapshot.efi_map.descriptors)
    return descriptors(*accepted, first=0)(snapshot)


@change
def trimmed(snapshot: Snapshot, name: str, start: int, end: int, type_: Optional[int] = None) -> Snapshot:
    """[start, end) taken out of one e820 table, or made another type."""
    entries = getattr(snapshot.e820, name)
    left = [entry._replace(end=min(entry.end, start)) for entry in entries if entry.start < start]
    left += [entry._replace(start=max(entry.start, end)) for entry in entries if entry.end > end]
    left += [] if type_ is None else [entries[0]._replace(start=start, end=end, type=type_)]
    return part("e820", **{name: tuple(left)})(snapshot)


def the_zone(snapshot: Snapshot) -> Zone:
    """The first zone that lists something."""
    return next(zone for zone in snapshot.zones or () if zone.listed is not None and zone.listed.pfns)


@change
def zones(snapshot: Snapshot, **fields: Any) -> Snapshot:
    """All zones changed alike."""
    return replace(snapshot, zones=tuple(replace(zone, **fields) for zone in snapshot.zones))


@change
def zone(snapshot: Snapshot, **fields: Any) -> Snapshot:
    """:func:`the_zone` changed."""
    chosen = the_zone(snapshot)
    return replace(snapshot, zones=tuple(replace(z, **fields) if z is chosen else z for z in snapshot.zones))


@change
def chunks(snapshot: Snapshot, **columns: Any) -> Snapshot:
    """Columns of the list of :func:`the_zone` changed."""
    return zone(listed=replace(the_zone(snapshot).listed, **columns))(snapshot)


@change
def entry(snapshot: Snapshot, column: str, value: int, index: int = 0) -> Snapshot:
    """One value of one column of that list changed."""
    changed = getattr(the_zone(snapshot).listed, column)[:]
    changed[index] = value
    return chunks(**{column: changed})(snapshot)


@change
def counted(snapshot: Snapshot, pages: int) -> Snapshot:
    """That many more pages free and unaccepted, by all counters."""

    def more(counts: Any) -> dict[str, int]:
        return {"free_pages": counts.free_pages + pages, "unaccepted_pages": counts.unaccepted_pages + pages}

    return both(zone(**more(the_zone(snapshot))), part("counters", **more(snapshot.counters)))(snapshot)


@change
def listing(snapshot: Snapshot, *pfns: int) -> Snapshot:
    """These chunks listed, and counted, in place of what was."""
    old = the_zone(snapshot).listed
    new = replace(listed(pfns), flags=array("Q", [old.flags[0]]) * len(pfns))
    return both(counted((len(pfns) - len(old.pfns)) * CHUNK_PAGES), zone(listed=new))(snapshot)


@change
def pages(snapshot: Snapshot, start: int, end: int, state: str) -> Snapshot:
    """The pages of [start, end) in one state, and scanned."""
    first, last, old = start >> 12, end >> 12, snapshot.pages
    runs = [run._replace(end_pfn=min(run.end_pfn, first)) for run in old.runs if run.start_pfn < first]
    runs += [run._replace(start_pfn=max(run.start_pfn, last)) for run in old.runs if run.end_pfn > last]
    runs.append(PageRun(first, last, state))
    return part("pages", runs=tuple(sorted(runs)), scanned=(*old.scanned, Range(start, end)))(snapshot)


def accepting(*units: tuple[int, int]) -> Change:
    tasks = [Task(pid, "abcdefgh"[pid], 0) for pid in range(len(units))]
    entries = (Accept(0xA000 + task.pid, *unit, task) for unit, task in zip(units, tasks))
    return put(accepting=AcceptingList(tuple(entries)))
