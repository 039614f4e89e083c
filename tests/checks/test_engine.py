# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the engine makes of the rules: skips, severities, the overall status, two samples."""

from __future__ import annotations

from array import array
from dataclasses import replace

import pytest

from drgn_unaccepted import limits
from drgn_unaccepted.answer.judgement import judge
from drgn_unaccepted.checks import Report, confirm, explain, run_checks
from drgn_unaccepted.commands.check import check
from drgn_unaccepted.model.ranges import Range
from drgn_unaccepted.snapshot import Snapshot, Table

from . import changes as c
from .build import LISTED, Change, both, clean, found, listed, live


def said(snapshot: Snapshot, rule: str) -> tuple[str, str]:
    finding = found(snapshot, rule)
    return finding.status, finding.message


def test_only_the_rules_asked_for_run_in_the_interface_order() -> None:
    report = run_checks(clean(), only=["orphan-bits", "header-version"])
    assert [finding.rule for finding in report.findings] == ["header-version", "orphan-bits"]


def test_an_unknown_rule_is_refused_by_name() -> None:
    for ask in (lambda name: run_checks(clean(), only=["header-version", name]), explain):
        with pytest.raises(ValueError, match=r"^no such rule: no-such-thing$"):
            ask("no-such-thing")


def test_the_json_shape_is_that_of_the_interface() -> None:
    # Unit 29, the last one set, starts at 0x103a00000.
    snapshot = clean(c.pages(0x103A04000, 0x103A06000, "buddy"))
    document = check(snapshot, judge(snapshot), ["buddy-pages-accepted"])
    assert document["status"] == "critical"
    assert document["findings"] == [
        {
            "rule": "buddy-pages-accepted",
            "status": "critical",
            "message": "2 pages in a buddy list and unaccepted: 0x103a04000-0x103a06000",
            "ranges": [[0x103A04000, 0x103A06000]],
            "needs": ["unaccepted.now", "pages"],
        }
    ]


# Skips say what is missing


@pytest.mark.parametrize(
    ("rule", "part", "need"),
    [
        ("table-reserved", "pages", "pages"),
        ("table-in-acpi-memory", "e820", "e820.firmware"),
        ("bits-within-firmware-ram", "e820.firmware", "e820.firmware"),
        ("bits-within-initial-map", "efi_map", "efi_map.complete"),
        ("kernel-memory-accepted", "kernel_memory", "kernel_memory"),
        ("list-entries-sane", "zones", "zones.listed"),
        ("global-counter-matches-zones", "counters", "counters"),
        ("accepting-ranges-sane", "accepting", "accepting"),
        ("platform-can-accept", "platform", "platform.kind"),
        ("kexec-segments-accepted", "kexec_segments", "kexec_segments"),
        ("watermark-starvation", "reclaiming", "reclaiming"),
    ],
)
def test_a_rule_without_its_data_is_skipped_with_the_snapshot_s_reason(rule: str, part: str, need: str) -> None:
    whole, _, field = part.partition(".")
    gone = both(c.part(whole, **{field: None}), c.put(missing={part: "excluded from the dump"}))
    snapshot = clean(gone if field else c.without(part, "excluded from the dump"))
    assert said(snapshot, rule) == ("skip", f"{need}: excluded from the dump")


def test_either_e820_table_is_enough() -> None:
    one = both(c.absent_table, c.part("e820", current=None))
    assert found(clean(one), "table-expected").status == "pass"
    none = clean(one, c.part("e820", firmware=None), c.put(missing={"e820.current": "excluded"}))
    assert said(none, "table-expected") == ("skip", "e820: excluded")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (Table("absent", "efi.unaccepted is ~0"), "there is no table"),
        (Table("not-captured", "no segment. More", address=0x1000), "the table was not captured"),
        (Table("unsupported", "version 2", 0x1000, 2, 4096, 0, 1), "the table's version is unknown"),
        (Table("invalid", "unit_size: 0", 0x1000, 1, 0, 0, 1), "the table's header is invalid"),
        (replace(clean().table, bitmap=b"\xff\xff\xff"), "3 bytes of bitmap where the header says 4"),
    ],
    ids=lambda value: value.state if isinstance(value, Table) else "",
)
def test_without_the_bitmap_the_table_s_state_is_the_reason(table: Table, message: str) -> None:
    assert said(clean(c.put(table=table)), "padding-bits-clear") == ("skip", f"bitmap: {message}")


def test_needs_with_the_same_reason_share_it() -> None:
    message = "zones.listed, zones.nr_unaccepted: not in this target"
    assert said(clean(c.without("zones")), "zone-counter-matches-list") == ("skip", message)


