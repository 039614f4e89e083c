# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the engine makes of what rules say: skips, severities, the overall status, two samples."""

from __future__ import annotations

from array import array
from dataclasses import replace

import pytest

from drgn_unaccepted import limits
from drgn_unaccepted.checks import EXIT_STATUS, Finding, Report, confirm, rule_names, run_checks
from drgn_unaccepted.model.ranges import Range
from drgn_unaccepted.snapshot import Accept, AcceptingList, Snapshot, Table, Task

from . import build


def finding(snapshot: Snapshot, rule: str) -> Finding:
    (found,) = run_checks(snapshot, only=[rule]).findings
    return found


def test_only_the_rules_asked_for_run_in_the_interface_order() -> None:
    report = run_checks(build.clean(), only=["orphan-bits", "header-version"])
    assert [found.rule for found in report.findings] == ["header-version", "orphan-bits"]


def test_an_unknown_rule_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"^no such rule: no-such-thing$"):
        run_checks(build.clean(), only=["header-version", "no-such-thing"])


def test_an_advisory_can_be_asked_for_alone() -> None:
    snapshot = build.with_part(build.clean(), "kernel", static_key=0)
    report = run_checks(snapshot, only=["advisory-static-key-race"])
    assert [(found.rule, found.status) for found in report.findings] == [("advisory-static-key-race", "warning")]


def test_the_json_shape_is_that_of_the_interface() -> None:
    start = 0x103A00000  # unit 29, the last one set
    snapshot = build.with_page_state(build.clean(), start + 0x4000, start + 0x6000, "buddy")
    document = run_checks(snapshot, only=["buddy-pages-accepted"]).as_dict()
    assert document == {
        "status": "critical",
        "findings": [
            {
                "rule": "buddy-pages-accepted",
                "status": "critical",
                "message": "2 pages in a buddy list and unaccepted: 0x103a04000-0x103a06000",
                "ranges": [[0x103A04000, 0x103A06000]],
                "needs": ["bitmap.now", "pages"],
            }
        ],
    }


# Skips say what they lacked


@pytest.mark.parametrize(
    ("rule", "part", "message"),
    [
        ("table-reserved", "pages", "pages: excluded from the dump"),
        ("table-in-acpi-memory", "e820", "e820.firmware: excluded from the dump"),
        ("bits-within-initial-map", "efi_map", "efi_map.complete: excluded from the dump"),
        ("kernel-memory-accepted", "kernel_memory", "kernel_memory: excluded from the dump"),
        ("list-entries-sane", "zones", "zones.listed: excluded from the dump"),
        ("global-counter-matches-zones", "counters", "counters: excluded from the dump"),
        ("accepting-ranges-sane", "accepting", "accepting: excluded from the dump"),
        ("platform-can-accept", "platform", "platform.kind: excluded from the dump"),
        ("kexec-segments-accepted", "kexec_segments", "kexec_segments: excluded from the dump"),
        ("watermark-starvation", "reclaiming", "reclaiming: excluded from the dump"),
    ],
)
def test_a_rule_without_its_data_is_skipped_with_the_snapshot_s_reason(rule: str, part: str, message: str) -> None:
    found = finding(build.without(build.clean(), part, "excluded from the dump"), rule)
    assert (found.status, found.message) == ("skip", message)


def test_a_part_of_a_part_has_its_own_reason() -> None:
    snapshot = build.with_part(build.clean(), "e820", firmware=None)
    snapshot = replace(snapshot, missing={"e820.firmware": "its page is excluded"})
    found = finding(snapshot, "bits-within-firmware-ram")
    assert (found.status, found.message) == ("skip", "e820.firmware: its page is excluded")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (Table("absent", "efi.unaccepted is ~0"), "bitmap: there is no table (efi.unaccepted is ~0)"),
        (
            Table("not-captured", "no segment. Longer words", address=0x1000),
            "bitmap: the table was not captured (no segment)",
        ),
        (
            Table("unsupported", "version 2", version=2, unit_size=4096, phys_base=0, bitmap_bytes=1),
            "bitmap: the table's version is not known (version 2)",
        ),
        (
            Table("invalid", "unit_size: 0", version=1, unit_size=0, phys_base=0, bitmap_bytes=1),
            "bitmap: the table's header is invalid (unit_size: 0)",
        ),
    ],
    ids=lambda value: value.state if isinstance(value, Table) else "",
)
def test_without_the_bitmap_the_table_s_state_is_the_reason(table: Table, message: str) -> None:
    found = finding(replace(build.clean(), table=table), "kernel-memory-accepted")
    assert (found.status, found.message) == ("skip", message)


