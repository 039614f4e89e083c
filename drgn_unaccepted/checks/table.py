# SPDX-License-Identifier: LGPL-2.1-or-later
"""The table: was it captured, is its header valid, is its memory its own?"""

from __future__ import annotations

from drgn_unaccepted.checks.facts import Facts, merged
from drgn_unaccepted.checks.rule import CRITICAL, INFO, WARNING, Fault, Outcome, Pass, Rule, Skip, given, pages, spans
from drgn_unaccepted.limits import PHYSICAL_END
from drgn_unaccepted.model import e820 as e820_model
from drgn_unaccepted.model.header import INVALID, X86_UNIT_SIZE, is_unit_size, unreserved_tail
from drgn_unaccepted.model.ranges import PAGE_SIZE, intersect, outwards, subtract
from drgn_unaccepted.words import count, size, span


@Rule(INFO, number=1, nuance="warning if its bitmap was read but cannot be trusted")
def table_captured(facts: Facts) -> Outcome:
    """If the kernel has a table, the capture contains it.

    The kernel keeps the table's physical address in `efi.unaccepted`: ~0 without a table, 0 on a kernel without
    CONFIG_UNACCEPTED_MEMORY. Since Linux 6.6 (e7761d827e99) the table lies in ACPI reclaim memory, which `/proc/kcore`
    and every kdump omit, so "not captured" is the normal case and no error. A header that reads as zeros was filtered
    out of the dump: it is no evidence of an empty table. A bitmap that memory maps, lists, pages or counters contradict
    is no evidence either: then no rule that needs the bitmap passes.
    Fix: Answers come from the page lists instead. For the bitmap itself take a whole-RAM dump (QEMU's
    dump-guest-memory), read it from the running guest as root, or give a table saved earlier with `--table FILE@ADDR`.
    """
    table = facts.snapshot.table
    name = "the table" if table.address is None else f"the table at {table.address:#x}"
    if table.state == "absent":
        return Pass(f"there is no table: {table.reason}")
    if table.state == "not-captured":
        return Fault(f"{name} was not captured: {table.reason}")
    if facts.judgement.doubt is not None:
        return Fault(f"{name} was read, but its bitmap cannot be trusted: {facts.judgement.doubt}", severity=WARNING)
    if table.is_saved:
        return Pass(f"{name} comes from a file: {table.reason}")
    return Pass(f"{name} was read")


@Rule(CRITICAL, ("table.header",), 2)
def header_version(facts: Facts) -> Outcome:
    """The table's version is 1.

    All released kernels (6.5 to 7.3) write and accept only version 1. The EFI stub refuses to boot with a table of
    another version, and efi_config_parse_tables() drops one (`efi.unaccepted` becomes ~0). Another number here means
    damaged memory, or a kernel with an unmerged series: version 2 of the TDX memory hotplug RFC has a second bitmap
    behind the first.
    Fix: The bitmap is not interpreted. If the kernel carries such a series, use the tool that comes with it. If not,
    the table was overwritten: see table-reserved, and find the owner of the pages around the table.
    """
    version = facts.snapshot.table.version
    if version == 1:
        return Pass("version is 1")
    return Fault(f"version is {version}, not 1: the bitmap is not interpreted")


@Rule(CRITICAL, ("table.layout",), 3, "warning for a power of two other than 2 MiB")
def unit_size_valid(facts: Facts) -> Outcome:
    """The unit size is a power of two of at least 4096, and 2 MiB on x86.

    `unit_size` is EFI_UNACCEPTED_UNIT_SIZE of the kernel that made the table, PMD_SIZE on x86. accept_memory() divides
    by it. Other powers of two are possible (an earlier boot stage may have made the table) and only a warning.
    Fix: Any other size is damage: no address can be looked up, and the kernel itself divides by it at its next accept.
    For another power of two, find out which boot stage made the table.
    """
    unit_size = facts.snapshot.table.unit_size or 0
    if not is_unit_size(unit_size):
        return Fault(f"unit_size is {unit_size}, not a power of two of at least {PAGE_SIZE}")
    if unit_size != X86_UNIT_SIZE:
        return Fault(f"unit_size is {size(unit_size)}; x86 kernels use {size(X86_UNIT_SIZE)}", severity=WARNING)
    return Pass(f"unit_size is {size(unit_size)}")


