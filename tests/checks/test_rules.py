# SPDX-License-Identifier: LGPL-2.1-or-later
"""What single rules say where a planted fault does not tell it all. Expected values are by hand, from the guest of
tests/checks/build.py."""

from __future__ import annotations

from dataclasses import replace

import pytest

from drgn_unaccepted.checks import Finding, run_checks
from drgn_unaccepted.model.efi import EfiDescriptor
from drgn_unaccepted.model.ranges import Range
from drgn_unaccepted.snapshot import Accept, AcceptingList, KexecSegment, Snapshot, Table, Task

from . import build


def finding(snapshot: Snapshot, rule: str) -> Finding:
    (found,) = run_checks(snapshot, only=[rule]).findings
    return found


def said(snapshot: Snapshot, rule: str) -> tuple[str, str]:
    found = finding(snapshot, rule)
    return found.status, found.message


# Header


def test_another_power_of_two_than_2_mib_is_possible() -> None:
    snapshot = build.with_table(build.clean(), unit_size=128 << 20)
    assert said(snapshot, "unit-size-valid") == ("warning", "unit_size is 128 MiB, x86 has 2 MiB")


def test_geometry_says_what_is_covered() -> None:
    assert said(build.clean(), "bitmap-geometry") == (
        "pass",
        "4 bytes of bitmap cover 0x100000000-0x104000000 (64 MiB)",
    )


def test_an_invalid_header_is_never_passed_over() -> None:
    """The reader may refuse a header for a reason that no field shows alone."""
    snapshot = build.with_table(build.clean(), state="invalid", reason="size: beyond the dump", bitmap=None)
    assert said(snapshot, "bitmap-geometry") == ("critical", "the header is invalid: size: beyond the dump")


def test_an_address_that_is_none() -> None:
    table = Table("invalid", "efi.unaccepted is not a physical address", address=1 << 60)
    assert said(replace(build.clean(), table=table), "table-aligned") == (
        "critical",
        "efi.unaccepted is 0x1000000000000000, which is no physical address",
    )


@pytest.mark.parametrize(
    ("fields", "rule", "status"),
    [
        # The smallest unit, and the last bitmap that 52 bits of address have room for.
        ({"unit_size": 4096}, "unit-size-valid", "warning"),
        ({"unit_size": 4095}, "unit-size-valid", "critical"),
        ({"phys_base": (1 << 52) - (64 << 20)}, "bitmap-geometry", "pass"),
        ({"phys_base": (1 << 52) - (62 << 20)}, "bitmap-geometry", "critical"),
        # 256 MiB of bitmap are the limit: with units of 4 KiB they cover 8 TiB.
        ({"unit_size": 4096, "bitmap_bytes": 256 << 20}, "bitmap-geometry", "pass"),
        ({"unit_size": 4096, "bitmap_bytes": (256 << 20) + 1}, "bitmap-geometry", "critical"),
        ({"address": (1 << 52) - 8}, "table-aligned", "pass"),
        ({"address": 1 << 52}, "table-aligned", "critical"),
    ],
)
def test_the_edges_of_what_a_header_can_say(fields: dict[str, int], rule: str, status: str) -> None:
    assert finding(build.with_table(build.clean(), **fields), rule).status == status


def test_only_what_wraps_is_said_to_wrap() -> None:
    table = {"phys_base": (1 << 64) - (64 << 20), "state": "invalid", "bitmap": None}
    assert "wraps" not in said(build.with_table(build.clean(), **table), "bitmap-geometry")[1]
    assert "wraps" in said(build.with_table(build.clean(), **table | {"bitmap_bytes": 5}), "bitmap-geometry")[1]


# Reservation


def short_reservation() -> Snapshot:
    """4049 bytes of bitmap at page offset 0x18: 24 + 24 + 4049 = 4097 bytes, one more than a page."""
    table = {"address": 0x7FB73018, "bitmap_bytes": 4049, "bitmap": build.BITMAP + bytes(4045)}
    snapshot = build.with_table(build.clean(), **table)
    return build.with_page_state(snapshot, 0x7FB73000, 0x7FB75000, "reserved")


