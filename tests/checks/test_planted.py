# SPDX-License-Identifier: LGPL-2.1-or-later
"""Each planted fault is found by its rule, and blamed on no other; a clean snapshot has none.

The same with faults in dumps of real kernels is in tests/lab/test_planted.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from drgn_unaccepted.checks import rule_names, run_checks
from drgn_unaccepted.model.efi import EfiDescriptor
from drgn_unaccepted.model.ranges import Range
from drgn_unaccepted.snapshot import Accept, AcceptingList, KexecSegment, NamedRange, Task

from . import build
from .changes import Change, accepting, bits, both, listing, pages, part, table, trimmed

#: The interface's table of rules, C1 to C32. Names and order are stable; a new rule follows them.
INTERFACE = """
    table-captured header-version unit-size-valid bitmap-geometry table-aligned table-reserved table-in-acpi-memory
    padding-bits-clear bits-within-initial-map table-covers-efi-unaccepted efi-unaccepted-has-table
    bits-within-firmware-ram bits-trimmed-by-kernel kernel-memory-accepted buddy-pages-accepted allocated-pages-accepted
    guard-unit-accepted list-entries-sane list-page-type list-entries-without-bits zone-counter-matches-list
    global-counter-matches-zones free-pages-include-unaccepted eager-means-empty orphan-bits accepting-ranges-sane
    platform-can-accept table-expected kexec-segments-accepted static-key-matches-lists masked-pages-in-use
    watermark-starvation