def test_a_bitmap_of_another_length_than_the_header_says_is_not_used() -> None:
    found = finding(build.with_table(build.clean(), bitmap=b"\xff\xff\xff"), "kernel-memory-accepted")
    assert (found.status, found.message) == ("skip", "bitmap: 3 bytes of bitmap where the header says 4")


def test_e820_is_there_with_either_table() -> None:
    snapshot = build.with_part(build.absent_table(build.clean()), "e820", current=None)
    assert finding(snapshot, "table-expected").status == "pass"
    snapshot = replace(
        build.with_part(snapshot, "e820", firmware=None), missing={"e820.current": "its page is excluded"}
    )
    assert finding(snapshot, "table-expected").message == "e820: its page is excluded"


@pytest.mark.parametrize(("pages", "status"), [(1, "pass"), (0, "skip"), (-1024, "skip")])
def test_a_chunk_of_no_pages_cannot_be(pages: int, status: str) -> None:
    snapshot = build.with_part(build.with_zone(build.clean(), listed=build.listed(())), "kernel", chunk_pages=pages)
    assert finding(snapshot, "list-entries-sane").status == status


def test_an_allocator_that_was_given_nothing_yet_tells_nothing_of_pages() -> None:
    """One free page in any zone is enough to say that memblock_free_all() ran."""
    zones = build.clean().zones
    assert zones is not None
    nothing = [replace(zone, free_pages=0, buddy_pages=0, listed=build.listed(())) for zone in zones]
    start = 0x103A00000
    snapshot = build.with_page_state(build.clean(), start, start + 0x1000, "in-use")
    snapshot = build.with_part(snapshot, "kernel", system_state=None)
    assert finding(replace(snapshot, zones=tuple(nothing)), "allocated-pages-accepted").status == "skip"
    for change in ({"free_pages": 1}, {"buddy_pages": 1}, {"listed": build.listed(build.LISTED)}):
        given = (nothing[0], replace(nothing[1], **change))
        assert finding(replace(snapshot, zones=given), "allocated-pages-accepted").status == "critical"


def test_several_lacks_of_one_reason_are_said_once() -> None:
    found = finding(build.absent_table(build.clean()), "table-reserved")
    assert found.message == "table.address, table.geometry: there is no table (efi.unaccepted is ~0)"


def test_an_incomplete_map_is_no_evidence() -> None:
    snapshot = build.with_part(build.clean(), "efi_map", complete=False, note="starts at mem07", descriptors=())
    found = finding(snapshot, "bits-within-initial-map")
    assert (found.status, found.message) == ("skip", "efi_map.complete: the map is not complete (starts at mem07)")


def test_an_older_bitmap_is_not_held_against_pages() -> None:
    snapshot = build.with_table(build.clean(), read_through="file")
    found = finding(snapshot, "allocated-pages-accepted")
    assert (found.status, found.message) == (
        "skip",
        "bitmap.now: the bitmap comes from a file, and bits may have been cleared since it was saved",
    )
    # What never could be unaccepted never was.
    assert finding(snapshot, "kernel-memory-accepted").status == "pass"


def test_pages_that_were_not_looked_at_are_no_evidence() -> None:
    snapshot = build.with_part(build.clean(), "pages", runs=(), scanned=(), limited="no vmemmap")
    found = finding(snapshot, "allocated-pages-accepted")
    assert (found.status, found.message) == ("skip", "pages: none of the unaccepted memory was looked at (no vmemmap)")
    found = finding(snapshot, "table-reserved")
    assert (found.status, found.message) == (
        "skip",
        "pages: those of 0x7fb73000-0x7fb74000 were not looked at (no vmemmap)",
    )


def test_a_pass_admits_what_was_not_looked_at() -> None:
    pages = build.clean().pages
    assert pages is not None
    # All but the last of the 17 unaccepted units.
    scanned = (pages.scanned[0], pages.scanned[1]._replace(end=0x103A00000))
    snapshot = build.with_part(build.clean(), "pages", scanned=scanned, limited="too many pages")
    found = finding(snapshot, "buddy-pages-accepted")
    assert (found.status, found.message) == (
        "pass",
        "no page under a set bit is in a buddy list; 2 MiB were not looked at (too many pages)",
    )


# Severities


def off_by_a_chunk() -> Snapshot:
    return build.counted(build.clean(), 1024)