def test_a_page_left_out_of_the_reservation_is_named() -> None:
    snapshot = build.with_page_state(short_reservation(), 0x7FB74000, 0x7FB75000, "buddy")
    found = finding(snapshot, "table-reserved")
    assert found.status == "critical"
    assert found.message == (
        "1 page of the table not PageReserved: 0x7fb74000-0x7fb75000; "
        "it is the page that a reservation without 0862438c9048 leaves out"
    )
    assert found.ranges == (Range(0x7FB74000, 0x7FB75000),)


def test_a_table_that_ends_on_a_page_boundary_has_no_further_page() -> None:
    """24 + 24 + 4048 bytes fill one page; the next one was not even looked at."""
    table = {"bitmap_bytes": 4048, "bitmap": build.BITMAP + bytes(4044)}
    assert finding(build.with_table(build.clean(), **table), "table-reserved").status == "pass"


def test_a_page_of_unknown_state_is_no_evidence_against_the_reservation() -> None:
    snapshot = build.with_page_state(short_reservation(), 0x7FB74000, 0x7FB75000, "uninitialised")
    assert finding(snapshot, "table-reserved").status == "pass"


def test_half_a_table_looked_at_is_not_a_pass() -> None:
    snapshot = build.with_part(short_reservation(), "pages", scanned=(Range(0x7FB73000, 0x7FB74000),))
    assert said(snapshot, "table-reserved") == (
        "skip",
        "pages: those of 0x7fb74000-0x7fb75000 were not looked at",
    )


# Memory maps


def stray_bit() -> Snapshot:
    """Bit 10 lies in the hole between the two type 15 ranges."""
    return build.with_bits(build.clean(), 10, 11, 1)


def test_a_bit_that_the_stub_did_not_set() -> None:
    found = finding(stray_bit(), "bits-within-initial-map")
    assert (found.status, found.ranges) == ("critical", (Range(0x101400000, 0x101600000),))
    assert found.message == "1 bit is set that the stub did not set: 0x101400000-0x101600000"


def test_bits_of_a_descriptor_under_two_units_are_stray() -> None:
    """The stub accepts a descriptor of less than two units whole, although a unit lies in it."""
    snapshot = build.clean()
    assert snapshot.efi_map is not None
    small = EfiDescriptor(15, 0x103C00000, 0x103E00000, 0xF)
    descriptors = (*snapshot.efi_map.descriptors[:5], small)
    snapshot = build.with_part(build.with_bits(snapshot, 30, 31, 1), "efi_map", descriptors=descriptors)
    found = finding(snapshot, "bits-within-initial-map")
    assert (found.status, found.ranges) == ("critical", (Range(0x103C00000, 0x103E00000),))


def test_a_doubt_about_the_map_softens_a_stray_bit() -> None:
    ambiguous = build.with_part(stray_bit(), "efi_map", ambiguous=True)
    assert said(ambiguous, "bits-within-initial-map")[0] == "warning"
    unaccepts = build.with_part(stray_bit(), "kernel", unaccepts=True)
    assert said(unaccepts, "bits-within-initial-map")[0] == "warning"
    # 5 bytes of bitmap are one more than this map asks for: somebody else made the table.
    assert stray_bit().table.bitmap is not None
    larger = build.with_table(stray_bit(), bitmap_bytes=5, bitmap=(stray_bit().table.bitmap or b"") + b"\0")
    found = finding(larger, "bits-within-initial-map")
    assert found.status == "warning"
    assert found.message.endswith(
        "(the table has not the geometry that this map gives, so that an earlier stage may have made it)"
    )


def test_padding_begins_where_type_15_ends() -> None:
    """Unit 30 starts at 0x103c00000, the end of type 15."""
    assert said(build.with_bits(build.clean(), 30, 31, 1), "padding-bits-clear") == (
        "warning",
        "1 bit is set at or above 0x103c00000, where type 15 ends: 0x103c00000-0x103e00000",
    )
    assert finding(build.with_bits(build.clean(), 29, 30, 1), "padding-bits-clear").status == "pass"


