# SPDX-License-Identifier: LGPL-2.1-or-later
"""The bitmap against the states of the pages under it."""

from __future__ import annotations

from typing import Union

from drgn_unaccepted.checks import words
from drgn_unaccepted.checks.facts import Facts, merged
from drgn_unaccepted.checks.rule import HARD, INFO, SOFT, Fault, Outcome, Pass, Skip, rule
from drgn_unaccepted.model.bitmap import PAGE_SHIFT, PAGE_SIZE
from drgn_unaccepted.model.ranges import Range, intersect, subtract, total

#: Chunks that may be in limbo where the number of CPUs is not known.
_LIMBO_CHUNKS = 8

#: States of the pages under orphan bits that explain them.
_EXPLAINED = {
    "reserved": "PageReserved",
    "absent": "without struct page",
    "offline": "PageOffline",
    "device": "of ZONE_DEVICE",
    "uninitialised": "not initialised yet",
}


@rule(
    15,
    "buddy-pages-accepted",
    says="No page in a buddy list is unaccepted.",
    needs=("bitmap.now", "pages"),
    live=HARD,
    vmcore=HARD,
    why="""
    __free_pages_core() and __accept_page() accept memory before they free it, and bits are never set again, so that
    this holds at every instant. The next allocation of such a page touches unaccepted memory: a TD is killed by the
    hypervisor, an SNP guest panics.
    """,
    mend="""
    Find out how the page came into the list without being accepted: `cma=SIZE@BASE` and hot-added memory do not
    accept (open in 7.3), an overwritten bitmap shows bits that are not true (bits-within-initial-map, table-reserved).
    """,
)
def buddy_pages_accepted(facts: Facts) -> Outcome:
    return _none_unaccepted(facts, "buddy", "in a buddy list")


@rule(
    16,
    "allocated-pages-accepted",
    says="No allocated page is unaccepted.",
    needs=("bitmap.now", "pages"),
    live=HARD,
    vmcore=HARD,
    why="""
    An allocated page (references, neither PageReserved nor PageOffline) came out of a buddy list, into which it was
    freed after it was accepted. Before the page allocator has its memory every struct page has a reference: skipped
    while the kernel boots.
    """,
    mend="""
    As for buddy-pages-accepted. If the guest died, compare the address that it touched last with these ranges
    (`resolve ADDR`).
    """,
)
def allocated_pages_accepted(facts: Facts) -> Outcome:
    if facts.booting:
        return Skip("pages: the kernel was booting, and its page allocator had not all its memory yet")
    return _none_unaccepted(facts, "in-use", "allocated")


