# SPDX-License-Identifier: LGPL-2.1-or-later
"""The table's header: was it captured, and is it valid?"""

from __future__ import annotations

from drgn_unaccepted.checks.facts import Facts
from drgn_unaccepted.checks.finding import CRITICAL, INFO, WARNING
from drgn_unaccepted.checks.rule import Fault, Outcome, Pass, Skip, rule
from drgn_unaccepted.limits import PHYSICAL_END
from drgn_unaccepted.model.bitmap import PAGE_SIZE
from drgn_unaccepted.model.header import INVALID, X86_UNIT_SIZE, is_unit_size
from drgn_unaccepted.words import count, size, span


@rule("table-captured", INFO, number=1, nuance="warning if its bitmap was read but cannot be trusted")
def table_captured(facts: Facts) -> Outcome:
    """If the kernel has a table, the capture contains it.

    The kernel keeps the table's physical address in `efi.unaccepted`: ~0 without a table, 0 on a kernel without
    CONFIG_UNACCEPTED_MEMORY. Since Linux 6.6 (e7761d827e99) the table lies in ACPI reclaim memory, which `/proc/kcore`
    and every kdump omit, so "not captured" is the normal case and no error. A header that reads as zeros was filtered
    out of the dump: it is no evidence of an empty table. A page of the bitmap that reads as zeros is no evidence either
    if the page lists or NR_UNACCEPTED contradict it, or were not captured: then no rule that needs the bitmap passes.

    Fix: Answers come from the page lists instead. For the bitmap itself take a whole-RAM dump (QEMU's
    dump-guest-memory), read it from the running guest as root, or give a table saved earlier with `--table FILE@ADDR`.
    """
    table = facts.snapshot.table
    name = "the table" if table.address is None else f"the table at {table.address:#x}"
    if table.state == "absent":
        return Pass(f"there is no table: {table.reason}")
    if table.state == "not-captured":
        return Fault(f"{name} was not captured: {table.reason}")
    if table.is_doubted:
        return Fault(f"{name} was read, but its bitmap cannot be trusted: {table.reason}", severity=WARNING)
    if table.is_saved:
        return Pass(f"{name} comes from a file: {table.reason}")
    return Pass(f"{name} was read")


@rule("header-version", CRITICAL, number=2, needs=("table.header",))
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
    if version != 1:
        return Fault(f"version is {version}, not 1: the bitmap is not interpreted")
    return Pass("version is 1")


@rule(
    "unit-size-valid", CRITICAL, number=3, needs=("table.layout",), nuance="warning for a power of two other than 2 MiB"
)
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


@rule("bitmap-geometry", CRITICAL, number=4, needs=("table.layout",))
def bitmap_geometry(facts: Facts) -> Outcome:
    """phys_base is unit aligned, the bitmap is not empty, and it covers only addresses of at most 52 bits.

    The stub's allocate_unaccepted_bitmap() rounds `phys_base` down to a unit and takes `size` (bytes of bitmap) from
    the span of type 15 memory, which firmware reports only where x86 can address it. Bit i stands for
    phys_base + i * unit_size; with a wrong base every answer is shifted.

    Fix: The header is damaged or not a header, and the bitmap is not read. Compare `Unaccepted=0x...` in the boot log
    with the address used here, and look at the memory around it.
    """
    table, header = facts.snapshot.table, facts.header
    assert header is not None
    if not is_unit_size(header.unit_size):
        return Skip(f"unit_size {header.unit_size} is invalid, so the other fields mean nothing")
    state, reason = facts.judge_header()
    if state == INVALID or table.state == INVALID:
        return Fault(f"the header is invalid: {reason or table.reason}")
    start, end = header.geometry.phys_base, header.geometry.end
    return Pass(f"{count(header.bitmap_bytes, 'byte')} of bitmap cover {span(start, end)} ({size(end - start)})")


@rule("table-aligned", CRITICAL, number=5, needs=("table.address",))
def table_aligned(facts: Facts) -> Outcome:
    """The table's address is a physical address and a multiple of 8.

    The stub allocates the table from the EFI pool, which returns multiples of 8. The kernel's bitmap operations work on
    8-byte words from the start of the bitmap, 24 bytes behind the start of the header. The table is not page aligned:
    OVMF's pool gives page offset 0x18.

    Fix: `efi.unaccepted` was overwritten, or the types do not match the kernel. Check that the debug information is of
    this kernel (build-id), and compare the address with `Unaccepted=0x...` in the boot log.
    """
    address = facts.snapshot.table.address
    assert address is not None
    if address >= PHYSICAL_END:
        return Fault(f"efi.unaccepted is {address:#x}, which is not a physical address")
    if address % 8:
        return Fault(f"efi.unaccepted is {address:#x}, not a multiple of 8")
    return Pass(f"{address:#x} is a multiple of 8")