def test_type_15_above_and_below_the_bitmap() -> None:
    snapshot = build.clean()
    assert snapshot.efi_map is not None
    more = (EfiDescriptor(15, 0xFF000000, 0xFF800000, 0xF), EfiDescriptor(15, 0x103F00000, 0x104100000, 0xF))
    snapshot = build.with_part(snapshot, "efi_map", descriptors=(*snapshot.efi_map.descriptors, *more))
    found = finding(snapshot, "table-covers-efi-unaccepted")
    assert (found.status, found.ranges) == (
        "warning",
        (Range(0xFF000000, 0xFF800000), Range(0x104000000, 0x104100000)),
    )


def test_type_15_without_table_or_e820_is_a_warning() -> None:
    snapshot = build.without(build.absent_table(build.clean()), "e820")
    found = finding(snapshot, "efi-unaccepted-has-table")
    assert found.status == "warning"
    assert "whether the kernel uses it is not known" in found.message


def test_type_15_without_table_is_judged_by_the_table_that_the_kernel_uses() -> None:
    """GRUB gave RAM, and `mem=` took it away again: lost, not used."""
    snapshot = build.absent_table(build.clean())
    assert snapshot.e820 is not None
    trimmed = build.with_ram_removed(snapshot.e820.current or (), 0x100000000, 0x104000000)
    found = finding(build.with_part(snapshot, "e820", current=trimmed), "efi-unaccepted-has-table")
    assert (found.status, found.message) == (
        "warning",
        "the EFI memory map has 56 MiB (0x100000000-0x101400000, 0x101800000-0x103c00000) of type 15, and there is no "
        "table: it is lost to the kernel",
    )


def test_a_unit_partly_outside_ram_is_outside_ram() -> None:
    snapshot = build.clean()
    assert snapshot.e820 is not None
    firmware = build.with_ram_removed(snapshot.e820.firmware or (), 0x103BFF000, 0x103C00000)
    found = finding(build.with_part(snapshot, "e820", firmware=firmware), "bits-within-firmware-ram")
    assert (found.status, found.ranges) == ("critical", (Range(0x103BFF000, 0x103C00000),))


@pytest.mark.parametrize(("kexec_booted", "status"), [(False, "critical"), (True, "warning"), (None, "warning")])
def test_after_kexec_e820_is_what_the_kernel_before_made_of_it(kexec_booted: object, status: str) -> None:
    snapshot = build.clean()
    assert snapshot.e820 is not None
    firmware = build.with_ram_removed(snapshot.e820.firmware or (), 0x103A00000, 0x103C00000)
    snapshot = build.with_part(snapshot, "e820", firmware=firmware)
    snapshot = build.with_part(snapshot, "kernel", kexec_booted=kexec_booted)
    assert finding(snapshot, "bits-within-firmware-ram").status == status


def test_trimmed_memory_says_what_became_of_it() -> None:
    snapshot = build.clean()
    assert snapshot.e820 is not None
    left = build.with_ram_removed(snapshot.e820.current or (), 0x103800000, 0x103C00000)
    reserved = (*left, left[0]._replace(start=0x103800000, end=0x103C00000, type=2))
    assert said(build.with_part(snapshot, "e820", current=reserved), "bits-trimmed-by-kernel") == (
        "info",
        "4 MiB (0x103800000-0x103c00000) unaccepted are RAM of e820_table_firmware but Reserved in e820_table",
    )


def test_the_table_itself_is_kernel_memory() -> None:
    """A table at 0x101a00018, in unit 13, which is unaccepted."""
    found = finding(build.with_table(build.clean(), address=0x101A00018), "kernel-memory-accepted")
    assert found.status == "critical"
    assert found.message.startswith("unaccepted memory table at 0x101a00018-0x101a00034: unaccepted at ")


@pytest.mark.parametrize(
    ("kind", "state", "expected"),
    [("tdx", "absent", "info"), ("snp", "absent", "info"), ("none", "absent", "pass"), ("tdx", "present", "pass")],
)
def test_a_table_is_expected_on_tdx_and_snp(kind: str, state: str, expected: str) -> None:
    snapshot = build.with_part(build.clean(), "platform", kind=kind)
    if state == "absent":
        snapshot = build.without(build.absent_table(snapshot), "efi_map")
    assert finding(snapshot, "table-expected").status == expected