def _none_unaccepted(facts: Facts, state: str, words_for_state: str) -> Union[Pass, Skip, Fault]:
    if facts.unaccepted and not intersect(facts.unaccepted, facts.scanned):
        return Skip(f"pages: none of the unaccepted memory was looked at{_limited(facts)}")
    wrong = facts.unaccepted_in(facts.pages_in_state(state))
    if wrong:
        pages = words.count(total(wrong) // PAGE_SIZE, "page")
        return Fault(f"{pages} {words_for_state} and unaccepted: {words.spans(wrong)}", wrong)
    return Pass(f"no page under a set bit is {words_for_state}{_coverage(facts)}")


def _limited(facts: Facts) -> str:
    pages = facts.snapshot.pages
    return f" ({pages.limited})" if pages is not None and pages.limited else ""


def _coverage(facts: Facts) -> str:
    """What was not looked at, for a pass to admit."""
    unseen = total(subtract(facts.unaccepted, facts.scanned))
    return f"; {words.size(unseen)} were not looked at{_limited(facts)}" if unseen else ""


@rule(
    17,
    "guard-unit-accepted",
    says="The unit behind a page in use that ends on a unit boundary is accepted.",
    needs=("bitmap.now", "pages"),
    live=SOFT,
    vmcore=SOFT,
    why="""
    load_unaligned_zeropad() may read past the end of a page into the next one and relies on a fault to recover, which
    unaccepted memory does not give: a TD exits to the hypervisor. So accept_memory() accepts one more unit where a
    range ends on a unit boundary. Without that guard: memory that memblock gave out with an unaligned end before 7.0
    (948a013a54c4), and memory that the firmware accepted, that was reserved and later given to the page allocator by
    free_reserved_area(). A hazard, not damage.
    """,
    mend="""
    Update to a kernel with 948a013a54c4. A guest that dies without a word while handling strings or file names at the
    end of a page may have met this: look for the page in the last call traces.
    """,
)
def guard_unit_accepted(facts: Facts) -> Outcome:
    if facts.booting:
        return Skip("pages: the kernel was booting, and its page allocator had not all its memory yet")
    guards = facts.guard_pages
    if guards and not intersect(guards, facts.scanned):
        return Skip(f"pages: none before unaccepted memory was looked at{_limited(facts)}")
    exposed = intersect(facts.pages_in_state("buddy", "in-use"), guards)
    if exposed:
        pages = words.count(len(exposed), "page")
        return Fault(f"{pages} in use right before an unaccepted unit: {words.spans(exposed)}", exposed)
    return Pass("no page in use ends where unaccepted memory starts")


@rule(
    25,
    "orphan-bits",
    says="All unaccepted memory is on a zone's list, or there is a known reason why not.",
    needs=("bitmap.now", "zones.listed.whole"),
    live=INFO,
    vmcore=INFO,
    nuance="warning for what has no known reason",
    why="""
    Once the kernel has booted, memory under set bits waits on `zone->unaccepted_pages` to be accepted. Known reasons
    not to be there: taken out of e820_table (`mem=`, `memmap=`), PageReserved and never touched, without struct page,
    hot-removed, not initialised yet (deferred init), or in limbo between __accept_page() taking it off the list and
    the end of accept_memory(). Such memory is lost to the guest but harmless. Without a known reason: a warning.
    """,
    mend="""
    For the known reasons see `e820` and the command line. Else the page allocator has lost chunks: look at
    list-entries-sane, zone-counter-matches-list and static-key-matches-lists, and at what last handled the pages.
    """,
)
def orphan_bits(facts: Facts) -> Outcome:
    orphans = subtract(facts.unaccepted, merged(facts.listed + facts.in_flight))
    if not orphans:
        return Pass("all unaccepted memory is on a list or being accepted")
    reasons, unknown = _sort_out(facts, orphans)
    shares = [f"{words.size(nbytes)} {reason}" for reason, nbytes in reasons.items() if nbytes]
    message = f"{words.size(total(orphans))} unaccepted on no list"
    message += f": {', '.join(shares)}" if shares else ""
    doubt = facts.torn("zones", "counters", "accepting", "pages") if facts.live else None
    if facts.booting:
        return Fault(f"{message} (the kernel was booting, and its page allocator had not all its memory yet)", orphans)
    if unknown:
        message += f"; {words.size(total(unknown))} without a known reason: {words.spans(unknown)}"
        if doubt is None:
            return Fault(message, unknown, severity=SOFT)
        message += f" ({doubt})"
    return Fault(message, orphans)


def _sort_out(facts: Facts, orphans: list[Range]) -> tuple[dict[str, int], list[Range]]:
    """Bytes by known reason, and what is left."""
    reasons: dict[str, int] = {}
    rest = orphans
    if facts.snapshot.e820 is not None and facts.snapshot.e820.current is not None:
        reasons["not RAM of e820_table"] = total(subtract(rest, facts.current_ram))
        rest = intersect(rest, facts.current_ram)
    for state, reason in _EXPLAINED.items():
        pages = facts.pages_in_state(state)
        reasons[reason] = total(intersect(rest, pages))
        rest = subtract(rest, pages)
    unseen = subtract(rest, facts.scanned)
    reasons["whose pages were not looked at"] = total(unseen)
    rest = intersect(rest, facts.scanned)
    # What is in a buddy list or allocated is a fault of its own, with a rule of its own.
    used = facts.pages_in_state("buddy", "in-use")
    reasons["in use"] = total(intersect(rest, used))
    rest = subtract(rest, used)
    limbo = _limbo(facts, rest)
    reasons["in limbo"] = total(limbo)
    return reasons, subtract(rest, limbo)


def _limbo(facts: Facts, ranges: list[Range]) -> list[Range]:
    """Chunks on the way from their list to accept_memory(), of which each CPU can have one."""
    kernel = facts.snapshot.kernel
    assert kernel is not None
    chunk = facts.chunk_bytes
    chunks = sum((end - 1) // chunk - start // chunk + 1 for start, end in ranges)
    free = not subtract(ranges, facts.pages_in_state("free"))
    return ranges if free and chunks <= (kernel.cpus or _LIMBO_CHUNKS) else []


@rule(
    31,
    "masked-pages-in-use",
    says="No page in use is shown as zeros because unaccepted memory follows it.",
    needs=("bitmap.now", "pages"),
    live=INFO,
    vmcore=INFO,
    why="""
    /proc/kcore and /proc/vmcore show a page as zeros where pfn_is_unaccepted_memory() says so (e538a5820978 and
    7cd34dd3c9bf, Linux 6.7), and by its guard logic that is also the last page before every unaccepted unit, although
    it is accepted. A page in use there reads as zeros in the capture, whatever it holds.
    """,
    mend="""
    Do not trust zeros at these addresses: structures that lie there were lost when the capture was made. A whole-RAM
    dump has them.
    """,
)
def masked_pages_in_use(facts: Facts) -> Outcome:
    pages = facts.snapshot.pages
    assert pages is not None
    masked = merged((pfn << PAGE_SHIFT, (pfn + 1) << PAGE_SHIFT) for pfn in pages.masked_pfns)
    # Within a listed chunk the guard is free, and its zeros hide nothing.
    masked = intersect(masked, facts.pages_in_state("in-use", "reserved"))
    if masked:
        number = total(masked) // PAGE_SIZE
        read = "reads" if number == 1 else "read"
        what = f"{words.count(number, 'page')} in use before unaccepted memory {read} as zeros"
        return Fault(f"{what}: {words.spans(masked)}", masked)
    return Pass("no page in use reads as zeros because of a guard")
