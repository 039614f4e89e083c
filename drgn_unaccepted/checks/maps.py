# SPDX-License-Identifier: LGPL-2.1-or-later
"""The bitmap against the EFI memory map and the e820 tables."""

from __future__ import annotations

from typing import Optional

from drgn_unaccepted.checks import words
from drgn_unaccepted.checks.facts import Facts
from drgn_unaccepted.checks.rule import HARD, INFO, SOFT, Fault, Outcome, Pass, rule
from drgn_unaccepted.model import e820 as e820_model
from drgn_unaccepted.model import stub
from drgn_unaccepted.model.ranges import Range, intersect, subtract, total

FOUR_GIB = 4 << 30


def _of(ranges: list[Range]) -> str:
    """How much, and where: ``4 MiB (0x...-0x...)``."""
    return f"{words.size(total(ranges))} ({words.spans(ranges)})"


@rule(
    8,
    "padding-bits-clear",
    says="The bits behind the last unaccepted memory of the EFI memory map are 0.",
    needs=("bitmap", "efi_map.complete"),
    live=SOFT,
    vmcore=SOFT,
    why="""
    `size` is rounded up to whole bytes, so that up to 7 bits follow the last unit, and the final map may end lower
    than the one that the bitmap was sized by. The stub clears the bitmap and sets bits for type 15 memory only, so
    that nothing sets these.
    """,
    mend="""
    Bits set there do no harm as long as no RAM lies behind them, but were written by nobody who should:
    suspect an overwritten bitmap; see table-reserved.
    """,
)
def padding_bits_clear(facts: Facts) -> Outcome:
    geometry = facts.covered
    if not facts.efi_unaccepted:
        return Pass("the EFI memory map has no type 15 to end anywhere")
    end = _round_up(facts.efi_unaccepted[-1].end, geometry.unit_size)
    padding = Range(max(end, geometry.phys_base), geometry.end)
    stray = facts.unaccepted_in([padding])
    if stray:
        return Fault(
            f"{_units(facts, stray)} set at or above {end:#x}, where type 15 ends: {words.spans(stray)}", stray
        )
    return Pass(f"no bit is set at or above {end:#x}")


@rule(
    9,
    "bits-within-initial-map",
    says="Every unaccepted unit was unaccepted when the kernel started, by the EFI memory map.",
    needs=("bitmap", "efi_map.complete"),
    live=HARD,
    vmcore=HARD,
    nuance="warning where the map or the kernel leaves a doubt",
    why="""
    process_unaccepted_memory() of the stub sets bits for type 15 descriptors of the final map (whole units of
    descriptors of two units or more), and up to Linux 7.3 nothing sets a bit again. Replaying it gives all bits that
    can be set. There is doubt where entries that efi_merge_regions() merged could not be told apart, where the table
    has not the geometry that this map gives (an earlier stage may have made it, and the stub takes it as it is), and
    on a kernel with unaccept_memory() or unaccept_hotplug_memory() (unmerged series).
    """,
    mend="""
    These bits were written by something else than the kernel's accept code. With a short reservation (table-reserved)
    the table's last page belongs to somebody else; else look for a stray write near the table's address.
    """,
)
def bits_within_initial_map(facts: Facts) -> Outcome:
    stray = subtract(facts.unaccepted, facts.initially_unaccepted)
    if not stray:
        return Pass(f"all unaccepted memory is among the {words.size(total(facts.initially_unaccepted))} of the start")
    doubt = _doubt_about_initial_map(facts)
    message = f"{_units(facts, stray)} set that the stub did not set: {words.spans(stray)}"
    if doubt is None:
        return Fault(message, stray)
    return Fault(f"{message} ({doubt})", stray, severity=SOFT)


