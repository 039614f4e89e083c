# SPDX-License-Identifier: LGPL-2.1-or-later
"""The bitmap compared with the EFI memory map, the e820 tables and the memory that the kernel and kexec use."""

from __future__ import annotations

from drgn_unaccepted.checks.facts import Facts, merged
from drgn_unaccepted.checks.rule import CRITICAL, INFO, WARNING, Fault, Outcome, Pass, Rule, Skip, given, some, spans
from drgn_unaccepted.model import e820 as e820_model
from drgn_unaccepted.model import stub
from drgn_unaccepted.model.ranges import Range, clip, intersect, outwards, subtract, total
from drgn_unaccepted.words import count, size, span


def _of(ranges: list[Range]) -> str:
    return f"{size(total(ranges))} ({spans(ranges)})"


def _bits(facts: Facts, ranges: list[Range]) -> str:
    return count(total(ranges) // facts.covered.unit_size, "bit")


@Rule(WARNING, ("bitmap", "efi_map.complete"), 8)
def padding_bits_clear(facts: Facts) -> Outcome:
    """The bits above the last unaccepted memory of the EFI memory map are 0.

    `size` is rounded up to whole bytes, so up to 7 bits follow the last unit, and the final map may end lower than the
    one that the bitmap was sized by. The stub clears the bitmap and sets bits for type 15 memory only, so nothing sets
    the bits above it.
    Fix: A bit set there does no harm while there is no RAM at its address, but something other than the accept code set
    it. The bitmap may have been overwritten; see table-reserved.
    """
    if not facts.efi_unaccepted:
        return Pass("the EFI memory map has no type 15 memory")
    end = outwards(facts.efi_unaccepted, facts.covered.unit_size)[-1].end
    where = f"set at or above {end:#x}, the end of type 15 memory"
    stray = list(clip(facts.unaccepted, max(end, facts.covered.phys_base), facts.covered.end))
    return Fault(f"{_bits(facts, stray)} {where}: {spans(stray)}", stray) if stray else Pass(f"no bit is {where}")


@Rule(CRITICAL, ("unaccepted", "efi_map.complete"), 9, "warning if the map or the kernel leaves a doubt")
def bits_within_initial_map(facts: Facts) -> Outcome:
    """Every unaccepted unit was unaccepted when the kernel started, according to the EFI memory map.

    The stub's process_unaccepted_memory() sets bits for type 15 descriptors of the final map (whole units of
    descriptors of two units or more), and up to Linux 7.3 nothing sets a bit again. Replaying it gives all bits that
    can be set. There is a doubt if entries that efi_merge_regions() merged cannot be separated, if the table's geometry
    differs from what this map gives (an earlier boot stage may have made the table, and the stub uses it unchanged),
    and on a kernel with unaccept_memory() or unaccept_hotplug_memory() (unmerged series).
    Fix: Something other than the kernel's accept code wrote these bits. With a short reservation (table-reserved) the
    table's last page has another owner; otherwise look for a stray write near the table's address.
    """
    if not facts.has_bits:
        return _listed_within_initial_map(facts)
    initial, _ = stub.process_unaccepted_memory(facts.descriptors, facts.covered)
    stray = subtract(facts.unaccepted, initial)
    if not stray:
        return Pass(f"every set bit was set at boot ({size(total(initial))})")
    kernel, message = facts.snapshot.kernel, f"{_bits(facts, stray)} set that the EFI stub did not set: {spans(stray)}"
    if given(facts.snapshot.efi_map).ambiguous:
        doubt = "merged entries of the map could not be separated"
    elif kernel is not None and kernel.unaccepts:
        doubt = "this kernel can set bits again"
    elif stub.allocate_unaccepted_bitmap(facts.descriptors, facts.covered.unit_size) != facts.covered:
        doubt = "the table's geometry differs from what this map gives: an earlier boot stage may have made the table"
    else:
        return Fault(message, stray)
    return Fault(f"{message} ({doubt})", stray, WARNING)


def _listed_within_initial_map(facts: Facts) -> Outcome:
    """A chunk is listed because a bit in it, or that of the guard unit behind it, was set."""
    initial = facts.evidence.initial
    if isinstance(initial, str):
        return Skip(f"efi_map.complete: {initial}")
    stray = subtract(facts.evidence.listed, facts.evidence.listable(initial.unaccepted))
    if stray:
        return Fault(f"{_of(stray)} listed, of which the EFI stub set no bit", stray)
    return Pass(f"every listed chunk has a bit that was set at boot ({size(total(initial.unaccepted))})")


@Rule(WARNING, ("table.geometry", "efi_map.complete"), 10)
def table_covers_efi_unaccepted(facts: Facts) -> Outcome:
    """The bitmap covers all unaccepted memory of the EFI memory map.

    allocate_unaccepted_bitmap() spans the lowest to the highest type 15 descriptor, rounded outwards to units. The
    kernel takes memory outside the bitmap as accepted; the stub accepts it up front, which makes booting slow. The stub
    reuses a table from an earlier boot stage unchanged, whatever it covers.
    Fix: Compare `header` with `efi`: either the table is not of this boot, or an earlier stage (a shim, a boot loader)
    made one that is too small for this map.
    """
    covered = Range(facts.covered.phys_base, facts.covered.end)
    beyond = subtract(facts.efi_unaccepted, [covered])
    if beyond:
        return Fault(f"the bitmap covers {span(*covered)}, not {_of(beyond)}", beyond)
    return Pass(f"the bitmap covers all type 15 memory ({size(total(facts.efi_unaccepted))})")


@Rule(CRITICAL, ("efi_map.complete",), 11, "warning if the memory is lost, or if no e820 table was captured")
def efi_unaccepted_has_table(facts: Facts) -> Outcome:
    """If the EFI memory map has unaccepted memory, the kernel has a table.

    Only the kernel's own EFI stub turns type 15 into RAM and a table. Without a table the kernel takes all RAM as
    accepted: if the range is RAM nevertheless, the first touch ends the guest (efi_config_parse_tables() also drops a
    table of a version other than 1). If it is not RAM, the memory is lost: the kernel has no CONFIG_UNACCEPTED_MEMORY,
    or a boot loader built the e820 table itself (GRUB's `linux` without the stub: "Unknown memory type 15, considering
    reserved").
    Fix: Boot through the EFI stub (GRUB's `chainloader`, or a GRUB that uses LoadImage) and with a kernel built with
    CONFIG_UNACCEPTED_MEMORY; or let the firmware accept all memory.
    """
    unaccepted = facts.efi_unaccepted
    if not unaccepted:
        return Pass("the EFI memory map has no type 15 memory")
    if facts.snapshot.table.state != "absent":
        return Pass(f"the EFI memory map has {size(total(unaccepted))} of type 15, and there is a table")
    what = f"the EFI memory map has {_of(unaccepted)} of type 15, and there is no table"
    used = intersect(unaccepted, facts.used_ram or [])
    if used:
        return Fault(f"{what}: the kernel uses {_of(used)} of it without accepting it", used)
    use = "; unknown whether the kernel uses it" if facts.used_ram is None else ": it is lost to the kernel"
    return Fault(f"{what}{use}", unaccepted, WARNING)


@Rule(CRITICAL, ("unaccepted", "e820.firmware"), 12, "warning on a kernel that was, or may have been, started by kexec")
def bits_within_firmware_ram(facts: Facts) -> Outcome:
    """Every unaccepted unit lies wholly in RAM of e820_table_firmware.

    The stub's setup_e820() makes an E820_TYPE_RAM entry of every type 15 descriptor before it sets bits for the whole
    units in it, and e820_table_firmware keeps the table as the stub gave it. A kernel started by kexec got its e820
    table from the previous kernel, which may have changed it.
    Fix: The bitmap and the e820 table are of different boots, or one was overwritten: see bits-within-initial-map and
    table-reserved.
    """
    stray = subtract(facts.unaccepted, e820_model.memory(facts.e820.firmware))
    if not stray:
        return Pass("all unaccepted memory is RAM in e820_table_firmware")
    message = f"{_of(stray)} unaccepted, but not RAM in e820_table_firmware"
    kexec_booted = facts.snapshot.kernel and facts.snapshot.kernel.kexec_booted
    if kexec_booted is False:
        return Fault(message, stray)
    return Fault(f"{message} ({'' if kexec_booted else 'possibly '}started by kexec)", stray, WARNING)


@Rule(INFO, ("unaccepted", "e820.current", "e820.firmware"), 13)
def bits_trimmed_by_kernel(facts: Facts) -> Outcome:
    """All unaccepted memory is RAM in e820_table, which the kernel uses.

    `mem=`, `memmap=`, add_efi_memmap and the import of EFI_MEMORY_SP memory remove RAM from e820_table;
    e820_table_firmware still has it. The bits of such memory stay set for ever, and nothing touches it.
    Fix: If the memory was not removed on purpose, check the kernel's command line, and compare the tables with `e820`;
    add_efi_memmap turns type 15 into Reserved.
    """
    lost = subtract(facts.unaccepted, e820_model.memory(facts.e820.current))
    trimmed = intersect(lost, e820_model.memory(facts.e820.firmware))
    if not trimmed:
        return Pass("no unaccepted RAM of the firmware is missing from e820_table")
    entry = e820_model.find_entry(facts.e820.current or (), trimmed[0].start)
    where = "absent" if entry is None else e820_model.type_name(entry.type)
    words = (facts.snapshot.image.command_line or "").split()
    asked = [word for word in words if word.startswith(("mem=", "memmap=", "add_efi_memmap"))]
    how = f" (command line: {some(asked, separator=' ')})" if asked else ""
    return Fault(f"{_of(trimmed)} unaccepted: RAM in e820_table_firmware, but {where} in e820_table{how}", trimmed)


@Rule(INFO, ("platform.kind", "e820"), 28, "warning if memory may be lost to the kernel")
def table_expected(facts: Facts) -> Outcome:
    """A TDX or SNP guest with RAM above 4 GiB has a table.

    Without a table all memory was accepted before the kernel ran: by a firmware that accepts everything, because the
    kernel did not tell it otherwise before ExitBootServices() (AllowUnacceptedMemory on SNP), or because OVMF accepts
    all memory below 4 GiB anyway. That is correct, but slow to boot. Without the EFI memory map nobody knows: what a
    firmware left unaccepted is lost to a kernel without CONFIG_UNACCEPTED_MEMORY, and in none of its tables.
    Fix: If the guest boots too slowly, use a firmware that leaves memory unaccepted (OVMF's
    PcdLazyAcceptPartialMemorySize) and a kernel built with CONFIG_UNACCEPTED_MEMORY, started through the EFI stub.
    """
    if facts.snapshot.table.state != "absent":
        return Pass("there is a table")
    if facts.platform not in ("tdx", "snp"):
        return Pass("not a TDX or SNP guest")
    if facts.efi_unaccepted:
        return Pass("the EFI memory map has type 15 memory: see efi-unaccepted-has-table")
    efi_map, kernel, guest = facts.snapshot.efi_map, facts.snapshot.kernel, f"a {facts.platform.upper()} guest"
    whole = efi_map is not None and efi_map.complete
    if not whole and kernel is not None and kernel.unaccepted_memory is False:
        lost = "what the firmware left unaccepted is lost to it, and no EFI memory map says how much that is"
        return Fault(f"a kernel without CONFIG_UNACCEPTED_MEMORY in {guest}: {lost}", severity=WARNING)
    high = subtract(facts.used_ram or [], [Range(0, 4 << 30)])
    if not high:
        return Pass("no RAM above 4 GiB")
    who = "all of it was accepted before the kernel started" if whole else "nothing here says who accepted it"
    return Fault(f"no table in {guest} with {size(total(high))} of RAM above 4 GiB: {who}")


@Rule(WARNING, ("platform.kind", "zones", "e820"))
def hot_added_memory_accepted(facts: Facts) -> Outcome:
    """A TDX or SNP guest has no memory beyond what the firmware reported.

    The bitmap covers what the firmware reported as unaccepted. The kernel takes memory that is added later as accepted,
    and up to Linux 7.3 nothing accepts it: its first touch ends the guest. (Unmerged series of hotplug do.)
    Fix: Do not add memory to a confidential guest: give it all its memory at boot.
    """
    if facts.platform not in ("tdx", "snp"):
        return Pass("not a TDX or SNP guest")
    tables = (facts.e820.current, facts.e820.firmware, facts.e820.boot_params)
    known = merged((entry.start, entry.end) for entries in tables for entry in entries or ())
    added = subtract(facts.evidence.hot_added, known)
    if not added:
        return Pass("no zone has memory beyond the firmware's")
    if given(facts.snapshot.kernel).unaccepts:
        return Pass("this kernel accepts added memory")
    return Fault(f"{_of(added)} was added later, and nobody accepted it", added)


@Rule(WARNING, ("efi_map",))
def efi_map_sane(facts: Facts) -> Outcome:
    """The EFI memory map in memory is the one that the kernel printed, and its entries do not overlap.

    With `efi=debug` the kernel prints the map before anything can overwrite it. Edits of the kernel itself are undone
    before the two are compared. A difference is damage in the buffer, which lies near the table.
    Fix: Find out what wrote over the buffer. The log's map is used in its place.
    """
    efi_map = given(facts.snapshot.efi_map)
    if efi_map.conflict:
        return Fault(efi_map.conflict, merged([efi_map.buffer] if efi_map.buffer else []))
    order = sorted((d.start, d.end) for d in facts.descriptors)
    crossed = merged((b, min(a_end, b_end)) for (_, a_end), (b, b_end) in zip(order, order[1:]) if b < a_end)
    if crossed or len(facts.descriptors) < len(efi_map.descriptors):
        return Fault(f"entries of the {efi_map.provenance} overlap or are empty: the map is damaged", crossed)
    return Pass(f"no entry of the {efi_map.provenance} contradicts another")


@Rule(CRITICAL, ("unaccepted", "kernel_memory"), 14)
def kernel_memory_accepted(facts: Facts) -> Outcome:
    """No unaccepted unit overlaps memory that the kernel uses from its first instruction on.

    The kernel image, the initrd, setup_data, the EFI memory map and the table itself were written before the kernel
    ran, so their memory was accepted (the stub takes only EFI_CONVENTIONAL_MEMORY, the decompressor accepts what it
    writes to), and bits are never set again. A bit set here was never valid.
    Fix: The bitmap was overwritten, read from the wrong place, or is of another boot. See table-reserved and
    bits-within-initial-map. Do not draw conclusions from this bitmap.
    """
    used = [(f"{each.proof.partition(': ')[2]} at", Range(*each[:2])) for each in facts.evidence.kernel_memory]
    faults = _under(facts.unaccepted, used)
    return faults or Pass(f"all memory of the kernel itself is accepted ({count(len(used), 'range')})")


def _under(unaccepted: list[Range], used: list[tuple[str, Range]]) -> list[Fault]:
    """A fault for each range in use that has unaccepted memory."""
    found = [(f"{what} {span(*range_)}", intersect(merged([range_]), unaccepted)) for what, range_ in used]
    return [Fault(f"{where}: unaccepted at {spans(under)}", under) for where, under in found if under]


@Rule(WARNING, ("unaccepted.now", "kexec_segments"), 29)
def kexec_segments_accepted(facts: Facts) -> Outcome:
    """The destinations of loaded kexec segments are accepted.

    kexec copies its segments to physical memory without asking the page allocator. Since Linux 6.15 (caeb8ba598f0)
    sanity_check_segment_list() accepts their destinations when the image is loaded; before, the copy touched unaccepted
    memory and ended the guest.
    Fix: Do not run this kexec. Update to a kernel with caeb8ba598f0, or accept all memory first
    (`accept_memory=eager`). A crash kernel's segments lie in the crashkernel reservation, which is accepted.
    """
    segments, nbytes = facts.snapshot.kexec_segments, total(facts.evidence.kexec_segments)
    if not segments:
        return Pass("no kexec image is loaded")
    where = [(f"{segment.image} segment", Range(segment.start, segment.end)) for segment in segments]
    faults = _under(facts.unaccepted_now, where)
    if (not facts.has_bits or facts.snapshot.table.is_saved) and faults and facts.has_fix("caeb8ba598f0 (6.15)"):
        return Skip("bitmap: the lists do not tell what kexec has accepted since Linux 6.15")
    return faults or Pass(f"{count(len(segments), 'segment')} ({size(nbytes)}), all accepted")
