# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the page allocator believes: its lists and its counters."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Optional

from drgn_unaccepted.checks import words
from drgn_unaccepted.checks.facts import Facts, merged
from drgn_unaccepted.checks.needs import lacking
from drgn_unaccepted.checks.rule import HARD, INFO, SOFT, Fault, Outcome, Pass, rule
from drgn_unaccepted.model.ranges import Range, are_aligned, chunk_ranges, subtract, total
from drgn_unaccepted.snapshot import PAGE_SHIFT, PAGE_SIZE, ListedChunks, Zone

#: ``page_type`` of a page that has none, and that is not mapped.
_NO_TYPE = 0xFFFFFFFF

#: Bytes of a chunk on x86: PAGE_SIZE << MAX_PAGE_ORDER.
_X86_CHUNK = 4 << 20

#: Chunks without a bit that are more than guards and neighbours explain, if most of the list is like that.
_MANY_CHUNKS = 8


def _chunks_at(facts: Facts, pfns: Iterable[int]) -> list[Range]:
    return chunk_ranges(pfns, facts.chunk_pages)


@rule(
    18,
    "list-entries-sane",
    says="Every entry of zone->unaccepted_pages is an aligned, free chunk of its zone, properly linked.",
    needs=("zones.listed",),
    live=SOFT,
    live_stable=HARD,
    vmcore=HARD,
    settled=True,
    why="""
    __free_unaccepted() lists pages of order MAX_PAGE_ORDER only: the PFN is a multiple of the chunk, in the zone
    (its span, and page_zone()), without references, not PageReserved. (Page types are list-page-type's matter from
    6.12 on; before, such a page has none.) __accept_page() takes the first entry, frees it, and follows its links.
    """,
    mend="""
    The list or its pages were overwritten, or the page was freed twice: `struct page` of the entries named here and
    of their neighbours tells more. The next accept in this zone would follow it.
    """,
)
def list_entries_sane(facts: Facts) -> Outcome:
    faults = []
    for zone in facts.zones:
        assert zone.listed is not None
        name = facts.zone_name(zone)
        faults += [Fault(f"{name}: {problem}", zone=zone) for problem in zone.listed.problems]
        for what, pfns in _insane_entries(facts, zone, zone.listed):
            if pfns:
                at = words.some([f"{pfn << PAGE_SHIFT:#x}" for pfn in pfns[: words.SHOWN]], len(pfns))
                listed = words.count(len(pfns), "listed page")
                faults.append(Fault(f"{name}: {listed} {what}: {at}", _chunks_at(facts, pfns), zone=zone))
    return faults or Pass(f"{words.count(len(facts.listed_pfns), 'listed chunk')} {_sane(facts)} sane")


def _sane(facts: Facts) -> str:
    return words.is_are(len(facts.listed_pfns))


def _insane_entries(facts: Facts, zone: Zone, listed: ListedChunks) -> Iterator[tuple[str, list[int]]]:
    """What is wrong, and with which PFNs."""
    pfns, flags = listed.pfns, listed.flags
    chunk, start, end = facts.chunk_pages, zone.start_pfn, zone.start_pfn + zone.spanned_pages
    kernel = facts.snapshot.kernel
    assert kernel is not None
    # Of a million pages one in a million is wrong, if any: what all of them together have is looked at first.
    if not are_aligned(pfns, chunk):
        yield f"not aligned to {words.size(facts.chunk_bytes)}", [pfn for pfn in pfns if pfn % chunk]
    if pfns and (min(pfns) < start or max(pfns) + chunk > end):
        yield "outside the zone", [pfn for pfn in pfns if pfn < start or pfn + chunk > end]
    kinds = set(flags)
    if any(listed.refcounts):
        yield "with references", [pfn for pfn, count in zip(pfns, listed.refcounts) if count]
    if kernel.reserved_flag is not None:
        reserved = {flag for flag in kinds if flag & kernel.reserved_flag}
        if reserved:
            yield "PageReserved", [pfn for pfn, flag in zip(pfns, flags) if flag in reserved]
    if kernel.zone_id_shift is not None and zone.zone_id is not None:
        shift, own = kernel.zone_id_shift, zone.zone_id
        others = {flag for flag in kinds if flag >> shift != own}
        if others:
            yield "of another zone by its flags", [pfn for pfn, flag in zip(pfns, flags) if flag in others]
    if kernel.unaccepted_page_type is None and listed.page_types.count(_NO_TYPE) != len(pfns):
        yield "with a page type", [pfn for pfn, type_ in zip(pfns, listed.page_types) if type_ != _NO_TYPE]