def _doubt_about_initial_map(facts: Facts) -> Optional[str]:
    kernel, efi_map = facts.snapshot.kernel, facts.snapshot.efi_map
    assert efi_map is not None
    if efi_map.ambiguous:
        return "merged entries of the map could not be told apart"
    if kernel is not None and kernel.unaccepts:
        return "this kernel can set bits again"
    if stub.allocate_unaccepted_bitmap(facts.descriptors, facts.covered.unit_size) != facts.covered:
        return "the table has not the geometry that this map gives, so that an earlier stage may have made it"
    return None


@rule(
    10,
    "table-covers-efi-unaccepted",
    says="The bitmap covers all unaccepted memory of the EFI memory map.",
    needs=("table.geometry", "efi_map.complete"),
    live=SOFT,
    vmcore=SOFT,
    why="""
    allocate_unaccepted_bitmap() spans the lowest to the highest type 15 descriptor, rounded outwards to units. What the
    bitmap does not cover the kernel takes as accepted; the stub accepts it up front, which makes booting slow. A table
    from an earlier stage is reused as it is, whatever it covers.
    """,
    mend="""
    Compare `header` with `efi`: either the table is not of this boot, or an earlier stage (a shim, a boot loader) made
    one that is too small for this map.
    """,
)
def table_covers_efi_unaccepted(facts: Facts) -> Outcome:
    geometry = facts.covered
    beyond = subtract(facts.efi_unaccepted, [Range(geometry.phys_base, geometry.end)])
    if beyond:
        return Fault(f"the bitmap covers {words.span(geometry.phys_base, geometry.end)}, not {_of(beyond)}", beyond)
    return Pass(f"all {words.size(total(facts.efi_unaccepted))} of type 15 are covered")


@rule(
    11,
    "efi-unaccepted-has-table",
    says="Where the EFI memory map has unaccepted memory, the kernel has a table.",
    needs=("efi_map.complete",),
    live=HARD,
    vmcore=HARD,
    nuance="warning where the memory is lost, or where no e820 table tells",
    why="""
    Only the kernel's own EFI stub turns type 15 into RAM and a table. Without a table the kernel takes all RAM as
    accepted: where the range is RAM all the same, the first touch ends the guest (efi_config_parse_tables() also
    drops a table of a version other than 1). Where it is no RAM, the memory is lost: a kernel without
    CONFIG_UNACCEPTED_MEMORY, or a boot loader that builds the e820 table itself (GRUB's `linux` without the stub:
    "Unknown memory type 15, considering reserved").
    """,
    mend="""
    Boot through the EFI stub (GRUB's `chainloader`, or a GRUB that uses LoadImage) and with a kernel built with
    CONFIG_UNACCEPTED_MEMORY; or let the firmware accept all memory.
    """,
)
def efi_unaccepted_has_table(facts: Facts) -> Outcome:
    unaccepted = facts.efi_unaccepted
    if not unaccepted:
        return Pass("the EFI memory map has no type 15")
    if facts.snapshot.table.state != "absent":
        return Pass(f"the EFI memory map has {words.size(total(unaccepted))} of type 15, and there is a table")
    what = f"the EFI memory map has {_of(unaccepted)} of type 15, and there is no table"
    ram = facts.used_ram
    if ram is None:
        return Fault(f"{what}; whether the kernel uses it is not known", unaccepted, severity=SOFT)
    used = intersect(unaccepted, ram)
    if used:
        return Fault(f"{what}: the kernel uses {_of(used)} of it without accepting", used)
    return Fault(f"{what}: it is lost to the kernel", unaccepted, severity=SOFT)


