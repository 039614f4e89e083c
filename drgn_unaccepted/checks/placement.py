# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where things lie: the table, and the memory that the kernel itself uses."""

from __future__ import annotations

from drgn_unaccepted.checks import words
from drgn_unaccepted.checks.advisory import version
from drgn_unaccepted.checks.facts import Facts, merged
from drgn_unaccepted.checks.rule import HARD, SOFT, Fault, Outcome, Pass, Skip, rule
from drgn_unaccepted.model import e820 as e820_model
from drgn_unaccepted.model.bitmap import PAGE_SIZE
from drgn_unaccepted.model.header import unreserved_tail
from drgn_unaccepted.model.ranges import Range, intersect, subtract, total


@rule(
    6,
    "table-reserved",
    says="Every page of the table is PageReserved and mapped.",
    needs=("table.address", "table.geometry", "pages"),
    live=HARD,
    vmcore=HARD,
    why="""
    reserve_unaccepted() adds the table's pages to memblock and reserves them, so that they are in the direct map and
    belong to nobody else. From 6.6 (8dbe33956d96) to 7.0 and 6.12.75 (0862438c9048) it forgot the table's offset in its
    first page, so that the last page of the table stays out where ((pa & 0xfff) + 24 + size) > PAGE_ALIGN(24 + size).
    That page then is either handed to somebody else, who overwrites bits, or not mapped, and the kernel dies in
    accept_memory() with CR2 on it ("certain memory sizes over 64 GiB").
    """,
    mend="""
    Update the kernel to one with 0862438c9048. Until then give the guest a little more or less memory, so that the
    bitmap's size leaves the window. Do not trust bits on the page that is not reserved.
    """,
)
def table_reserved(facts: Facts) -> Outcome:
    table = facts.table_range
    assert table is not None
    address, end = table
    pages = [Range(address & -PAGE_SIZE, (end + PAGE_SIZE - 1) & -PAGE_SIZE)]
    looked_at = intersect(pages, facts.scanned)
    loose = subtract(looked_at, facts.pages_in_state("reserved"))
    # A page whose state is not told is no evidence.
    loose = intersect(
        loose, facts.pages_in_state("buddy", "in-use", "unaccepted", "free", "offline", "device", "absent")
    )
    unmapped = merged(facts.snapshot.table.unmapped or ())
    faults = []
    if loose:
        faults.append(Fault(f"{_pages(loose)} of the table not PageReserved: {words.spans(loose)}", loose))
    if unmapped:
        faults.append(
            Fault(f"{_pages(unmapped)} of the table not in the direct map: {words.spans(unmapped)}", unmapped)
        )
    if faults:
        tail = unreserved_tail(address, facts.covered.bitmap_bytes)
        if tail is not None and intersect([tail], merged(loose + unmapped)):
            faults.append(Fault("it is the page that a reservation without 0862438c9048 leaves out"))
        return faults
    unseen = subtract(pages, looked_at)
    if unseen:
        limited = facts.snapshot.pages and facts.snapshot.pages.limited
        return Skip(f"pages: those of {words.spans(unseen)} were not looked at" + (f" ({limited})" if limited else ""))
    return Pass(f"the table at {words.span(*table)} is reserved")


def _pages(ranges: list[Range]) -> str:
    return words.count(total(ranges) // PAGE_SIZE, "page")


@rule(
    7,
    "table-in-acpi-memory",
    says="The table lies in ACPI memory of the firmware's e820 table.",
    needs=("table.address", "table.geometry", "e820.firmware"),
    live=SOFT,
    vmcore=SOFT,
    why="""
    Since Linux 6.6 (e7761d827e99) the stub allocates the table as EFI_ACPI_RECLAIM_MEMORY, which becomes
    E820_TYPE_ACPI, so that it survives kexec and a crash kernel finds it. Linux 6.5 allocated it as loader data,
    which is RAM. A table that an earlier boot stage installed may lie elsewhere.
    """,
    mend="""
    In RAM: a kernel started by kexec or after a crash can overwrite the table or miss it. In no entry at all: compare
    the address with the boot log; the e820 table or `efi.unaccepted` is damaged.
    """,
)
def table_in_acpi_memory(facts: Facts) -> Outcome:
    table, e820 = facts.table_range, facts.snapshot.e820
    assert table is not None and e820 is not None and e820.firmware is not None
    release = facts.snapshot.target.release
    if not subtract([table], facts.e820_of_type(e820.firmware, e820_model.ACPI)):
        return Pass("the table lies in ACPI memory")
    if not subtract([table], facts.firmware_ram):
        if (version(release) or ())[:2] == (6, 5):
            return Pass("the table lies in RAM, as Linux 6.5 has it")
        return Fault(f"the table at {words.span(*table)} lies in RAM, not in ACPI memory", [table])
    entry = e820_model.find_entry(e820.firmware, table.start)
    where = "no entry" if entry is None else e820_model.type_name(entry.type)
    return Fault(
        f"the table at {words.span(*table)} lies not in ACPI memory: it starts in {where} of e820_table_firmware",
        [table],
    )


@rule(
    14,
    "kernel-memory-accepted",
    says="No unaccepted unit lies under memory that the kernel uses from its first instruction on.",
    needs=("bitmap", "kernel_memory"),
    live=HARD,
    vmcore=HARD,
    why="""
    The kernel image, the initrd, setup_data, the EFI memory map and the table itself were written before the kernel
    ran, so that their memory was accepted (the stub takes only EFI_CONVENTIONAL_MEMORY, the decompressor accepts what
    it writes to), and bits are never set again. A bit here is a bit that was never true.
    """,
    mend="""
    The bitmap was overwritten, or read from the wrong place, or is of another boot. See table-reserved and
    bits-within-initial-map for which; do not use the bitmap to excuse or to blame anything else.
    """,
)
def kernel_memory_accepted(facts: Facts) -> Outcome:
    named = [(used.name, Range(used.start, used.end)) for used in facts.snapshot.kernel_memory or ()]
    if facts.table_range is not None:
        named.append(("unaccepted memory table", facts.table_range))
    faults = []
    for name, used in named:
        under = facts.unaccepted_in([used])
        if under:
            faults.append(Fault(f"{name} at {words.span(*used)}: unaccepted at {words.spans(under)}", under))
    return faults or Pass(
        f"{words.count(len(named), 'range')} that the kernel uses {words.is_are(len(named))} accepted"
    )