def test_no_table_is_expected_without_ram_above_4_gib() -> None:
    snapshot = build.without(build.absent_table(build.clean()), "efi_map")
    assert snapshot.e820 is not None
    low = tuple(entry for entry in snapshot.e820.current or () if entry.end <= 4 << 30)
    assert finding(build.with_part(snapshot, "e820", current=low), "table-expected").status == "pass"


# Pages


def test_a_page_in_use_that_ends_elsewhere_needs_no_guard() -> None:
    """The guard page of unit 13 is 0x1019ff000; the one before it may be in use."""
    snapshot = build.with_page_state(build.clean(), 0x1019FE000, 0x1019FF000, "in-use")
    assert finding(snapshot, "guard-unit-accepted").status == "pass"
    snapshot = build.with_page_state(build.clean(), 0x1019FE000, 0x101A00000, "buddy")
    found = finding(snapshot, "guard-unit-accepted")
    assert (found.status, found.ranges) == ("warning", (Range(0x1019FF000, 0x101A00000),))


def test_a_masked_page_of_a_listed_chunk_hides_nothing() -> None:
    snapshot = build.with_part(build.clean(), "pages", masked_pfns=(0x1019FF,))
    assert finding(snapshot, "masked-pages-in-use").status == "pass"


def test_orphans_are_sorted_by_reason() -> None:
    """Nothing is listed: 34 MiB of orphans, of which 30 MiB have a reason each."""
    snapshot = build.with_zone(build.clean(), listed=build.listed(()))
    assert snapshot.e820 is not None
    current = build.with_ram_removed(snapshot.e820.current or (), 0x103800000, 0x103C00000)
    snapshot = build.with_part(snapshot, "e820", current=current)
    for start, end, state in (
        (0x101A00000, 0x102A00000, "reserved"),  # 16 MiB
        (0x102A00000, 0x102C00000, "absent"),  # 2 MiB
        (0x102C00000, 0x102E00000, "offline"),
        (0x102E00000, 0x103000000, "uninitialised"),
        (0x103000000, 0x103200000, "device"),
        (0x103200000, 0x103400000, "in-use"),
        (0x103400000, 0x103800000, "unaccepted"),  # typed, but on no list
        (0x103800000, 0x103C00000, "reserved"),  # first of all it is no RAM
    ):
        snapshot = build.with_page_state(snapshot, start, end, state)
    found = finding(snapshot, "orphan-bits")
    assert found.status == "warning"
    assert found.ranges == (Range(0x103400000, 0x103800000),)
    assert found.message == (
        "34 MiB unaccepted on no list: 4 MiB not RAM of e820_table, 16 MiB PageReserved, 2 MiB without struct page, "
        "2 MiB PageOffline, 2 MiB of ZONE_DEVICE, 2 MiB not initialised yet, 2 MiB in use; "
        "4 MiB without a known reason: 0x103400000-0x103800000"
    )


@pytest.mark.parametrize(("cpus", "status"), [(1, "warning"), (2, "info"), (None, "info")])
def test_each_cpu_can_have_one_chunk_in_limbo(cpus: object, status: str) -> None:
    snapshot = build.with_listed_pfns(build.clean(), build.LISTED[2:])
    snapshot = build.with_page_state(snapshot, 0x101800000, 0x102000000, "free")
    assert finding(build.with_part(snapshot, "kernel", cpus=cpus), "orphan-bits").status == status


def test_what_is_being_accepted_is_no_orphan() -> None:
    snapshot = build.with_listed_pfns(build.clean(), build.LISTED[1:])
    snapshot = build.with_page_state(snapshot, 0x101800000, 0x101C00000, "unaccepted")
    assert finding(snapshot, "orphan-bits").status == "warning"
    entry = Accept(0xA000, 12, 15, Task(1, "a", 0))
    assert finding(replace(snapshot, accepting=AcceptingList((entry,))), "orphan-bits").status == "pass"


# Lists


def test_chunks_whose_bits_were_cleared_are_counted_and_named() -> None:
    found = finding(build.with_bits(build.clean(), 26, 30, 0), "list-entries-without-bits")
    assert (found.status, found.ranges) == ("info", (Range(0x103400000, 0x103C00000),))
    assert found.message == "2 of 9 listed chunks have no bit set in own units or guard"


