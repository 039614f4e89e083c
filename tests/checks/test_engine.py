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
from .build import Change, both, clean, found, listed, live


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
    off = sample(c.counted(1024))
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


def test_many_listed_chunks_are_merged_into_one_range() -> None:
    """400 GiB on one list: the finding names three chunks and lists merged ranges."""
    number = 100_000
    many = listed(range(0x100000, 0x100000 + number * 1024, 1024), zone_id=2)
    many = replace(many, refcounts=array("i", [1]) * number, page_types=array("I", [0]) * number)
    snapshot = clean(c.zone(listed=many, spanned_pages=number * 1024))
    finding = found(snapshot, "list-entries-sane")
    shown = "0x100000000, 0x100400000, 0x100800000 and 99997 more"
    assert finding.message == f"node 0 zone Normal: 100000 listed pages with references: {shown}"
    assert finding.ranges == (Range(0x100000000, 0x100000000 + (number << 22)),)
    assert found(snapshot, "list-page-type").status == "critical"