@rule(
    12,
    "bits-within-firmware-ram",
    says="Every unaccepted unit lies wholly in RAM of e820_table_firmware.",
    needs=("bitmap", "e820.firmware"),
    live=HARD,
    vmcore=HARD,
    nuance="warning on a kernel that was, or may have been, started by kexec",
    why="""
    setup_e820() of the stub makes an E820_TYPE_RAM entry of every type 15 descriptor before it sets bits for the
    whole units in it, and e820_table_firmware keeps the table as the stub gave it. A kernel started by kexec got its
    e820 table from the kernel before, which may have changed it.
    """,
    mend="""
    The bitmap and the e820 table are not of the same boot, or one was overwritten: bits-within-initial-map and
    table-reserved say which.
    """,
)
def bits_within_firmware_ram(facts: Facts) -> Outcome:
    stray = subtract(facts.unaccepted, facts.firmware_ram)
    if not stray:
        return Pass("all unaccepted memory is RAM of e820_table_firmware")
    message = f"{_of(stray)} unaccepted, but not RAM of e820_table_firmware"
    if facts.kexec_booted is not False:
        how = "started by kexec" if facts.kexec_booted else "possibly started by kexec"
        return Fault(f"{message} ({how})", stray, severity=SOFT)
    return Fault(message, stray)


@rule(
    13,
    "bits-trimmed-by-kernel",
    says="All unaccepted memory is RAM of e820_table, which the kernel uses.",
    needs=("bitmap", "e820.current", "e820.firmware"),
    live=INFO,
    vmcore=INFO,
    why="""
    `mem=`, `memmap=`, add_efi_memmap and the import of EFI_MEMORY_SP memory take RAM out of e820_table;
    e820_table_firmware still has it. The bits of such memory stay set for ever, and nothing touches it.
    """,
    mend="""
    If the memory was not taken out on purpose, look at the kernel's command line, and at `e820` for where the tables
    differ; add_efi_memmap turns type 15 into Reserved.
    """,
)
def bits_trimmed_by_kernel(facts: Facts) -> Outcome:
    trimmed = intersect(subtract(facts.unaccepted, facts.current_ram), facts.firmware_ram)
    if not trimmed:
        return Pass("no unaccepted RAM of the firmware is missing from e820_table")
    e820 = facts.snapshot.e820
    assert e820 is not None and e820.current is not None
    entry = e820_model.find_entry(e820.current, trimmed[0].start)
    where = "absent" if entry is None else e820_model.type_name(entry.type)
    return Fault(f"{_of(trimmed)} unaccepted are RAM of e820_table_firmware but {where} in e820_table", trimmed)


@rule(
    28,
    "table-expected",
    says="A TDX or SNP guest with RAM above 4 GiB has a table.",
    needs=("platform.kind", "e820"),
    live=INFO,
    vmcore=INFO,
    why="""
    Without a table all memory was accepted before the kernel ran: by a firmware that accepts everything, because the
    kernel did not tell it otherwise at ExitBootServices() (AllowUnacceptedMemory on SNP), or because OVMF accepts all
    below 4 GiB anyway. That is correct, and slow to boot.
    """,
    mend="""
    If the guest boots too slowly: use a firmware that leaves memory unaccepted (OVMF's
    PcdLazyAcceptPartialMemorySize) and a kernel built with CONFIG_UNACCEPTED_MEMORY, started through the EFI stub.
    """,
)
def table_expected(facts: Facts) -> Outcome:
    platform = facts.snapshot.platform
    assert platform is not None and platform.kind is not None
    if facts.snapshot.table.state != "absent":
        return Pass("there is a table")
    if platform.kind not in ("tdx", "snp"):
        return Pass("it is no TDX or SNP guest")
    high = subtract(facts.used_ram or [], [Range(0, FOUR_GIB)])
    if not high or facts.efi_unaccepted:
        # Type 15 without a table is efi-unaccepted-has-table's matter.
        return Pass("no RAM above 4 GiB" if not high else "the EFI memory map has type 15")
    return Fault(
        f"no table in a {platform.kind.upper()} guest with {words.size(total(high))} of RAM above 4 GiB: "
        "all of it was accepted before the kernel started"
    )


def _units(facts: Facts, ranges: list[Range]) -> str:
    number = total(ranges) // facts.covered.unit_size
    return f"{words.count(number, 'bit')} {words.is_are(number)}"


def _round_up(address: int, unit: int) -> int:
    return -(-address // unit) * unit