def test_the_guard_unit_counts_for_the_chunk_before_it() -> None:
    """Only unit 14 is set: it is in the second chunk, and the guard of the first."""
    snapshot = build.with_bits(build.with_bits(build.clean(), 13, 30, 0), 14, 15, 1)
    found = finding(snapshot, "list-entries-without-bits")
    assert found.message.startswith("7 of 9 listed chunks")
    assert found.ranges == (Range(0x102000000, 0x103C00000),)


def test_eight_bare_chunks_of_nine_are_not_believed() -> None:
    """Unit 15 is in the second chunk and nobody's guard, so that eight of nine chunks are bare."""
    snapshot = build.with_bits(build.with_bits(build.clean(), 13, 30, 0), 15, 16, 1)
    found = finding(snapshot, "list-entries-without-bits")
    assert found.status == "warning"
    assert found.message == (
        "8 of 9 listed chunks have no bit set in own units or guard: the bitmap is not what the page allocator saw"
    )


def test_half_of_a_long_list_may_be_bare() -> None:
    """16 chunks, 8 of them without bits."""
    more = tuple(range(0x104000, 0x104000 + 7 * 1024, 1024))
    snapshot = build.with_listed_pfns(build.clean(), (*build.LISTED, *more))
    snapshot = build.with_bits(snapshot, 28, 30, 0)
    found = finding(snapshot, "list-entries-without-bits")
    assert (found.status, found.message[:8]) == ("info", "8 of 16 ")
    # One more chunk of the same kind is most of them.
    snapshot = build.with_listed_pfns(snapshot, (*build.LISTED, *more, 0x105C00))
    assert finding(snapshot, "list-entries-without-bits").status == "warning"


def test_units_larger_than_a_chunk_leave_many_chunks_without_bits() -> None:
    """One accept clears two units of 64 MiB, which are the bits of 32 chunks."""
    snapshot = build.with_table(build.clean(), unit_size=64 << 20, bitmap_bytes=1, bitmap=b"\0")
    assert finding(snapshot, "list-entries-without-bits").status == "info"


def test_a_bitmap_of_zeros_is_not_believed_by_the_counter_alone() -> None:
    zeros = build.with_table(build.clean(), bitmap=bytes(4))
    counted = build.without(zeros, "zones", "excluded")
    assert said(counted, "list-entries-without-bits") == (
        "critical",
        "NR_UNACCEPTED is 36 MiB: the bitmap is all zero, which is not to be believed",
    )
    assert run_checks(counted).status == "critical"
    unlisted = replace(zeros, zones=tuple(replace(zone, listed=None) for zone in zeros.zones or ()))
    assert said(unlisted, "list-entries-without-bits")[0] == "critical"


def test_a_bitmap_of_zeros_with_little_on_the_lists_is_possible() -> None:
    zeros = build.with_table(build.clean(), bitmap=bytes(4))
    few = build.with_listed_pfns(zeros, build.LISTED[:7])
    assert finding(few, "list-entries-without-bits").status == "info"
    assert finding(build.without(few, "zones"), "list-entries-without-bits").status == "pass"


def test_eight_chunks_by_the_counter_are_enough_to_disbelieve_zeros() -> None:
    zeros = build.with_table(build.clean(), bitmap=bytes(4))
    eight = build.without(build.with_listed_pfns(zeros, build.LISTED[:8]), "zones")
    assert finding(eight, "list-entries-without-bits").status == "critical"


@pytest.mark.parametrize(("chunks", "pages"), [(build.LISTED[:1], 0), ((), 1024)])
def test_eager_is_contradicted_by_the_list_or_the_counter_alone(chunks: tuple[int, ...], pages: int) -> None:
    snapshot = build.with_zone(build.clean(), listed=build.listed(chunks), unaccepted_pages=pages)
    found = finding(build.with_part(snapshot, "platform", lazy=False), "eager-means-empty")
    assert found.status == "critical"


@pytest.mark.parametrize(("key", "listed", "status"), [(0, (), "pass"), (1, (), "info"), (2, build.LISTED, "pass")])
def test_a_static_key_against_an_empty_list(key: int, listed: tuple[int, ...], status: str) -> None:
    snapshot = build.with_zone(build.clean(), listed=build.listed(listed))
    assert finding(build.with_part(snapshot, "kernel", static_key=key), "static-key-matches-lists").status == status


