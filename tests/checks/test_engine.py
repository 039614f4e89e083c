# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the engine makes of the rules: skips, severities, the overall status, two samples."""

from __future__ import annotations

from array import array
from dataclasses import replace
from typing import Any

import pytest

from drgn_unaccepted import limits
from drgn_unaccepted.answer.source import choose_source
from drgn_unaccepted.checks import confirm, rule_names, run_checks
from drgn_unaccepted.commands.check import check
from drgn_unaccepted.model.ranges import Range
from drgn_unaccepted.snapshot import Accept, AcceptingList, Snapshot, Table, Task

from . import build
from .build import found


def said(snapshot: Snapshot, rule: str) -> tuple[str, str]:
    finding = found(snapshot, rule)
    return finding.status, finding.message


def test_only_the_rules_asked_for_run_in_the_interface_order() -> None:
    report = run_checks(build.clean(), only=["orphan-bits", "header-version"])
    assert [finding.rule for finding in report.findings] == ["header-version", "orphan-bits"]


def test_an_unknown_rule_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"^no such rule: no-such-thing$"):
        run_checks(build.clean(), only=["header-version", "no-such-thing"])


def test_names_are_unique_and_of_one_form() -> None:
    names = rule_names()
    assert len(set(names)) == len(names)
    assert all(name.replace("-", "").isalnum() and name == name.lower() for name in names)


def test_the_json_shape_is_that_of_the_interface() -> None:
    # Unit 29, the last one set, starts at 0x103a00000.
    snapshot = build.with_page_state(build.clean(), 0x103A04000, 0x103A06000, "buddy")
    document = check(snapshot, choose_source(snapshot), ["buddy-pages-accepted"])
    assert document["status"] == "critical"
    assert document["findings"] == [
        {
            "rule": "buddy-pages-accepted",
            "status": "critical",
            "message": "2 pages in a buddy list and unaccepted: 0x103a04000-0x103a06000",
            "ranges": [[0x103A04000, 0x103A06000]],
            "needs": ["bitmap.now", "pages"],
        }
    ]


# Skips say what is missing


@pytest.mark.parametrize(
    ("rule", "part", "need"),
    [
        ("table-reserved", "pages", "pages"),
        ("table-in-acpi-memory", "e820", "e820.firmware"),
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
    snapshot = build.without(build.clean(), part, "excluded from the dump")
    assert said(snapshot, rule) == ("skip", f"{need}: excluded from the dump")


def test_a_part_of_a_part_has_its_own_reason() -> None:
    snapshot = build.with_part(build.clean(), "e820", firmware=None)
    snapshot = replace(snapshot, missing={"e820.firmware": "its page is excluded"})
    assert said(snapshot, "bits-within-firmware-ram") == ("skip", "e820.firmware: its page is excluded")


def test_either_e820_table_is_enough() -> None:
    snapshot = build.with_part(build.absent_table(build.clean()), "e820", current=None)
    assert found(snapshot, "table-expected").status == "pass"
    snapshot = replace(build.with_part(snapshot, "e820", firmware=None), missing={"e820.current": "excluded"})
    assert said(snapshot, "table-expected") == ("skip", "e820: excluded")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (Table("absent", "efi.unaccepted is ~0"), "there is no table (efi.unaccepted is ~0)"),
        (Table("not-captured", "no segment. More", address=0x1000), "the table was not captured (no segment)"),
        (Table("unsupported", "version 2", 0x1000, 2, 4096, 0, 1), "the table's version is unknown (version 2)"),
        (Table("invalid", "unit_size: 0", 0x1000, 1, 0, 0, 1), "the table's header is invalid (unit_size: 0)"),
        (replace(build.clean().table, bitmap=b"\xff\xff\xff"), "3 bytes of bitmap where the header says 4"),
    ],
    ids=lambda value: value.state if isinstance(value, Table) else "",
)
def test_without_the_bitmap_the_table_s_state_is_the_reason(table: Table, message: str) -> None:
    assert said(replace(build.clean(), table=table), "kernel-memory-accepted") == ("skip", f"bitmap: {message}")


def test_needs_with_the_same_reason_share_it() -> None:
    message = "table.address, table.geometry: there is no table (efi.unaccepted is ~0)"
    assert said(build.absent_table(build.clean()), "table-reserved") == ("skip", message)


@pytest.mark.parametrize(("pages", "status"), [(1, "pass"), (0, "skip"), (-1024, "skip")])
def test_a_chunk_of_no_pages_is_impossible(pages: int, status: str) -> None:
    snapshot = build.with_part(build.with_zone(build.clean(), listed=build.listed(())), "kernel", chunk_pages=pages)
    assert found(snapshot, "list-entries-sane").status == status