"""
RULES = [name for name in rule_names() if not name.startswith("advisory-")]

PLANTED: list[Any] = []


def plant(label: str, message: str, *changes: Change, also: tuple[str, ...] = ()) -> None:
    """Plant ``RULE: FAULT -> STATUS``.

    :param message: a part of the finding's message
    :param also: other rules that rightly change their finding
    """
    rule, _, rest = label.partition(": ")
    PLANTED.append(pytest.param(rule, rest.rpartition(" -> ")[2], message, both(*changes), also, id=label))


def test_the_rules_of_the_interface_come_first() -> None:
    assert rule_names()[: len(INTERFACE.split())] == INTERFACE.split()


def test_each_rule_has_a_planted_fault() -> None:
    assert {case.values[0] for case in PLANTED} == set(RULES)


def test_a_clean_snapshot_passes_every_rule() -> None:
    report = run_checks(build.clean())
    # The kernel has no static key since 6.12.30.
    assert [(finding.rule, finding.status) for finding in report.findings] == [
        (name, "skip" if name == "static-key-matches-lists" else "pass") for name in RULES
    ]
    assert report.status == "ok"


@pytest.mark.parametrize(("rule", "status", "message", "change", "also"), PLANTED)
def test_a_planted_fault_is_found_and_blamed_on_no_other_rule(
    rule: str, status: str, message: str, change: Change, also: tuple[str, ...]
) -> None:
    report = run_checks(change(build.clean()))
    by_rule = {finding.rule: finding for finding in report.findings}
    found = by_rule.pop(rule)
    assert found.status == status, found
    assert message in found.message
    # A rule that lacks something now is skipped, and cannot blame.
    blamed = {name for name, finding in by_rule.items() if finding.status not in ("pass", "skip")}
    assert blamed - set(also) == set()
    statuses = {finding.status for finding in report.findings}
    assert report.status == next((worst for worst in ("critical", "warning") if worst in statuses), "ok")


#: Unit 29, the last that is unaccepted, and its chunk; the page before unit 13, the first; the page of the table.
UNIT, CHUNK, END = 0x103A00000, 0x103800000, 0x103C00000
GUARD = Range(0x1019FF000, 0x101A00000)
PAGE = Range(0x7FB73000, 0x7FB74000)

# The table's header and place

plant("table-captured: the table is not in the dump -> info", "was not captured", build.not_captured)
plant("table-captured: the header reads as zeros -> info", "zeros", build.not_captured, table(reason="reads as zeros"))


def refused(state: str = "invalid", **fields: int) -> Change:
    return table(state=state, reason=f"{fields}", bitmap=None, **fields)


plant("header-version: version 2 -> critical", "version is 2, not 1", refused("unsupported", version=2))
for _size in (0, 3, 2048):
    label = f"unit-size-valid: unit size {_size} -> critical"
    plant(label, f"unit_size is {_size},", refused(unit_size=_size))
plant(
    "bitmap-geometry: phys_base is not unit aligned -> critical",
    "not a multiple of unit_size 0x200000",
    refused(phys_base=build.BASE + 4096),
)
plant("bitmap-geometry: a bitmap of 2^60 bytes -> critical", "1152921504606846976 bytes", refused(bitmap_bytes=1 << 60))
plant("bitmap-geometry: a bitmap of no bytes -> critical", "no bytes", refused(bitmap_bytes=0))
plant(
    "bitmap-geometry: phys_base and size wrap in 64 bits -> critical",
    "wraps",
    refused(phys_base=(1 << 64) - (2 << 20), bitmap_bytes=1 << 20),
)
plant("table-aligned: not 8-aligned -> critical", "not a multiple of 8", table(address=build.TABLE - 4))
plant("table-reserved: its page is in use -> critical", "not PageReserved", pages(*PAGE, "in-use"))
plant("table-reserved: not in the direct map -> critical", "1 page of the table", table(unmapped=(PAGE,)))
plant(
    "table-in-acpi-memory: the firmware's e820 table has RAM there -> warning",
    "lies in RAM",
    trimmed("firmware", *PAGE, build.RAM),
)
plant(
    "table-in-acpi-memory: the firmware's e820 table has nothing there -> warning",
    "no entry",
    trimmed("firmware", *PAGE),
)

# The bitmap and the memory maps

_STRAY = ("bits-within-firmware-ram", "bits-trimmed-by-kernel", "orphan-bits", *build.IN_USE)
plant(
    "bits-within-initial-map: a bit is set outside type 15 -> critical",
    "1 bit set that the EFI stub did not set",
    bits(10, 11, 1),
    also=("padding-bits-clear", *_STRAY),
)
plant(
    "padding-bits-clear: the last bit of the bitmap, which is padding, is set -> warning",
    "1 bit set at or above",
    bits(31, 32, 1),
    also=("bits-within-initial-map", *_STRAY),
)
_BELOW = EfiDescriptor(15, build.BASE - (16 << 20), build.BASE - (8 << 20), 0xF)
plant(
    "table-covers-efi-unaccepted: type 15 below phys_base -> warning",
    "the bitmap covers",
    part("efi_map", descriptors=(*build.clean().efi_map.descriptors, _BELOW)),
)
plant(
    "efi-unaccepted-has-table: type 15 is RAM to a kernel without a table -> critical",
    "without accepting",
    build.absent_table,
)
plant(
    "efi-unaccepted-has-table: type 15 is not RAM to a kernel without a table -> warning",
    "it is lost to the kernel",
    build.absent_table,
    trimmed("current", build.BASE, END),
    trimmed("firmware", build.BASE, END),
    also=("table-expected",),
)
plant(
    "bits-within-firmware-ram: an unaccepted unit is not RAM of the firmware -> critical",
    "not RAM in e820_table_firmware",
    trimmed("firmware", UNIT, END),
)
plant(
    "bits-trimmed-by-kernel: an unaccepted unit is not RAM of the kernel, but of the firmware -> info",
    "but absent in e820_table",
    trimmed("current", UNIT, END),
)
plant(
    "kernel-memory-accepted: a bit is set over the kernel image -> critical",
    "kernel image",
    lambda s: replace(s, kernel_memory=(NamedRange("kernel image", UNIT + 0x1000, UNIT + 0x5000),)),
)

# The pages

plant(
    "buddy-pages-accepted: two pages of an unaccepted unit are in a buddy list -> critical",
    "2 pages in a buddy list and unaccepted",
    pages(UNIT + 0x4000, UNIT + 0x6000, "buddy"),
)
plant(
    "allocated-pages-accepted: a page of an unaccepted unit is allocated -> critical",
    "1 page allocated and unaccepted",
    pages(UNIT + 0x4000, UNIT + 0x5000, "in-use"),
)
plant(
    "guard-unit-accepted: the page before the first unaccepted unit is allocated -> warning",
    "right before an unaccepted unit",
    pages(*GUARD, "in-use"),
    also=("advisory-guard-skipped", "masked-pages-in-use"),
)
plant(
    "masked-pages-in-use: a reserved page before the first unaccepted unit reads as zeros -> info",
    "1 page in use before unaccepted memory shown as zeros",
    pages(*GUARD, "reserved"),
    part("pages", masked_pfns=(GUARD.start >> 12,)),
)
plant(
    "orphan-bits: more chunks than CPUs are unaccepted, on no list, and not being accepted -> warning",
    "without a known reason",
    listing(*build.LISTED[:-3]),
    pages(CHUNK - 0x800000, END, "free"),
)
plant(
    "orphan-bits: an unaccepted chunk is reserved and on no list -> info",
    "PageReserved",
    listing(*build.LISTED[:-1]),
    pages(CHUNK, END, "reserved"),
)

# The lists and the counters


def entry(column: str, value: int) -> Change:
    return lambda snapshot: build.with_entry(snapshot, column, value)


def zone(**changes: int) -> Change:
    return lambda snapshot: build.with_zone(snapshot, **changes)


for _problem in ("entry 3 leads back to entry 1", "entry 3 has next NULL", "entry 3 leads to 0xdead000000000100"):
    change = both(lambda s, problem=_problem: build.with_list(s, problems=(problem,)))
    plant(f"list-entries-sane: the list is broken, {_problem} -> critical", _problem, change)
plant(
    "list-entries-sane: a listed page is not aligned to a chunk -> critical",
    "not aligned to 4 MiB",
    entry("pfns", build.LISTED[0] + 1),
    also=("list-page-type", "orphan-bits"),
)
plant("list-entries-sane: references -> critical", "with references", entry("refcounts", 1))
plant("list-entries-sane: reserved -> critical", "PageReserved", entry("flags", 2 << 60 | build.PG_RESERVED))
plant("list-entries-sane: another zone -> critical", "of another zone by its flags", entry("flags", 3 << 60))
plant("list-entries-sane: outside -> critical", "outside the zone", zone(spanned_pages=0x3800))
plant("list-page-type: type of buddy pages -> critical", "(0xf0000000)", entry("page_types", 0xF0000000))
plant(
    "list-page-type: pages are PageUnaccepted and on no list -> critical",
    "PageUnaccepted on no list",
    pages(0x101400000, 0x101800000, "unaccepted"),
)
plant(
    "list-entries-without-bits: the bitmap is all zero while chunks are listed -> critical",
    "the bitmap is all zero",
    table(bitmap=bytes(4)),
)
plant(
    "list-entries-without-bits: all bits but the last are 0 while chunks are listed -> warning",
    "differs from what the page allocator saw",
    bits(0, 29, 0),
)
plant(
    "zone-counter-matches-list: NR_UNACCEPTED is a chunk more than the list -> critical",
    "NR_UNACCEPTED is",
    lambda s: build.counted(s, 1024),
)
plant(
    "global-counter-matches-zones: the global NR_UNACCEPTED is a chunk less than the zones' -> critical",
    "the zones have",
    part("counters", unaccepted_pages=8192),
)
plant(
    "global-counter-matches-zones: a CPU holds a part of NR_UNACCEPTED back -> critical",
    "the CPUs hold back -1024 pages",
    part("counters", unaccepted_diff=-1024),
)
plant(
    "free-pages-include-unaccepted: NR_FREE_PAGES is less than NR_UNACCEPTED -> critical",
    "is less than NR_UNACCEPTED",
    zone(free_pages=9215),
)
plant(
    "free-pages-include-unaccepted: NR_FREE_PAGES is a chunk more than what is free -> warning",
    "(+1024)",
    zone(free_pages=9216 + 2048 + 1024),
)
plant("eager-means-empty: chunks listed -> critical", "accept_memory=eager, but", part("platform", lazy=False))
plant(
    "static-key-matches-lists: the static key is off while chunks are listed -> warning",
    "is 0 (off), 9 listed chunks",
    part("kernel", static_key=0),
    also=("advisory-static-key-race",),
)

# Activity

plant("accepting-ranges-sane: two accepts of a unit -> critical", "overlap", accepting((0, 3), (2, 5)))
plant("accepting-ranges-sane: reversed -> info", "not a range of the bitmap: units 5-3 by a", accepting((5, 3)))
plant(
    "accepting-ranges-sane: an accept in flight is on no task's stack -> info",
    "on no task's stack",
    lambda s: replace(s, accepting=AcceptingList((Accept(0xFFFF888000001000, 0, 3, None),))),
)
plant("accepting-ranges-sane: an accept was in flight -> info", "1 accept in flight: units 0-3", accepting((0, 3)))
plant("platform-can-accept: no TDX or SNP -> warning", "the first accept panics", part("platform", kind="none"))
plant(
    "table-expected: a TDX guest with RAM above 4 GiB has neither table nor type 15 -> info",
    "all of it was accepted before the kernel started",
    build.absent_table,
    build.without_type_15,
)
_SEGMENTS = (KexecSegment("kexec_image", UNIT + 0x1000, UNIT + 0x3000),)
plant(
    "kexec-segments-accepted: a kexec segment lies in unaccepted memory -> warning",
    "kexec_image segment",
    lambda s: replace(s, kexec_segments=_SEGMENTS),
    also=("advisory-kexec-unaccepted",),
)
plant(
    "watermark-starvation: a task reclaims while a zone is below its watermark but for unaccepted memory -> info",
    "kswapd-not (pid 7)",
    zone(free_pages=9226, buddy_pages=10),
    lambda s: replace(s, reclaiming=(Task(7, "kswapd-not", 0),)),
    also=("advisory-endless-reclaim",),
)