def test_an_allocator_without_memory_tells_nothing_of_pages() -> None:
    """One free page in any zone is enough to say that memblock_free_all() ran."""
    nothing = c.zones(free_pages=0, buddy_pages=0, listed=listed(()))
    allocated = both(c.pages(0x103A00000, 0x103A01000, "in-use"), c.part("kernel", system_state=None))
    assert found(clean(allocated, nothing), "allocated-pages-accepted").status == "skip"
    for change in ({"free_pages": 1}, {"buddy_pages": 1}, {"listed": listed(LISTED)}):
        first, second = clean(nothing).zones
        given = c.put(zones=(first, replace(second, **change)))
        assert found(clean(allocated, given), "allocated-pages-accepted").status == "critical"


def test_an_incomplete_map_is_no_evidence() -> None:
    snapshot = clean(c.part("efi_map", complete=False, note="starts at mem07", descriptors=()))
    message = "efi_map.complete: the map is incomplete (starts at mem07)"
    assert said(snapshot, "bits-within-initial-map") == ("skip", message)


def test_an_older_bitmap_is_not_compared_with_pages() -> None:
    snapshot = clean(c.table(read_through="file"))
    message = "bitmap.now: the bitmap comes from a file, and bits may have been cleared since it was saved"
    assert said(snapshot, "orphan-bits") == ("skip", message)
    # Memory that can never be unaccepted never was.
    assert found(snapshot, "kernel-memory-accepted").status == "pass"
    # Whether it is of this boot is not known: without the EFI memory map, it proves nothing of pages.
    bare = replace(snapshot, efi_map=None, missing={**snapshot.missing, "efi_map": "no"})
    assert found(bare, "allocated-pages-accepted").status == "skip"
    in_use = c.pages(0x103A00000, 0x103A01000, "in-use")
    assert found(clean(c.table(read_through="file", same_boot=True), in_use), "allocated-pages-accepted").status == (
        "critical"
    )


def test_pages_that_were_not_scanned_are_no_evidence() -> None:
    snapshot = clean(c.part("pages", runs=(), scanned=(), limited="no vmemmap"))
    message = "pages: no unaccepted memory was scanned (no vmemmap)"
    assert said(snapshot, "allocated-pages-accepted") == ("skip", message)
    message = "pages: the state of 0x7fb73000-0x7fb74000 is not known (no vmemmap)"
    assert said(snapshot, "table-reserved") == ("skip", message)


def test_a_pass_admits_what_was_not_scanned() -> None:
    first, second = clean().pages.scanned
    # All but the last of the 17 unaccepted units.
    scanned = (first, second._replace(end=0x103A00000))
    snapshot = clean(c.part("pages", scanned=scanned, limited="too many pages"))
    message = "no unaccepted page is in a buddy list; 2 MiB not scanned (too many pages)"
    assert said(snapshot, "buddy-pages-accepted") == ("pass", message)


# Severities


off_by_a_chunk = c.counted(1024)
locked = c.zone(locked=True)


def other_locked(snapshot: Snapshot) -> Snapshot:
    first, second = snapshot.zones
    return replace(snapshot, zones=(replace(first, locked=True), second))


@pytest.mark.parametrize(
    ("status", "change"),
    [
        pytest.param("critical", c.put(), id="vmcore"),
        pytest.param("warning", locked, id="locked"),
        pytest.param("critical", other_locked, id="another zone's lock excuses nothing"),
        pytest.param("warning", c.zone(locked=None), id="lock unknown"),
        pytest.param("warning", c.without("accepting"), id="accepts unknown"),
        pytest.param("warning", c.accepting((0, 3)), id="accepting"),
        pytest.param("warning", live, id="live"),
        pytest.param("info", both(locked, live), id="live locked"),
        pytest.param("info", c.torn("zones: list changed"), id="torn"),
        pytest.param("warning", c.torn("pages: changed"), id="torn elsewhere"),
    ],
)
def test_a_counter_is_critical_only_if_nothing_was_moving(status: str, change: Change) -> None:
    assert found(clean(off_by_a_chunk, change), "zone-counter-matches-list").status == status


# The overall status


version_7 = c.put(table=Table("unsupported", "version 7", 0x1000, version=7, unit_size=1, phys_base=1, bitmap_bytes=1))


@pytest.mark.parametrize(
    ("status", "change"),
    [
        pytest.param("unknown", both(c.not_captured, c.without("zones")), id="neither the table nor a list was read"),
        pytest.param("ok", c.not_captured, id="the lists are enough"),
        # No table is an answer: with type 15 it is critical, and without all is well.
        pytest.param("critical", both(c.absent_table, c.without("zones")), id="no table"),
        pytest.param("ok", both(c.absent_table, c.without("zones"), c.without("efi_map")), id="no table, no type 15"),
        pytest.param("critical", both(version_7, c.without("zones")), id="a critical finding stands"),
    ],
)
def test_the_overall_status(status: str, change: Change) -> None:
    assert run_checks(clean(change)).status == status


