# SPDX-License-Identifier: LGPL-2.1-or-later
"""The memory of the table, and the memory that the kernel itself uses."""

from __future__ import annotations

from drgn_unaccepted.checks.facts import Facts, merged
from drgn_unaccepted.checks.finding import CRITICAL, WARNING, spans
from drgn_unaccepted.checks.rule import Fault, Outcome, Pass, Skip, rule
from drgn_unaccepted.model import e820 as e820_model
from drgn_unaccepted.model.bitmap import PAGE_SIZE
from drgn_unaccepted.model.header import unreserved_tail
from drgn_unaccepted.model.ranges import Range, intersect, subtract, total
from drgn_unaccepted.words import count, span


@rule("table-reserved", CRITICAL, number=6, needs=("table.address", "table.geometry", "pages"))
def table_reserved(facts: Facts) -> Outcome:
    """Every page of the table is PageReserved and mapped.

    reserve_unaccepted() adds the table's pages to memblock and reserves them, so that they are in the direct map and
    belong to nobody else. From 6.6 (8dbe33956d96) to 7.0 and 6.12.75 (0862438c9048) it forgot the table's offset in its
    first page, so the last page of the table is left out where ((pa & 0xfff) + 24 + size) > PAGE_ALIGN(24 + size).
    Then that page either gets another owner, who overwrites bits, or is not mapped, and the kernel dies in
    accept_memory() with its address in CR2 ("certain memory sizes over 64 GiB").

    Fix: Update the kernel to one with 0862438c9048. Until then give the guest a little more or less memory, so that the
    bitmap has another size. Do not trust bits on the page that is not reserved.
    """
    table = facts.table_range
    assert table is not None
    address, end = table
    pages = [Range(address & -PAGE_SIZE, (end + PAGE_SIZE - 1) & -PAGE_SIZE)]
    scanned = intersect(pages, facts.scanned)
    # A page of unknown state is no evidence.
    others = facts.pages_in_state("buddy", "in-use", "unaccepted", "free", "offline", "device", "absent")
    loose = intersect(subtract(scanned, facts.pages_in_state("reserved")), others)
    unmapped = merged(facts.snapshot.table.unmapped or ())
    faults = [
        Fault(f"{count(total(wrong) // PAGE_SIZE, 'page')} of the table not {what}: {spans(wrong)}", wrong)
        for wrong, what in ((loose, "PageReserved"), (unmapped, "in the direct map"))
        if wrong
    ]
    if faults:
        tail = unreserved_tail(address, facts.covered.bitmap_bytes)
        if tail is not None and intersect([tail], merged(loose + unmapped)):
            faults.append(Fault("a kernel without 0862438c9048 leaves this page out of its reservation"))
        return faults
    unseen = subtract(pages, scanned)
    if unseen:
        limited = facts.snapshot.pages and facts.snapshot.pages.limited
        return Skip(f"pages: {spans(unseen)} not scanned" + (f" ({limited})" if limited else ""))
    return Pass(f"the table at {span(*table)} is reserved")


@rule("table-in-acpi-memory", WARNING, number=7, needs=("table.address", "table.geometry", "e820.firmware"))
def table_in_acpi_memory(facts: Facts) -> Outcome:
    """The table lies in ACPI memory of the firmware's e820 table.

    Since Linux 6.6 (e7761d827e99) the stub allocates the table as EFI_ACPI_RECLAIM_MEMORY, which becomes
    E820_TYPE_ACPI, so it survives kexec and a crash kernel finds it. Linux 6.5 allocated it as loader data, which is
    RAM. A table that an earlier boot stage installed may lie elsewhere.

    Fix: In RAM, a kernel started by kexec or after a crash can overwrite the table or miss it. In no entry at all, the
    e820 table or `efi.unaccepted` is damaged: compare the address with the boot log.
    """
    table, entries = facts.table_range, facts.e820("firmware")
    assert table is not None and entries is not None
    if not subtract([table], facts.e820_ranges("firmware", e820_model.ACPI)):
        return Pass("the table lies in ACPI memory")
    if not subtract([table], facts.firmware_ram):
        if (facts.version or ())[:2] == (6, 5):
            return Pass("the table lies in RAM, as in every Linux 6.5")
        return Fault(f"the table at {span(*table)} lies in RAM, not in ACPI memory", [table])
    entry = e820_model.find_entry(entries, table.start)
    where = "no entry" if entry is None else e820_model.type_name(entry.type)
    return Fault(
        f"the table at {span(*table)} is not in ACPI memory: it starts in {where} of e820_table_firmware", [table]
    )


@rule("kernel-memory-accepted", CRITICAL, number=14, needs=("bitmap", "kernel_memory"))
def kernel_memory_accepted(facts: Facts) -> Outcome:
    """No unaccepted unit overlaps memory that the kernel uses from its first instruction on.

    The kernel image, the initrd, setup_data, the EFI memory map and the table itself were written before the kernel
    ran, so their memory was accepted (the stub takes only EFI_CONVENTIONAL_MEMORY, the decompressor accepts what it
    writes to), and bits are never set again. A bit set here was never valid.

    Fix: The bitmap was overwritten, read from the wrong place, or is of another boot. See table-reserved and
    bits-within-initial-map. Do not draw conclusions from this bitmap.
    """
    named = [(used.name, Range(used.start, used.end)) for used in facts.snapshot.kernel_memory or ()]
    if facts.table_range is not None:
        named.append(("unaccepted memory table", facts.table_range))
    faults = []
    for name, used in named:
        under = facts.unaccepted_in([used])
        if under:
            faults.append(Fault(f"{name} at {span(*used)}: unaccepted at {spans(under)}", under))
    return faults or Pass(f"all memory of the kernel itself is accepted ({count(len(named), 'range')})")