@pytest.mark.parametrize(
    ("status", "snapshot"),
    [
        ("critical", off_by_a_chunk()),
        ("warning", build.with_zone(off_by_a_chunk(), locked=True)),
        ("warning", build.with_zone(off_by_a_chunk(), locked=None)),
        ("warning", build.without(off_by_a_chunk(), "accepting")),
        ("warning", replace(off_by_a_chunk(), accepting=AcceptingList((Accept(0xA000, 0, 3, Task(1, "a", 0)),)))),
        ("warning", build.live(off_by_a_chunk())),
        ("info", build.live(build.with_zone(off_by_a_chunk(), locked=True))),
        ("info", build.live(off_by_a_chunk(), torn=("zones: list of Normal changed",))),
        # Torn elsewhere.
        ("warning", build.live(off_by_a_chunk(), torn=("pages: changed",))),
    ],
    ids=[
        "vmcore",
        "locked",
        "lock unknown",
        "accepts unknown",
        "accepting",
        "live",
        "live locked",
        "torn",
        "torn pages",
    ],
)
def test_a_counter_is_hard_only_where_nothing_was_moving(status: str, snapshot: Snapshot) -> None:
    assert finding(snapshot, "zone-counter-matches-list").status == status


def test_another_zone_s_lock_excuses_nothing() -> None:
    snapshot = off_by_a_chunk()
    assert snapshot.zones is not None
    snapshot = replace(snapshot, zones=(replace(snapshot.zones[0], locked=True), snapshot.zones[1]))
    assert finding(snapshot, "zone-counter-matches-list").status == "critical"


# The overall status


def test_exit_statuses_are_those_of_monitoring_plugins() -> None:
    assert EXIT_STATUS == {"ok": 0, "warning": 1, "critical": 2, "unknown": 3}
    assert [Report(status, ()).exit_status for status in EXIT_STATUS] == [0, 1, 2, 3]


def test_unknown_where_the_table_should_be_there_and_no_list_either() -> None:
    snapshot = build.without(build.not_captured(build.clean()), "zones")
    assert run_checks(snapshot).status == "unknown"


def test_lists_are_an_answer() -> None:
    assert run_checks(build.not_captured(build.clean())).status == "ok"


def test_no_table_is_an_answer() -> None:
    snapshot = build.without(build.absent_table(build.clean()), "zones")
    # Type 15 without a table is critical; without type 15 all is well.
    assert run_checks(snapshot).status == "critical"
    assert run_checks(build.without(snapshot, "efi_map")).status == "ok"


def test_a_warning_does_not_hide_that_nothing_could_be_read() -> None:
    snapshot = build.with_part(build.clean(), "platform", kind="none")
    snapshot = build.with_part(snapshot, "efi_map", complete=False)
    snapshot = build.without(build.not_captured(snapshot), "zones")
    snapshot = build.with_part(snapshot, "counters", unaccepted_diff=5)
    assert run_checks(snapshot).status == "unknown"


def test_a_critical_finding_stands_where_nothing_else_could_be_read() -> None:
    table = Table("unsupported", "version 7", 0x1000, version=7, unit_size=1, phys_base=1, bitmap_bytes=1)
    snapshot = build.without(replace(build.clean(), table=table), "zones")
    assert run_checks(snapshot).status == "critical"


# Two samples of a live kernel


def test_what_one_sample_shows_is_a_note() -> None:
    clean, off = run_checks(build.live(build.clean())), run_checks(build.live(off_by_a_chunk()))
    report = confirm(clean, off)
    (found,) = [found for found in report.findings if found.rule == "zone-counter-matches-list"]
    assert (found.status, report.status) == ("info", "ok")
    assert found.message.endswith("(in one of two samples)")


def test_what_both_samples_show_stands() -> None:
    off = run_checks(build.live(off_by_a_chunk()))
    assert confirm(off, off) == off
    assert off.status == "warning"


def test_samples_that_differ_in_where_are_no_confirmation() -> None:
    first = run_checks(build.live(build.with_entry(build.clean(), "page_types", 0xF0000000, index=0)))
    other = run_checks(build.live(build.with_entry(build.clean(), "page_types", 0xF0000000, index=5)))
    assert (first.status, other.status) == ("warning", "warning")
    assert confirm(first, other).status == "ok"
    assert confirm(other, other).status == "warning"


def test_a_place_in_one_sample_only_is_no_difference() -> None:
    """Counters have no place, so that a rule may tell one with a place first and one without later."""
    report = run_checks(build.live(build.with_entry(build.clean(), "refcounts", 1)))
    no_place = run_checks(build.live(build.with_list(build.clean(), problems=("entry 2 has next NULL",))))
    assert confirm(report, no_place).status == "critical"


def test_an_insane_entry_in_both_samples_is_critical() -> None:
    report = run_checks(build.live(build.with_entry(build.clean(), "refcounts", 1)))
    assert report.status == "warning"
    assert confirm(report, report).status == "critical"


