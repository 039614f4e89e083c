# SPDX-License-Identifier: LGPL-2.1-or-later
"""Facts about memory that follow from one part of a snapshot: listed chunks, their guards, pages in use."""

from __future__ import annotations

from typing import Optional

from drgn_unaccepted.model import ranges as rng
from drgn_unaccepted.model.header import X86_UNIT_SIZE
from drgn_unaccepted.model.ranges import Range
from drgn_unaccepted.snapshot import PAGE_SIZE, Snapshot


def why_zeros_may_not_hold(snapshot: Snapshot) -> Optional[str]:
    """Why a 0 bit of a saved table need not say that its unit is accepted now; None where it does."""
    if not snapshot.table.is_saved:
        return None
    if not snapshot.table.same_boot:
        return "that may have been another boot"
    if snapshot.kernel is not None and snapshot.kernel.unaccepts:
        return "this kernel can set bits again"
    return None


def unit_size(snapshot: Snapshot) -> int:
    """Bytes of a unit, by the table's header if it is sane.

    Else that of x86: a larger real unit would only make more memory accepted together with a page that is in use.
    """
    geometry = snapshot.table.geometry
    return X86_UNIT_SIZE if geometry is None else geometry.unit_size


def listed_ranges(snapshot: Snapshot) -> list[Range]:
    """The chunks on all ``zone->unaccepted_pages``, merged."""
    if snapshot.zones is None or snapshot.kernel is None:
        return []
    pfns = (pfn for zone in snapshot.zones if zone.listed is not None for pfn in zone.listed.pfns)
    return rng.chunk_ranges(pfns, snapshot.kernel.chunk_pages)


def possible_guards(snapshot: Snapshot) -> list[Range]:
    """The first and the last unit of each run of listed chunks, which can be accepted already.

    accept_memory() of what lies before a run accepts the run's first unit too (the guard for load_unaligned_zeropad()),
    and the chunk stays listed. Type 15 memory need not end where a chunk does either.
    """
    unit = unit_size(snapshot)
    edges: list[Range] = []
    for start, end in listed_ranges(snapshot):
        edges += [Range(start, min(start + unit, end)), Range(max(start, end - unit), end)]
    return rng.merge(edges)


def accepted_by_pages(snapshot: Snapshot) -> list[Range]:
    """Whole units that hold an allocated page or one in a buddy list, without those that are listed.

    ``__free_pages_core()`` and ``__accept_page()`` accept before they free, by whole units. Until a page is freed for
    the first time, in early boot, it has the reference that memmap_init() gives every page: that proves nothing. Nor
    does any page where there is no table, and the kernel accepts nothing.
    """
    if snapshot.pages is None or snapshot.table.state == "absent":
        return []
    unit = unit_size(snapshot)
    freed_once = snapshot.kernel is not None and snapshot.kernel.is_booting is False
    states = ("buddy", "in-use") if freed_once else ("buddy",)
    used = rng.merge(
        Range((run.start_pfn * PAGE_SIZE) // unit * unit, -(-run.end_pfn * PAGE_SIZE // unit) * unit)
        for run in snapshot.pages.runs
        if run.state in states
    )
    return rng.subtract(used, listed_ranges(snapshot))
