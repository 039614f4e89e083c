# SPDX-License-Identifier: LGPL-2.1-or-later
"""Faults to plant into a clean snapshot: one that each rule has to find, and that no other rule may blame.

A plant takes any clean snapshot with unaccepted memory and a list of at least nine chunks, hand-written or out of a
real capture (:func:`usable` says why not), and returns it with the fault in it. Where the snapshot has no place for the
fault it raises LookupError.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Callable, NamedTuple, Optional

from drgn_unaccepted.checks import run_checks
from drgn_unaccepted.model.e820 import E820Entry
from drgn_unaccepted.model.efi import EfiDescriptor
from drgn_unaccepted.model.ranges import Range
from drgn_unaccepted.snapshot import (
    Accept,
    AcceptingList,
    KexecSegment,
    NamedRange,
    Snapshot,
    Task,
)

from . import build

Plant = Callable[[Snapshot], Snapshot]


class Planted(NamedTuple):
    rule: str
    #: What is wrong, for the test's name.
    fault: str
    #: What the rule says of it in a vmcore.
    status: str
    plant: Plant
    #: Other rules and advisories that rightly change what they say.
    also: frozenset[str] = frozenset()
    #: Part of the message, where it is the same on every snapshot.
    message: str = ""


PLANTED: list[Planted] = []


def planted(rule: str, status: str, *also: str, message: str = "") -> Callable[[Plant], Plant]:
    def register(plant: Plant) -> Plant:
        assert plant.__doc__
        PLANTED.append(Planted(rule, plant.__doc__, status, plant, frozenset(also), message))
        return plant

    return register


def usable(snapshot: Snapshot) -> Optional[str]:
    """Why the faults cannot be planted into this snapshot, or None."""
    if snapshot.table.bitmap is None or not any(snapshot.table.bitmap):
        return "no unaccepted memory by the bitmap"
    parts = (snapshot.kernel, snapshot.efi_map, snapshot.e820, snapshot.zones, snapshot.counters, snapshot.accepting)
    more = (snapshot.platform, snapshot.kernel_memory, snapshot.pages, snapshot.kexec_segments, snapshot.reclaiming)
    if None in (*parts, *more):
        return "parts are missing"
    assert snapshot.efi_map is not None and snapshot.accepting is not None
    if not snapshot.efi_map.complete:
        return "the EFI memory map is not complete"
    if snapshot.accepting.entries or snapshot.target.kind == "live":
        return "what is hard in a settled vmcore is soft here"
    if not any(zone.listed is not None and len(zone.listed.pfns) >= 9 for zone in snapshot.zones or ()):
        return "no list of nine chunks"
    return None


def verify(case: Planted, clean: Snapshot) -> None:
    """Assert that the fault, planted into ``clean``, is found, and that nothing else is blamed for it."""
    before = {finding.rule: finding.status for finding in run_checks(clean).findings}
    report = run_checks(case.plant(clean))
    by_rule = {finding.rule: finding for finding in report.findings}
    found = by_rule.pop(case.rule)
    assert found.status == case.status, found
    assert case.message in found.message, found
    # What lacks something now is skipped, and cannot blame.
    blamed = {
        name: finding
        for name, finding in by_rule.items()
        if finding.status not in ("pass", "skip", before.get(name)) and name not in case.also
    }
    assert blamed == {}
    statuses = {finding.status for finding in report.findings}
    worst = next((status for status in ("critical", "warning") if status in statuses), "ok")
    assert report.status == worst


# What the plants need to know of a snapshot, found the slow way.


def set_bits(snapshot: Snapshot) -> list[int]:
    assert snapshot.table.bitmap is not None
    bitmap = snapshot.table.bitmap
    return [bit for bit in range(8 * len(bitmap)) if bitmap[bit // 8] >> bit % 8 & 1]


def unit(snapshot: Snapshot, index: int) -> Range:
    table = snapshot.table
    assert table.phys_base is not None and table.unit_size is not None
    start = table.phys_base + index * table.unit_size
    return Range(start, start + table.unit_size)


def last_unit(snapshot: Snapshot) -> Range:
    """The highest unaccepted unit."""
    return unit(snapshot, set_bits(snapshot)[-1])


def first_unit(snapshot: Snapshot) -> Range:
    return unit(snapshot, set_bits(snapshot)[0])


# The table's header and place


@planted("table-captured", "info", message="was not captured")
def header_not_in_the_dump(snapshot: Snapshot) -> Snapshot:
    """the table is not in the dump"""
    return build.not_captured(snapshot)


@planted("table-captured", "info", message="zeros")
def header_of_zeros(snapshot: Snapshot) -> Snapshot:
    """the header reads as zeros"""
    table = replace(build.not_captured(snapshot).table, reason="physical: the header reads as zeros")
    return replace(snapshot, table=table)


def _header(snapshot: Snapshot, state: str, **fields: int) -> Snapshot:
    return build.with_table(snapshot, state=state, reason=f"{fields}", bitmap=None, **fields)


@planted("header-version", "critical", message="version is 2, not 1")
def version_2(snapshot: Snapshot) -> Snapshot:
    """version 2"""
    return _header(snapshot, "unsupported", version=2)


@planted("unit-size-valid", "critical", message="unit_size is 0,")
def unit_size_0(snapshot: Snapshot) -> Snapshot:
    """unit size 0"""
    return _header(snapshot, "invalid", unit_size=0)


@planted("unit-size-valid", "critical", message="unit_size is 3,")
def unit_size_3(snapshot: Snapshot) -> Snapshot:
    """unit size 3"""
    return _header(snapshot, "invalid", unit_size=3)


@planted("unit-size-valid", "critical", message="unit_size is 2048,")
def unit_size_under_a_page(snapshot: Snapshot) -> Snapshot:
    """unit size under a page"""
    return _header(snapshot, "invalid", unit_size=2048)


@planted("bitmap-geometry", "critical", message="not a multiple of unit_size 0x200000")
def phys_base_unaligned(snapshot: Snapshot) -> Snapshot:
    """phys_base is not unit aligned"""
    return _header(snapshot, "invalid", phys_base=(snapshot.table.phys_base or 0) + 4096)


@planted("bitmap-geometry", "critical", message="size is 1152921504606846976: ")
def size_of_2_to_60(snapshot: Snapshot) -> Snapshot:
    """a bitmap of 2^60 bytes"""
    return _header(snapshot, "invalid", bitmap_bytes=1 << 60)


@planted("bitmap-geometry", "critical", message="size is 0")
def size_0(snapshot: Snapshot) -> Snapshot:
    """a bitmap of no bytes"""
    return _header(snapshot, "invalid", bitmap_bytes=0)


@planted("bitmap-geometry", "critical", message="and wraps")
def covered_end_wraps(snapshot: Snapshot) -> Snapshot:
    """phys_base and size wrap in 64 bits"""
    return _header(snapshot, "invalid", phys_base=(1 << 64) - (2 << 20), bitmap_bytes=1 << 20)


@planted("table-aligned", "critical", message="not a multiple of 8")
def table_at_an_odd_address(snapshot: Snapshot) -> Snapshot:
    """efi.unaccepted is not 8-aligned"""
    return build.with_table(snapshot, address=(snapshot.table.address or 0) - 4)


def _table_pages(snapshot: Snapshot) -> Range:
    table = snapshot.table
    assert table.address is not None and table.bitmap_bytes is not None
    return Range(table.address & -4096, (table.address + 24 + table.bitmap_bytes + 4095) & -4096)


@planted("table-reserved", "critical", message="not PageReserved")
def table_not_reserved(snapshot: Snapshot) -> Snapshot:
    """the table's last page is in use"""
    end = _table_pages(snapshot).end
    return build.with_page_state(snapshot, end - 4096, end, "in-use")


