# SPDX-License-Identifier: LGPL-2.1-or-later
"""The page allocator's lists and counters, and unaccepted memory that is on no list."""

from __future__ import annotations

import re

from drgn_unaccepted.answer.allocator import FEW_CHUNKS, impossible, untyped, zone_name
from drgn_unaccepted.checks.facts import Facts, merged
from drgn_unaccepted.checks.rule import BOOTING, CRITICAL, INFO, WARNING, Fault, Outcome, Pass, Rule, given, some, spans
from drgn_unaccepted.limits import PHYSICAL_END
from drgn_unaccepted.model import e820 as e820_model
from drgn_unaccepted.model.ranges import Range, clip, intersect, outwards, subtract, total
from drgn_unaccepted.snapshot import PAGE_SHIFT
from drgn_unaccepted.words import count, size

#: States of pages that explain set bits of memory on no list.
_EXPLAINED = {
    **{"reserved": "PageReserved", "absent": "without struct page", "offline": "PageOffline"},
    **{"device": "of ZONE_DEVICE", "uninitialised": "not initialised yet"},
}

_ADDRESS = re.compile(r"\b0x[0-9a-f]{1,16}\b")


@Rule(WARNING)
def structures_undamaged(facts: Facts) -> Outcome:
    """No part of the kernel that was captured leads nowhere.

    A part that was not captured is no fault: the rules that need it are skipped. But every kernel has a zone, none has
    more pages than it spans, and no pointer lies between the physical addresses and the kernel's: where one does, its
    structure was overwritten. A dump that has the table, which lies outside System RAM, has the zones too.
    Fix: Look at the structure that is named and at its neighbours. Do not draw conclusions from the parts it leads to.
    """
    missing = facts.snapshot.missing
    addresses = {name: [int(found, 16) for found in _ADDRESS.findall(why)] for name, why in missing.items()}
    # Neither physical addresses nor the kernel's.
    wild = {name for name, found in addresses.items() if any(PHYSICAL_END <= each < 0xFF << 56 for each in found)}
    faults = [Fault(f"{name}: damaged: {why}") for name, why in missing.items() if name in wild]
    if facts.snapshot.zones == () and not facts.booting:
        faults.append(Fault("zones: damaged: no zone is populated"))
    seen = facts.snapshot.pages
    reasons = missing if seen is None else {**missing, "pages": seen.limited or ""}
    # What a kernel has only once its page allocator has memory.
    later = ("counters", "pages") if facts.booting else ()
    holes = [name for name, why in reasons.items() if "reads as zeros" in why and name not in later]
    if holes:
        faults.append(Fault(f"the dump has holes that read as zeros: {', '.join(holes)}"))
    if facts.snapshot.table.read_through == "physical" and "zones" not in wild and addresses.get("zones"):
        faults.append(Fault(f"zones: damaged: {missing['zones']}, and this dump has all memory"))
    if not facts.live:
        problems = ((zone, impossible(zone)) for zone in facts.zones)
        faults += [Fault(f"zones: damaged: {zone_name(zone)} {problem}") for zone, problem in problems if problem]
    return faults or Pass("what was captured can be followed")


@Rule(CRITICAL, ("zones.listed",), 18, settled=True, confirmed=CRITICAL)
def list_entries_sane(facts: Facts) -> Outcome:
    """Every entry of zone->unaccepted_pages is an aligned, free chunk of its zone, properly linked.

    __free_unaccepted() lists only pages of order MAX_PAGE_ORDER: the PFN is a multiple of the chunk, in the zone (its
    span, and page_zone()), without references, not PageReserved. (From 6.12 on list-page-type checks the page type;
    before, such a page has none.) __accept_page() takes the first entry, frees it, and follows its links.
    Fix: The list or its pages were overwritten, or the page was freed twice: inspect `struct page` of the entries named
    here and of their neighbours. The next accept in this zone would follow it.
    """
    faults = []
    for zone in facts.zones:
        name, listed = zone_name(zone), given(zone.listed)
        faults += [Fault(f"{name}: {problem}", zone=zone) for problem in listed.problems]
        for _, what, pfns in (fault for fault in facts.evidence.insane_entries if fault[0] is zone):
            at = some(pfns, lambda pfn: f"{pfn << PAGE_SHIFT:#x}")
            message = f"{name}: {count(len(pfns), 'listed page')} {what}: {at}"
            faults.append(Fault(message, facts.chunks(pfns), zone=zone))
    return faults or Pass(f"{count(facts.listed_chunks, 'listed chunk')} without fault")


