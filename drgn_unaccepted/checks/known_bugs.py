# SPDX-License-Identifier: LGPL-2.1-or-later
"""Known kernel bugs that the evidence in a snapshot points to, of kernels that do not have the fix.

Where the fix left nothing that tells, the release does, and a message says "likely" at most.
"""

from __future__ import annotations

from drgn_unaccepted.checks.facts import Facts, merged
from drgn_unaccepted.checks.rule import CRITICAL, INFO, WARNING, Fault, Outcome, Rule, spans
from drgn_unaccepted.model import e820 as e820_model
from drgn_unaccepted.model import efi, stub
from drgn_unaccepted.model.addresses import on_command_line
from drgn_unaccepted.model.header import unreserved_tail
from drgn_unaccepted.model.ranges import Range, clip, intersect, subtract, total
from drgn_unaccepted.words import count, size, span


def _unaccepted_bytes(facts: Facts) -> int:
    """Unaccepted memory according to the bitmap, else to the counters."""
    return (facts.evidence.nr_unaccepted_bytes or 0) if facts.lacking("bitmap") else total(facts.unaccepted)


@Rule(WARNING, fixed_by="0862438c9048 (7.0, 6.19.4, 6.18.14, 6.12.75)")
def reservation_short(facts: Facts) -> Outcome:
    """The table's last page is left out of its reservation.

    reserve_unaccepted() of 6.6 (8dbe33956d96) and later forgets the offset of the table in its first page, which
    matters where ((pa & 0xfff) + 24 + size) > PAGE_ALIGN(24 + size). With OVMF's offset of 0x18 that is a bitmap of
    4049 to 4072 bytes (modulo 4096), 63.3 to 63.6 GiB of address space. The page is often PageReserved nevertheless, as
    memory of no zone, but not in the direct map: the kernel dies in accept_memory() with its address in CR2. Where
    that cannot be read, it is a note.
    Fix: Update the kernel, or give the guest a little more or less memory.
    """
    table = facts.evidence.table_range
    tail = table and unreserved_tail(table)
    if tail is None or (facts.version or ())[:2] == (6, 5):
        return None
    message = f"{span(*tail)} of the table ending at {tail.end:#x} is likely not reserved by {facts.release}"
    if facts.finding("table-reserved", WARNING, CRITICAL):
        return Fault(f"{message}, and table-reserved fails", [tail])
    return Fault(f"{message}; whether it is mapped cannot be read", [tail], INFO)


@Rule(WARNING, fixed_by="fefc07518227 (6.15, 6.14.8, 6.12.30, 6.6.92)")
def static_key_race(facts: Facts) -> Outcome:
    """The allocator does not look at its lists of unaccepted memory.

    zones_with_unaccepted_pages was counted up and down outside zone->lock; two CPUs could leave it at 0 while a list
    has entries. The guest then runs out of memory with gigabytes still to be accepted.
    Fix: Update the kernel; until then boot with accept_memory=eager.
    """
    found = facts.finding("static-key-matches-lists", WARNING, CRITICAL)
    return Fault(f"likely the race of the static key: {found.message}", found.ranges) if found else None


@Rule(INFO, fixed_by="800f1059c99e (6.15, 6.12.21)")
def watermark_zero(facts: Facts) -> Outcome:
    """Memory ran out early in boot, before the watermarks were set.

    cond_accept_memory() accepts up to a watermark. Before init_per_zone_wmark_min() the watermarks are 0, and nothing
    was accepted: the first allocations could find no memory while chunks were waiting.
    Fix: Update the kernel.
    """
    panic, chunks = facts.snapshot.panic, facts.listed_chunks
    if facts.live or not chunks or any(zone.watermarks.high for zone in facts.zones):
        return None
    message = f"all watermarks are 0 with {count(chunks, 'chunk')} waiting: likely not accepted when memory ran out"
    return Fault(message, severity=WARNING if panic else INFO) if panic is None or "memory" in panic.lower() else None


@Rule(WARNING, fixed_by="caeb8ba598f0 (6.15)")
def kexec_unaccepted(facts: Facts) -> Outcome:
    """kexec copies into unaccepted memory.

    kexec takes its destinations from the memory map and not from the page allocator, so nothing accepted them. The copy
    ends the guest.
    Fix: Do not run this kexec; update the kernel and load the image again.
    """
    found = facts.finding("kexec-segments-accepted", WARNING, CRITICAL)
    return Fault(f"{facts.release} likely does not accept the destinations of kexec", found.ranges) if found else None


