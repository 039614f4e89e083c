# SPDX-License-Identifier: LGPL-2.1-or-later
"""Faults to plant into a clean snapshot: one that each rule has to find, and that no other rule may blame.

A plant takes any clean snapshot with unaccepted memory and a list of at least nine chunks, hand-written or from a real
capture (:func:`usable` says why not), and returns it with the fault in it. It raises LookupError if the snapshot has no
place for the fault.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple, Optional

from drgn_unaccepted.checks import run_checks
from drgn_unaccepted.model.e820 import E820Entry
from drgn_unaccepted.model.efi import EfiDescriptor
from drgn_unaccepted.model.ranges import Range
from drgn_unaccepted.snapshot import ALL_PARTS, Accept, AcceptingList, KexecSegment, NamedRange, Snapshot, Task, Zone

from . import build

Plant = Callable[[Snapshot], Snapshot]


class Planted(NamedTuple):
    rule: str
    #: What is wrong, for the test's name.
    fault: str
    #: Status of the finding in a vmcore.
    status: str
    plant: Plant
    #: Other rules that rightly change their finding.
    also: tuple[str, ...]
    #: Part of the message that is the same for every snapshot.
    message: str


PLANTED: list[Planted] = []


def plant(label: str, change: Plant, *also: str, message: str = "") -> None:
    """Register ``RULE: FAULT -> STATUS``."""
    rule, _, rest = label.partition(": ")
    fault, _, status = rest.rpartition(" -> ")
    PLANTED.append(Planted(rule, fault, status, change, also, message))


def planted(label: str, *also: str, message: str = "") -> Callable[[Plant], Plant]:
    """:func:`plant` as a decorator."""

    def register(change: Plant) -> Plant:
        plant(label, change, *also, message=message)
        return change

    return register


def usable(snapshot: Snapshot) -> Optional[str]:
    """Why the faults cannot be planted into this snapshot, or None."""
    if snapshot.table.bitmap is None or not any(snapshot.table.bitmap):
        return "no unaccepted memory by the bitmap"
    if any(getattr(snapshot, part) is None for part in ALL_PARTS - {"panic"}):
        return "parts are missing"
    if not snapshot.efi_map.complete:
        return "the EFI memory map is incomplete"
    if snapshot.accepting.entries or snapshot.target.kind == "live":
        return "what is critical in a settled vmcore is a warning here"
    if not any(zone.listed is not None and len(zone.listed.pfns) >= 9 for zone in snapshot.zones):
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
    # A rule that lacks something now is skipped, and cannot blame.
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
    bitmap = snapshot.table.bitmap
    return [bit for bit in range(8 * len(bitmap)) if bitmap[bit // 8] >> bit % 8 & 1]


def unit(snapshot: Snapshot, index: int) -> Range:
    start = snapshot.table.phys_base + index * snapshot.table.unit_size
    return Range(start, start + snapshot.table.unit_size)


def last_unit(snapshot: Snapshot, first: int = 0, end: int = 0x200000) -> Range:
    """The highest unaccepted unit, or some bytes of it."""
    start = unit(snapshot, set_bits(snapshot)[-1]).start
    return Range(start + first, start + end)


def guard_page(snapshot: Snapshot) -> Range:
    start = unit(snapshot, set_bits(snapshot)[0]).start
    return Range(start - 4096, start)


def table_pages(snapshot: Snapshot) -> Range:
    table = snapshot.table
    return Range(table.address & -4096, (table.address + 24 + table.bitmap_bytes + 4095) & -4096)


def chunk_bytes(snapshot: Snapshot) -> int:
    return snapshot.kernel.chunk_pages * 4096


def listed_pfns(snapshot: Snapshot) -> list[int]:
    return sorted(build.the_zone(snapshot).listed.pfns)


def type_15(snapshot: Snapshot) -> list[EfiDescriptor]:
    return [descriptor for descriptor in snapshot.efi_map.descriptors if descriptor.type == 15]


# The table's header and place

plant("table-captured: the table is not in the dump -> info", build.not_captured, message="was not captured")
plant(
    "table-captured: the header reads as zeros -> info",
    lambda s: build.with_table(build.not_captured(s), reason="physical: the header reads as zeros"),
    message="zeros",
)


def _header(snapshot: Snapshot, state: str = "invalid", **fields: int) -> Snapshot:
    return build.with_table(snapshot, state=state, reason=f"{fields}", bitmap=None, **fields)


plant(
    "header-version: version 2 -> critical",
    lambda s: _header(s, "unsupported", version=2),
    message="version is 2, not 1",
)
for _size in (0, 3, 2048):
    plant(
        f"unit-size-valid: unit size {_size} -> critical",
        lambda s, size=_size: _header(s, unit_size=size),
        message=f"unit_size is {_size},",
    )
plant(
    "bitmap-geometry: phys_base is not unit aligned -> critical",
    lambda s: _header(s, phys_base=s.table.phys_base + 4096),
    message="not a multiple of unit_size 0x200000",
)
plant(
    "bitmap-geometry: a bitmap of 2^60 bytes -> critical",
    lambda s: _header(s, bitmap_bytes=1 << 60),
    message="1152921504606846976 bytes",
)
plant("bitmap-geometry: a bitmap of no bytes -> critical", lambda s: _header(s, bitmap_bytes=0), message="no bytes")
plant(
    "bitmap-geometry: phys_base and size wrap in 64 bits -> critical",
    lambda s: _header(s, phys_base=(1 << 64) - (2 << 20), bitmap_bytes=1 << 20),
    message="wraps",
)
plant(
    "table-aligned: efi.unaccepted is not 8-aligned -> critical",
    lambda s: build.with_table(s, address=s.table.address - 4),
    message="not a multiple of 8",
)
plant(
    "table-reserved: the table's last page is in use -> critical",
    lambda s: build.with_page_state(s, table_pages(s).end - 4096, table_pages(s).end, "in-use"),
    message="not PageReserved",
)
plant(
    "table-reserved: the table's last page is not in the direct map -> critical",
    lambda s: build.with_table(s, unmapped=(Range(table_pages(s).end - 4096, table_pages(s).end),)),
    message="1 page of the table",
)


def _firmware(snapshot: Snapshot, *more: E820Entry) -> Snapshot:
    entries = build.with_ram_removed(snapshot.e820.firmware, *table_pages(snapshot))
    return build.with_part(snapshot, "e820", firmware=(*entries, *more))


plant(
    "table-in-acpi-memory: the firmware's e820 table has RAM there -> warning",
    lambda s: _firmware(s, E820Entry(*table_pages(s), build.RAM)),
    message="lies in RAM",
)
plant("table-in-acpi-memory: the firmware's e820 table has nothing there -> warning", _firmware, message="no entry")

# The bitmap and the memory maps

_STRAY = ("bits-within-firmware-ram", "bits-trimmed-by-kernel", "orphan-bits", *build.IN_USE)


@planted(
    "bits-within-initial-map: a bit is set outside type 15 -> critical",
    *("padding-bits-clear", *_STRAY),
    message="1 bit set that the EFI stub did not set",
)
def bit_outside_type_15(snapshot: Snapshot) -> Snapshot:
    for bit in range(8 * snapshot.table.bitmap_bytes):
        start, end = unit(snapshot, bit)
        if not any(start < d.end and d.start < end for d in type_15(snapshot)):
            return build.with_bits(snapshot, bit, bit + 1, 1)
    raise LookupError("the bitmap covers type 15 only")


@planted(
    "padding-bits-clear: the last bit of the bitmap, which is padding, is set -> warning",
    *("bits-within-initial-map", *_STRAY),
    message="1 bit set at or above",
)
def padding_bit(snapshot: Snapshot) -> Snapshot:
    bits = 8 * len(snapshot.table.bitmap)
    if unit(snapshot, bits - 1).start < max(d.end for d in type_15(snapshot)):
        raise LookupError("the bitmap has no padding")
    return build.with_bits(snapshot, bits - 1, bits, 1)


@planted("table-covers-efi-unaccepted: type 15 below phys_base -> warning", message="the bitmap covers")
def type_15_below_the_bitmap(snapshot: Snapshot) -> Snapshot:
    base, efi_map = snapshot.table.phys_base, snapshot.efi_map
    more = EfiDescriptor(15, base - (16 << 20), base - (8 << 20), 0xF)
    return build.with_part(snapshot, "efi_map", descriptors=(*efi_map.descriptors, more))


plant(
    "efi-unaccepted-has-table: type 15 is RAM to a kernel without a table -> critical",
    build.absent_table,
    message="without accepting",
)


@planted(
    "efi-unaccepted-has-table: type 15 is not RAM to a kernel without a table -> warning",
    "table-expected",
    message="it is lost to the kernel",
)
def type_15_lost(snapshot: Snapshot) -> Snapshot:
    left = snapshot.e820.current
    for descriptor in type_15(snapshot):
        left = build.with_ram_removed(left, descriptor.start, descriptor.end)
    return build.with_part(build.absent_table(snapshot), "e820", current=left, firmware=left)


plant(
    "bits-within-firmware-ram: an unaccepted unit is not RAM of the firmware -> critical",
    lambda s: build.with_part(s, "e820", firmware=build.with_ram_removed(s.e820.firmware, *last_unit(s))),
    message="not RAM in e820_table_firmware",
)
plant(
    "bits-trimmed-by-kernel: an unaccepted unit is not RAM of the kernel, but of the firmware -> info",
    lambda s: build.with_part(s, "e820", current=build.with_ram_removed(s.e820.current, *last_unit(s))),
    message="but absent in e820_table",
)
plant(
    "kernel-memory-accepted: a bit is set over the kernel image -> critical",
    lambda s: replace(s, kernel_memory=(NamedRange("kernel image", *last_unit(s, 0x1000, 0x5000)),)),
    message="kernel image",
)

# The pages

plant(
    "buddy-pages-accepted: two pages of an unaccepted unit are in a buddy list -> critical",
    lambda s: build.with_page_state(s, *last_unit(s, 0x4000, 0x6000), "buddy"),
    message="2 pages in a buddy list and unaccepted",
)
plant(
    "allocated-pages-accepted: a page of an unaccepted unit is allocated -> critical",
    lambda s: build.with_page_state(s, *last_unit(s, 0x4000, 0x5000), "in-use"),
    message="1 page allocated and unaccepted",
)
plant(
    "guard-unit-accepted: the page before the first unaccepted unit is allocated -> warning",
    lambda s: build.with_page_state(s, *guard_page(s), "in-use"),
    *("advisory-guard-skipped", "masked-pages-in-use"),
    message="right before an unaccepted unit",
)
plant(
    "masked-pages-in-use: a reserved page before the first unaccepted unit reads as zeros -> info",
    lambda s: build.with_part(
        build.with_page_state(s, *guard_page(s), "reserved"), "pages", masked_pfns=(guard_page(s).start >> 12,)
    ),
    message="1 page in use before unaccepted memory shown as zeros",
)


@planted(
    "orphan-bits: more chunks than CPUs are unaccepted, on no list, and not being accepted -> warning",
    message="without a known reason",
)
def chunks_lost(snapshot: Snapshot) -> Snapshot:
    # The highest, so that the lowest keep the guard that they are listed for.
    pfns = listed_pfns(snapshot)
    snapshot = build.with_part(snapshot, "kernel", cpus=2)
    snapshot = build.with_listed_pfns(snapshot, pfns[:-3])
    for pfn in pfns[-3:]:
        snapshot = build.with_page_state(snapshot, pfn << 12, (pfn << 12) + chunk_bytes(snapshot), "free")
    return snapshot


@planted("orphan-bits: an unaccepted chunk is reserved and on no list -> info", message="PageReserved")
def chunk_reserved(snapshot: Snapshot) -> Snapshot:
    *pfns, last = listed_pfns(snapshot)
    end = (last << 12) + chunk_bytes(snapshot)
    return build.with_page_state(build.with_listed_pfns(snapshot, pfns), last << 12, end, "reserved")


# The lists and the counters

for _problem in ("entry 3 leads back to entry 1", "entry 3 has next NULL", "entry 3 leads to 0xdead000000000100"):
    plant(
        f"list-entries-sane: the list is broken: {_problem} -> critical",
        lambda s, problem=_problem: build.with_list(s, problems=(problem,)),
        message=_problem,
    )


def _entry(column: str, value: Callable[[Snapshot, Zone], int]) -> Plant:
    return lambda s: build.with_entry(s, column, value(s, build.the_zone(s)))


plant(
    "list-entries-sane: a listed page is not aligned to a chunk -> critical",
    _entry("pfns", lambda s, zone: zone.listed.pfns[0] + 1),
    *("list-page-type", "orphan-bits"),
    message="not aligned to 4 MiB",
)
plant(
    "list-entries-sane: a listed page has references -> critical",
    _entry("refcounts", lambda s, zone: 1),
    message="with references",
)
plant(
    "list-entries-sane: a listed page is PageReserved -> critical",
    _entry("flags", lambda s, zone: zone.listed.flags[0] | s.kernel.reserved_flag),
    message="PageReserved",
)
plant(
    "list-entries-sane: a listed page is of another zone -> critical",
    _entry("flags", lambda s, zone: zone.listed.flags[0] ^ 1 << s.kernel.zone_id_shift),
    message="of another zone by its flags",
)
plant(
    "list-entries-sane: a listed page is outside the zone's span -> critical",
    lambda s: build.with_zone(s, spanned_pages=listed_pfns(s)[-1] - build.the_zone(s).start_pfn),
    message="outside the zone",
)
plant(
    "list-page-type: a listed page has the type of buddy pages -> critical",
    _entry("page_types", lambda s, zone: 0xF0000000),
    message="(0xf0000000)",
)
plant(
    "list-page-type: pages are PageUnaccepted and on no list -> critical",
    lambda s: build.with_page_state(
        s, (listed_pfns(s)[0] << 12) - chunk_bytes(s), listed_pfns(s)[0] << 12, "unaccepted"
    ),
    message="PageUnaccepted on no list",
)
plant(
    "list-entries-without-bits: the bitmap is all zero while chunks are listed -> critical",
    lambda s: build.with_table(s, bitmap=bytes(len(s.table.bitmap))),
    message="the bitmap is all zero",
)
plant(
    "list-entries-without-bits: all bits but the last are 0 while chunks are listed -> warning",
    lambda s: build.with_bits(s, 0, set_bits(s)[-1], 0),
    message="differs from what the page allocator saw",
)
plant(
    "zone-counter-matches-list: NR_UNACCEPTED is a chunk more than the list -> critical",
    lambda s: build.counted(s, s.kernel.chunk_pages),
    message="NR_UNACCEPTED is",
)
plant(
    "global-counter-matches-zones: the global NR_UNACCEPTED is a chunk less than the zones' -> critical",
    lambda s: build.with_part(s, "counters", unaccepted_pages=s.counters.unaccepted_pages - s.kernel.chunk_pages),
    message="the zones have",
)
plant(
    "global-counter-matches-zones: a CPU holds a part of NR_UNACCEPTED back -> critical",
    lambda s: build.with_part(s, "counters", unaccepted_diff=-1024),
    message="the CPUs hold back -1024 pages",
)
plant(
    "free-pages-include-unaccepted: NR_FREE_PAGES is less than NR_UNACCEPTED -> critical",
    lambda s: build.with_zone(s, free_pages=build.the_zone(s).unaccepted_pages - 1),
    message="is less than NR_UNACCEPTED",
)
plant(
    "free-pages-include-unaccepted: NR_FREE_PAGES is a chunk more than what is free -> warning",
    lambda s: build.with_zone(s, free_pages=build.the_zone(s).free_pages + 1024),
    message="(+1024)",
)
plant(
    "eager-means-empty: chunks are listed although accept_memory=eager -> critical",
    lambda s: build.with_part(s, "platform", lazy=False),
    message="accept_memory=eager, but",
)
plant(
    "static-key-matches-lists: the static key is off while chunks are listed -> warning",
    lambda s: build.with_part(s, "kernel", static_key=0),
    "advisory-static-key-race",
    message="is 0 (off), ",
)

# Activity


def _accepts(*units: tuple[int, int]) -> Plant:
    tasks = [Task(100 + number, f"task{number}", number) for number in range(len(units))]
    entries = tuple(Accept(0xFFFFC90000000000 + task.pid * 64, *unit, task) for unit, task in zip(units, tasks))
    return lambda snapshot: replace(snapshot, accepting=AcceptingList(entries))


plant(
    "accepting-ranges-sane: two accepts of the same unit are in flight -> critical",
    _accepts((0, 3), (2, 5)),
    message="overlap",
)
plant(
    "accepting-ranges-sane: an accept in flight ends before it starts -> info",
    _accepts((5, 3)),
    message="not a range of the bitmap: units 5-3 by task0 (pid 100)",
)
plant(
    "accepting-ranges-sane: an accept in flight is on no task's stack -> info",
    lambda s: replace(s, accepting=AcceptingList((Accept(0xFFFF888000001000, 0, 3, None),))),
    message="on no task's stack",
)
plant(
    "accepting-ranges-sane: an accept was in flight -> info", _accepts((0, 3)), message="1 accept in flight: units 0-3"
)
plant(
    "platform-can-accept: the guest is neither TDX nor SNP -> warning",
    lambda s: build.with_part(s, "platform", kind="none"),
    message="the first accept panics",
)


@planted(
    "table-expected: a TDX guest with RAM above 4 GiB has neither table nor type 15 -> info",
    "efi-unaccepted-has-table",
    message="all of it was accepted before the kernel started",
)
def no_table(snapshot: Snapshot) -> Snapshot:
    snapshot = build.with_part(build.absent_table(snapshot), "platform", kind="tdx")
    return build.without_type_15(snapshot)


plant(
    "kexec-segments-accepted: a kexec segment lies in unaccepted memory -> warning",
    lambda s: replace(s, kexec_segments=(KexecSegment("kexec_image", *last_unit(s, 0x1000, 0x3000)),)),
    "advisory-kexec-unaccepted",
    message="kexec_image segment",
)


@planted(
    "watermark-starvation: a task reclaims while a zone is below its watermark but for unaccepted memory -> info",
    "advisory-endless-reclaim",
    message="kswapd-not (pid 7)",
)
def starved(snapshot: Snapshot) -> Snapshot:
    free = build.the_zone(snapshot).unaccepted_pages + 10
    snapshot = build.with_zone(snapshot, free_pages=free, buddy_pages=10)
    return replace(snapshot, reclaiming=(Task(7, "kswapd-not", 0),))
