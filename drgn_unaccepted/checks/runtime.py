# SPDX-License-Identifier: LGPL-2.1-or-later
"""Activity at the time of the capture: accepts in flight, the platform that performs them, reclaim."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import accumulate
from operator import attrgetter

from drgn_unaccepted.answer.allocator import zone_name
from drgn_unaccepted.answer.parts import accept_document, where, who
from drgn_unaccepted.checks.facts import Facts
from drgn_unaccepted.checks.rule import CRITICAL, INFO, WARNING, Fault, Outcome, Pass, Rule, Skip, given, some
from drgn_unaccepted.model.ranges import intersect, total
from drgn_unaccepted.snapshot import PAGE_SIZE, Accept
from drgn_unaccepted.words import count, size


@Rule(WARNING, ("image.banner",))
def release_matches_banner(facts: Facts) -> Outcome:
    """The release in VMCOREINFO is the one in the kernel's banner.

    Both are UTS_RELEASE of the build: OSRELEASE in VMCOREINFO, and `linux_banner` in the kernel's image. Where they
    differ, one was overwritten or is of another kernel, and no known bug is told by the release.
    Fix: Compare both with the first line of the boot log. If VMCOREINFO is wrong, other values in it may be, too.
    """
    release, banner = facts.snapshot.target.release, facts.snapshot.image.banner
    if facts.false_release:
        return Fault(f"OSRELEASE is {release}, and linux_banner says {banner}")
    return Pass(f"both say {banner}")


@Rule(INFO, ("accepting",), 26, "in a vmcore critical if entries overlap or it died accepting, warning for a lockup")
def accepting_ranges_sane(facts: Facts) -> Outcome:
    """Entries of accepting_list are disjoint ranges of units of the bitmap, each on the stack of a task.

    Since 6.6 and 6.5.9 (50e782a86c98) accept_memory() puts a `struct accept_range` on its stack and on accepting_list,
    and waits until no other entry overlaps. Entries that overlap in a vmcore are a fault: two CPUs accept the same
    memory. An accept of memory above the bitmap has start >= end, both at the end of the bitmap or above; that is
    legal. An entry in a vmcore means that the kernel stopped in the middle of an accept: its units may be accepted
    while their bits are still set. On a live kernel entries disappear while they are read: info.
    Fix: After a panic in an accept or a lockup look at the host's log of that time: was it short of memory, or slow to
    provide it? For an accept in flight look at the task's stack; panics of arch_accept_memory() end there. For an entry
    without a task, or beyond the bitmap: the list led into a stack that was in use again.
    """
    entries, write = facts.accepts, partial(_entry, facts)
    faults = [Fault(f"accepting_list: {problem}") for problem in given(facts.snapshot.accepting).problems]
    overlapping = _overlapping(entries)
    if overlapping:
        more = f" and {count(len(overlapping) - 1, 'more pair')}" if len(overlapping) > 1 else ""
        message = f"{' and '.join(map(write, overlapping[0]))} overlap{more}"
        faults.append(Fault(message, severity=INFO if facts.live else CRITICAL))
    insane = [entry for entry in entries if _is_insane(facts, entry)]
    # An oops starts at the top of the stack again: rewind_stack_and_make_dead().
    dead = [entry for entry in insane if entry.is_empty and not facts.live]
    kinds = {
        "no range, its stack is dead (an oops rewound it, or it is in use again)": dead,
        "not a range of the bitmap": [entry for entry in insane if entry not in dead],
        "on no task's stack": [entry for entry in entries if entry.task is None],
    }
    faults += [Fault(f"{what}: {some(wrong, write)}") for what, wrong in kinds.items() if wrong]
    in_flight = f"{count(len(entries), 'accept')} in flight"
    if entries and not facts.live and not faults:
        panic = facts.snapshot.panic or ""
        host = "; an accept waits for the host: look there next" if "lockup" in panic else ""
        message = f"{in_flight}: {some(entries, write)}" + (f"; panic: {panic}{host}" if panic else "")
        if "accept memory" in panic:
            return Fault(f"the kernel died in an accept, {message}", severity=CRITICAL)
        return Fault(message, severity=WARNING if host else None)
    return faults or Pass(in_flight)


def _is_insane(facts: Facts, entry: Accept) -> bool:
    # Without the end of the bitmap, an entry that starts at its own end or above may be legal.
    units = entry.end_unit if facts.geometry is None else facts.geometry.units
    return entry.end_unit > units or (entry.is_empty and entry.end_unit != units)


def _overlapping(entries: Sequence[Accept]) -> list[tuple[Accept, Accept]]:
    """Pairs of entries that overlap, as the kernel compares them; each entry with the furthest one before it."""
    legal = sorted((each for each in entries if not each.is_empty), key=attrgetter("start_unit", "end_unit"))
    furthest: Iterator[Accept] = accumulate(legal, partial(max, key=attrgetter("end_unit")))
    return [(one, other) for one, other in zip(furthest, legal[1:]) if one.end_unit > other.start_unit]


def _entry(facts: Facts, entry: Accept) -> str:
    base, provenance = facts.snapshot.unit_base()
    is_range = entry.start_unit < entry.end_unit and not _is_insane(facts, entry)
    document = accept_document(entry, base if is_range else None)
    by = "" if provenance in ("table", None) or not is_range else f", phys_base from the {provenance},"
    return f"{where(document)}{by} by {who(document)}"


@Rule(INFO, ("platform.kind",), 27, "warning if the first accept panics")
def platform_can_accept(facts: Facts) -> Outcome:
    """A guest with unaccepted memory is a TDX or an SNP guest.

    arch_accept_memory() supports TDX and SEV-SNP. On any other platform its first call panics with "Cannot accept
    memory: unknown platform". A table alone is harmless until a set bit is touched; with unaccepted RAM it is a
    warning if the first accept panicked, or is known to be still to come. If memory was accepted since boot, the
    platform can, and was not recognised here.
    Fix: The firmware reports type 15 to a guest that cannot accept it, or the platform was not recognised (cc_vendor,
    sev_status, X86_FEATURE_TDX_GUEST): look for "Memory Encryption Features" in the first lines of the boot log.
    """
    table = facts.snapshot.table
    if facts.platform in ("tdx", "snp"):
        return Pass(f"{'TDX' if facts.platform == 'tdx' else 'SEV-SNP'} guest")
    if table.state == "absent":
        return Pass("there is no table")
    # RAM that may be accepted later: by the bitmap, or if that shows none by the lists.
    if facts.unaccepted and facts.judgement.doubt is None and not facts.lacking("bitmap.now"):
        ram = facts.unaccepted if facts.used_ram is None else intersect(facts.unaccepted, facts.used_ram)
    else:
        ram = [] if facts.lacking("zones.listed") else facts.evidence.listed
    waiting, accepted = total(ram), facts.accepted_since_boot
    died = "annot accept memory" in (facts.snapshot.panic or "")
    if accepted and not died:
        return Fault(f"neither TDX nor SEV-SNP is seen, but {size(accepted)} were accepted since boot")
    if waiting and (died or accepted == 0):
        message = f"neither TDX nor SEV-SNP, and {size(waiting)} of RAM unaccepted: the first accept panics"
        return Fault(message, severity=WARNING)
    if waiting:
        unknown = "nothing here tells whether the platform accepted any since boot"
        return Fault(f"neither TDX nor SEV-SNP is seen, {size(waiting)} of RAM unaccepted: {unknown}")
    if table.address is None:
        return Skip(f"table.address: {table.reason}")
    return Fault("neither TDX nor SEV-SNP, but there is a table")


@Rule(INFO, ("zones.nr_unaccepted", "reclaiming"), 32)
def watermark_starvation(facts: Facts) -> Outcome:
    """No task reclaims while a zone has unaccepted memory that would lift it over its watermark.

    Unaccepted pages count as free, but can be allocated only once accepted. If the other free pages are below the
    watermark that cond_accept_memory() accepts up to (promo, before 6.12 high) and tasks are in direct reclaim, the
    allocator may loop instead of accepting: fixed by 807174a93d24 (6.11, 6.10.7). A task that is bound to a node gets
    nothing from the others: a node below its minimum with nothing left to accept starves while they have plenty.
    Fix: If memory is "available" and the guest still stalls, update the kernel, or boot with `accept_memory=eager`. If
    it accepts (see `accepting`), it is only busy.
    """
    reclaiming = given(facts.snapshot.reclaiming)
    starved = []
    for zone in facts.zones:
        waiting, marks = zone.unaccepted_pages or 0, zone.watermarks
        accepted, target = zone.free_pages - waiting, (marks.high if marks.promo is None else marks.promo) + marks.boost
        if waiting and accepted < target:
            counts = f"{accepted} free pages are accepted, the watermark is {target}"
            starved.append(f"{zone_name(zone)}: {counts}, {size(waiting * PAGE_SIZE)} wait to be accepted")
    for node in sorted({zone.node for zone in facts.zones}):
        here = [zone for zone in facts.zones if zone.node == node]
        free, least = sum(zone.free_pages for zone in here), sum(zone.watermarks.min for zone in here)
        waiting = sum(zone.unaccepted_pages or 0 for zone in facts.zones if zone.node != node)
        if waiting and free < least and not any(zone.unaccepted_pages for zone in here):
            counts = f"{free} free pages, the minimum is {least}, and nothing is left to accept"
            starved.append(f"node {node}: {counts}; {size(waiting * PAGE_SIZE)} wait on other nodes")
    if not starved or not reclaiming:
        return Pass("no zone is short of accepted memory" if not starved else "no task is in direct reclaim")
    tasks = some(reclaiming, lambda task: f"{task.comm} (pid {task.pid})")
    return [Fault(f"{where}; {count(len(reclaiming), 'task')} in direct reclaim: {tasks}") for where in starved]