@Rule(WARNING, fixed_by="807174a93d24 (6.11, 6.10.7)")
def endless_reclaim(facts: Facts) -> Outcome:
    """Tasks reclaim for ever while memory waits to be accepted.

    The watermark checks took unaccepted memory as unusable, but cond_accept_memory() was called only once the free
    lists were empty: the guest reclaims and swaps with gigabytes "available".
    Fix: Update the kernel, or boot with accept_memory=eager.
    """
    found = facts.finding("watermark-starvation", INFO)
    return Fault(f"{facts.release} likely reclaims instead of accepting") if found else None


@Rule(INFO, fixed_by="948a013a54c4 (7.0)")
def guard_skipped(facts: Facts) -> Outcome:
    """Memory in use ends right before unaccepted memory, without a guard.

    accept_memory() takes the guard unit only if a range ends on a unit boundary. A range of memblock that ends a few
    bytes before it, within the unit's last page, got no guard.
    Fix: Update the kernel.
    """
    found = facts.finding("guard-unit-accepted", WARNING, CRITICAL)
    return Fault(f"{facts.release} likely skips the guard of unaligned ranges", found.ranges) if found else None


@Rule(INFO, fixed_by="50e782a86c98 (6.6, 6.5.9)")
def accept_lock_held(facts: Facts) -> Outcome:
    """accept_memory() holds its spinlock while the platform accepts.

    6.5.0 to 6.5.8 hold unaccepted_memory_lock, with interrupts off, across arch_accept_memory(). With many CPUs in
    _raw_spin_lock() that causes soft lockups.
    Fix: Update the kernel, or boot with accept_memory=eager.
    """
    unaccepted = _unaccepted_bytes(facts)
    message = f"{facts.release} likely accepts under a spinlock; {size(unaccepted)} still unaccepted"
    return Fault(message) if unaccepted and facts.version is not None else None


@Rule(INFO, fixed_by="01b1e3ca0e5c (6.7, 6.6.5)")
def accept_overlap_spin(facts: Facts) -> Outcome:
    """An accept waits for a neighbour that it does not overlap.

    accept_memory() took ranges that only touch for overlapping ones, so a CPU spins, with interrupts off, until its
    neighbour's accept is done.
    Fix: Update the kernel.
    """
    ends = {entry.end_unit for entry in facts.accepts if not entry.is_empty}
    touching = sum(entry.start_unit in ends for entry in facts.accepts)
    message = f"{count(touching, 'accept')} in flight where another ends: {facts.release} likely makes the others wait"
    return Fault(message) if touching else None


@Rule(WARNING, fixed_by="1c5a1627f481 (6.9, 6.8.10)")
def accept_softlockup(facts: Facts) -> Outcome:
    """A long accept looks like a soft lockup.

    Interrupts stay off for the whole of a large accept. Without touch_softlockup_watchdog() at its end the watchdog
    reports a guest that is only slow, and with softlockup_panic ends it.
    Fix: Update the kernel; until then do not set kernel.softlockup_panic.
    """
    message = f"{count(len(facts.accepts), 'accept')} in flight at a lockup panic: likely a long accept"
    return Fault(message) if facts.accepts and "lockup" in (facts.snapshot.panic or "") else None


@Rule(INFO, fixed_by="e538a5820978 and 7cd34dd3c9bf (6.7)")
def kcore_touches_unaccepted(facts: Facts) -> Outcome:
    """Reading /proc/kcore or /proc/vmcore touches unaccepted memory.

    Before 6.7 they do not call pfn_is_unaccepted_memory(): a dump of all memory ends the guest.
    Fix: Do not copy /proc/kcore or /proc/vmcore on this kernel while memory is unaccepted.
    """
    if facts.version is None or facts.platform not in ("tdx", "snp"):
        return None
    unaccepted = _unaccepted_bytes(facts)
    message = f"{size(unaccepted)} unaccepted, which {facts.release} likely touches when memory is dumped"
    return Fault(message, severity=WARNING if facts.live else INFO) if unaccepted else None