def test_a_damaged_list_is_not_counted() -> None:
    snapshot = build.counted(build.with_list(build.clean(), problems=("entry 3 has next NULL",)), 1024)
    assert finding(snapshot, "zone-counter-matches-list").status == "pass"
    assert finding(snapshot, "list-entries-sane").status == "critical"
    assert said(snapshot, "orphan-bits") == (
        "skip",
        "zones.listed.whole: unaccepted_pages of node 0 zone Normal could not be followed: entry 3 has next NULL",
    )


def test_before_6_12_a_listed_page_has_no_type() -> None:
    """There the type is list-entries-sane's matter."""
    snapshot = build.with_part(build.clean(), "kernel", unaccepted_page_type=None)
    assert finding(snapshot, "list-page-type").status == "pass"
    found = finding(snapshot, "list-entries-sane")
    assert found.status == "critical"
    assert "9 listed pages with a page type" in found.message


def test_without_the_bit_of_pg_reserved_nothing_is_said_of_it() -> None:
    snapshot = build.with_entry(build.clean(), "flags", (1 << 64) - 1)
    snapshot = build.with_part(snapshot, "kernel", reserved_flag=None, zone_id_shift=None)
    assert finding(snapshot, "list-entries-sane").status == "pass"


def test_more_faults_than_are_told_are_counted() -> None:
    snapshot = build.with_list(build.clean(), problems=("one", "two", "three", "four", "five"))
    name = "node 0 zone Normal"
    assert said(snapshot, "list-entries-sane")[1] == (f"{name}: one; {name}: two; {name}: three and 2 more")


def test_a_static_key_that_is_off_is_a_note_where_the_lists_were_moving() -> None:
    snapshot = build.live(build.with_part(build.clean(), "kernel", static_key=0), torn=("zones: changed",))
    assert finding(snapshot, "static-key-matches-lists").status == "info"


# What was going on


def test_an_accept_in_flight_is_told_with_its_task_and_the_panic() -> None:
    entry = Accept(0xFFFFC90000123D80, 12, 15, Task(815, "dd", 1))
    snapshot = replace(build.clean(), accepting=AcceptingList((entry,)), panic="TDX: Failed to accept memory")
    assert said(snapshot, "accepting-ranges-sane") == (
        "info",
        "1 accept in flight: units 12-15 (0x101800000-0x101e00000) by dd (pid 815) on CPU 1; "
        "panic: TDX: Failed to accept memory",
    )
    # Without the table the lowest type 15 tells where unit 0 is: here at 4 GiB, too.
    assert said(build.not_captured(snapshot), "accepting-ranges-sane")[1].startswith(
        "1 accept in flight: units 12-15 (0x101800000-0x101e00000 by the EFI memory map) by dd (pid 815) on CPU 1; "
    )
    nowhere = replace(build.not_captured(snapshot), efi_map=None)
    assert said(nowhere, "accepting-ranges-sane")[1].startswith("1 accept in flight: units 12-15 by dd (pid 815) on")
    unknown = AcceptingList((replace(entry, task=Task(815, "dd", None)),))
    assert "dd (pid 815) on an unknown CPU" in said(replace(snapshot, accepting=unknown), "accepting-ranges-sane")[1]
    assert said(build.live(snapshot), "accepting-ranges-sane") == ("pass", "1 accept in flight")


def test_an_accept_beyond_the_bitmap_is_told() -> None:
    entry = Accept(0xA000, 30, 33, Task(1, "a", 0))
    snapshot = replace(build.clean(), accepting=AcceptingList((entry,)))
    assert said(snapshot, "accepting-ranges-sane") == (
        "info",
        "no range of the bitmap: units 30-33 by a (pid 1) on CPU 0",
    )
    # Without the table its end is not known.
    assert said(build.not_captured(snapshot), "accepting-ranges-sane")[1].startswith("1 accept in flight")