def test_a_warning_does_not_hide_that_nothing_could_be_read() -> None:
    warned = both(c.part("platform", kind="none"), c.part("efi_map", complete=False))
    unread = both(c.not_captured, c.without("zones"), c.part("counters", unaccepted_diff=5))
    assert run_checks(clean(warned, unread)).status == "unknown"


# Two samples of a live kernel


def sample(*changes: Change) -> Report:
    return run_checks(clean(*changes, live))


def test_what_one_sample_shows_is_a_note_and_what_both_show_stands() -> None:
    off = sample(off_by_a_chunk)
    report = confirm(sample(), off)
    (finding,) = [finding for finding in report.findings if finding.rule == "zone-counter-matches-list"]
    assert (finding.status, report.status) == ("info", "ok")
    assert finding.message.endswith("(in one of two samples)")
    assert off.status == "warning" and confirm(off, off) == off


def test_samples_that_differ_in_place_are_no_confirmation() -> None:
    first, other = (sample(c.entry("page_types", 0xF0000000, index)) for index in (0, 5))
    assert (first.status, other.status) == ("warning", "warning")
    assert confirm(first, other).status == "ok"
    assert confirm(other, other).status == "warning"


def test_an_insane_entry_in_both_samples_is_critical() -> None:
    """Also if only one of them tells a place."""
    report, no_place = sample(c.entry("refcounts", 1)), sample(c.chunks(problems=("entry 2 has next NULL",)))
    assert report.status == "warning"
    assert confirm(report, report).status == confirm(report, no_place).status == "critical"


def test_what_is_critical_on_a_live_kernel_needs_no_second_sample() -> None:
    assert confirm(sample(), sample(c.pages(0x103A00000, 0x103A01000, "in-use"))).status == "critical"


# Bounds


def test_a_bitmap_of_too_many_ranges_is_examined_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every second unit from 4 GiB on; of them 10 and 30 were not type 15."""
    striped = clean(c.table(bitmap=b"\x55\x55\x55\x55"))
    one_bit = "that the EFI stub did not set: 0x101400000-0x101600000"
    whole = f"2 bits set {one_bit}, 0x103c00000-0x103e00000"
    assert said(striped, "bits-within-initial-map") == ("critical", whole)
    # Up to unit 18.
    monkeypatch.setattr(limits, "CHECKED_RANGES", 10)
    cut = f"1 bit set {one_bit} (at least: in the first 10 ranges of the bitmap)"
    assert said(striped, "bits-within-initial-map") == ("critical", cut)
    # Bits that contradict the map are no evidence that anything is well.
    doubted = ("skip", "the bitmap cannot be trusted: see table-captured")
    assert said(striped, "bits-trimmed-by-kernel") == doubted
    # A bitmap at the limit is examined whole.
    monkeypatch.setattr(limits, "CHECKED_RANGES", 1)
    assert "in the first" not in found(clean(), "bits-trimmed-by-kernel").message


def test_a_finding_lists_a_bounded_number_of_ranges_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    starts = range(0x101A01000, 0x102401000, 0x200000)
    snapshot = clean(*(c.pages(start, start + 0x1000, "buddy") for start in starts))
    monkeypatch.setattr(limits, "FINDING_RANGES", 5)
    whole = "5 pages in a buddy list and unaccepted: 0x101a01000-0x101a02000, 0x101c01000-0x101c02000, "
    whole += "0x101e01000-0x101e02000 and 2 more"
    assert said(snapshot, "buddy-pages-accepted")[1] == whole
    monkeypatch.setattr(limits, "FINDING_RANGES", 4)
    finding = found(snapshot, "buddy-pages-accepted")
    assert (len(finding.ranges), finding.message) == (4, f"{whole} (ranges: the first 4 of 5)")


def test_a_million_listed_chunks_are_merged_into_one_range() -> None:
    """4 TiB on one list: the finding names three chunks and lists merged ranges."""
    number = 1_000_000
    million = listed(range(0x100000, 0x100000 + number * 1024, 1024), zone_id=2)
    million = replace(million, refcounts=array("i", [1]) * number, page_types=array("I", [0]) * number)
    snapshot = clean(c.zone(listed=million, spanned_pages=number * 1024))
    finding = found(snapshot, "list-entries-sane")
    shown = "0x100000000, 0x100400000, 0x100800000 and 999997 more"
    assert finding.message == f"node 0 zone Normal: 1000000 listed pages with references: {shown}"
    assert finding.ranges == (Range(0x100000000, 0x100000000 + (number << 22)),)
    assert found(snapshot, "list-page-type").status == "critical"