@rule(
    19,
    "list-page-type",
    says="A page is on zone->unaccepted_pages if and only if it is PageUnaccepted.",
    needs=("zones.listed",),
    live=SOFT,
    vmcore=HARD,
    settled=True,
    why="""
    Since Linux 6.12 (310183de7bb2) __free_unaccepted() and __accept_page() set and clear PGTY_unaccepted of a chunk's
    first page together with its place on the list, under zone->lock. Isolation and CMA find unaccepted chunks by this
    type, and makedumpfile (1.7.8) leaves them out by it.
    """,
    mend="""
    A listed page of another type was overwritten or is used twice; a typed page off the list is lost to the guest.
    Look at both `struct page`s, and at list-entries-sane for damaged links.
    """,
)
def list_page_type(facts: Facts) -> Outcome:
    kernel = facts.snapshot.kernel
    assert kernel is not None
    wanted = kernel.unaccepted_page_type
    if wanted is None:
        return Pass("this kernel has no PageUnaccepted")
    faults = []
    for zone in facts.zones:
        assert zone.listed is not None
        pfns, types = zone.listed.pfns, zone.listed.page_types
        if types.count(wanted) != len(types):
            others = [pfn for pfn, type_ in zip(pfns, types) if type_ != wanted]
            wrong = islice(((pfn, type_) for pfn, type_ in zip(pfns, types) if type_ != wanted), words.SHOWN)
            shown = [f"{pfn << PAGE_SHIFT:#x} ({type_:#010x})" for pfn, type_ in wrong]
            faults.append(
                Fault(
                    f"{facts.zone_name(zone)}: {words.count(len(others), 'listed page')} without PageUnaccepted "
                    f"({wanted:#010x}): {words.some(shown, len(others))}",
                    _chunks_at(facts, others),
                    zone=zone,
                )
            )
    if not any(zone.listed and zone.listed.problems for zone in facts.zones):
        lost = subtract(facts.pages_in_state("unaccepted"), facts.listed)
        if lost:
            faults.append(Fault(f"{words.size(total(lost))} PageUnaccepted on no list: {words.spans(lost)}", lost))
    return faults or Pass(f"{words.count(len(facts.listed_pfns), 'listed chunk')} {_sane(facts)} PageUnaccepted")


@rule(
    20,
    "list-entries-without-bits",
    says="Every listed chunk has a set bit in its own units or in the guard unit behind them.",
    needs=("bitmap.now", "nr_unaccepted"),
    live=INFO,
    vmcore=INFO,
    nuance="warning where most of a long list has no bits, critical where the bitmap is all zero besides",
    why="""
    A chunk is listed because range_contains_unaccepted_memory() found a bit in its units or in the guard unit behind
    them. Those bits may be cleared later by the accept of a neighbour (whose guard they are), of a larger unit, or of
    kexec segments (6.15, caeb8ba598f0), so a few chunks without bits are no fault. If most of the list is like that the
    bitmap is not what the kernel had; an all-zero bitmap under a valid header while chunks wait to be accepted is
    critical: read as it is, it would say that everything is accepted.
    """,
    mend="""
    For a few chunks: nothing. For most of the list: do not believe the bitmap; take the answer from the page lists
    (`--source page-lists`) and find out why the table's bytes are wrong (filtered dump, wrong address, overwritten).
    """,
)
def list_entries_without_bits(facts: Facts) -> Outcome:
    if lacking(facts, ("zones.listed",)):
        return _counted_without_bits(facts)
    pfns = facts.listed_pfns
    if facts.bitmap_cut:
        pfns = pfns[: bisect_left(pfns, facts.unaccepted[-1].end >> PAGE_SHIFT)]
    bare = _chunks_without_bits(facts, pfns)
    if not bare:
        return Pass(f"{words.count(len(pfns), 'listed chunk')} {words.has_have(len(pfns))} a bit set")
    message = (
        f"{len(bare)} of {words.count(len(pfns), 'listed chunk')} {words.has_have(len(bare))} no bit set in own units "
        "or guard"
    )
    ranges = _chunks_at(facts, bare)
    if len(bare) < _many(facts.covered.unit_size, facts.chunk_bytes) or 2 * len(bare) <= len(pfns):
        return Fault(message, ranges)
    if _kexec_bytes(facts) >= total(ranges):
        return Fault(f"{message} (as many bytes as loaded kexec segments have)", ranges)
    return _disbelieve(facts, message, ranges)


def _counted_without_bits(facts: Facts) -> Outcome:
    """Without lists there is only their sum."""
    pages = facts.nr_unaccepted_pages
    assert pages is not None
    chunk_bytes = _X86_CHUNK if lacking(facts, ("zones",)) else facts.chunk_bytes
    counted = f"NR_UNACCEPTED is {words.size(pages * PAGE_SIZE)}"
    if facts.unaccepted:
        return Pass(f"{counted}, and the bitmap has {words.size(total(facts.unaccepted))}")
    if pages * PAGE_SIZE < _many(facts.covered.unit_size, chunk_bytes) * chunk_bytes:
        return Pass(f"{counted}, and no bit is set")
    return _disbelieve(facts, counted, [])