@Rule(CRITICAL, ("zones.listed",), 19, settled=True)
def list_page_type(facts: Facts) -> Outcome:
    """A page is on zone->unaccepted_pages if and only if it is PageUnaccepted.

    Since Linux 6.12 (310183de7bb2) __free_unaccepted() and __accept_page() set and clear PGTY_unaccepted of a chunk's
    first page together with its place on the list, under zone->lock. Isolation and CMA find unaccepted chunks by this
    type, and makedumpfile (1.7.8) excludes them by it.
    Fix: A listed page of another type was overwritten or is used twice; a typed page on no list is lost to the guest.
    Inspect `struct page` of both, and see list-entries-sane for damaged links.
    """
    kernel, faults = given(facts.snapshot.kernel), []
    if kernel.unaccepted_page_type is None:
        return Pass("this kernel has no PageUnaccepted")
    for zone in facts.zones:
        pfns, types = given(zone.listed).pfns, given(zone.listed).page_types
        wrong = untyped(given(zone.listed), kernel)
        if wrong:
            at = some(wrong, lambda index: f"{pfns[index] << PAGE_SHIFT:#x} ({types[index]:#010x})")  # noqa: B023
            what = f"{count(len(wrong), 'listed page')} without PageUnaccepted ({kernel.unaccepted_page_type:#010x})"
            message = f"{zone_name(zone)}: {what}: {at}"
            faults.append(Fault(message, facts.chunks(pfns[index] for index in wrong), zone=zone))
    lost = subtract(facts.evidence.pages("unaccepted"), facts.evidence.listed)
    if lost and not any(zone.listed and zone.listed.problems for zone in facts.zones):
        faults.append(Fault(f"{size(total(lost))} PageUnaccepted on no list: {spans(lost)}", lost))
    return faults or Pass(f"{count(facts.listed_chunks, 'listed chunk')}, all PageUnaccepted")


