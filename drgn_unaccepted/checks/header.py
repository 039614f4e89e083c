# SPDX-License-Identifier: LGPL-2.1-or-later
"""The table's header: is it there, and can it be true?"""

from __future__ import annotations

from drgn_unaccepted.checks import words
from drgn_unaccepted.checks.facts import Facts
from drgn_unaccepted.checks.rule import HARD, INFO, SOFT, Fault, Outcome, Pass, Skip, rule
from drgn_unaccepted.limits import BITMAP_BYTES, PHYSICAL_END
from drgn_unaccepted.model.bitmap import PAGE_SIZE
from drgn_unaccepted.model.header import X86_UNIT_SIZE
from drgn_unaccepted.snapshot import Table


@rule(
    1,
    "table-captured",
    says="A table that the kernel has is in the capture.",
    needs=(),
    live=INFO,
    vmcore=INFO,
    nuance="warning where its bitmap was read and is not to be believed",
    why="""
    The kernel keeps the table's physical address in `efi.unaccepted`: ~0 where there is none, 0 on a kernel without
    CONFIG_UNACCEPTED_MEMORY. Since Linux 6.6 (e7761d827e99) the table lies in ACPI reclaim memory, which `/proc/kcore`
    and every kdump leave out, so "there, but not captured" is the normal case and no error. A header that reads as
    zeros was filtered out of the dump: it is no evidence of an empty table. Nor is a page of the bitmap that reads as
    zeros where the page lists or NR_UNACCEPTED contradict it, or were not there to be asked: then no rule passes that
    rests on the bitmap.
    """,
    mend="""
    Answers then come from the page lists. For the bitmap itself take a whole-RAM dump (QEMU's dump-guest-memory),
    read it from the running guest as root, or give a table saved earlier with `--table FILE@ADDR`.
    """,
)
def table_captured(facts: Facts) -> Outcome:
    table = facts.snapshot.table
    if table.state == "absent":
        return Pass(f"there is no table: {table.reason}")
    if table.state == "not-captured":
        return Fault(f"the table{_at(table)} was not captured: {table.reason}")
    if table.is_doubted:
        return Fault(
            f"the table{_at(table)} was read, and its bitmap is not to be believed: {table.reason}", severity=SOFT
        )
    if table.is_saved:
        return Pass(f"the table{_at(table)} comes from a file: {table.reason}")
    return Pass(f"the table{_at(table)} was read")


def _at(table: Table) -> str:
    return "" if table.address is None else f" at {table.address:#x}"


@rule(
    2,
    "header-version",
    says="The table's version is 1.",
    needs=("table.header",),
    live=HARD,
    vmcore=HARD,
    why="""
    All released kernels (6.5 to 7.3) write and accept version 1 only. The EFI stub refuses to boot with a table of
    another version, and efi_config_parse_tables() drops one (`efi.unaccepted` becomes ~0), so another number here
    means damaged memory, or a kernel with an unmerged series: version 2 of the TDX memory hotplug RFC has a second
    bitmap behind the first.
    """,
    mend="""
    The bitmap is not interpreted. If the kernel carries such a series, use the tool that comes with it; if not, the
    table was overwritten: look at table-reserved and at who owns the pages around it.
    """,
)
def header_version(facts: Facts) -> Outcome:
    version = facts.snapshot.table.version
    if version != 1:
        return Fault(f"version is {version}, not 1: the bitmap is not interpreted")
    return Pass("version is 1")


