# SPDX-License-Identifier: LGPL-2.1-or-later
"""The edges of single rules, beside the planted faults. Expected values are by hand, from the guest of build.py."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Optional

import pytest

from drgn_unaccepted.model.efi import EfiDescriptor
from drgn_unaccepted.snapshot import Accept, AcceptingList, KexecSegment, Snapshot, Table, Task

from . import build
from .build import found
from .changes import accepting, bits, both, listing, pages, part, table, trimmed, without

Change = Callable[[Snapshot], Snapshot]
CASES: list[Any] = []


def case(label: str, change: Change, message: Optional[str] = None, ranges: Optional[list[Any]] = None) -> None:
    """``RULE: NAME -> STATUS``, and the message, of which ``...`` at its start or end stands for any text."""
    rule, _, rest = label.partition(": ")
    CASES.append(pytest.param(rule, rest.rpartition(" -> ")[2], change, message, ranges, id=label))


@pytest.mark.parametrize(("rule", "status", "change", "message", "ranges"), CASES)
def test_a_rule_at_its_edges(
    rule: str, status: str, change: Change, message: Optional[str], ranges: Optional[list[Any]]
) -> None:
    finding = found(change(build.clean()), rule)
    assert finding.status == status, finding
    if message is not None:
        assert re.fullmatch(re.escape(message).replace(r"\.\.\.", ".*"), finding.message)
    if ranges is not None:
        assert list(finding.ranges) == ranges


# Header

case("unit-size-valid: 128 MiB -> warning", table(unit_size=128 << 20), "unit_size is 128 MiB; x86 kernels use 2 MiB")
case("unit-size-valid: smallest -> warning", table(unit_size=4096))
case("unit-size-valid: under a page -> critical", table(unit_size=4095))
case("bitmap-geometry: covered -> pass", table(), "4 bytes of bitmap cover 0x100000000-0x104000000 (64 MiB)")
case(
    "bitmap-geometry: refused for a reason that no field shows -> critical",
    table(state="invalid", reason="size: beyond the dump", bitmap=None),
    "the header is invalid: size: beyond the dump",
)
case("bitmap-geometry: up to the last address -> pass", table(phys_base=(1 << 52) - (64 << 20)))
case("bitmap-geometry: beyond the last address -> critical", table(phys_base=(1 << 52) - (62 << 20)))
# 256 MiB of bitmap are the limit: with units of 4 KiB they cover 8 TiB.
case("bitmap-geometry: 256 MiB -> pass", table(unit_size=4096, bitmap_bytes=256 << 20))
case("bitmap-geometry: over 256 MiB -> critical", table(unit_size=4096, bitmap_bytes=(256 << 20) + 1))
case("table-aligned: last address -> pass", table(address=(1 << 52) - 8))
NOWHERE = Table("invalid", "no physical address", address=1 << 52)
case(
    "table-aligned: no address -> critical",
    lambda s: replace(s, table=NOWHERE),
    "efi.unaccepted is 0x10000000000000, which is not a physical address",
)

# Reservation


def short_reservation(snapshot: Snapshot) -> Snapshot:
    """4049 bytes of bitmap at page offset 0x18: 24 + 24 + 4049 = 4097 bytes, one more than a page."""
    snapshot = build.with_table(snapshot, address=0x7FB73018, bitmap_bytes=4049, bitmap=build.BITMAP + bytes(4045))
    return build.with_page_state(snapshot, 0x7FB73000, 0x7FB75000, "reserved")


case(
    "table-reserved: the page left out is named -> critical",
    both(short_reservation, pages(0x7FB74000, 0x7FB75000, "buddy")),
    "1 page of the table not PageReserved: 0x7fb74000-0x7fb75000; "
    "a kernel without 0862438c9048 leaves this page out of its reservation",
    [(0x7FB74000, 0x7FB75000)],
)
# 24 + 24 + 4048 bytes fill one page; the next one was not scanned.
case("table-reserved: ends on a page -> pass", table(bitmap_bytes=4048, bitmap=build.BITMAP + bytes(4044)))
case(
    "table-reserved: a page of unknown state is no evidence -> pass",
    both(short_reservation, pages(0x7FB74000, 0x7FB75000, "uninitialised")),
)
case(
    "table-reserved: half a table is not a pass -> skip",
    both(short_reservation, part("pages", scanned=((0x7FB73000, 0x7FB74000),))),
    "pages: 0x7fb74000-0x7fb75000 not scanned",
)

# Memory maps

#: Bit 10 lies in the hole between the two type 15 ranges.
stray_bit = bits(10, 11, 1)
case(
    "bits-within-initial-map: in the hole -> critical",
    stray_bit,
    "1 bit set that the EFI stub did not set: 0x101400000-0x101600000",
    [(0x101400000, 0x101600000)],
)
# The stub accepts a descriptor of less than two units whole, although it holds a unit.
case(
    "bits-within-initial-map: descriptor of one unit -> critical",
    both(
        bits(30, 31, 1),
        lambda s: build.with_part(
            s, "efi_map", descriptors=(*s.efi_map.descriptors[:5], EfiDescriptor(15, 0x103C00000, 0x103E00000, 0xF))
        ),
    ),
    None,
    [(0x103C00000, 0x103E00000)],
)
case("bits-within-initial-map: ambiguous map -> warning", both(stray_bit, part("efi_map", ambiguous=True)))
case("bits-within-initial-map: kernel unaccepts -> warning", both(stray_bit, part("kernel", unaccepts=True)))
# 5 bytes of bitmap are one more than this map asks for.
case(
    "bits-within-initial-map: table of an earlier stage -> warning",
    both(stray_bit, lambda s: build.with_table(s, bitmap_bytes=5, bitmap=s.table.bitmap + b"\0")),
    "...(the table's geometry differs from what this map gives: an earlier boot stage may have made the table)",
)
# Unit 30 starts at 0x103c00000, the end of type 15.
PADDING = "1 bit set at or above 0x103c00000, the end of type 15 memory: 0x103c00000-0x103e00000"
case("padding-bits-clear: first bit of padding -> warning", bits(30, 31, 1), PADDING)
case("padding-bits-clear: last bit before -> pass", bits(29, 30, 1))


def more_type_15(*ranges: tuple[int, int]) -> Change:
    more = tuple(EfiDescriptor(15, start, end, 0xF) for start, end in ranges)
    return lambda s: build.with_part(s, "efi_map", descriptors=(*s.efi_map.descriptors, *more))


case(
    "table-covers-efi-unaccepted: above and below -> warning",
    more_type_15((0xFF000000, 0xFF800000), (0x103F00000, 0x104100000)),
    None,
    [(0xFF000000, 0xFF800000), (0x104000000, 0x104100000)],
)
TYPE_15 = "the EFI memory map has 56 MiB (0x100000000-0x101400000, 0x101800000-0x103c00000) of type 15, and there is "
case(
    "efi-unaccepted-has-table: without e820 -> warning",
    both(build.absent_table, without("e820")),
    f"{TYPE_15}no table; unknown whether the kernel uses it",
)
# GRUB gave RAM, and `mem=` took it away again: lost, not used.
case(
    "efi-unaccepted-has-table: trimmed by the kernel -> warning",
    both(build.absent_table, trimmed("current", 0x100000000, 0x104000000)),
    f"{TYPE_15}no table: it is lost to the kernel",
)
case(
    "bits-within-firmware-ram: unit partly outside -> critical",
    trimmed("firmware", 0x103BFF000, 0x103C00000),
    None,
    [(0x103BFF000, 0x103C00000)],
)
for _kexec, _status in ((False, "critical"), (True, "warning"), (None, "warning")):
    case(
        f"bits-within-firmware-ram: kexec {_kexec} -> {_status}",
        both(trimmed("firmware", 0x103A00000, 0x103C00000), part("kernel", kexec_booted=_kexec)),
    )
case(
    "bits-trimmed-by-kernel: reserved -> info",
    trimmed("current", 0x103800000, 0x103C00000, 2),
    "4 MiB (0x103800000-0x103c00000) unaccepted: RAM in e820_table_firmware, but Reserved in e820_table",
)
# A table at 0x101a00018 lies in unit 13, which is unaccepted.
case(
    "kernel-memory-accepted: the table itself -> critical",
    table(address=0x101A00018),
    "unaccepted memory table at 0x101a00018-0x101a00034: unaccepted at ...",
)
no_table = both(build.absent_table, without("efi_map"))
for _kind, _status in (("tdx", "info"), ("snp", "info"), ("none", "pass")):
    case(f"table-expected: {_kind} -> {_status}", both(no_table, part("platform", kind=_kind)))
case("table-expected: there -> pass", table())
case("table-expected: no RAM above 4 GiB -> pass", both(no_table, trimmed("current", 1 << 32, 1 << 40)))

# Pages

# The guard page of unit 13 is 0x1019ff000; the one before it may be in use.
case("guard-unit-accepted: page before -> pass", pages(0x1019FE000, 0x1019FF000, "in-use"))
case(
    "guard-unit-accepted: guard page -> warning",
    pages(0x1019FE000, 0x101A00000, "buddy"),
    None,
    [(0x1019FF000, 0x101A00000)],
)
case("masked-pages-in-use: in a listed chunk -> pass", part("pages", masked_pfns=(0x1019FF,)))
case(
    # Nothing is listed: 34 MiB of orphans, 30 MiB of them with a reason each.
    "orphan-bits: sorted by reason -> warning",
    both(
        listing(),
        trimmed("current", 0x103800000, 0x103C00000),
        pages(0x101A00000, 0x102A00000, "reserved"),  # 16 MiB
        pages(0x102A00000, 0x102C00000, "absent"),  # 2 MiB
        pages(0x102C00000, 0x102E00000, "offline"),
        pages(0x102E00000, 0x103000000, "uninitialised"),
        pages(0x103000000, 0x103200000, "device"),
        pages(0x103200000, 0x103400000, "in-use"),
        pages(0x103400000, 0x103800000, "unaccepted"),  # typed, but on no list
        pages(0x103800000, 0x103C00000, "reserved"),  # first of all not RAM
    ),
    "34 MiB unaccepted on no list: 4 MiB not RAM in e820_table, 16 MiB PageReserved, 2 MiB without struct page, "
    "2 MiB PageOffline, 2 MiB of ZONE_DEVICE, 2 MiB not initialised yet, 2 MiB in use; "
    "4 MiB without a known reason: 0x103400000-0x103800000",
    [(0x103400000, 0x103800000)],
)
for _cpus, _status in ((1, "warning"), (2, "info"), (None, "info")):
    limbo = both(listing(*build.LISTED[2:]), pages(0x101800000, 0x102000000, "free"))
    case(f"orphan-bits: two chunks in limbo, CPUs {_cpus} -> {_status}", both(limbo, part("kernel", cpus=_cpus)))
unlisted = both(listing(*build.LISTED[1:]), pages(0x101800000, 0x101C00000, "unaccepted"))
case("orphan-bits: first chunk -> warning", unlisted)
case("orphan-bits: first chunk is being accepted -> pass", both(unlisted, accepting((12, 15))))

# Lists

case(
    "list-entries-without-bits: cleared later -> info",
    bits(26, 30, 0),
    "2 of 9 listed chunks without a set bit in own units or guard",
    [(0x103400000, 0x103C00000)],
)
# Unit 14 is in the second chunk, and the guard of the first.
case(
    "list-entries-without-bits: the guard counts -> info",
    both(bits(13, 30, 0), bits(14, 15, 1)),
    "7 of 9 listed chunks...",
    [(0x102000000, 0x103C00000)],
)
# Unit 15 is in the second chunk and nobody's guard.
case(
    "list-entries-without-bits: eight of nine -> warning",
    both(bits(13, 30, 0), bits(15, 16, 1)),
    "8 of 9 listed chunks without a set bit in own units or guard: the bitmap differs from what the page allocator saw",
)
_MORE = tuple(range(0x104000, 0x104000 + 7 * 1024, 1024))
half = both(listing(*build.LISTED, *_MORE), bits(28, 30, 0))
case("list-entries-without-bits: half of a long list -> info", half, "8 of 16 ...")
case("list-entries-without-bits: most of it -> warning", both(half, listing(*build.LISTED, *_MORE, 0x105C00)))
# One accept clears two units of 64 MiB, which are the bits of 32 chunks.
case("list-entries-without-bits: large units -> info", table(unit_size=64 << 20, bitmap_bytes=1, bitmap=b"\0"))
zeros = table(bitmap=bytes(4))
ZEROS = "NR_UNACCEPTED is 36 MiB: the bitmap is all zero and cannot be trusted"
case("list-entries-without-bits: zeros against the counter -> critical", both(zeros, without("zones")), ZEROS)
case(
    "list-entries-without-bits: zeros, no lists -> critical",
    both(zeros, lambda s: replace(s, zones=tuple(replace(zone, listed=None) for zone in s.zones))),
    ZEROS,
)
case("list-entries-without-bits: zeros, seven -> info", both(zeros, listing(*build.LISTED[:7])))
case("list-entries-without-bits: seven counted -> pass", both(zeros, listing(*build.LISTED[:7]), without("zones")))
case("list-entries-without-bits: eight counted -> critical", both(zeros, listing(*build.LISTED[:8]), without("zones")))
for _pfns, _pages in ((build.LISTED[:1], 0), ((), 1024)):
    case(
        f"eager-means-empty: {len(_pfns)} listed, {_pages} counted -> critical",
        both(
            lambda s, pfns=_pfns, pages=_pages: build.with_zone(s, listed=build.listed(pfns), unaccepted_pages=pages),
            part("platform", lazy=False),
        ),
    )
for _key, _pfns, _status in ((0, (), "pass"), (1, (), "info"), (2, build.LISTED, "pass"), (0, build.LISTED, "warning")):
    change = both(listing(*_pfns), part("kernel", static_key=_key))
    case(f"static-key-matches-lists: {_key} with {len(_pfns)} chunks -> {_status}", change)
case(
    "static-key-matches-lists: off while the lists were moving -> info",
    both(part("kernel", static_key=0), lambda s: build.live(s, torn=("zones: changed",))),
)


def damaged(snapshot: Snapshot) -> Snapshot:
    return build.counted(build.with_list(snapshot, problems=("entry 3 has next NULL",)), 1024)


case("zone-counter-matches-list: a damaged list is not counted -> pass", damaged)
case("list-entries-sane: a damaged list -> critical", damaged)
case(
    "orphan-bits: a damaged list -> skip",
    damaged,
    "zones.listed.whole: unaccepted_pages of node 0 zone Normal could not be followed: entry 3 has next NULL",
)
# Before 6.12 a listed page has no type, and list-entries-sane checks that.
case("list-page-type: before 6.12 -> pass", part("kernel", unaccepted_page_type=None))
case(
    "list-entries-sane: a type before 6.12 -> critical",
    part("kernel", unaccepted_page_type=None),
    "node 0 zone Normal: 9 listed pages with a page type: 0x101800000, 0x101c00000, 0x102000000 and 6 more",
)
case(
    "list-entries-sane: the bit of PG_reserved is unknown -> pass",
    both(lambda s: build.with_entry(s, "flags", (1 << 64) - 1), part("kernel", reserved_flag=None, zone_id_shift=None)),
)
case(
    "list-entries-sane: more faults than are shown -> critical",
    lambda s: build.with_list(s, problems=("one", "two", "three", "four", "five")),
    "node 0 zone Normal: one; node 0 zone Normal: two; node 0 zone Normal: three and 2 more",
)

# Activity

UNITS = "1 accept in flight: units 12-15"
PANIC = "TDX: Failed to accept memory"
DD = AcceptingList((Accept(0xA000, 12, 15, Task(815, "dd", 1)),))
in_flight = both(lambda s: replace(s, accepting=DD, panic=PANIC))
case(
    "accepting-ranges-sane: task and panic -> info",
    in_flight,
    f"{UNITS} (0x101800000-0x101e00000) by dd (pid 815) on CPU 1; panic: {PANIC}",
)
# Without the table the lowest type 15 gives the address of unit 0: here at 4 GiB, too.
case(
    "accepting-ranges-sane: addresses from the EFI memory map -> info",
    both(in_flight, build.not_captured),
    f"{UNITS} (0x101800000-0x101e00000 by the EFI memory map) by dd (pid 815) on CPU 1; ...",
)
case(
    "accepting-ranges-sane: addresses unknown -> info",
    both(in_flight, build.not_captured, without("efi_map")),
    f"{UNITS} by dd (pid 815) on...",
)
case(
    "accepting-ranges-sane: CPU unknown -> info",
    lambda s: replace(s, accepting=AcceptingList((Accept(0xA000, 12, 15, Task(815, "dd", None)),))),
    "...dd (pid 815) on an unknown CPU",
)
case("accepting-ranges-sane: live -> pass", both(in_flight, build.live), "1 accept in flight")
for _units, _where in (
    ((0, 32), " (0x100000000-0x104000000)"),
    ((31, 32), " (0x103e00000-0x104000000)"),
    ((32, 32), ""),
    ((33, 32), ""),
):
    said = f"1 accept in flight: units {_units[0]}-{_units[1]}{_where} by a (pid 0) on CPU 0"
    case(f"accepting-ranges-sane: legal {_units} -> info", accepting(_units), said)
for _units in ((5, 5), (0, 33), (30, 33)):
    said = f"not a range of the bitmap: units {_units[0]}-{_units[1]} by a (pid 0) on CPU 0"
    case(f"accepting-ranges-sane: illegal {_units} -> info", accepting(_units), said)
# Without the table its end is unknown.
case(
    "accepting-ranges-sane: end unknown -> info", both(accepting((30, 33)), build.not_captured), "1 accept in flight..."
)
case(
    "accepting-ranges-sane: one overlap -> critical",
    accepting((0, 3), (2, 5)),
    "units 0-3 (0x100000000-0x100600000) by a (pid 0) on CPU 0 and "
    "units 2-5 (0x100400000-0x100a00000) by b (pid 1) on CPU 0 overlap",
)
case(
    "accepting-ranges-sane: overlaps behind a long entry -> critical",
    accepting((0, 20), (1, 2), (5, 6)),
    "...overlap and 1 more pair",
)
no_platform = part("platform", kind="none")
PANICS = "neither TDX nor SEV-SNP, and {} MiB of RAM unaccepted: the first accept panics"
case("platform-can-accept: by the bitmap -> warning", no_platform, PANICS.format(34))
case("platform-can-accept: by the lists -> warning", both(no_platform, build.not_captured), PANICS.format(36))
# Bits outside RAM hurt nobody.
case(
    "platform-can-accept: not RAM -> info",
    both(no_platform, trimmed("current", 0x101800000, 0x104000000)),
    "neither TDX nor SEV-SNP, but there is a table",
)
_SEGMENTS = (KexecSegment("kexec_image", 0x101000000, 0x101A01000), KexecSegment("kexec_crash_image", 0, 0x1000))
case(
    "kexec-segments-accepted: image and place -> warning",
    lambda s: replace(s, kexec_segments=_SEGMENTS),
    "kexec_image segment 0x101000000-0x101a01000: unaccepted at 0x101a00000-0x101a01000",
    [(0x101A00000, 0x101A01000)],
)


def low(pages: int, reclaiming: bool = True, boost: int = 0) -> Change:
    """So many accepted pages free in the zone, whose promo watermark is 175, and a task in direct reclaim."""

    def change(snapshot: Snapshot) -> Snapshot:
        marks = replace(build.the_zone(snapshot).watermarks, boost=boost)
        snapshot = build.with_zone(snapshot, free_pages=9216 + pages, buddy_pages=pages, watermarks=marks)
        return replace(snapshot, reclaiming=(Task(7, "cc1", 0),)) if reclaiming else snapshot

    return change


case("watermark-starvation: no task -> pass", low(174, reclaiming=False), "no task is in direct reclaim")
case(
    "watermark-starvation: low -> info",
    low(174),
    "node 0 zone Normal: 174 free pages are accepted, the watermark is 175, 36 MiB wait to be accepted; "
    "1 task in direct reclaim: cc1 (pid 7)",
)
case("watermark-starvation: enough -> pass", low(175))
# promo_wmark_pages() adds the boost.
case(
    "watermark-starvation: boosted -> info",
    low(175, boost=512),
    "node 0 zone Normal: 175 free pages are accepted, the watermark is 687, ...",
)
