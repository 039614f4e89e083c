# SPDX-License-Identifier: LGPL-2.1-or-later
"""Each planted fault is found by its rule, and blamed on no other; a clean snapshot has none.

The same with faults in dumps of real kernels is in tests/lab/test_planted.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drgn_unaccepted.answer.best_source import judge
from drgn_unaccepted.checks import rule_names, run_checks
from drgn_unaccepted.model.efi import EfiDescriptor
from drgn_unaccepted.model.ranges import Range
from drgn_unaccepted.snapshot import Accept, AcceptingList, Image, KexecSegment, NamedRange, Snapshot, Task

from . import changes as c
from .build import BASE, LISTED, PG_RESERVED, RAM, TABLE, Change, both, clean, live
from .test_without_table import KDUMPS, snapshot_of

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
    report = run_checks(clean())
    # The kernel has no static key since 6.12.30.
    assert [(finding.rule, finding.status) for finding in report.findings] == [
        (name, "skip" if name == "static-key-matches-lists" else "pass") for name in RULES
    ]
    assert report.status == "ok"


@pytest.mark.parametrize(("rule", "status", "message", "change", "also"), PLANTED)
def test_a_planted_fault_is_found_and_blamed_on_no_other_rule(
    rule: str, status: str, message: str, change: Change, also: tuple[str, ...]
) -> None:
    report = run_checks(clean(change))
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


def refused(state: str = "invalid", **fields: int) -> Change:
    return c.table(state=state, reason=f"{fields}", bitmap=None, **fields)


wrapping = refused(phys_base=(1 << 64) - (2 << 20), bitmap_bytes=1 << 20)
plant("table-captured: the table is not in the dump -> info", "was not captured", c.not_captured)
plant("table-captured: the header reads as zeros -> info", "zeros", c.not_captured, c.table(reason="reads as zeros"))
_BARE, _24_MIB = ("list-entries-without-bits",), "24 MiB on zone->unaccepted_pages have no bit set"
plant("table-captured: listed chunks without bits -> warning", _24_MIB, c.bits(13, 25, 0), also=_BARE)
plant("header-version: version 2 -> critical", "version is 2, not 1", refused("unsupported", version=2))
for _size in (0, 3, 2048):
    plant(f"unit-size-valid: {_size} -> critical", f"unit_size is {_size},", refused(unit_size=_size))
plant("bitmap-geometry: unaligned -> critical", "not a multiple of unit_size 0x200000", refused(phys_base=BASE + 4096))
plant("bitmap-geometry: 2^60 bytes -> critical", "1152921504606846976 bytes", refused(bitmap_bytes=1 << 60))
plant("bitmap-geometry: a bitmap of no bytes -> critical", "no bytes", refused(bitmap_bytes=0))
plant("bitmap-geometry: phys_base and size wrap in 64 bits -> critical", "wraps", wrapping)
#: What contradicts the bitmap is a reason to doubt all of it.
_DOUBT = ("table-captured",)
plant("table-aligned: not 8-aligned -> critical", "not a multiple of 8", c.table(address=TABLE - 4), also=_DOUBT)
plant("table-reserved: its page is in use -> critical", "not PageReserved", c.pages(*PAGE, "in-use"), also=_DOUBT)
plant("table-reserved: not in the direct map -> critical", "1 page of the table", c.table(unmapped=(PAGE,)))
plant("table-in-acpi-memory: RAM of the firmware -> warning", "lies in RAM", c.trimmed("firmware", *PAGE, RAM))
plant("table-in-acpi-memory: nothing in e820 -> warning", "no entry", c.trimmed("firmware", *PAGE))

# The bitmap and the memory maps

#: Rules that find a stray bit, too.
_STRAY = ("table-captured", "bits-within-firmware-ram", "bits-trimmed-by-kernel", "orphan-bits")
_IN_USE = ("buddy-pages-accepted", "allocated-pages-accepted")
_NOT_SET = "1 bit set that the EFI stub did not set"
_LAST_BIT = ("bits-within-initial-map", *_STRAY, *_IN_USE)
_BELOW = EfiDescriptor(15, BASE - (16 << 20), BASE - (8 << 20), 0xF)
not_ram = both(c.trimmed("current", BASE, END), c.trimmed("firmware", BASE, END))
plant("bits-within-initial-map: outside type 15 -> critical", _NOT_SET, c.bits(10, 11, 1), also=(*_STRAY, *_IN_USE))
plant("padding-bits-clear: the last bit -> warning", "1 bit set at or above", c.bits(31, 32, 1), also=_LAST_BIT)
plant("table-covers-efi-unaccepted: below it -> warning", "the bitmap covers", c.descriptors(_BELOW), also=_DOUBT)
plant("efi-unaccepted-has-table: RAM without a table -> critical", "without accepting", c.absent_table)
plant("efi-unaccepted-has-table: lost -> warning", "it is lost", c.absent_table, not_ram, also=("table-expected",))
no_firmware_ram = c.trimmed("firmware", UNIT, END)
plant("bits-within-firmware-ram: not RAM -> critical", "not RAM in e820_table_firmware", no_firmware_ram, also=_DOUBT)
plant("bits-trimmed-by-kernel: only the kernel's -> info", "but absent in e820_table", c.trimmed("current", UNIT, END))
used = c.put(kernel_memory=(NamedRange("kernel image", UNIT + 0x1000, UNIT + 0x5000),))
plant("kernel-memory-accepted: a bit over the image -> critical", "kernel image", used, also=_DOUBT)

# The pages

buddies, allocated = c.pages(UNIT + 0x4000, UNIT + 0x6000, "buddy"), c.pages(UNIT + 0x4000, UNIT + 0x5000, "in-use")
masked = both(c.pages(*GUARD, "reserved"), c.part("pages", masked_pfns=(GUARD.start >> 12,)))
_GUARDED = ("advisory-guard-skipped", "masked-pages-in-use")
lost = both(c.listing(*LISTED[:-3]), c.pages(CHUNK - 0x800000, END, "free"))
reserved = both(c.listing(*LISTED[:-1]), c.pages(CHUNK, END, "reserved"))
plant("buddy-pages-accepted: two -> critical", "2 pages in a buddy list and unaccepted", buddies, also=_DOUBT)
plant("allocated-pages-accepted: a page of a unit -> critical", "1 page allocated", allocated, also=_DOUBT)
plant("guard-unit-accepted: in use -> warning", "right before an", c.pages(*GUARD, "in-use"), also=_GUARDED)
plant("masked-pages-in-use: a reserved guard reads as zeros -> info", "1 page in use before unaccepted", masked)
plant("orphan-bits: more chunks than CPUs on no list -> warning", "without a known reason", lost, also=_DOUBT)
plant("orphan-bits: a reserved chunk on no list -> info", "PageReserved", reserved)

# The lists and the counters

lost_way = c.without("zones", "could not read memory: No way to translate: 0x126a1e48cc11d357")
nowhere = both(lost_way, c.table(read_through="direct-map"))
plant("structures-undamaged: a pointer to nowhere -> warning", "zones: damaged: could not", nowhere)
plant("structures-undamaged: more pages than it spans -> warning", "manages", c.zone(present_pages=0x4001))
memory_lost = c.without("zones", "could not find physical memory segment: 0x1f773018")
plant("structures-undamaged: a whole dump without zones -> warning", "has all memory", memory_lost)
# node_data reads as zeros.
plant("structures-undamaged: no zone at all -> warning", "no zone is populated", c.put(zones=()))
_SHIFTED = ("list-page-type", "orphan-bits")
for _problem in ("entry 3 leads back to entry 1", "entry 3 has next NULL", "entry 3 leads to 0xdead000000000100"):
    plant(f"list-entries-sane: broken, {_problem} -> critical", _problem, c.chunks(problems=(_problem,)))
plant("list-entries-sane: off -> critical", "not aligned to 4 MiB", c.entry("pfns", LISTED[0] + 1), also=_SHIFTED)
plant("list-entries-sane: references -> critical", "with references", c.entry("refcounts", 1))
plant("list-entries-sane: reserved -> critical", "PageReserved", c.entry("flags", 2 << 60 | PG_RESERVED))
plant("list-entries-sane: another zone -> critical", "of another zone by its flags", c.entry("flags", 3 << 60))
small = c.zone(spanned_pages=0x3800, present_pages=0x3800, managed_pages=0x3800)
plant("list-entries-sane: outside -> critical", "outside the zone", small)
untyped = c.pages(0x101400000, 0x101800000, "unaccepted")
plant("list-page-type: type of buddy pages -> critical", "(0xf0000000)", c.entry("page_types", 0xF0000000))
plant("list-page-type: unlisted -> critical", "PageUnaccepted on no list", untyped)
plant("list-entries-without-bits: zeros -> critical", "the bitmap is all zero", c.table(bitmap=bytes(4)), also=_DOUBT)
plant("list-entries-without-bits: one -> warning", "differs from what the page", c.bits(0, 29, 0), also=_DOUBT)
less, held_back = c.part("counters", unaccepted_pages=8192), c.part("counters", unaccepted_diff=-1024)
plant("zone-counter-matches-list: a chunk more than the list -> critical", "NR_UNACCEPTED is", c.counted(1024))
plant("global-counter-matches-zones: a chunk less -> critical", "the zones have", less)
plant("global-counter-matches-zones: per CPU -> critical", "the CPUs hold back -1024 pages", held_back)
plant("free-pages-include-unaccepted: fewer -> critical", "is less than NR_UNACCEPTED", c.zone(free_pages=9215))
plant("free-pages-include-unaccepted: a chunk more -> warning", "(+1024)", c.zone(free_pages=9216 + 2048 + 1024))
plant("eager-means-empty: listed -> critical", "accept_memory=eager, but", c.part("platform", lazy=False))
another = c.put(image=Image(banner="6.1.0"))
plant("release-matches-banner: of another kernel -> warning", "is 6.12.117, and linux_banner says 6.1.0", another)
key_off, _RACE = c.part("kernel", static_key=0), ("advisory-static-key-race",)
plant("static-key-matches-lists: off -> warning", "is 0 (off), 9 listed chunks", key_off, also=_RACE)

# Activity

ownerless = c.put(accepting=AcceptingList((Accept(0xFFFF888000001000, 0, 3, None),)))
# Without the map nothing shows that memory was accepted since boot.
ordinary = both(c.part("platform", kind="none"), c.without("efi_map"))
kexec = c.put(kexec_segments=(KexecSegment("kexec_image", UNIT + 0x1000, UNIT + 0x3000),))
starving = both(c.zone(free_pages=9226, buddy_pages=10), c.put(reclaiming=(Task(7, "kswapd-not", 0),)))
_LOOP = ("advisory-endless-reclaim",)
plant("accepting-ranges-sane: two accepts of a unit -> critical", "overlap", c.accepting((0, 3), (2, 5)))
plant("accepting-ranges-sane: reversed -> info", "is in use again): no unit, 5 to 3 by a", c.accepting((5, 3)))
plant("accepting-ranges-sane: no task -> info", "on no task's stack", ownerless)
slow = both(c.accepting(*((n, n + 1) for n in range(0, 16, 2))), c.put(panic="softlockup: hung tasks"))
plant("accepting-ranges-sane: eight, and a lockup -> warning", "an accept waits for the host", slow)
plant("accepting-ranges-sane: in flight -> info", "1 accept in flight: 0x100000000-0x100600000", c.accepting((0, 3)))
plant("platform-can-accept: no TDX or SNP -> info", "nothing here tells whether", ordinary)
added = c.zone(spanned_pages=0x8000, present_pages=0x8000)
no_config = both(c.absent_table, c.without("efi_map"), c.part("kernel", unaccepted_memory=False))
plant("hot-added-memory-accepted: above all RAM -> warning", "64 MiB (0x104000000-0x108000000) was added later", added)
conflict = "the EFI memory map in memory differs from the kernel's log in entries 4, 5"
plant("efi-map-sane: not that of the log -> warning", "in entries 4, 5", c.part("efi_map", conflict=conflict))
_TWICE = EfiDescriptor(7, 0x101400000, 0x101700000, 0xF)
plant("efi-map-sane: entries overlap -> warning", "overlap", c.descriptors(_TWICE))
plant("table-expected: no feature, no map -> warning", "lost to it", no_config)
plant("table-expected: no type 15 -> info", "all of it was accepted before", c.absent_table, c.without_type_15)
_KEXEC = ("advisory-kexec-unaccepted",)
plant("kexec-segments-accepted: in unit 29 -> warning", "kexec_image segment", kexec, also=_KEXEC)
plant("watermark-starvation: below its watermark -> info", "kswapd-not (pid 7)", starving, also=_LOOP)


def on_two_nodes(snapshot: Snapshot) -> Snapshot:
    """The zone that lists memory is on node 1; node 0 has 900 free pages, 100 less than its minimum."""
    first, second = snapshot.zones
    first = replace(first, free_pages=900, buddy_pages=900)
    return replace(snapshot, zones=(first, replace(second, node=1)), reclaiming=(Task(7, "cc1", 0),))


STARVED = "node 0: 900 free pages, the minimum is 1000, and nothing is left to accept; 36 MiB wait on other nodes"
plant("watermark-starvation: one of two nodes -> info", STARVED, on_two_nodes, also=_LOOP)


# What check calls impossible


def impossible(snapshot: Snapshot, *needs: str) -> list[str]:
    """Rules with critical findings that need one of these. A table that is not mapped has the bits that it had."""
    critical = [finding for finding in run_checks(snapshot).findings if finding.status == "critical"]
    return [found.rule for found in critical if {*needs} & {need.partition(".")[0] for need in found.needs}]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([case.values[3] for case in PLANTED]), min_size=1, max_size=3), st.booleans())
def test_no_bitmap_is_exact_that_check_calls_impossible(planted: list[Change], running: bool) -> None:
    try:
        snapshot = clean(*planted, *([live] if running else []), c.table(unmapped=()))
    except (AttributeError, StopIteration, TypeError, ValueError):
        return  # One took away what the next one changes.
    wrong = impossible(snapshot, "bitmap", "unaccepted", "table")
    assert not wrong or not judge(snapshot).by_bits, wrong


@pytest.mark.parametrize("change", [case.values[3] for case in PLANTED])
@pytest.mark.parametrize("sample", KDUMPS)
def test_no_reconstruction_is_exact_that_check_calls_impossible(sample: str, change: Change) -> None:
    """The lists that an exact answer rests on are damaged."""
    whole = snapshot_of(sample)
    assert judge(whole).exact
    try:
        snapshot = change(whole)
    except (AttributeError, StopIteration, TypeError, ValueError):
        return  # It is of the guest that is written by hand.
    wrong = impossible(snapshot, "zones", "counters", "unaccepted")
    assert not wrong or not judge(snapshot).exact, wrong