@Rule(CRITICAL, ("table.layout",), 4)
def bitmap_geometry(facts: Facts) -> Outcome:
    """phys_base is unit aligned, the bitmap is not empty, and it covers only addresses of at most 52 bits.

    The stub's allocate_unaccepted_bitmap() rounds `phys_base` down to a unit and takes `size` (bytes of bitmap) from
    the span of type 15 memory, which firmware reports only where x86 can address it. Bit i stands for
    phys_base + i * unit_size; with a wrong base every answer is shifted.
    Fix: The header is damaged or not a header, and the bitmap is not read. Compare `Unaccepted=0x...` in the boot log
    with the address used here, and look at the memory around it.
    """
    table, header = facts.snapshot.table, given(facts.header)
    if not is_unit_size(header.unit_size):
        return Skip(f"unit_size {header.unit_size} is invalid, so the other fields mean nothing")
    state, reason = facts.judged
    if INVALID in (state, table.state):
        return Fault(f"the header is invalid: {reason or table.reason}")
    start, end = header.geometry.phys_base, header.geometry.end
    return Pass(f"{count(header.bitmap_bytes, 'byte')} of bitmap cover {span(start, end)} ({size(end - start)})")


@Rule(CRITICAL, ("table.address",), 5)
def table_aligned(facts: Facts) -> Outcome:
    """The table's address is a physical address and a multiple of 8.

    The stub allocates the table from the EFI pool, which returns multiples of 8. The kernel's bitmap operations work on
    8-byte words from the start of the bitmap, 24 bytes behind the start of the header. The table is not page aligned:
    OVMF's pool gives page offset 0x18.
    Fix: `efi.unaccepted` was overwritten, or the types do not match the kernel. Check that the debug information is of
    this kernel (build-id), and compare the address with `Unaccepted=0x...` in the boot log.
    """
    address = given(facts.snapshot.table.address)
    if address % 8 == 0 and address < PHYSICAL_END:
        return Pass(f"{address:#x} is a multiple of 8")
    what = "not a multiple of 8" if address < PHYSICAL_END else "which is not a physical address"
    return Fault(f"efi.unaccepted is {address:#x}, {what}")


@Rule(CRITICAL, ("table.place", "pages"), 6)
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
    table, loose = given(facts.evidence.table_range), facts.evidence.table_taken
    unmapped = merged(facts.snapshot.table.unmapped or ())
    faults = [
        Fault(f"{pages(wrong)} of the table not {what}: {spans(wrong)}", wrong)
        for wrong, what in ((loose, "PageReserved"), (unmapped, "in the direct map"))
        if wrong
    ]
    if faults:
        tail = unreserved_tail(table)
        if tail is not None and intersect([tail], merged(loose + unmapped)):
            faults.append(Fault("a kernel without 0862438c9048 leaves this page out of its reservation"))
        return faults
    # A struct page of zeros was not captured.
    unseen = subtract(outwards([table], PAGE_SIZE), facts.evidence.pages("reserved"))
    if unseen:
        return Skip(f"pages: the state of {spans(unseen)} is not known{facts.limited}")
    return Pass(f"the table at {span(*table)} is reserved")


@Rule(WARNING, ("table.place", "e820.firmware"), 7)
def table_in_acpi_memory(facts: Facts) -> Outcome:
    """The table lies in ACPI memory of the firmware's e820 table.

    Since Linux 6.6 (e7761d827e99) the stub allocates the table as EFI_ACPI_RECLAIM_MEMORY, which becomes
    E820_TYPE_ACPI, so it survives kexec and a crash kernel finds it. Linux 6.5 allocated it as loader data, which is
    RAM. A table that an earlier boot stage installed may lie elsewhere.
    Fix: In RAM, a kernel started by kexec or after a crash can overwrite the table or miss it. In no entry at all, the
    e820 table or `efi.unaccepted` is damaged: compare the address with the boot log.
    """
    table, entries = given(facts.evidence.table_range), given(facts.e820.firmware)
    if not subtract([table], e820_model.memory(entries, e820_model.ACPI)):
        return Pass("the table lies in ACPI memory")
    if not subtract([table], e820_model.memory(entries)):
        message = f"the table at {span(*table)} lies in RAM, not in ACPI memory"
        is_old = (facts.version or ())[:2] == (6, 5)
        return Pass("the table lies in RAM, as in every Linux 6.5") if is_old else Fault(message, [table])
    entry = e820_model.find_entry(entries, table.start)
    where = "no entry" if entry is None else e820_model.type_name(entry.type)
    message = f"the table at {span(*table)} is not in ACPI memory: it starts in {where} of e820_table_firmware"
    return Fault(message, [table])