def _disbelieve(facts: Facts, message: str, ranges: list[Range]) -> Fault:
    if facts.unaccepted:
        return Fault(f"{message}: the bitmap is not what the page allocator saw", ranges, severity=SOFT)
    return Fault(f"{message}: the bitmap is all zero, which is not to be believed", ranges, severity=HARD)


def _chunks_without_bits(facts: Facts, pfns: list[int]) -> list[int]:
    """PFNs of listed chunks of which neither an own unit nor the guard unit is unaccepted."""
    chunk_bytes = facts.chunk_bytes
    bare: list[int] = []
    done = 0
    for start, end in facts.unaccepted:
        # A run of set bits is seen by the chunks that start before its end and that end at its start or later.
        first = bisect_left(pfns, -(-(start - chunk_bytes) >> PAGE_SHIFT), done)
        bare += pfns[done:first]
        done = bisect_left(pfns, -(-end >> PAGE_SHIFT), first)
    return bare + pfns[done:]


def _many(unit_size: int, chunk_bytes: int) -> int:
    """One accept clears a unit and the guard unit behind it, which may be those of many chunks."""
    return _MANY_CHUNKS * max(1, 2 * unit_size // chunk_bytes)


def _kexec_bytes(facts: Facts) -> int:
    return total(merged((segment.start, segment.end) for segment in facts.snapshot.kexec_segments or ()))


@rule(
    21,
    "zone-counter-matches-list",
    says="NR_UNACCEPTED of every zone is the number of pages on its list.",
    needs=("zones.listed", "zones.nr_unaccepted"),
    live=SOFT,
    vmcore=HARD,
    settled=True,
    why="""
    __free_unaccepted() and __accept_page() change list and counter together under zone->lock, by whole chunks. A step
    of 1024 pages is over every per-CPU threshold, so that the zone's own counter is exact.
    """,
    mend="""
    Count too high: the allocator believes in memory that it cannot get, and may stall before it reclaims. Too low: it
    has memory that it does not count. Look at list-entries-sane first: a damaged list is short.
    """,
)
def zone_counter_matches_list(facts: Facts) -> Outcome:
    faults = []
    for zone in facts.zones:
        assert zone.listed is not None and zone.unaccepted_pages is not None
        if zone.listed.problems:
            continue  # list-entries-sane speaks; the length says nothing.
        pages = len(zone.listed.pfns) * facts.chunk_pages
        if zone.unaccepted_pages != pages:
            faults.append(
                Fault(
                    f"{facts.zone_name(zone)}: NR_UNACCEPTED is {words.count(zone.unaccepted_pages, 'page')}, the list "
                    f"has {pages} ({words.count(len(zone.listed.pfns), 'chunk')})",
                    zone=zone,
                )
            )
    return faults or Pass(f"{words.count(len(facts.zones), 'zone')} count what they list")


@rule(
    22,
    "global-counter-matches-zones",
    says="The global NR_UNACCEPTED is the sum of the zones', and no CPU holds a part of it back.",
    needs=("counters", "zones.nr_unaccepted"),
    live=SOFT,
    vmcore=HARD,
    settled=True,
    why="""
    zone_page_state_add() adds to `zone->vm_stat[]` and `vm_zone_stat[]` alike. Steps of 1024 pages are over every
    per-CPU threshold, so that `vm_stat_diff[NR_UNACCEPTED]` is always folded to 0. /proc/meminfo shows the global one.
    """,
    mend="""
    The counters were overwritten, or a CPU died within the update: look at the CPUs' stacks for
    __mod_zone_page_state().
    """,
)
def global_counter_matches_zones(facts: Facts) -> Outcome:
    counters = facts.snapshot.counters
    assert counters is not None
    of_zones = sum(zone.unaccepted_pages or 0 for zone in facts.zones)
    faults = []
    if counters.unaccepted_pages != of_zones:
        faults.append(
            Fault(
                f"vm_zone_stat[NR_UNACCEPTED] is {counters.unaccepted_pages} pages, the zones have {of_zones} together"
            )
        )
    if counters.unaccepted_diff:
        faults.append(Fault(f"the CPUs hold back {counters.unaccepted_diff} pages of NR_UNACCEPTED"))
    return faults or Pass(f"vm_zone_stat[NR_UNACCEPTED] is {words.count(of_zones, 'page')}, as in the zones")


@rule(
    23,
    "free-pages-include-unaccepted",
    says="A zone's free pages are those in its buddy lists and those on its list of unaccepted pages.",
    needs=("zones.nr_unaccepted",),
    live=SOFT,
    vmcore=HARD,
    settled=True,
    nuance="warning where only the sum is wrong, info where that is by less than a chunk",
    why="""
    Unaccepted pages count in NR_FREE_PAGES (account_freepages() in __free_unaccepted()), but are in no free_area. So
    NR_FREE_PAGES is never less than NR_UNACCEPTED; and with the per-CPU differences and without isolated blocks it is
    their sum, which isolation can skew, and which is looked at in a vmcore only, since free pages of a live kernel
    change at any time.
    """,
    mend="""
    A counter was overwritten or leaked: compare `zones` with /proc/zoneinfo of a healthy guest, and look for earlier
    warnings of the page allocator in the log.
    """,
)
def free_pages_include_unaccepted(facts: Facts) -> Outcome:
    faults = []
    for zone in facts.zones:
        unaccepted = zone.unaccepted_pages or 0
        if zone.free_pages < unaccepted:
            faults.append(
                Fault(
                    f"{facts.zone_name(zone)}: NR_FREE_PAGES {zone.free_pages} is less than NR_UNACCEPTED {unaccepted}",
                    zone=zone,
                )
            )
        elif not facts.live and zone.free_pages != zone.buddy_pages + unaccepted:
            apart = zone.free_pages - zone.buddy_pages - unaccepted
            exact = abs(apart) >= facts.chunk_pages and not zone.problems
            lack = f"; {zone.problems[0]}" if zone.problems else ""
            faults.append(
                Fault(
                    f"{facts.zone_name(zone)}: NR_FREE_PAGES {zone.free_pages} is not the sum of {zone.buddy_pages} in "
                    f"buddy lists and {unaccepted} unaccepted ({apart:+d}{lack})",
                    severity=SOFT if exact else INFO,
                    zone=zone,
                )
            )
    return faults or Pass("NR_FREE_PAGES has the unaccepted pages of every zone")


@rule(
    24,
    "eager-means-empty",
    says="With accept_memory=eager nothing is listed or counted as unaccepted.",
    needs=("platform.lazy", "zones.nr_unaccepted"),
    live=HARD,
    vmcore=HARD,
    why="""
    With `accept_memory=eager` `lazy_accept` is false, and __free_unaccepted() lists nothing: memory is accepted while
    it is given to the page allocator at boot.
    """,
    mend="""
    `lazy_accept` or the lists were overwritten: it is set once, by the command line, before the first page is freed.
    """,
)
def eager_means_empty(facts: Facts) -> Outcome:
    platform = facts.snapshot.platform
    assert platform is not None
    if platform.lazy:
        return Pass("accept_memory=lazy")
    faults = []
    for zone in facts.zones:
        chunks = 0 if zone.listed is None else len(zone.listed.pfns)
        if chunks or zone.unaccepted_pages:
            faults.append(
                Fault(
                    f"{facts.zone_name(zone)}: accept_memory=eager, but {words.count(chunks, 'listed chunk')} and "
                    f"NR_UNACCEPTED {zone.unaccepted_pages}",
                    _chunks_at(facts, () if zone.listed is None else zone.listed.pfns),
                    zone=zone,
                )
            )
    return faults or Pass("accept_memory=eager, and nothing is listed")


@rule(
    30,
    "static-key-matches-lists",
    says="The static key zones_with_unaccepted_pages is enabled if and only if a list has entries.",
    needs=("kernel.static_key", "zones.listed.whole"),
    live=SOFT,
    vmcore=SOFT,
    nuance="info where the key is on and nothing is listed",
    why="""
    From 6.5 to 6.14 the allocator looks at the lists only while this key is enabled. Its count went wrong in a race
    (fixed by removing it: fefc07518227, Linux 6.15, 6.14.8, 6.12.30, 6.6.92): with the key off, unaccepted memory is
    never accepted, and the guest runs out of memory with gigabytes on its lists. A key that stays on costs nothing:
    it is switched off only after the last chunk was accepted, and is a note here.
    """,
    mend="""
    Update to a kernel with fefc07518227. Until then `accept_memory=eager` avoids the lists.
    """,
)
def static_key_matches_lists(facts: Facts) -> Outcome:
    assert facts.snapshot.kernel is not None
    key = facts.snapshot.kernel.static_key
    assert key is not None
    chunks = len(facts.listed_pfns)
    if chunks and key <= 0:
        doubt: Optional[str] = facts.unsettled(None) if facts.live else None
        message = (
            f"zones_with_unaccepted_pages is {key}, off, while {words.count(chunks, 'chunk')} {_sane(facts)} listed"
        )
        if doubt is not None:
            return Fault(f"{message} ({doubt})", severity=INFO)
        return Fault(message, facts.listed)
    if key > 0 and not chunks:
        return Fault(f"zones_with_unaccepted_pages is {key}, on, while nothing is listed", severity=INFO)
    return Pass(f"zones_with_unaccepted_pages is {key}, with {words.count(chunks, 'listed chunk')}")