def test_an_allocator_without_memory_tells_nothing_of_pages() -> None:
    """One free page in any zone is enough to say that memblock_free_all() ran."""
    nothing = [replace(zone, free_pages=0, buddy_pages=0, listed=build.listed(())) for zone in build.clean().zones]
    snapshot = build.with_page_state(build.clean(), 0x103A00000, 0x103A01000, "in-use")
    snapshot = build.with_part(snapshot, "kernel", system_state=None)
    assert found(replace(snapshot, zones=tuple(nothing)), "allocated-pages-accepted").status == "skip"
    for change in ({"free_pages": 1}, {"buddy_pages": 1}, {"listed": build.listed(build.LISTED)}):
        given = (nothing[0], replace(nothing[1], **change))
        assert found(replace(snapshot, zones=given), "allocated-pages-accepted").status == "critical"


def test_an_incomplete_map_is_no_evidence() -> None:
    snapshot = build.with_part(build.clean(), "efi_map", complete=False, note="starts at mem07", descriptors=())
    message = "efi_map.complete: the map is incomplete (starts at mem07)"
    assert said(snapshot, "bits-within-initial-map") == ("skip", message)


def test_an_older_bitmap_is_not_compared_with_pages() -> None:
    snapshot = build.with_table(build.clean(), read_through="file")
    message = "bitmap.now: the bitmap comes from a file, and bits may have been cleared since it was saved"
    assert said(snapshot, "allocated-pages-accepted") == ("skip", message)
    # Memory that can never be unaccepted never was.
    assert found(snapshot, "kernel-memory-accepted").status == "pass"


def test_pages_that_were_not_scanned_are_no_evidence() -> None:
    snapshot = build.with_part(build.clean(), "pages", runs=(), scanned=(), limited="no vmemmap")
    message = "pages: no unaccepted memory was scanned (no vmemmap)"
    assert said(snapshot, "allocated-pages-accepted") == ("skip", message)
    message = "pages: 0x7fb73000-0x7fb74000 not scanned (no vmemmap)"
    assert said(snapshot, "table-reserved") == ("skip", message)


def test_a_pass_admits_what_was_not_scanned() -> None:
    first, second = build.clean().pages.scanned
    # All but the last of the 17 unaccepted units.
    scanned = (first, second._replace(end=0x103A00000))
    snapshot = build.with_part(build.clean(), "pages", scanned=scanned, limited="too many pages")
    message = "no page under a set bit is in a buddy list; 2 MiB not scanned (too many pages)"
    assert said(snapshot, "buddy-pages-accepted") == ("pass", message)


# Severities


def off_by_a_chunk() -> Snapshot:
    return build.counted(build.clean(), 1024)


ACCEPTING = AcceptingList((Accept(0xA000, 0, 3, Task(1, "a", 0)),))


@pytest.mark.parametrize(
    ("status", "snapshot"),
    [
        pytest.param("critical", off_by_a_chunk(), id="vmcore"),
        pytest.param("warning", build.with_zone(off_by_a_chunk(), locked=True), id="locked"),
        pytest.param("warning", build.with_zone(off_by_a_chunk(), locked=None), id="lock unknown"),
        pytest.param("warning", build.without(off_by_a_chunk(), "accepting"), id="accepts unknown"),
        pytest.param("warning", replace(off_by_a_chunk(), accepting=ACCEPTING), id="accepting"),
        pytest.param("warning", build.live(off_by_a_chunk()), id="live"),
        pytest.param("info", build.live(build.with_zone(off_by_a_chunk(), locked=True)), id="live locked"),
        pytest.param("info", build.live(off_by_a_chunk(), torn=("zones: list changed",)), id="torn"),
        pytest.param("warning", build.live(off_by_a_chunk(), torn=("pages: changed",)), id="torn elsewhere"),
    ],
)
def test_a_counter_is_critical_only_if_nothing_was_moving(status: str, snapshot: Snapshot) -> None:
    assert found(snapshot, "zone-counter-matches-list").status == status


def test_another_zone_s_lock_excuses_nothing() -> None:
    first, second = off_by_a_chunk().zones
    snapshot = replace(off_by_a_chunk(), zones=(replace(first, locked=True), second))
    assert found(snapshot, "zone-counter-matches-list").status == "critical"


# The overall status


def test_unknown_if_neither_the_table_nor_a_list_was_read() -> None:
    assert run_checks(build.without(build.not_captured(build.clean()), "zones")).status == "unknown"
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