@planted("table-reserved", "critical", message="1 page of the table")
def table_not_mapped(snapshot: Snapshot) -> Snapshot:
    """the table's last page is not in the direct map"""
    end = _table_pages(snapshot).end
    return build.with_table(snapshot, unmapped=(Range(end - 4096, end),))


@planted("table-in-acpi-memory", "warning", message="lies in RAM")
def table_in_ram(snapshot: Snapshot) -> Snapshot:
    """the firmware's e820 table has RAM where the table lies"""
    firmware = snapshot.e820.firmware  # type: ignore[union-attr]
    page = _table_pages(snapshot)
    entries = (*build.with_ram_removed(firmware or (), *page), E820Entry(*page, build.RAM))
    return build.with_part(snapshot, "e820", firmware=entries)


@planted("table-in-acpi-memory", "warning", message="no entry")
def table_in_no_entry(snapshot: Snapshot) -> Snapshot:
    """the firmware's e820 table has nothing where the table lies"""
    firmware = snapshot.e820.firmware  # type: ignore[union-attr]
    entries = build.with_ram_removed(firmware or (), *_table_pages(snapshot))
    return build.with_part(snapshot, "e820", firmware=entries)


# The bitmap and the memory maps


@planted(
    "bits-within-initial-map",
    "critical",
    "padding-bits-clear",
    "bits-within-firmware-ram",
    "bits-trimmed-by-kernel",
    "orphan-bits",
    "buddy-pages-accepted",
    "allocated-pages-accepted",
    message="1 bit is set that the stub did not set",
)
def bit_outside_type_15(snapshot: Snapshot) -> Snapshot:
    """a bit is set outside type 15"""
    described = [(d.start, d.end) for d in snapshot.efi_map.descriptors if d.type == 15]  # type: ignore[union-attr]
    assert snapshot.table.bitmap_bytes is not None
    for bit in range(8 * snapshot.table.bitmap_bytes):
        start, end = unit(snapshot, bit)
        if not any(start < d_end and d_start < end for d_start, d_end in described):
            return build.with_bits(snapshot, bit, bit + 1, 1)
    raise LookupError("the bitmap covers type 15 only")


