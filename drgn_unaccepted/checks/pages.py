# SPDX-License-Identifier: LGPL-2.1-or-later
"""The struct pages: is memory in use that is unaccepted, or that needs a guard?"""

from __future__ import annotations

from drgn_unaccepted.checks.facts import Facts, merged
from drgn_unaccepted.checks.rule import BOOTING, CRITICAL, INFO, WARNING, Fault, Outcome, Pass, Rule, Skip, pages, spans
from drgn_unaccepted.model.ranges import PAGE_SIZE, Range, intersect, subtract, total
from drgn_unaccepted.words import size


@Rule(CRITICAL, ("unaccepted.now", "pages"), 15)
def buddy_pages_accepted(facts: Facts) -> Outcome:
    """No page in a buddy list is unaccepted.

    __free_pages_core() and __accept_page() accept memory before they free it, and bits are never set again, so this
    holds at every instant. The next allocation of such a page touches unaccepted memory: a TD is killed by the
    hypervisor, an SNP guest panics.
    Fix: Find out how the page got into the list without being accepted. `cma=SIZE@BASE` and hot-added memory do not
    accept (open in 7.3). An overwritten bitmap has bits that were never valid (bits-within-initial-map,
    table-reserved).
    """
    return _none_unaccepted(facts, "buddy", "in a buddy list")


@Rule(CRITICAL, ("unaccepted.now", "pages"), 16)
def allocated_pages_accepted(facts: Facts) -> Outcome:
    """No allocated page is unaccepted.

    An allocated page (references, neither PageReserved nor PageOffline) came from a buddy list, into which it was freed
    after it was accepted. While the kernel boots the rule is skipped: until the page allocator has its memory, every
    struct page has a reference.
    Fix: As for buddy-pages-accepted. If the guest died, compare the address that it touched last with these ranges
    (`resolve ADDR`).
    """
    if facts.booting:
        return Skip(f"pages: {BOOTING}")
    return _none_unaccepted(facts, "in-use", "allocated")


def _none_unaccepted(facts: Facts, state: str, words: str) -> Outcome:
    unaccepted = facts.unaccepted_now
    if unaccepted and not intersect(unaccepted, facts.scanned):
        return Skip(f"pages: no unaccepted memory was scanned{facts.limited}")
    wrong = intersect(facts.evidence.pages(state), unaccepted)
    if wrong:
        return Fault(f"{pages(wrong)} {words} and unaccepted: {spans(wrong)}", wrong)
    unseen = total(subtract(unaccepted, facts.scanned))
    but = f"; {size(unseen)} not scanned{facts.limited}" if unseen else ""
    return Pass(f"no unaccepted page is {words}{but}")


@Rule(WARNING, ("bitmap.now", "pages"), 17)
def guard_unit_accepted(facts: Facts) -> Outcome:
    """The unit behind a page in use that ends on a unit boundary is accepted.

    load_unaligned_zeropad() may read past the end of a page into the next one and relies on a fault to recover, which
    unaccepted memory does not give: a TD exits to the hypervisor. So accept_memory() accepts one more unit if a range
    ends on a unit boundary. Memory that memblock gave out with an unaligned end before 7.0 (948a013a54c4) lacks that
    guard, and so does memory that the firmware accepted, that was reserved and that free_reserved_area() later gave to
    the page allocator. A hazard, not damage.
    Fix: Update to a kernel with 948a013a54c4. A guest that dies without a message while it handles strings or file
    names at the end of a page may have met this: look for the page in the last call traces.
    """
    if facts.booting:
        return Skip(f"pages: {BOOTING}")
    guards = [Range(run.start - PAGE_SIZE, run.start) for run in facts.unaccepted if run.start >= PAGE_SIZE]
    if guards and not intersect(guards, facts.scanned):
        return Skip(f"pages: none before unaccepted memory was scanned{facts.limited}")
    exposed = intersect(facts.evidence.pages("buddy", "in-use"), guards)
    message = f"{pages(exposed)} in use right before an unaccepted unit: {spans(exposed)}"
    return Fault(message, exposed) if exposed else Pass("no page in use ends where unaccepted memory starts")


@Rule(INFO, ("bitmap.now", "pages"), 31)
def masked_pages_in_use(facts: Facts) -> Outcome:
    """No page in use is shown as zeros because unaccepted memory follows it.

    /proc/kcore and /proc/vmcore show a page as zeros if pfn_is_unaccepted_memory() is true for it (e538a5820978 and
    7cd34dd3c9bf, Linux 6.7). Because of the guard logic that includes the last page before every unaccepted unit,
    although it is accepted. A page in use there reads as zeros in the capture, whatever it contains.
    Fix: Do not trust zeros at these addresses: the capture lacks the structures that lie there. A whole-RAM dump has
    them.
    """
    # A guard page within a listed chunk, or one that `memmap=` took away, has no user; its zeros hide nothing.
    used = intersect(facts.evidence.pages("reserved"), facts.masked if facts.used_ram is None else facts.used_ram)
    masked = intersect(facts.masked, merged([*facts.evidence.pages("in-use"), *used]))
    message = f"{pages(masked)} in use before unaccepted memory shown as zeros: {spans(masked)}"
    return Fault(message, masked) if masked else Pass("no page in use is shown as zeros because of a guard")