@pytest.mark.parametrize(
    ("units", "legal"),
    [((0, 32), True), ((31, 32), True), ((32, 32), True), ((33, 32), True), ((5, 5), False), ((0, 33), False)],
)
def test_the_edges_of_what_an_accept_can_be(units: tuple[int, int], legal: bool) -> None:
    entry = Accept(0xA000, *units, Task(1, "a", 0))
    message = said(replace(build.clean(), accepting=AcceptingList((entry,))), "accepting-ranges-sane")[1]
    assert message.startswith("1 accept in flight: " if legal else "no range of the bitmap: ")
    # No address for what has none.
    assert ("(0x" in message) is (legal and units[0] < 32)


def test_one_overlap_has_no_more_pairs() -> None:
    entries = (Accept(0xA000, 0, 3, Task(1, "a", 0)), Accept(0xB000, 2, 5, Task(2, "b", 0)))
    assert said(replace(build.clean(), accepting=AcceptingList(entries)), "accepting-ranges-sane")[1] == (
        "units 0-3 (0x100000000-0x100600000) by a (pid 1) on CPU 0 and "
        "units 2-5 (0x100400000-0x100a00000) by b (pid 2) on CPU 0 overlap"
    )


def test_overlaps_are_found_behind_a_long_entry() -> None:
    tasks = [Task(pid, f"t{pid}", 0) for pid in range(3)]
    entries = (Accept(0xA000, 0, 20, tasks[0]), Accept(0xB000, 1, 2, tasks[1]), Accept(0xC000, 5, 6, tasks[2]))
    found = finding(replace(build.clean(), accepting=AcceptingList(entries)), "accepting-ranges-sane")
    assert found.status == "critical"
    assert found.message.endswith("overlap and 1 more pair")


def test_a_guest_that_cannot_accept_is_warned_of_by_the_lists_too() -> None:
    snapshot = build.with_part(build.clean(), "platform", kind="none")
    message = "neither TDX nor SEV-SNP, and {} MiB of RAM are unaccepted: the first accept panics"
    assert said(snapshot, "platform-can-accept") == ("warning", message.format(34))
    assert said(build.not_captured(snapshot), "platform-can-accept") == ("warning", message.format(36))
    # Bits outside of RAM hurt nobody.
    e820 = snapshot.e820
    assert e820 is not None and e820.current is not None
    trimmed = build.with_part(snapshot, "e820", current=build.with_ram_removed(e820.current, 0x101800000, 0x104000000))
    assert said(trimmed, "platform-can-accept") == ("info", "neither TDX nor SEV-SNP, but there is a table")


def test_kexec_segments_name_image_and_place() -> None:
    segments = (KexecSegment("kexec_image", 0x101000000, 0x101A01000), KexecSegment("kexec_crash_image", 0, 0x1000))
    found = finding(replace(build.clean(), kexec_segments=segments), "kexec-segments-accepted")
    assert (found.status, found.ranges) == ("warning", (Range(0x101A00000, 0x101A01000),))
    assert found.message == "kexec_image segment 0x101000000-0x101a01000: unaccepted at 0x101a00000-0x101a01000"


def test_starvation_needs_a_zone_under_its_watermark_and_a_task() -> None:
    low = build.with_zone(build.clean(), free_pages=9216 + 174, buddy_pages=174)
    waiting = replace(low, reclaiming=(Task(7, "cc1", 0),))
    assert said(low, "watermark-starvation") == ("pass", "no task is in direct reclaim")
    assert said(waiting, "watermark-starvation") == (
        "info",
        "node 0 zone Normal: 174 free pages are accepted, the watermark is 175, 36 MiB wait to be accepted; "
        "1 task in direct reclaim: cc1 (pid 7)",
    )
    # At the promo watermark, 175, nothing is accepted.
    enough = build.with_zone(waiting, free_pages=9216 + 175, buddy_pages=175)
    assert finding(enough, "watermark-starvation").status == "pass"
    # promo_wmark_pages() adds what fragmentation boosted it by.
    (zone,) = (zone for zone in enough.zones or () if zone.name == "Normal")
    boosted = build.with_zone(enough, watermarks=replace(zone.watermarks, boost=512))
    assert finding(boosted, "watermark-starvation").message.startswith(
        "node 0 zone Normal: 175 free pages are accepted, the watermark is 687, "
    )