@planted(
    "padding-bits-clear",
    "warning",
    "bits-within-initial-map",
    "bits-within-firmware-ram",
    "bits-trimmed-by-kernel",
    "orphan-bits",
    "buddy-pages-accepted",
    "allocated-pages-accepted",
    message="1 bit is set at or above",
)
def padding_bit(snapshot: Snapshot) -> Snapshot:
    """the last bit of the bitmap, which is padding, is set"""
    bits = 8 * len(snapshot.table.bitmap or b"")
    end = max(d.end for d in snapshot.efi_map.descriptors if d.type == 15)  # type: ignore[union-attr]
    if unit(snapshot, bits - 1).start < end:
        raise LookupError("the bitmap has no padding")
    return build.with_bits(snapshot, bits - 1, bits, 1)


@planted("table-covers-efi-unaccepted", "warning", message="the bitmap covers")
def type_15_below_the_bitmap(snapshot: Snapshot) -> Snapshot:
    """type 15 below phys_base"""
    base, efi_map = snapshot.table.phys_base, snapshot.efi_map
    assert base is not None and efi_map is not None
    more = EfiDescriptor(15, base - (16 << 20), base - (8 << 20), 0xF)
    return build.with_part(snapshot, "efi_map", descriptors=(*efi_map.descriptors, more))


@planted("efi-unaccepted-has-table", "critical", message="without accepting")
def no_table_for_type_15(snapshot: Snapshot) -> Snapshot:
    """type 15 is RAM to a kernel without a table"""
    return build.absent_table(snapshot)


@planted("efi-unaccepted-has-table", "warning", "table-expected", message="it is lost to the kernel")
def type_15_lost(snapshot: Snapshot) -> Snapshot:
    """type 15 is no RAM to a kernel without a table"""
    snapshot, e820 = build.absent_table(snapshot), snapshot.e820
    assert e820 is not None and snapshot.efi_map is not None
    left = e820.current or ()
    for descriptor in snapshot.efi_map.descriptors:
        if descriptor.type == 15:
            left = build.with_ram_removed(left, descriptor.start, descriptor.end)
    return build.with_part(snapshot, "e820", current=left, firmware=left)


@planted("bits-within-firmware-ram", "critical", message="not RAM of e820_table_firmware")
def unaccepted_unit_outside_ram(snapshot: Snapshot) -> Snapshot:
    """an unaccepted unit is not RAM of the firmware"""
    e820 = snapshot.e820
    assert e820 is not None and e820.firmware is not None
    return build.with_part(snapshot, "e820", firmware=build.with_ram_removed(e820.firmware, *last_unit(snapshot)))


@planted("bits-trimmed-by-kernel", "info", message="but absent in e820_table")
def ram_trimmed(snapshot: Snapshot) -> Snapshot:
    """an unaccepted unit is not RAM of the kernel, but of the firmware"""
    e820 = snapshot.e820
    assert e820 is not None and e820.current is not None
    return build.with_part(snapshot, "e820", current=build.with_ram_removed(e820.current, *last_unit(snapshot)))