def test_what_is_hard_on_a_live_kernel_needs_no_second_sample() -> None:
    start = 0x103A00000
    wrong = build.with_page_state(build.live(build.clean()), start, start + 0x1000, "in-use")
    assert confirm(run_checks(build.live(build.clean())), run_checks(wrong)).status == "critical"


# Bounds


def test_a_bitmap_of_too_many_ranges_is_looked_at_in_part_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CHECKED_RANGES", 2)
    snapshot = build.with_table(build.clean(), bitmap=b"\x55\x55\x55\x55")
    (found,) = run_checks(snapshot, only=["bits-trimmed-by-kernel"]).findings
    assert found.status == "pass"
    assert found.message.endswith(" (in the first 2 ranges of the bitmap)")


def test_what_a_fault_counts_in_a_part_of_the_bitmap_is_called_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    # Every second unit from 4 GiB on; of them 10 and 30 were not type 15.
    snapshot = build.with_table(build.clean(), bitmap=b"\x55\x55\x55\x55")
    said = "that the stub did not set: 0x101400000-0x101600000"
    (whole,) = run_checks(snapshot, only=["bits-within-initial-map"]).findings
    assert (whole.status, whole.message) == ("critical", f"2 bits are set {said}, 0x103c00000-0x103e00000")
    # Up to unit 18.
    monkeypatch.setattr(limits, "CHECKED_RANGES", 10)
    (found,) = run_checks(snapshot, only=["bits-within-initial-map"]).findings
    assert found.status == "critical"
    assert found.message == f"1 bit is set {said} (at least: in the first 10 ranges of the bitmap)"


def test_chunks_beyond_what_was_looked_at_are_not_taken_for_chunks_without_bits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "CHECKED_RANGES", 1)
    # Chunks 12-13 and 14-15 have bits in what is looked at; the other seven have theirs behind it.
    snapshot = build.with_bits(build.clean(), 16, 17, 0)
    (found,) = run_checks(snapshot, only=["list-entries-without-bits"]).findings
    assert (found.status, found.message) == (
        "pass",
        "2 listed chunks have a bit set (in the first 1 ranges of the bitmap)",
    )


def test_a_bitmap_of_just_so_many_ranges_is_looked_at_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CHECKED_RANGES", 1)
    (found,) = run_checks(build.clean(), only=["bits-trimmed-by-kernel"]).findings
    assert "in the first" not in found.message


def test_a_finding_lists_a_bounded_number_of_ranges_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "FINDING_RANGES", 4)
    snapshot = build.clean()
    for unit in range(13, 18):
        start = 0x100000000 + unit * 0x200000
        snapshot = build.with_page_state(snapshot, start + 0x1000, start + 0x2000, "buddy")
    (found,) = run_checks(snapshot, only=["buddy-pages-accepted"]).findings
    assert len(found.ranges) == 4
    assert found.message == (
        "5 pages in a buddy list and unaccepted: 0x101a01000-0x101a02000, 0x101c01000-0x101c02000, "
        "0x101e01000-0x101e02000 and 2 more (ranges: the first 4 of 5)"
    )


def test_a_finding_of_just_so_many_ranges_lists_them_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "FINDING_RANGES", 1)
    snapshot = build.with_page_state(build.clean(), 0x101A01000, 0x101A02000, "buddy")
    (found,) = run_checks(snapshot, only=["buddy-pages-accepted"]).findings
    assert "(ranges:" not in found.message


def test_a_million_listed_chunks_make_no_objects_for_each() -> None:
    """4 TiB on one list: the finding names three of them and lists merged ranges."""
    number = 1_000_000
    pfns = array("Q", range(0x100000, 0x100000 + number * 1024, 1024))
    listed = replace(
        build.listed(()),
        pfns=pfns,
        flags=array("Q", [2 << 60]) * number,
        refcounts=array("i", [1]) * number,
        page_types=array("I", [0]) * number,
    )
    snapshot = build.with_zone(build.clean(), listed=listed, spanned_pages=number * 1024)
    report = run_checks(snapshot)
    by_rule = {found.rule: found for found in report.findings}
    assert by_rule["list-entries-sane"].message == (
        "node 0 zone Normal: 1000000 listed pages with references: "
        "0x100000000, 0x100400000, 0x100800000 and 999997 more"
    )
    assert by_rule["list-entries-sane"].ranges == (Range(0x100000000, 0x100000000 + (number << 22)),)
    assert by_rule["list-page-type"].status == "critical"


def test_names_are_unique_and_of_one_form() -> None:
    names = rule_names()
    assert len(set(names)) == len(names)
    assert all(name.replace("-", "").isalnum() and name == name.lower() for name in names)
