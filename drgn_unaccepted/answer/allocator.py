# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether zones, their lists of unaccepted pages and their counters can be what the kernel had."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, Callable, Optional

from drgn_unaccepted import limits
from drgn_unaccepted.snapshot import PAGE_SIZE, KernelBuild, ListedChunks, Snapshot, Zone
from drgn_unaccepted.words import count, size

FEW_CHUNKS = 8  #: Chunks by which lists and counters may differ where the capture may have met an accept half done.

_NO_TYPE = 0xFFFFFFFF  #: ``page_type`` of a page without a type that is not mapped.


def zone_name(zone: Zone) -> str:
    return f"node {zone.node} zone {zone.name}"


def amounts(zone: Zone) -> dict[str, Any]:
    """What a zone counts, as documents have it: pages in bytes (``free_bytes``), and the chunks on its list."""
    pages = {name.replace("_pages", "_bytes"): count for name, count in vars(zone).items() if name.endswith("_pages")}
    nbytes = {name: count and count * PAGE_SIZE for name, count in pages.items()}
    return {**nbytes, "listed_chunks": None if zone.listed is None else len(zone.listed.pfns)}


def impossible(zone: Zone) -> Optional[str]:
    """Why no kernel has such a zone, or None."""
    pages = (zone.managed_pages, zone.present_pages, zone.spanned_pages, limits.PHYSICAL_END // PAGE_SIZE)
    if not 0 <= pages[0] <= pages[1] <= pages[2] <= pages[3] - zone.start_pfn:
        return "manages {}, has {} and spans {} of {} pages".format(*pages) + f", from {zone.start_pfn:#x} on"
    return None


Insane = tuple[Zone, str, list[int]]  #: A kind of fault on the list of a zone, with its PFNs.


def insane_entries(snapshot: Snapshot) -> Iterator[Insane]:
    """The faults of entries on all lists."""
    for zone in snapshot.zones or ():
        if zone.listed is not None and snapshot.kernel is not None:
            found = _insane_entries(zone, zone.listed, snapshot.kernel)
            yield from ((zone, what, pfns) for what, pfns in found if pfns)


def _insane_entries(zone: Zone, listed: ListedChunks, kernel: KernelBuild) -> Iterator[tuple[str, list[int]]]:
    pfns, flags = listed.pfns, listed.flags
    chunk, start, end = kernel.chunk_pages, zone.start_pfn, zone.start_pfn + zone.spanned_pages
    # A list can have a million entries: test whole columns first; look for culprits only on failure.
    if any(map(chunk.__rmod__, pfns)):
        yield f"not aligned to {size(chunk * PAGE_SIZE)}", [pfn for pfn in pfns if pfn % chunk]
    if pfns and (min(pfns) < start or max(pfns) + chunk > end):
        yield "outside the zone", [pfn for pfn in pfns if pfn < start or pfn + chunk > end]
    if any(listed.refcounts.tobytes().strip(b"\0")):
        yield "with references", [pfn for pfn, references in zip(pfns, listed.refcounts) if references]
    kinds = set(flags)
    if kernel.reserved_flag is not None:
        reserved = {flag for flag in kinds if flag & kernel.reserved_flag}
        if reserved:
            yield "PageReserved", [pfn for pfn, flag in zip(pfns, flags) if flag in reserved]
    if kernel.zone_id_shift is not None and zone.zone_id is not None:
        others = {flag for flag in kinds if flag >> kernel.zone_id_shift != zone.zone_id}
        if others:
            yield "of another zone by its flags", [pfn for pfn, flag in zip(pfns, flags) if flag in others]
    if kernel.unaccepted_page_type is None and listed.page_types.count(_NO_TYPE) != len(pfns):
        yield "with a page type", [pfn for pfn, type_ in zip(pfns, listed.page_types) if type_ != _NO_TYPE]


def untyped(listed: ListedChunks, kernel: KernelBuild) -> list[int]:
    """Places on the list whose page is not PageUnaccepted (Linux 6.12 and later)."""
    wanted, types = kernel.unaccepted_page_type, listed.page_types
    if wanted is None or types.count(wanted) == len(types):
        return []
    return [index for index, type_ in enumerate(types) if type_ != wanted]


def damage(snapshot: Snapshot, insane: Callable[[], Sequence[Insane]]) -> Optional[str]:
    """Why chunks may be missing on the lists, or be on them and accepted; None where nothing says so.

    Of a running kernel nobody asks for its ``insane`` entries.
    """
    zones, kernel, platform = snapshot.zones, snapshot.kernel, snapshot.platform
    if zones is None or kernel is None:
        return None
    if kernel.is_booting:
        return f"system_state is {kernel.system_state}: the page allocator need not have all memory yet"
    listed = sum(len(zone.listed.pfns) for zone in zones if zone.listed is not None)
    if listed and platform is not None and platform.lazy is False:
        return f"{count(listed, 'chunk')} are listed, and with accept_memory=eager none can be"
    of_zones = (_damage_of(zone, snapshot, kernel, insane) for zone in zones)
    return next(chain(*of_zones, _miscounted(snapshot, listed)), None)


def _miscounted(snapshot: Snapshot, listed: int) -> Iterator[str]:
    zones, kernel, counters = snapshot.zones or (), snapshot.kernel, snapshot.counters
    if counters is None or counters.unaccepted_pages is None or kernel is None:
        return
    counted = counters.unaccepted_pages / kernel.chunk_pages
    # A zone whose memory reads as zeros is taken for one that was never populated.
    settled = all(_is_settled(zone, snapshot) for zone in zones)
    if abs(counted - listed) > (0 if settled else FEW_CHUNKS) or (settled and counters.unaccepted_diff):
        yield f"all zones list {count(listed, 'chunk')}, and vm_zone_stat[NR_UNACCEPTED] counts {counted:g}"


def _is_settled(zone: Zone, snapshot: Snapshot) -> bool:
    """The list and its counters, which change under ``zone->lock``, were not between two states."""
    return zone.locked is False and not snapshot.target.is_running


def _damage_of(
    zone: Zone, snapshot: Snapshot, kernel: KernelBuild, insane: Callable[[], Sequence[Insane]]
) -> Iterator[str]:
    where, listed = f"unaccepted_pages of {zone_name(zone)}", zone.listed
    assert listed is not None
    problem = impossible(zone)
    if problem is not None:
        yield f"{zone_name(zone)} is damaged: it {problem}"
    if listed.problems:
        yield f"{where} is damaged: {listed.problems[0]}"
    if not snapshot.target.is_running:
        # Chunks leave the lists of a running kernel while these are walked.
        of_zone = ((what, pfns) for of, what, pfns in insane() if of is zone)
        yield from (f"{where} has {count(len(pfns), 'page')} {what}" for what, pfns in of_zone)
        wrong = untyped(listed, kernel)
        if wrong:
            yield f"{where} has {count(len(wrong), 'page')} without PageUnaccepted"
    if zone.unaccepted_pages is None:
        return
    counted, settled = zone.unaccepted_pages / kernel.chunk_pages, _is_settled(zone, snapshot)
    if abs(counted - len(listed.pfns)) > (0 if settled else FEW_CHUNKS):
        yield f"{where} lists {count(len(listed.pfns), 'chunk')}, and NR_UNACCEPTED counts {counted:g}"
    if settled and zone.free_pages < zone.unaccepted_pages:
        yield f"{zone_name(zone)} has {zone.free_pages} free pages, and NR_UNACCEPTED counts {zone.unaccepted_pages}"