@planted("kernel-memory-accepted", "critical", message="kernel image")
def bit_over_the_kernel_image(snapshot: Snapshot) -> Snapshot:
    """a bit is set over the kernel image"""
    start, _ = last_unit(snapshot)
    image = NamedRange("kernel image", start + 0x1000, start + 0x5000)
    return replace(snapshot, kernel_memory=(image,))


# The pages


@planted("buddy-pages-accepted", "critical", message="2 pages in a buddy list and unaccepted")
def buddy_page_unaccepted(snapshot: Snapshot) -> Snapshot:
    """two pages of an unaccepted unit are in a buddy list"""
    start, _ = last_unit(snapshot)
    return build.with_page_state(snapshot, start + 0x4000, start + 0x6000, "buddy")


@planted("allocated-pages-accepted", "critical", message="1 page allocated and unaccepted")
def allocated_page_unaccepted(snapshot: Snapshot) -> Snapshot:
    """a page of an unaccepted unit is allocated"""
    start, _ = last_unit(snapshot)
    return build.with_page_state(snapshot, start + 0x4000, start + 0x5000, "in-use")


@planted(
    "guard-unit-accepted",
    "warning",
    "advisory-guard-skipped",
    "masked-pages-in-use",
    message="right before an unaccepted unit",
)
def page_in_use_without_guard(snapshot: Snapshot) -> Snapshot:
    """the page before the first unaccepted unit is allocated"""
    start, _ = first_unit(snapshot)
    return build.with_page_state(snapshot, start - 0x1000, start, "in-use")


@planted("masked-pages-in-use", "info", message="1 page in use before unaccepted memory reads as zeros")
def page_masked(snapshot: Snapshot) -> Snapshot:
    """a reserved page before the first unaccepted unit reads as zeros"""
    start, _ = first_unit(snapshot)
    snapshot = build.with_page_state(snapshot, start - 0x1000, start, "reserved")
    return build.with_part(snapshot, "pages", masked_pfns=((start >> 12) - 1,))


@planted("orphan-bits", "warning", message="without a known reason")
def chunks_lost(snapshot: Snapshot) -> Snapshot:
    """more chunks than CPUs are unaccepted, on no list, and not being accepted"""
    listed = build.the_zone(snapshot).listed
    assert listed is not None and snapshot.kernel is not None
    # The highest, so that the lowest keep the guard that they are listed for.
    pfns = sorted(listed.pfns)
    lost = pfns[-3:]
    snapshot = build.with_part(snapshot, "kernel", cpus=2)
    snapshot = build.with_listed_pfns(snapshot, pfns[:-3])
    for pfn in lost:
        start = pfn << 12
        snapshot = build.with_page_state(snapshot, start, start + snapshot.kernel.chunk_pages * 4096, "free")  # type: ignore[union-attr]
    return snapshot


@planted("orphan-bits", "info", message="PageReserved")
def chunk_reserved(snapshot: Snapshot) -> Snapshot:
    """an unaccepted chunk is reserved and on no list"""
    listed = build.the_zone(snapshot).listed
    assert listed is not None and snapshot.kernel is not None
    pfns = sorted(listed.pfns)
    start, size = pfns[-1] << 12, snapshot.kernel.chunk_pages * 4096
    return build.with_page_state(build.with_listed_pfns(snapshot, pfns[:-1]), start, start + size, "reserved")


# The lists and the counters


def _list_problem(problem: str) -> Plant:
    return lambda snapshot: build.with_list(snapshot, problems=(problem,))


for _problem in ("entry 3 leads back to entry 1", "entry 3 has next NULL", "entry 3 leads to 0xdead000000000100"):
    _plant = _list_problem(_problem)
    _plant.__doc__ = f"the list is broken: {_problem}"
    planted("list-entries-sane", "critical", message=_problem)(_plant)


@planted("list-entries-sane", "critical", "list-page-type", "orphan-bits", message="not aligned to 4 MiB")
def entry_unaligned(snapshot: Snapshot) -> Snapshot:
    """a listed page is not aligned to a chunk"""
    listed = build.the_zone(snapshot).listed
    assert listed is not None
    return build.with_entry(snapshot, "pfns", listed.pfns[0] + 1)