@rule(
    3,
    "unit-size-valid",
    says="The unit size is a power of two of at least 4096, and 2 MiB on x86.",
    needs=("table.layout",),
    live=HARD,
    vmcore=HARD,
    nuance="warning for a power of two other than 2 MiB",
    why="""
    `unit_size` is EFI_UNACCEPTED_UNIT_SIZE of the kernel that made the table, PMD_SIZE on x86. accept_memory() divides
    by it. Other powers of two are possible (an earlier boot stage may have made the table) and are only a warning.
    """,
    mend="""
    A size that is no power of two, or under a page, is damage: no address can be looked up, and the kernel itself
    divides by it at its next accept. For another power of two, find out which stage made the table.
    """,
)
def unit_size_valid(facts: Facts) -> Outcome:
    unit_size = facts.snapshot.table.unit_size or 0
    if not _valid_unit(unit_size):
        return Fault(f"unit_size is {unit_size}, not a power of two of at least {PAGE_SIZE}")
    if unit_size != X86_UNIT_SIZE:
        return Fault(f"unit_size is {words.size(unit_size)}, x86 has {words.size(X86_UNIT_SIZE)}", severity=SOFT)
    return Pass(f"unit_size is {words.size(unit_size)}")


def _valid_unit(unit_size: int) -> bool:
    return unit_size >= PAGE_SIZE and unit_size & (unit_size - 1) == 0


@rule(
    4,
    "bitmap-geometry",
    says="phys_base is unit aligned, the bitmap is not empty, and what it covers lies within 52 bits of address.",
    needs=("table.layout",),
    live=HARD,
    vmcore=HARD,
    why="""
    The stub's allocate_unaccepted_bitmap() rounds `phys_base` down to a unit and takes `size` (bytes of bitmap) from
    the span of type 15 memory, which firmware reports only where x86 can address it. Bit i stands for
    phys_base + i * unit_size; with a wrong base every answer is shifted.
    """,
    mend="""
    The header is damaged or not a header: compare `Unaccepted=0x...` in the boot log with the address used here, and
    look at the memory around it. Nothing is read by such a header.
    """,
)
def bitmap_geometry(facts: Facts) -> Outcome:
    table = facts.snapshot.table
    unit_size, phys_base, bitmap_bytes = table.unit_size or 0, table.phys_base or 0, table.bitmap_bytes or 0
    if not _valid_unit(unit_size):
        return Skip(f"unit_size {unit_size} is not valid, so that nothing follows from the other fields")
    faults = []
    if phys_base % unit_size:
        faults.append(Fault(f"phys_base {phys_base:#x} is not a multiple of unit_size {unit_size:#x}"))
    end = phys_base + bitmap_bytes * 8 * unit_size
    if bitmap_bytes == 0:
        faults.append(Fault("size is 0: there is no bitmap"))
    elif end > PHYSICAL_END:
        wraps = " and wraps" if end > 1 << 64 else ""
        faults.append(Fault(f"size is {bitmap_bytes}: the bitmap ends at {end:#x}, beyond 2^52{wraps}"))
    elif bitmap_bytes > BITMAP_BYTES:
        faults.append(Fault(f"size is {bitmap_bytes}: over the limit of {words.size(BITMAP_BYTES)} of bitmap"))
    if not faults and table.state == "invalid":
        faults.append(Fault(f"the header is invalid: {table.reason}"))
    return faults or Pass(
        f"{words.count(bitmap_bytes, 'byte')} of bitmap cover {words.span(phys_base, end)} "
        f"({words.size(end - phys_base)})"
    )


@rule(
    5,
    "table-aligned",
    says="The table's address is a physical address, a multiple of 8.",
    needs=("table.address",),
    live=HARD,
    vmcore=HARD,
    why="""
    The stub allocates the table from the EFI pool, which returns multiples of 8; the bitmap operations of the kernel
    work on 8-byte words from its start (24 bytes behind the header's). It is not page aligned: OVMF's pool gives page
    offset 0x18.
    """,
    mend="""
    `efi.unaccepted` was overwritten, or types and kernel do not match: check that the debug information is that of
    this kernel (build-id), and the `Unaccepted=0x...` that the kernel logged at boot.
    """,
)
def table_aligned(facts: Facts) -> Outcome:
    address = facts.snapshot.table.address
    assert address is not None
    if address >= PHYSICAL_END:
        return Fault(f"efi.unaccepted is {address:#x}, which is no physical address")
    if address % 8:
        return Fault(f"efi.unaccepted is {address:#x}, not a multiple of 8")
    return Pass(f"{address:#x} is a multiple of 8")
