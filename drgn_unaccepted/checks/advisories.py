# SPDX-License-Identifier: LGPL-2.1-or-later
"""Known kernel bugs that the evidence in a snapshot points to.

"Likely" is as far as they go: distributions backport fixes without changing the release's number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Optional

from drgn_unaccepted.checks import words
from drgn_unaccepted.checks.advisory import advisory, has_fix, version
from drgn_unaccepted.checks.engine import Finding
from drgn_unaccepted.checks.facts import Facts
from drgn_unaccepted.checks.needs import lacking
from drgn_unaccepted.checks.rule import CRITICAL, INFO, NOTE, SOFT, WARNING, Fault
from drgn_unaccepted.model import e820 as e820_model
from drgn_unaccepted.model import efi, stub
from drgn_unaccepted.model.bitmap import PAGE_SIZE
from drgn_unaccepted.model.header import unreserved_tail
from drgn_unaccepted.model.ranges import intersect, merge, total

Found = Callable[[str], Finding]

ONE_TIB = 1 << 40


def _failed(finding: Finding) -> bool:
    return finding.status in (WARNING, CRITICAL)


def _release(facts: Facts) -> str:
    return facts.snapshot.target.release or "a kernel of unknown release"


def _unaccepted_bytes(facts: Facts) -> int:
    """Unaccepted memory by the bitmap, else by the counters."""
    if not lacking(facts, ("bitmap",)):
        return total(facts.unaccepted)
    return (facts.nr_unaccepted_pages or 0) * PAGE_SIZE


@advisory(
    "reservation-short",
    says="The table's last page is left out of its reservation.",
    why="""
    reserve_unaccepted() of 6.6 (8dbe33956d96) and later forgets the offset of the table in its first page, which
    matters where ((pa & 0xfff) + 24 + size) > PAGE_ALIGN(24 + size); with OVMF's offset of 0x18 that is a bitmap of
    4049 to 4072 bytes (modulo 4096), 63.3 to 63.6 GiB of address space. The page is often PageReserved all the same, as
    memory of no zone, but not in the direct map: the kernel dies in accept_memory() with CR2 on it.
    """,
    mend="Update the kernel, or give the guest a little more or less memory.",
    fixed_by="0862438c9048 (7.0, 6.12.75)",
)
def reservation_short(facts: Facts, found: Found) -> Optional[Fault]:
    if facts.geometry is None or facts.table_range is None:
        return None
    address, end = facts.table_range
    tail = unreserved_tail(address, facts.geometry.bitmap_bytes)
    release = facts.snapshot.target.release
    this = version(release)
    if tail is None:
        return None
    message = f"{words.span(*tail)} of the table ending at {end:#x} is likely not reserved by {_release(facts)}"
    if _failed(found("table-reserved")):
        return Fault(f"{message}, and table-reserved fails", [tail], severity=SOFT)
    if facts.snapshot.table.unmapped == () or has_fix(release, (7, 0, 0), [(6, 12, 75)]):
        return None
    if this is not None and this < (6, 6, 0):
        return None
    return Fault(message, [tail], severity=INFO if this is None else SOFT)


@advisory(
    "static-key-race",
    says="The allocator does not look at its lists of unaccepted memory.",
    why="""
    zones_with_unaccepted_pages was counted up and down outside of zone->lock; two CPUs could leave it at 0 while a
    list has entries. The guest then runs out of memory with gigabytes still to be accepted.
    """,
    mend="Update the kernel; until then boot with accept_memory=eager.",
    fixed_by="fefc07518227 (6.15, 6.14.8, 6.12.30, 6.6.92)",
)
def static_key_race(facts: Facts, found: Found) -> Optional[Fault]:
    finding = found("static-key-matches-lists")
    if not _failed(finding):
        return None
    return Fault(f"likely the race of the static key: {finding.message}", finding.ranges, severity=SOFT)


@advisory(
    "watermark-zero",
    says="Memory ran out early in boot, before the watermarks were set.",
    why="""
    cond_accept_memory() accepts up to a watermark. Before init_per_zone_wmark_min() they are 0, and nothing was
    accepted: the first allocations could find no memory while chunks were waiting.
    """,
    mend="Update the kernel.",
    fixed_by="800f1059c99e (6.15, 6.12.21)",
)
def watermark_zero(facts: Facts, found: Found) -> Optional[Fault]:
    panic = facts.snapshot.panic
    if facts.live or has_fix(facts.snapshot.target.release, (6, 15, 0), [(6, 12, 21)]):
        return None
    waiting = [zone for zone in facts.zones if zone.listed is not None and zone.listed.pfns]
    if not waiting or any(zone.watermarks.high for zone in facts.zones):
        return None
    if panic is not None and "memory" not in panic.lower():
        return None
    return Fault(
        f"all watermarks are 0 while {words.count(len(facts.listed_pfns), 'chunk')} wait: likely not accepted when "
        "memory ran out",
        severity=SOFT if panic else INFO,
    )


@advisory(
    "kexec-unaccepted",
    says="kexec copies into unaccepted memory.",
    why="""
    kexec takes its destinations from the memory map and not from the page allocator, so that nothing accepted them. The
    copy ends the guest.
    """,
    mend="Do not run this kexec; update the kernel and load the image again.",
    fixed_by="caeb8ba598f0 (6.15)",
)
def kexec_unaccepted(facts: Facts, found: Found) -> Optional[Fault]:
    finding = found("kexec-segments-accepted")
    if not _failed(finding) or has_fix(facts.snapshot.target.release, (6, 15, 0)):
        return None
    return Fault(f"{_release(facts)} likely does not accept the destinations of kexec", finding.ranges, severity=SOFT)


@advisory(
    "endless-reclaim",
    says="Tasks reclaim for ever while memory waits to be accepted.",
    why="""
    The watermark checks took unaccepted memory as unusable, but cond_accept_memory() was asked only once the free lists
    were empty: the guest reclaims and swaps with gigabytes "available".
    """,
    mend="Update the kernel, or boot with accept_memory=eager.",
    fixed_by="807174a93d24 (6.11, 6.10.7)",
)
def endless_reclaim(facts: Facts, found: Found) -> Optional[Fault]:
    finding = found("watermark-starvation")
    if finding.status != NOTE or has_fix(facts.snapshot.target.release, (6, 11, 0), [(6, 10, 7)]):
        return None
    return Fault(f"{_release(facts)} likely reclaims instead of accepting", severity=SOFT)


@advisory(
    "guard-skipped",
    says="Memory in use ends right before unaccepted memory, without a guard.",
    why="""
    accept_memory() takes the guard unit only where a range ends on a unit boundary; one of memblock that ends a few
    bytes before it, within the unit's last page, went without.
    """,
    mend="Update the kernel.",
    fixed_by="948a013a54c4 (7.0)",
)
def guard_skipped(facts: Facts, found: Found) -> Optional[Fault]:
    finding = found("guard-unit-accepted")
    if not _failed(finding) or has_fix(facts.snapshot.target.release, (7, 0, 0)):
        return None
    return Fault(f"{_release(facts)} likely skips the guard of unaligned ranges", finding.ranges)


@advisory(
    "accept-lock-held",
    says="accept_memory() holds its spinlock while the platform accepts.",
    why="""
    6.5.0 to 6.5.8 hold unaccepted_memory_lock, interrupts off, across arch_accept_memory(): with many CPUs in
    _raw_spin_lock(), soft lockups.
    """,
    mend="Update the kernel, or boot with accept_memory=eager.",
    fixed_by="50e782a86c98 (6.6, 6.5.9)",
)
def accept_lock_held(facts: Facts, found: Found) -> Optional[Fault]:
    this = version(facts.snapshot.target.release)
    if this is None or not (6, 5, 0) <= this < (6, 5, 9) or facts.snapshot.accepting is not None:
        return None
    unaccepted = _unaccepted_bytes(facts)
    if not unaccepted:
        return None
    return Fault(f"{_release(facts)} likely accepts under a spinlock; {words.size(unaccepted)} are left to accept")


@advisory(
    "accept-overlap-spin",
    says="An accept waits for a neighbour that it does not overlap.",
    why="""
    accept_memory() took ranges that only touch for overlapping ones, so that a CPU spins, interrupts off, until its
    neighbour's accept is done.
    """,
    mend="Update the kernel.",
    fixed_by="01b1e3ca0e5c (6.7, 6.6.5)",
)
def accept_overlap_spin(facts: Facts, found: Found) -> Optional[Fault]:
    if has_fix(facts.snapshot.target.release, (6, 7, 0), [(6, 6, 5)]):
        return None
    ends = {entry.end_unit for entry in facts.accepts if entry.start_unit < entry.end_unit}
    touching = [entry for entry in facts.accepts if entry.start_unit in ends]
    if not touching:
        return None
    number = words.count(len(touching), "accept")
    return Fault(f"{number} in flight begin where another ends: {_release(facts)} likely makes the others wait")


@advisory(
    "accept-softlockup",
    says="A long accept looks like a soft lockup.",
    why="""
    Interrupts stay off for the whole of a large accept; without touch_softlockup_watchdog() at its end the watchdog
    reports, and with softlockup_panic ends, a guest that is only slow.
    """,
    mend="Update the kernel; until then do not set kernel.softlockup_panic.",
    fixed_by="1c5a1627f481 (6.9, 6.8.10)",
)
def accept_softlockup(facts: Facts, found: Found) -> Optional[Fault]:
    panic = facts.snapshot.panic or ""
    if "lockup" not in panic or not facts.accepts:
        return None
    if has_fix(facts.snapshot.target.release, (6, 9, 0), [(6, 8, 10)]):
        return None
    number = words.count(len(facts.accepts), "accept")
    return Fault(f"{number} in flight at a lockup panic: likely a long accept", severity=SOFT)


@advisory(
    "kcore-touches-unaccepted",
    says="Reading /proc/kcore or /proc/vmcore touches unaccepted memory.",
    why="Before 6.7 they do not ask pfn_is_unaccepted_memory(): a dump of all memory ends the guest.",
    mend="Do not copy /proc/kcore or /proc/vmcore on this kernel while memory is unaccepted.",
    fixed_by="e538a5820978 and 7cd34dd3c9bf (6.7)",
)
def kcore_touches_unaccepted(facts: Facts, found: Found) -> Optional[Fault]:
    platform = facts.snapshot.platform
    this = version(facts.snapshot.target.release)
    if this is None or has_fix(facts.snapshot.target.release, (6, 7, 0)) or platform is None:
        return None
    unaccepted = _unaccepted_bytes(facts)
    if platform.kind not in ("tdx", "snp") or not unaccepted:
        return None
    return Fault(
        f"{words.size(unaccepted)} are unaccepted, and {_release(facts)} likely touches them when memory is dumped",
        severity=SOFT if facts.live else INFO,
    )


@advisory(
    "snp-high-memory",
    says="SEV-SNP accepts the wrong pages above 1 TiB.",
    why="pfn_to_kaddr() lost the upper bits of page numbers of 40 bits, so that PVALIDATE went to another address.",
    mend="Update the kernel, or give the guest less than 1 TiB.",
    fixed_by="8e5647a723c4 (6.9)",
)
def snp_high_memory(facts: Facts, found: Found) -> Optional[Fault]:
    platform = facts.snapshot.platform
    if platform is None or platform.kind != "snp" or facts.geometry is None:
        return None
    if has_fix(facts.snapshot.target.release, (6, 9, 0)) or facts.geometry.end <= ONE_TIB:
        return None
    accepting = [range_ for range_ in facts.in_flight if range_.end > ONE_TIB]
    if accepting:
        return Fault(
            f"accepting above 1 TiB: {words.spans(accepting)}; {_release(facts)} likely validates other pages",
            accepting,
            severity=SOFT,
        )
    return Fault(f"the bitmap reaches to {facts.geometry.end:#x}; {_release(facts)} likely cannot accept above 1 TiB")


@advisory(
    "type-15-reserved",
    says="Unaccepted RAM became Reserved.",
    why="""
    do_add_efi_memmap() (`add_efi_memmap`, or any descriptor with EFI_MEMORY_SP while soft reservation is on) does not
    know type 15 and enters it as Reserved over the RAM that the stub reported. The memory is lost.
    """,
    mend="Boot without add_efi_memmap, or with efi=nosoftreserve.",
    fixed_by="open in 7.3",
)
def type_15_reserved(facts: Facts, found: Found) -> Optional[Fault]:
    e820 = facts.snapshot.e820
    if e820 is None or e820.current is None or e820.firmware is None:
        return None
    reserved = facts.e820_of_type(e820.current, e820_model.RESERVED)
    lost = intersect(intersect(facts.efi_unaccepted, reserved), facts.firmware_ram)
    if not lost:
        return None
    return Fault(
        f"{words.size(total(lost))} of type 15 are RAM for the firmware and Reserved in e820_table, likely through "
        f"add_efi_memmap or EFI_MEMORY_SP: {words.spans(lost)}",
        lost,
    )


@advisory(
    "specific-purpose-ignored",
    says="Special-purpose memory that is unaccepted becomes ordinary RAM.",
    why="setup_e820() of the stub looks at EFI_MEMORY_SP for conventional memory only, and not for type 15.",
    mend="Let the firmware accept special-purpose memory before it hands it over.",
    fixed_by="open in 7.3",
)
def specific_purpose_ignored(facts: Facts, found: Found) -> Optional[Fault]:
    special = efi.ATTRIBUTES["SP"]
    ignored = merge(
        (d.start, d.end) for d in facts.descriptors if d.type == efi.UNACCEPTED and (d.attribute or 0) & special
    )
    if not ignored:
        return None
    return Fault(f"type 15 with EFI_MEMORY_SP is plain RAM to the kernel: {words.spans(ignored)}", ignored)


@advisory(
    "stub-beyond-bitmap",
    says="The EFI stub wrote beyond the bitmap.",
    why="""
    Where an earlier stage made a table that is too small, and a type 15 descriptor starts above all that it covers,
    process_unaccepted_memory() accepts from the end of the bitmap to the end of the descriptor and then clears and sets
    bits by a count below zero.
    """,
    mend="Mend the earlier stage: its table has to cover all type 15 memory, or it should install none.",
    fixed_by="open in 7.3",
)
def stub_beyond_bitmap(facts: Facts, found: Found) -> Optional[Fault]:
    efi_map = facts.snapshot.efi_map
    if facts.geometry is None or efi_map is None or not efi_map.complete:
        return None
    beyond = stub.beyond_bitmap(facts.descriptors, facts.geometry)
    if not beyond:
        return None
    ranges = merge((d.start, d.end) for d in beyond)
    return Fault(
        f"type 15 starts above the bitmap's end {facts.geometry.end:#x}, where the stub likely wrote beyond it: "
        f"{words.spans(ranges)}",
        ranges,
        severity=SOFT,
    )