@planted("list-entries-sane", "critical", message="with references")
def entry_with_references(snapshot: Snapshot) -> Snapshot:
    """a listed page has references"""
    return build.with_entry(snapshot, "refcounts", 1)


@planted("list-entries-sane", "critical", message="PageReserved")
def entry_reserved(snapshot: Snapshot) -> Snapshot:
    """a listed page is PageReserved"""
    kernel, listed = snapshot.kernel, build.the_zone(snapshot).listed
    assert kernel is not None and kernel.reserved_flag is not None and listed is not None
    return build.with_entry(snapshot, "flags", listed.flags[0] | kernel.reserved_flag)


@planted("list-entries-sane", "critical", message="of another zone by its flags")
def entry_of_another_zone(snapshot: Snapshot) -> Snapshot:
    """a listed page is of another zone"""
    kernel, zone = snapshot.kernel, build.the_zone(snapshot)
    assert kernel is not None and kernel.zone_id_shift is not None and zone.listed is not None
    return build.with_entry(snapshot, "flags", zone.listed.flags[0] ^ 1 << kernel.zone_id_shift)


@planted("list-entries-sane", "critical", message="outside the zone")
def entry_outside_the_zone(snapshot: Snapshot) -> Snapshot:
    """a listed page is outside the zone's span"""
    zone = build.the_zone(snapshot)
    assert zone.listed is not None
    return build.with_zone(snapshot, spanned_pages=max(zone.listed.pfns) - zone.start_pfn)


@planted("list-page-type", "critical", message="(0xf0000000)")
def entry_of_another_type(snapshot: Snapshot) -> Snapshot:
    """a listed page has the type of buddy pages"""
    return build.with_entry(snapshot, "page_types", 0xF0000000)


@planted("list-page-type", "critical", message="PageUnaccepted on no list")
def typed_page_off_the_list(snapshot: Snapshot) -> Snapshot:
    """pages are PageUnaccepted and on no list"""
    listed = build.the_zone(snapshot).listed
    assert listed is not None and snapshot.kernel is not None
    start, size = min(listed.pfns) << 12, snapshot.kernel.chunk_pages * 4096
    return build.with_page_state(snapshot, start - size, start, "unaccepted")


@planted("list-entries-without-bits", "critical", message="the bitmap is all zero")
def bitmap_of_zeros(snapshot: Snapshot) -> Snapshot:
    """the bitmap is all zero while chunks are listed"""
    return build.with_table(snapshot, bitmap=bytes(len(snapshot.table.bitmap or b"")))


@planted("list-entries-without-bits", "warning", message="not what the page allocator saw")
def most_of_the_list_without_bits(snapshot: Snapshot) -> Snapshot:
    """all bits but the last are 0 while chunks are listed"""
    return build.with_bits(snapshot, 0, set_bits(snapshot)[-1], 0)


@planted("zone-counter-matches-list", "critical", message="NR_UNACCEPTED is")
def counter_off_by_a_chunk(snapshot: Snapshot) -> Snapshot:
    """NR_UNACCEPTED is a chunk more than the list"""
    assert snapshot.kernel is not None
    return build.counted(snapshot, snapshot.kernel.chunk_pages)


@planted("global-counter-matches-zones", "critical", message="the zones have")
def global_counter_off(snapshot: Snapshot) -> Snapshot:
    """the global NR_UNACCEPTED is a chunk less than the zones'"""
    counters = snapshot.counters
    assert counters is not None and counters.unaccepted_pages is not None and snapshot.kernel is not None
    less = counters.unaccepted_pages - snapshot.kernel.chunk_pages
    return build.with_part(snapshot, "counters", unaccepted_pages=less)


@planted("global-counter-matches-zones", "critical", message="the CPUs hold back -1024 pages")
def counter_held_back(snapshot: Snapshot) -> Snapshot:
    """a CPU holds a part of NR_UNACCEPTED back"""
    return build.with_part(snapshot, "counters", unaccepted_diff=-1024)


@planted("free-pages-include-unaccepted", "critical", message="is less than NR_UNACCEPTED")
def free_pages_below_unaccepted(snapshot: Snapshot) -> Snapshot:
    """NR_FREE_PAGES is less than NR_UNACCEPTED"""
    return build.with_zone(snapshot, free_pages=(build.the_zone(snapshot).unaccepted_pages or 0) - 1)