@Rule(INFO, fixed_by="8e5647a723c4 (6.9)")
def snp_high_memory(facts: Facts) -> Outcome:
    """SEV-SNP accepts the wrong pages above 1 TiB.

    pfn_to_kaddr() lost the upper bits of page numbers of 40 bits, so PVALIDATE went to another address.
    Fix: Update the kernel, or give the guest less than 1 TiB.
    """
    if facts.platform != "snp" or facts.geometry is None or facts.geometry.end <= 1 << 40:
        return None
    accepting = list(clip(facts.snapshot.in_flight() or (), 1 << 40, facts.geometry.end))
    if accepting:
        message = f"accepting above 1 TiB: {spans(accepting)}; {facts.release} likely validates other pages"
        return Fault(message, accepting, WARNING)
    return Fault(f"the bitmap ends at {facts.geometry.end:#x}; {facts.release} likely cannot accept above 1 TiB")


@Rule(INFO, fixed_by="open in 7.3")
def type_15_reserved(facts: Facts) -> Outcome:
    """Unaccepted RAM became Reserved.

    do_add_efi_memmap() (`add_efi_memmap`, or any descriptor with EFI_MEMORY_SP while soft reservation is on) does not
    know type 15 and enters it as Reserved over the RAM that the stub reported. The memory is lost.
    Fix: Boot without add_efi_memmap, or with efi=nosoftreserve.
    """
    line, through = facts.snapshot.image.command_line, "add_efi_memmap or EFI_MEMORY_SP"
    asked = merged(on_command_line(line or "", "memmap", "$#!"))
    reserved = subtract(e820_model.memory(facts.e820.current, e820_model.RESERVED), asked)
    lost = intersect(intersect(facts.efi_unaccepted, reserved), e820_model.memory(facts.e820.firmware))
    if line is not None:
        through = "add_efi_memmap" if "add_efi_memmap" in line.split() else "EFI_MEMORY_SP"
    why = f"is RAM for the firmware and Reserved in e820_table, likely through {through}"
    return Fault(f"{size(total(lost))} of type 15 {why}: {spans(lost)}", lost) if lost else None


@Rule(INFO, fixed_by="open in 7.3")
def specific_purpose_ignored(facts: Facts) -> Outcome:
    """Special-purpose memory that is unaccepted becomes ordinary RAM.

    The stub's setup_e820() checks EFI_MEMORY_SP for conventional memory only, and not for type 15.
    Fix: Let the firmware accept special-purpose memory before it hands it over.
    """
    special = [d for d in facts.descriptors if (d.attribute or 0) & efi.ATTRIBUTES["SP"]]
    ignored = merged((d.start, d.end) for d in special if d.type == efi.UNACCEPTED)
    message = f"type 15 with EFI_MEMORY_SP is plain RAM to the kernel: {spans(ignored)}"
    return Fault(message, ignored) if ignored else None


@Rule(WARNING, fixed_by="open in 7.3")
def stub_beyond_bitmap(facts: Facts) -> Outcome:
    """The EFI stub wrote beyond the bitmap.

    If an earlier boot stage made a table that is too small, and a type 15 descriptor starts above everything that it
    covers, process_unaccepted_memory() accepts from the end of the bitmap to the end of the descriptor and then clears
    and sets bits with a negative count.
    Fix: Fix the earlier stage: its table has to cover all type 15 memory, or it should install none.
    """
    efi_map = facts.snapshot.efi_map
    if facts.geometry is None or efi_map is None or not efi_map.complete:
        return None
    beyond = merged((d.start, d.end) for d in stub.beyond_bitmap(facts.descriptors, facts.geometry))
    what = f"type 15 starts above the bitmap's end {facts.geometry.end:#x}, where the stub likely wrote beyond it"
    return Fault(f"{what}: {spans(beyond)}", beyond) if beyond else None


@Rule(WARNING, fixed_by="unknown; 6.6.80 has it, 6.12.117 and 7.2.12 do not")
def crash_kernel_below_table(facts: Facts) -> Outcome:
    """The crash kernel will die before it saves a dump.

    A crash kernel of 6.6 whose memory ends below the table has no mapping of the table, and page-faults in
    accept_memory() at the table + 8. Later kernels map it.
    Fix: Reserve the crash kernel above the table (`crashkernel=SIZE,high`) and test kdump, or update the kernel.
    """
    table, used = facts.evidence.table_range, facts.snapshot.kernel_memory or ()
    crash = next((Range(each.start, each.end) for each in used if each.name == "crash kernel"), None)
    if table is None or crash is None or not (6, 6) <= (facts.version or ()) < (6, 12) or table.start < crash.end:
        return None
    message = f"the crash kernel at {span(*crash)} lies below the table at {table.start:#x}"
    return Fault(f"{message}, which {facts.release} likely does not map there", [crash])