@Rule(INFO, ("bitmap.now", "nr_unaccepted"), 20, "warning if the bitmap is doubted, critical if besides it is all zero")
def list_entries_without_bits(facts: Facts) -> Outcome:
    """Every listed chunk has a set bit in its own units or in the guard unit behind them.

    A chunk is listed because range_contains_unaccepted_memory() found a bit in its units or in the guard unit behind
    them. Those bits may be cleared later by the accept of a neighbour (whose guard they are), of a larger unit, or of
    kexec segments (6.15, caeb8ba598f0), so a few chunks without bits are no fault. Where no accept explains them
    (table-captured), the bitmap differs from what the kernel had. An all-zero bitmap under a valid header while chunks
    wait to be accepted is critical: read literally, it would mean that everything is accepted.
    Fix: For info: nothing. Else do not trust the bitmap; take the answer from the page lists
    (`--source page-lists`) and find out why the table's bytes are wrong (filtered dump, wrong address, overwritten).
    """
    doubted, bits, nbytes = facts.judgement.doubt is not None, facts.under_bits, facts.evidence.nr_unaccepted_bytes
    bare, message = [], f"NR_UNACCEPTED is {size(nbytes)}"
    if not facts.lacking("zones.listed"):
        chunk, listed = facts.evidence.chunk, facts.evidence.listed
        if facts.bitmap_cut:
            listed = list(clip(listed, 0, outwards(bits, chunk)[-1].end))
        bare, chunks = subtract(listed, facts.evidence.listable(bits)), count(total(listed) // chunk, "listed chunk")
        message = f"{total(bare) // chunk} of {chunks} without a set bit in own units or guard"
        if not bare:
            return Pass(f"{chunks}, all with a set bit")
        if not doubted:
            return Fault(message, bare)
    elif bits:
        return Pass(f"{message}, and the bitmap has {size(total(bits))}")
    elif not doubted or given(nbytes) < FEW_CHUNKS * facts.evidence.chunk:
        return Pass(f"{message}, and no bit is set")
    if bits:
        return Fault(f"{message}: the bitmap differs from what the page allocator saw", bare, severity=WARNING)
    return Fault(f"{message}: the bitmap is all zero and cannot be trusted", bare, severity=CRITICAL)


@Rule(CRITICAL, ("zones.listed", "zones.nr_unaccepted"), 21, settled=True)
def zone_counter_matches_list(facts: Facts) -> Outcome:
    """NR_UNACCEPTED of every zone is the number of pages on its list.

    __free_unaccepted() and __accept_page() change list and counter together under zone->lock, by whole chunks. A step
    of 1024 pages exceeds every per-CPU threshold, so the zone's own counter is exact.
    Fix: If the counter is too high, the allocator expects memory that it cannot get, and may stall before it reclaims.
    If it is too low, the allocator has memory that it does not count. See list-entries-sane first: a damaged list is
    short.
    """
    faults = []
    for zone in facts.zones:
        listed, counted = given(zone.listed), given(zone.unaccepted_pages)
        pages = len(listed.pfns) * given(facts.snapshot.kernel).chunk_pages
        # The length of a damaged list says nothing; list-entries-sane reports it.
        if not listed.problems and counted != pages:
            has = f"the list has {pages} ({count(len(listed.pfns), 'chunk')})"
            faults.append(Fault(f"{zone_name(zone)}: NR_UNACCEPTED is {count(counted, 'page')}, {has}", zone=zone))
    return faults or Pass(f"NR_UNACCEPTED matches the list in {count(len(facts.zones), 'zone')}")


@Rule(CRITICAL, ("counters", "zones.nr_unaccepted"), 22, settled=True)
def global_counter_matches_zones(facts: Facts) -> Outcome:
    """The global NR_UNACCEPTED is the sum of the zones', and no CPU holds a part of it back.

    zone_page_state_add() adds to `zone->vm_stat[]` and `vm_zone_stat[]` alike. Steps of 1024 pages exceed every per-CPU
    threshold, so `vm_stat_diff[NR_UNACCEPTED]` is always folded to 0. /proc/meminfo shows the global counter.
    Fix: The counters were overwritten, or a CPU died within the update: look for __mod_zone_page_state() on the CPUs'
    stacks.
    """
    counters = given(facts.snapshot.counters)
    of_zones = sum(zone.unaccepted_pages or 0 for zone in facts.zones)
    faults = []
    if counters.unaccepted_pages != of_zones:
        counted = count(given(counters.unaccepted_pages), "page")
        faults.append(Fault(f"vm_zone_stat[NR_UNACCEPTED] is {counted}, the zones have {of_zones} together"))
    if counters.unaccepted_diff:
        faults.append(Fault(f"the CPUs hold back {counters.unaccepted_diff} pages of NR_UNACCEPTED"))
    return faults or Pass(f"vm_zone_stat[NR_UNACCEPTED] is {count(of_zones, 'page')}, as in the zones")


@Rule(
    CRITICAL,
    ("zones.nr_unaccepted",),
    23,
    settled=True,
    nuance="warning if only the sum is wrong, info if that is by less than a chunk",
)
def free_pages_include_unaccepted(facts: Facts) -> Outcome:
    """A zone's free pages are those in its buddy lists and those on its list of unaccepted pages.

    Unaccepted pages count in NR_FREE_PAGES (account_freepages() in __free_unaccepted()), but are in no free_area. So
    NR_FREE_PAGES is never less than NR_UNACCEPTED. With the per-CPU differences and without isolated blocks it is the
    sum of both. Isolation can skew the sum, and free pages of a live kernel change at any time, so the sum is compared
    in a vmcore only.
    Fix: A counter was overwritten or leaked: compare `zones` with /proc/zoneinfo of a healthy guest, and look for
    earlier warnings of the page allocator in the log.
    """
    faults = []
    for zone in facts.zones:
        unaccepted = zone.unaccepted_pages or 0
        free = f"{zone_name(zone)}: NR_FREE_PAGES {zone.free_pages} is"
        if zone.free_pages < unaccepted:
            faults.append(Fault(f"{free} less than NR_UNACCEPTED {unaccepted}", zone=zone))
        elif not facts.live and zone.free_pages != zone.buddy_pages + unaccepted:
            apart = zone.free_pages - zone.buddy_pages - unaccepted
            exact = abs(apart) >= given(facts.snapshot.kernel).chunk_pages and not zone.problems
            lack = f"; {zone.problems[0]}" if zone.problems else ""
            parts = f"{zone.buddy_pages} in buddy lists and {unaccepted} unaccepted"
            message = f"{free} not the sum of {parts} ({apart:+d}{lack})"
            faults.append(Fault(message, severity=WARNING if exact else INFO, zone=zone))
    return faults or Pass("NR_FREE_PAGES includes the unaccepted pages of every zone")


@Rule(CRITICAL, ("platform.lazy", "zones.nr_unaccepted"), 24)
def eager_means_empty(facts: Facts) -> Outcome:
    """With accept_memory=eager nothing is listed or counted as unaccepted.

    With `accept_memory=eager` `lazy_accept` is false, and __free_unaccepted() lists nothing: memory is accepted at
    boot, when it is given to the page allocator.
    Fix: `lazy_accept` or the lists were overwritten: the command line sets it once, before the first page is freed.
    """
    if given(facts.snapshot.platform).lazy:
        return Pass("accept_memory=lazy")
    faults = []
    for zone in facts.zones:
        ranges = facts.chunks(zone.listed.pfns if zone.listed else ())
        if ranges or zone.unaccepted_pages:
            found = f"{size(total(ranges))} listed and NR_UNACCEPTED {zone.unaccepted_pages}"
            faults.append(Fault(f"{zone_name(zone)}: accept_memory=eager, but {found}", ranges, zone=zone))
    return faults or Pass("accept_memory=eager, and nothing is listed")


@Rule(INFO, ("bitmap.now", "zones.listed.whole"), 25, "warning for memory without a known reason")
def orphan_bits(facts: Facts) -> Outcome:
    """All unaccepted memory is on a zone's list, or there is a known reason why not.

    Once the kernel has booted, memory under set bits waits on `zone->unaccepted_pages` to be accepted. Known reasons
    for not being there: removed from e820_table (`mem=`, `memmap=`), PageReserved and never touched, without struct
    page, hot-removed, not initialised yet (deferred init), or in limbo between __accept_page() taking it off the list
    and the end of accept_memory(). Such memory is lost to the guest but harmless. Without a known reason it is a
    warning.
    Fix: For the known reasons see `e820` and the command line. Otherwise the page allocator has lost chunks: see
    list-entries-sane, zone-counter-matches-list and static-key-matches-lists, and find out what last handled the pages.
    """
    orphans = subtract(facts.unaccepted, merged(facts.evidence.listed + facts.evidence.in_flight))
    if not orphans:
        return Pass("all unaccepted memory is on a list or being accepted")
    reasons, unknown = _sort_out(facts, orphans)
    shares = ", ".join(f"{size(nbytes)} {reason}" for reason, nbytes in reasons.items() if nbytes)
    message = f"{size(total(orphans))} unaccepted on no list{shares and ': '}{shares}"
    if facts.booting:
        return Fault(f"{message} ({BOOTING})", orphans)
    if unknown:
        message += f"; {size(total(unknown))} without a known reason: {spans(unknown)}"
        doubt = facts.torn("zones", "counters", "accepting", "pages") if facts.live else None
        if doubt is None:
            return Fault(message, unknown, severity=WARNING)
        message += f" ({doubt})"
    return Fault(message, orphans)


def _sort_out(facts: Facts, orphans: list[Range]) -> tuple[dict[str, int], list[Range]]:
    """Bytes by known reason, and the ranges that have none."""
    pages_in, current, kernel = facts.evidence.pages, facts.e820.current, given(facts.snapshot.kernel)
    known = {"not RAM in e820_table": [] if current is None else subtract(orphans, e820_model.memory(current))}
    known |= {reason: pages_in(state) for state, reason in _EXPLAINED.items()}
    # Set bits of pages in a buddy list or allocated are a fault, with a rule of their own.
    known |= {"whose pages were not scanned": subtract(orphans, facts.scanned), "in use": pages_in("buddy", "in-use")}
    reasons, rest, chunk = {}, orphans, facts.evidence.chunk
    for reason, by in known.items():
        reasons[reason] = total(intersect(rest, by))
        rest = subtract(rest, by)
    # Between their list and accept_memory(): at most one chunk for each CPU.
    chunks = sum((end - 1) // chunk - start // chunk + 1 for start, end in rest)
    if subtract(rest, pages_in("free")) or chunks > (kernel.cpus or 8):
        return reasons, rest
    return {**reasons, "in limbo": total(rest)}, []


@Rule(WARNING, ("kernel.static_key", "zones.listed.whole"), 30, "info if the key is on and nothing is listed")
def static_key_matches_lists(facts: Facts) -> Outcome:
    """The static key zones_with_unaccepted_pages is enabled if and only if a list has entries.

    From 6.5 to 6.14 the allocator looks at the lists only while this key is enabled. A race made its count wrong (fixed
    by removing it: fefc07518227, Linux 6.15, 6.14.8, 6.12.30, 6.6.92). With the key off, unaccepted memory is never
    accepted, and the guest runs out of memory with gigabytes on its lists. A key that stays on costs nothing: it is
    switched off only after the last chunk was accepted, so this is only info.
    Fix: Update to a kernel with fefc07518227. Until then `accept_memory=eager` avoids the lists.
    """
    key = given(given(facts.snapshot.kernel).static_key)
    chunks = facts.listed_chunks
    message = f"zones_with_unaccepted_pages is {key} ({'on' if key > 0 else 'off'}), {count(chunks, 'listed chunk')}"
    if chunks and key <= 0:
        doubt = facts.unsettled() if facts.live else None
        return Fault(message, facts.evidence.listed) if doubt is None else Fault(f"{message} ({doubt})", severity=INFO)
    return Fault(message, severity=INFO) if key > 0 and not chunks else Pass(message)