@planted("free-pages-include-unaccepted", "warning", message="(+1024)")
def free_pages_are_no_sum(snapshot: Snapshot) -> Snapshot:
    """NR_FREE_PAGES is a chunk more than what is free"""
    return build.with_zone(snapshot, free_pages=build.the_zone(snapshot).free_pages + 1024)


@planted("eager-means-empty", "critical", message="accept_memory=eager, but")
def eager_with_a_list(snapshot: Snapshot) -> Snapshot:
    """chunks are listed although accept_memory=eager"""
    return build.with_part(snapshot, "platform", lazy=False)


@planted("static-key-matches-lists", "warning", "advisory-static-key-race", message="is 0, off, while")
def static_key_off(snapshot: Snapshot) -> Snapshot:
    """the static key is off while chunks are listed"""
    return build.with_part(snapshot, "kernel", static_key=0)


# What was going on


def _accepts(*units: tuple[int, int]) -> AcceptingList:
    tasks = (Task(100 + number, f"task{number}", number) for number in range(len(units)))
    return AcceptingList(
        tuple(
            Accept(0xFFFFC90000000000 + pid * 64, *range_, task) for pid, (range_, task) in enumerate(zip(units, tasks))
        )
    )


@planted("accepting-ranges-sane", "critical", message="overlap")
def accepts_overlap(snapshot: Snapshot) -> Snapshot:
    """two accepts of the same unit are in flight"""
    return replace(snapshot, accepting=_accepts((0, 3), (2, 5)))


@planted("accepting-ranges-sane", "info", message="no range of the bitmap: units 5-3 by task0 (pid 100)")
def accept_reversed(snapshot: Snapshot) -> Snapshot:
    """an accept in flight ends before it starts"""
    return replace(snapshot, accepting=_accepts((5, 3)))


@planted("accepting-ranges-sane", "info", message="on no task's stack")
def accept_without_task(snapshot: Snapshot) -> Snapshot:
    """an accept in flight is on no task's stack"""
    return replace(snapshot, accepting=AcceptingList((Accept(0xFFFF888000001000, 0, 3, None),)))


@planted("accepting-ranges-sane", "info", message="1 accept in flight: units 0-3")
def died_while_accepting(snapshot: Snapshot) -> Snapshot:
    """an accept was in flight"""
    return replace(snapshot, accepting=_accepts((0, 3)))


@planted("platform-can-accept", "warning", message="the first accept panics")
def no_platform(snapshot: Snapshot) -> Snapshot:
    """the guest is neither TDX nor SNP"""
    return build.with_part(snapshot, "platform", kind="none")


@planted(
    "table-expected", "info", "efi-unaccepted-has-table", message="all of it was accepted before the kernel started"
)
def no_table(snapshot: Snapshot) -> Snapshot:
    """a TDX guest with RAM above 4 GiB has neither table nor type 15"""
    snapshot = build.with_part(build.absent_table(snapshot), "platform", kind="tdx")
    assert snapshot.efi_map is not None
    accepted = tuple(d._replace(type=7) if d.type == 15 else d for d in snapshot.efi_map.descriptors)
    return build.with_part(snapshot, "efi_map", descriptors=accepted)


@planted("kexec-segments-accepted", "warning", "advisory-kexec-unaccepted", message="kexec_image segment")
def kexec_into_unaccepted(snapshot: Snapshot) -> Snapshot:
    """a kexec segment lies in unaccepted memory"""
    start, _ = last_unit(snapshot)
    return replace(snapshot, kexec_segments=(KexecSegment("kexec_image", start + 0x1000, start + 0x3000),))


@planted("watermark-starvation", "info", "advisory-endless-reclaim", message="kswapd-not (pid 7)")
def starved(snapshot: Snapshot) -> Snapshot:
    """a task reclaims while a zone is below its watermark but for unaccepted memory"""
    zone = build.the_zone(snapshot)
    assert zone.unaccepted_pages is not None
    snapshot = build.with_zone(snapshot, free_pages=zone.unaccepted_pages + 10, buddy_pages=10)
    return replace(snapshot, reclaiming=(Task(7, "kswapd-not", 0),))
