# SPDX-License-Identifier: LGPL-2.1-or-later
"""The edges of single rules, beside the planted faults. Expected values are by hand, from the guest of build.py."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, Optional

import pytest

from drgn_unaccepted.model.efi import EfiDescriptor
from drgn_unaccepted.model.ranges import Range
from drgn_unaccepted.snapshot import Accept, AcceptingList, KexecSegment, Snapshot, Table, Task

from . import changes as c
from .build import BITMAP, LISTED, Change, both, clean, found, listed, live

CASES: list[Any] = []


def case(label: str, change: Change, message: str = "...", *ranges: tuple[int, int]) -> None:
    """``RULE: NAME -> STATUS``, and the message, of which ``...`` at its start or end stands for any text."""
    rule, _, rest = label.partition(": ")
    CASES.append(pytest.param(rule, rest.rpartition(" -> ")[2], change, message, ranges, id=label))


@pytest.mark.parametrize(("rule", "status", "change", "message", "ranges"), CASES)
def test_a_rule_at_its_edges(rule: str, status: str, change: Change, message: str, ranges: tuple[Any, ...]) -> None:
    finding = found(clean(change), rule)
    assert finding.status == status, finding
    assert re.fullmatch(re.escape(message).replace(r"\.\.\.", ".*"), finding.message)
    assert not ranges or finding.ranges == ranges


# Header

nowhere = c.put(table=Table("invalid", "no physical address", address=1 << 52))
NOWHERE = "efi.unaccepted is 0x10000000000000, which is not a physical address"
refused = c.table(state="invalid", reason="size: beyond the dump", bitmap=None)
case("unit-size-valid: 128 MiB -> warning", c.table(unit_size=128 << 20), "unit_size is 128 MiB; x86 kernels use 2 MiB")
case("unit-size-valid: smallest -> warning", c.table(unit_size=4096))
case("unit-size-valid: under a page -> critical", c.table(unit_size=4095))
case("bitmap-geometry: covered -> pass", c.table(), "4 bytes of bitmap cover 0x100000000-0x104000000 (64 MiB)")
case("bitmap-geometry: no field shows why -> critical", refused, "the header is invalid: size: beyond the dump")
case("bitmap-geometry: up to the last address -> pass", c.table(phys_base=(1 << 52) - (64 << 20)))
case("bitmap-geometry: beyond the last address -> critical", c.table(phys_base=(1 << 52) - (62 << 20)))
# 256 MiB of bitmap are the limit: with units of 4 KiB they cover 8 TiB.
case("bitmap-geometry: 256 MiB -> pass", c.table(unit_size=4096, bitmap_bytes=256 << 20))
case("bitmap-geometry: over 256 MiB -> critical", c.table(unit_size=4096, bitmap_bytes=(256 << 20) + 1))
case("table-aligned: last address -> pass", c.table(address=(1 << 52) - 8))
case("table-aligned: no address -> critical", nowhere, NOWHERE)

# Reservation

#: 4049 bytes of bitmap at page offset 0x18: 24 + 24 + 4049 = 4097 bytes, one more than a page.
short_reservation = both(
    c.table(address=0x7FB73018, bitmap_bytes=4049, bitmap=BITMAP + bytes(4045)),
    c.pages(0x7FB73000, 0x7FB75000, "reserved"),
)
SECOND = (0x7FB74000, 0x7FB75000)
LEFT = "1 page of the table not PageReserved: 0x7fb74000-0x7fb75000; "
LEFT += "a kernel without 0862438c9048 leaves this page out of its reservation"
left_out = both(short_reservation, c.pages(*SECOND, "buddy"))
case("table-reserved: the page left out is named -> critical", left_out, LEFT, SECOND)
# 24 + 24 + 4048 bytes fill one page; the next one was not scanned.
case("table-reserved: ends on a page -> pass", c.table(bitmap_bytes=4048, bitmap=BITMAP + bytes(4044)))
unknown_state = both(short_reservation, c.pages(*SECOND, "uninitialised"))
half = "pages: the state of 0x7fb74000-0x7fb75000 is not known"
case("table-reserved: a page of unknown state is no evidence -> skip", unknown_state, half)

# Memory maps

#: Bit 10 lies in the hole between the two type 15 ranges.
stray_bit = c.bits(10, 11, 1)
STRAY = "1 bit set that the EFI stub did not set: 0x101400000-0x101600000"
case("bits-within-initial-map: in the hole -> critical", stray_bit, STRAY, (0x101400000, 0x101600000))
# The stub accepts a descriptor of less than two units whole, although it holds a unit.
one_unit = both(c.bits(30, 31, 1), c.descriptors(EfiDescriptor(15, 0x103C00000, 0x103E00000, 0xF), first=5))
case("bits-within-initial-map: descriptor of one unit -> critical", one_unit, "...", (0x103C00000, 0x103E00000))
case("bits-within-initial-map: ambiguous map -> warning", both(stray_bit, c.part("efi_map", ambiguous=True)))
case("bits-within-initial-map: kernel unaccepts -> warning", both(stray_bit, c.part("kernel", unaccepts=True)))
# 5 bytes of bitmap are one more than this map asks for.
earlier = both(stray_bit, lambda s: c.table(bitmap_bytes=5, bitmap=s.table.bitmap + b"\0")(s))
EARLIER = "...(the table's geometry differs from what this map gives: an earlier boot stage may have made the table)"
case("bits-within-initial-map: table of an earlier stage -> warning", earlier, EARLIER)
# Unit 30 starts at 0x103c00000, the end of type 15.
PADDING = "1 bit set at or above 0x103c00000, the end of type 15 memory: 0x103c00000-0x103e00000"
case("padding-bits-clear: first bit of padding -> warning", c.bits(30, 31, 1), PADDING)
case("padding-bits-clear: last bit before -> pass", c.bits(29, 30, 1))
more = (EfiDescriptor(15, 0xFF000000, 0xFF800000, 0xF), EfiDescriptor(15, 0x103F00000, 0x104100000, 0xF))
BEYOND = ((0xFF000000, 0xFF800000), (0x104000000, 0x104100000))
case("table-covers-efi-unaccepted: above and below -> warning", c.descriptors(*more), "...", *BEYOND)
TYPE_15 = "the EFI memory map has 56 MiB (0x100000000-0x101400000, 0x101800000-0x103c00000) of type 15, and there is "
UNKNOWN = f"{TYPE_15}no table; unknown whether the kernel uses it"
case("efi-unaccepted-has-table: without e820 -> warning", both(c.absent_table, c.without("e820")), UNKNOWN)
# GRUB gave RAM, and `mem=` took it away again: lost, not used.
taken = both(c.absent_table, c.trimmed("current", 0x100000000, 0x104000000))
case("efi-unaccepted-has-table: trimmed -> warning", taken, f"{TYPE_15}no table: it is lost to the kernel")
PARTLY = (0x103BFF000, 0x103C00000)
case("bits-within-firmware-ram: unit partly outside -> critical", c.trimmed("firmware", *PARTLY), "...", PARTLY)
for _kexec, _status in ((False, "critical"), (True, "warning"), (None, "warning")):
    not_ram = both(c.trimmed("firmware", 0x103A00000, 0x103C00000), c.part("kernel", kexec_booted=_kexec))
    case(f"bits-within-firmware-ram: kexec {_kexec} -> {_status}", not_ram)
RESERVED = "4 MiB (0x103800000-0x103c00000) unaccepted: RAM in e820_table_firmware, but Reserved in e820_table"
case("bits-trimmed-by-kernel: reserved -> info", c.trimmed("current", 0x103800000, 0x103C00000, 2), RESERVED)
# A table at 0x101a00018 lies in unit 13, which is unaccepted.
ITSELF = "unaccepted memory table at 0x101a00018-0x101a00034: unaccepted at ..."
case("kernel-memory-accepted: the table itself -> critical", c.table(address=0x101A00018), ITSELF)
no_table = both(c.absent_table, c.without("efi_map"))
for _kind, _status in (("tdx", "info"), ("snp", "info"), ("none", "pass")):
    case(f"table-expected: {_kind} -> {_status}", both(no_table, c.part("platform", kind=_kind)))
NOBODY = "no table in a TDX guest with 64 MiB of RAM above 4 GiB: nothing here says who accepted it"
case("table-expected: nor an EFI map -> info", no_table, NOBODY)
case("table-expected: there -> pass", c.table())
case("table-expected: no RAM above 4 GiB -> pass", both(no_table, c.trimmed("current", 1 << 32, 1 << 40)))

# Pages

# The guard page of unit 13 is 0x1019ff000; the one before it may be in use.
GUARD = (0x1019FF000, 0x101A00000)
case("guard-unit-accepted: page before -> pass", c.pages(0x1019FE000, 0x1019FF000, "in-use"))
case("guard-unit-accepted: guard page -> warning", c.pages(0x1019FE000, 0x101A00000, "buddy"), "...", GUARD)
case("masked-pages-in-use: in a listed chunk -> pass", c.part("pages", masked_pfns=(0x1019FF,)))
case(
    # Nothing is listed: 34 MiB of orphans, 30 MiB of them with a reason each.
    "orphan-bits: sorted by reason -> warning",
    both(
        c.listing(),
        c.trimmed("current", 0x103800000, 0x103C00000),
        c.pages(0x101A00000, 0x102A00000, "reserved"),  # 16 MiB
        c.pages(0x102A00000, 0x102C00000, "absent"),  # 2 MiB
        c.pages(0x102C00000, 0x102E00000, "offline"),
        c.pages(0x102E00000, 0x103000000, "uninitialised"),
        c.pages(0x103000000, 0x103200000, "device"),
        c.pages(0x103200000, 0x103400000, "in-use"),
        c.pages(0x103400000, 0x103800000, "unaccepted"),  # typed, but on no list
        c.pages(0x103800000, 0x103C00000, "reserved"),  # first of all not RAM
    ),
    "34 MiB unaccepted on no list: 4 MiB not RAM in e820_table, 16 MiB PageReserved, 2 MiB without struct page, "
    "2 MiB PageOffline, 2 MiB of ZONE_DEVICE, 2 MiB not initialised yet, 2 MiB in use; "
    "4 MiB without a known reason: 0x103400000-0x103800000",
    (0x103400000, 0x103800000),
)
limbo = both(c.listing(*LISTED[2:]), c.pages(0x101800000, 0x102000000, "free"))
for _cpus, _status in ((1, "warning"), (2, "info"), (None, "info")):
    case(f"orphan-bits: two chunks in limbo, CPUs {_cpus} -> {_status}", both(limbo, c.part("kernel", cpus=_cpus)))
unlisted = both(c.listing(*LISTED[1:]), c.pages(0x101800000, 0x101C00000, "unaccepted"))
case("orphan-bits: first chunk -> warning", unlisted)
case("orphan-bits: first chunk is being accepted -> pass", both(unlisted, c.accepting((12, 15))))

# Lists

BARE = " of 9 listed chunks without a set bit in own units or guard"
unmapped = c.without("efi_map")
case("list-entries-without-bits: two of nine -> warning", c.bits(26, 30, 0), f"2{BARE}: the bitmap differs from...")
cleared = both(unmapped, c.bits(26, 30, 0))
case("list-entries-without-bits: cleared -> warning", cleared, f"2{BARE}...", (0x103400000, 0x103C00000))
# Unit 14 is in the second chunk, and the guard of the first.
guarded = both(unmapped, c.bits(13, 30, 0), c.bits(14, 15, 1))
case("list-entries-without-bits: the guard counts -> warning", guarded, f"7{BARE}...", (0x102000000, 0x103C00000))
# Unit 15 is in the second chunk and nobody's guard.
eight = both(c.bits(13, 30, 0), c.bits(15, 16, 1))
DIFFERS = f"8{BARE}: the bitmap differs from what the page allocator saw"
case("list-entries-without-bits: eight of nine -> warning", eight, DIFFERS)
_MORE = tuple(range(0x104000, 0x104000 + 7 * 1024, 1024))
half = both(c.listing(*LISTED, *_MORE), c.bits(28, 30, 0))
case("list-entries-without-bits: half of a long list -> warning", half, "8 of 16 ...")
case("list-entries-without-bits: most of it -> warning", both(half, c.listing(*LISTED, *_MORE, 0x105C00)))
zeros, no_zones = c.table(bitmap=bytes(4)), c.without("zones")
ZEROS = "NR_UNACCEPTED is 36 MiB: the bitmap is all zero and cannot be trusted"
case("list-entries-without-bits: zeros against the counter -> critical", both(zeros, no_zones), ZEROS)
case("list-entries-without-bits: zeros, no lists -> critical", both(zeros, c.zones(listed=None)), ZEROS)
case("list-entries-without-bits: zeros, seven -> critical", both(zeros, c.listing(*LISTED[:7])))
case("list-entries-without-bits: seven counted -> skip", both(zeros, c.listing(*LISTED[:7]), no_zones))
too_many = both(c.zones(listed=None), c.part("counters", unaccepted_pages=1 << 60))
MORE = "nr_unaccepted: NR_UNACCEPTED is more than all physical memory"
case("list-entries-without-bits: an impossible counter -> skip", too_many, MORE)
case("list-entries-without-bits: eight counted -> critical", both(zeros, c.listing(*LISTED[:8]), no_zones))
for _pfns, _pages in ((LISTED[:1], 0), ((), 1024)):
    eager = both(c.zone(listed=listed(_pfns), unaccepted_pages=_pages), c.part("platform", lazy=False))
    case(f"eager-means-empty: {len(_pfns)} listed, {_pages} counted -> critical", eager)
for _key, _pfns, _status in ((0, (), "pass"), (1, (), "info"), (2, LISTED, "pass"), (0, LISTED, "warning")):
    change = both(c.listing(*_pfns), c.part("kernel", static_key=_key))
    case(f"static-key-matches-lists: {_key} with {len(_pfns)} chunks -> {_status}", change)
moving = both(c.part("kernel", static_key=0), c.torn("zones: changed"))
case("static-key-matches-lists: off while the lists were moving -> info", moving)
damaged = both(c.chunks(problems=("entry 3 has next NULL",)), c.counted(1024))
DAMAGED = "zones.listed.whole: unaccepted_pages of node 0 zone Normal could not be followed: entry 3 has next NULL"
case("zone-counter-matches-list: a damaged list is not counted -> pass", damaged)
case("list-entries-sane: a damaged list -> critical", damaged)
case("orphan-bits: a damaged list -> skip", damaged, DAMAGED)
# Before 6.12 a listed page has no type, and list-entries-sane checks that.
untyped = c.part("kernel", unaccepted_page_type=None)
TYPED = "node 0 zone Normal: 9 listed pages with a page type: 0x101800000, 0x101c00000, 0x102000000 and 6 more"
flags = both(c.entry("flags", (1 << 64) - 1), c.part("kernel", reserved_flag=None, zone_id_shift=None))
five = c.chunks(problems=("one", "two", "three", "four", "five"))
FIVE = "node 0 zone Normal: one; node 0 zone Normal: two; node 0 zone Normal: three and 2 more"
case("list-page-type: before 6.12 -> pass", untyped)
case("list-entries-sane: a type before 6.12 -> critical", untyped, TYPED)
case("list-entries-sane: the bit of PG_reserved is unknown -> pass", flags)
case("list-entries-sane: more faults than are shown -> critical", five, FIVE)

# Activity

DIED = "the kernel died in an accept, 1 accept in flight: "
PANIC = "TDX: Failed to accept memory"
BY_EFI = (
    f"{DIED}0x101800000-0x101e00000 (3 units from unit 12), phys_base from the EFI memory map, by dd (pid 815), ..."
)


def by_dd(cpu: Optional[int], panic: str = PANIC) -> Change:
    return c.put(accepting=AcceptingList((Accept(0xA000, 12, 15, Task(815, "dd", cpu)),)), panic=panic)


BY_DD = f"{DIED}0x101800000-0x101e00000 (3 units from unit 12) by dd (pid 815), CPU 1; panic: {PANIC}"
case("accepting-ranges-sane: task and panic -> critical", by_dd(1), BY_DD)
# Without the table the lowest type 15 gives the address of unit 0: here at 4 GiB, too.
case("accepting-ranges-sane: by the EFI memory map -> critical", both(by_dd(1), c.not_captured), BY_EFI)
no_base = both(by_dd(1), c.not_captured, c.without("efi_map"))
case("accepting-ranges-sane: addresses unknown -> critical", no_base, f"{DIED}3 units from unit 12 by dd...")
case("accepting-ranges-sane: CPU unknown -> info", by_dd(None, ""), "...dd (pid 815), CPU unknown")
case("accepting-ranges-sane: live -> pass", both(by_dd(1), live), "1 accept in flight")
for _units, _where in (
    ((0, 32), "0x100000000-0x104000000 (32 units from unit 0)"),
    ((31, 32), "0x103e00000-0x104000000 (1 unit from unit 31)"),
    ((32, 32), "no unit, 32 to 32"),
    ((33, 32), "no unit, 33 to 32"),
):
    said = f"1 accept in flight: {_where} by a (pid 0), CPU 0"
    case(f"accepting-ranges-sane: legal {_units} -> info", c.accepting(_units), said)
BEYOND = "not a range of the bitmap: {} units from unit {}"
for _units, _what in (
    ((0, 0), "no range, its stack is dead...: no unit, 0 to 0"),
    ((5, 3), "no...: no unit, 5 to 3"),
    ((0, 33), BEYOND.format(33, 0)),
    ((30, 33), BEYOND.format(3, 30)),
):
    said = f"{_what} by a (pid 0), CPU 0"
    case(f"accepting-ranges-sane: illegal {_units} -> info", c.accepting(_units), said)
# Without the table its end is unknown.
no_end = both(c.accepting((30, 33)), c.not_captured)
case("accepting-ranges-sane: end unknown -> info", no_end, "1 accept in flight...")
OVERLAP = (
    "0x100000000-0x100600000 (3 units from unit 0) by a (pid 0), CPU 0 and "
    "0x100400000-0x100a00000 (3 units from unit 2) by b (pid 1), CPU 0 overlap"
)
case("accepting-ranges-sane: one overlap -> critical", c.accepting((0, 3), (2, 5)), OVERLAP)
behind = c.accepting((0, 20), (1, 2), (5, 6))
case("accepting-ranges-sane: overlaps behind a long entry -> critical", behind, "...overlap and 1 more pair")
ordinary = both(c.part("platform", kind="none"), c.without("efi_map"))
# Of 56 MiB of type 15, 34 MiB are left.
WAS = "neither TDX nor SEV-SNP is seen, but 22 MiB were accepted since boot"
case("platform-can-accept: it did -> info", c.part("platform", kind="none"), WAS)
died = c.put(panic="Cannot accept memory: unknown platform")
case("platform-can-accept: until it died -> warning", both(c.part("platform", kind="none"), died))
PANICS = "neither TDX nor SEV-SNP, and {} MiB of RAM unaccepted: the first accept panics"
all_bits = both(c.bits(0, 10, 1), c.bits(12, 30, 1), c.without("zones"), c.without("pages"))
fresh = both(c.part("platform", kind="none"), all_bits)
case("platform-can-accept: nothing was accepted -> warning", fresh, PANICS.format(56))
# Nothing tells what was unaccepted at boot: the guest may have accepted as it should.
UNKNOWN = "neither TDX nor SEV-SNP is seen, {} MiB of RAM unaccepted: nothing here tells whether..."
case("platform-can-accept: by the bitmap -> info", ordinary, UNKNOWN.format(34))
case("platform-can-accept: by the lists -> info", both(ordinary, c.not_captured), UNKNOWN.format(36))
case("platform-can-accept: died, by the lists -> warning", both(ordinary, c.not_captured, died), PANICS.format(36))
lost_bits = both(ordinary, c.table(bitmap=bytes(3) + b"\x20"))
case("platform-can-accept: by the lists, against the bitmap -> info", lost_bits, UNKNOWN.format(36))
# Bits outside RAM hurt nobody.
outside = both(ordinary, c.trimmed("current", 0x101800000, 0x104000000))
case("platform-can-accept: not RAM -> info", outside, "neither TDX nor SEV-SNP, but there is a table")
_SEGMENTS = (KexecSegment("kexec_image", 0x101000000, 0x101A01000), KexecSegment("kexec_crash_image", 0, 0x1000))
IMAGE = "kexec_image segment 0x101000000-0x101a01000: unaccepted at 0x101a00000-0x101a01000"
images, PLACE = c.put(kexec_segments=_SEGMENTS), (0x101A00000, 0x101A01000)
case("kexec-segments-accepted: image and place -> warning", images, IMAGE, PLACE)


def low(pages: int, *reclaiming: Task, boost: int = 0) -> Change:
    """So many accepted pages free in the zone, whose promo watermark is 175."""
    marks = replace(c.the_zone(clean()).watermarks, boost=boost)
    low_zone = c.zone(free_pages=9216 + pages, buddy_pages=pages, watermarks=marks)
    return both(low_zone, c.put(reclaiming=reclaiming))


CC1 = Task(7, "cc1", 0)
LOW = "node 0 zone Normal: 174 free pages are accepted, the watermark is 175, 36 MiB wait to be accepted; "
BOOSTED = "node 0 zone Normal: 175 free pages are accepted, the watermark is 687, ..."
case("watermark-starvation: no task -> pass", low(174), "no task is in direct reclaim")
case("watermark-starvation: low -> info", low(174, CC1), f"{LOW}1 task in direct reclaim: cc1 (pid 7)")
case("watermark-starvation: enough -> pass", low(175, CC1))
# promo_wmark_pages() adds the boost.
case("watermark-starvation: boosted -> info", low(175, CC1, boost=512), BOOSTED)

# What is missing

GONE = "excluded from the dump"
for _need, _rule in {
    **{
        "pages": "table-reserved",
        "e820.firmware": "table-in-acpi-memory",
        "efi_map.complete": "bits-within-initial-map",
    },
    **{"kernel_memory": "kernel-memory-accepted", "zones.listed": "list-entries-sane"},
    **{"counters": "global-counter-matches-zones", "accepting": "accepting-ranges-sane"},
    **{"platform.kind": "platform-can-accept", "kexec_segments": "kexec-segments-accepted"},
    "reclaiming": "watermark-starvation",
}.items():
    case(f"{_rule}: without its part -> skip", c.without(_need.partition(".")[0], GONE), f"{_need}: {GONE}")
no_firmware = both(c.part("e820", firmware=None), c.put(missing={"e820.firmware": GONE}))
case("bits-within-firmware-ram: without that table -> skip", no_firmware, f"e820.firmware: {GONE}")
one_e820 = both(c.absent_table, c.part("e820", current=None))
no_e820 = both(one_e820, c.part("e820", firmware=None), c.put(missing={"e820.current": GONE}))
case("table-expected: either e820 table is enough -> pass", one_e820)
case("table-expected: neither e820 table -> skip", no_e820, f"e820: {GONE}")
for _table, _why in (
    (Table("absent", "efi.unaccepted is ~0"), "there is no table"),
    (Table("not-captured", "no segment. More", address=0x1000), "the table was not captured"),
    (Table("unsupported", "version 2", 0x1000, 2, 4096, 0, 1), "the table's version is unknown"),
    (Table("invalid", "unit_size: 0", 0x1000, 1, 0, 0, 1), "the table's header is invalid"),
):
    case(f"padding-bits-clear: {_why} -> skip", c.put(table=_table), f"bitmap: {_why}")
SHORT = "bitmap: 3 bytes of bitmap where the header says 4"
case("padding-bits-clear: a short bitmap -> skip", c.table(bitmap=b"\xff\xff\xff"), SHORT)
SHARED = "zones.listed, zones.nr_unaccepted: not in this target"
case("zone-counter-matches-list: one reason for two -> skip", c.without("zones"), SHARED)
part_of_it = c.part("efi_map", complete=False, note="starts at mem07", descriptors=())
PART = "efi_map.complete: the map is incomplete (starts at mem07)"
case("bits-within-initial-map: a part of the map -> skip", part_of_it, PART)
older, THEN = c.table(read_through="file"), (0x103A00000, 0x103A01000)
OLDER = "bitmap.now: the bitmap comes from a file, and bits may have been cleared since it was saved"
case("orphan-bits: an older bitmap -> skip", older, OLDER)
# Memory that can never be unaccepted never was.
case("kernel-memory-accepted: an older bitmap -> pass", older)
# Whether it is of this boot is not known: without the EFI memory map, it proves nothing of pages.
case("allocated-pages-accepted: of some boot -> skip", both(older, c.without("efi_map")))
this_boot = both(older, c.table(same_boot=True), c.pages(*THEN, "in-use"))
case("allocated-pages-accepted: saved in this boot -> critical", this_boot)
unscanned = c.part("pages", runs=(), scanned=(), limited="no vmemmap")
NONE = "pages: no unaccepted memory was scanned (no vmemmap)"
case("allocated-pages-accepted: none scanned -> skip", unscanned, NONE)
ITS_PAGE = "pages: the state of 0x7fb73000-0x7fb74000 is not known (no vmemmap)"
case("table-reserved: none scanned -> skip", unscanned, ITS_PAGE)
# All but the last of the 17 unaccepted units.
scanned = (Range(0x7FB73000, 0x7FB74000), Range(0x1019FF000, 0x103A00000))
MOST = "no unaccepted page is in a buddy list; 2 MiB not scanned (too many pages)"
case("buddy-pages-accepted: most -> pass", c.part("pages", scanned=scanned, limited="too many pages"), MOST)
# One free page in any zone is enough to say that memblock_free_all() ran.
early = both(c.pages(*THEN, "in-use"), c.part("kernel", system_state=None))
nothing = c.zones(free_pages=0, buddy_pages=0, listed=listed(()))
case("allocated-pages-accepted: an allocator without memory -> skip", both(early, nothing))
for _name, _value in {"free_pages": 1, "buddy_pages": 1, "listed": listed(LISTED)}.items():
    few = c.put(zones=(clean(nothing).zones[0], replace(clean(nothing).zones[1], **{_name: _value})))
    case(f"allocated-pages-accepted: {_name} in one zone -> critical", both(early, few))

# What was moving


def other_locked(snapshot: Snapshot) -> Snapshot:
    first, second = snapshot.zones
    return replace(snapshot, zones=(replace(first, locked=True), second))


locked = c.zone(locked=True)
for _how, _status, _change in (
    ("vmcore", "critical", c.put()),
    ("locked", "warning", locked),
    ("another zone's lock excuses nothing", "critical", other_locked),
    ("lock unknown", "warning", c.zone(locked=None)),
    ("accepts unknown", "warning", c.without("accepting")),
    ("accepting", "warning", c.accepting((0, 3))),
    ("live", "warning", live),
    ("live locked", "info", both(locked, live)),
    ("torn", "info", c.torn("zones: list changed")),
    ("torn elsewhere", "warning", c.torn("pages: changed")),
):
    case(f"zone-counter-matches-list: a chunk more, {_how} -> {_status}", both(c.counted(1024), _change))