def test_a_critical_finding_stands_if_nothing_else_could_be_read() -> None:
    table = Table("unsupported", "version 7", 0x1000, version=7, unit_size=1, phys_base=1, bitmap_bytes=1)
    snapshot = build.without(replace(build.clean(), table=table), "zones")
    assert run_checks(snapshot).status == "critical"


# Two samples of a live kernel


def insane(**change: Any) -> Snapshot:
    return build.live(build.with_entry(build.clean(), **change))


def test_what_one_sample_shows_is_a_note() -> None:
    report = confirm(run_checks(build.live(build.clean())), run_checks(build.live(off_by_a_chunk())))
    (finding,) = [finding for finding in report.findings if finding.rule == "zone-counter-matches-list"]
    assert (finding.status, report.status) == ("info", "ok")
    assert finding.message.endswith("(in one of two samples)")


def test_what_both_samples_show_stands() -> None:
    off = run_checks(build.live(off_by_a_chunk()))
    assert off.status == "warning"
    assert confirm(off, off) == off


def test_samples_that_differ_in_place_are_no_confirmation() -> None:
    first = run_checks(insane(column="page_types", value=0xF0000000, index=0))
    other = run_checks(insane(column="page_types", value=0xF0000000, index=5))
    assert (first.status, other.status) == ("warning", "warning")
    assert confirm(first, other).status == "ok"
    assert confirm(other, other).status == "warning"


def test_an_insane_entry_in_both_samples_is_critical() -> None:
    """Also if only one of them tells a place."""
    report = run_checks(insane(column="refcounts", value=1))
    no_place = run_checks(build.live(build.with_list(build.clean(), problems=("entry 2 has next NULL",))))
    assert report.status == "warning"
    assert confirm(report, report).status == confirm(report, no_place).status == "critical"


def test_what_is_critical_on_a_live_kernel_needs_no_second_sample() -> None:
    wrong = build.with_page_state(build.live(build.clean()), 0x103A00000, 0x103A01000, "in-use")
    assert confirm(run_checks(build.live(build.clean())), run_checks(wrong)).status == "critical"


# Bounds


@pytest.fixture
def striped() -> Snapshot:
    """Every second unit from 4 GiB on; of them 10 and 30 were not type 15."""
    return build.with_table(build.clean(), bitmap=b"\x55\x55\x55\x55")


def test_a_bitmap_of_too_many_ranges_is_examined_in_part(striped: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    one_bit = "that the EFI stub did not set: 0x101400000-0x101600000"
    whole = f"2 bits set {one_bit}, 0x103c00000-0x103e00000"
    assert said(striped, "bits-within-initial-map") == ("critical", whole)
    # Up to unit 18.
    monkeypatch.setattr(limits, "CHECKED_RANGES", 10)
    cut = f"1 bit set {one_bit} (at least: in the first 10 ranges of the bitmap)"
    assert said(striped, "bits-within-initial-map") == ("critical", cut)
    status, message = said(striped, "bits-trimmed-by-kernel")
    assert status == "pass" and message.endswith(" (in the first 10 ranges of the bitmap)")


def test_a_bitmap_at_the_limit_is_examined_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CHECKED_RANGES", 1)
    assert "in the first" not in found(build.clean(), "bits-trimmed-by-kernel").message
    # Chunks 12-13 and 14-15 have bits in what is examined; the other seven have theirs behind it.
    snapshot = build.with_bits(build.clean(), 16, 17, 0)
    message = "2 listed chunks, all with a set bit (in the first 1 ranges of the bitmap)"
    assert said(snapshot, "list-entries-without-bits") == ("pass", message)


def test_a_finding_lists_a_bounded_number_of_ranges_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = build.clean()
    for start in range(0x101A01000, 0x102401000, 0x200000):
        snapshot = build.with_page_state(snapshot, start, start + 0x1000, "buddy")
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
    listed = replace(
        build.listed(()),
        pfns=array("Q", range(0x100000, 0x100000 + number * 1024, 1024)),
        flags=array("Q", [2 << 60]) * number,
        refcounts=array("i", [1]) * number,
        page_types=array("I", [0]) * number,
    )
    snapshot = build.with_zone(build.clean(), listed=listed, spanned_pages=number * 1024)
    finding = found(snapshot, "list-entries-sane")
    shown = "0x100000000, 0x100400000, 0x100800000 and 999997 more"
    assert finding.message == f"node 0 zone Normal: 1000000 listed pages with references: {shown}"
    assert finding.ranges == (Range(0x100000000, 0x100000000 + (number << 22)),)
    assert found(snapshot, "list-page-type").status == "critical"
