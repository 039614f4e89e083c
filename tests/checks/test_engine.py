# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the engine makes of the rules: explanations, the overall status, two samples; hostile snapshots."""

from __future__ import annotations

import re
from array import array
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drgn_unaccepted import limits
from drgn_unaccepted.answer.best_source import judge
from drgn_unaccepted.checks import Report, confirm, explain, rule_names, run_checks
from drgn_unaccepted.checks.rule import NEEDS, RULES
from drgn_unaccepted.commands.check import check
from drgn_unaccepted.model.efi import EfiDescriptor
from drgn_unaccepted.model.header import Header, judge_header
from drgn_unaccepted.model.ranges import Range
from drgn_unaccepted.snapshot import Snapshot, Table, Target
from tests.snapshot_strategies import snapshots

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
    # Bits 13, 18 and 20 on: four chunks begin before the end of the second range, and one of them has no bit.
    monkeypatch.setattr(limits, "CHECKED_RANGES", 2)
    message = "1 of 4 listed chunks without a set bit in own units or guard: the bitmap differs from what the page "
    message += "allocator saw (at least: in the first 2 ranges of the bitmap)"
    gone = clean(c.bits(14, 18, 0), c.bits(19, 20, 0))
    assert said(gone, "list-entries-without-bits") == ("warning", message)


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


# Explanations


@pytest.mark.parametrize("name", rule_names())
def test_every_rule_says_why_and_what_to_do(name: str) -> None:
    text = explain(name)
    assert text.startswith(name) and text.endswith("\n")
    assert re.search(r"\nWhy: \S", text) and re.search(r"\nWhat to do: \S", text)
    assert max(map(len, text.splitlines())) <= 100
    assert set(RULES[name].needs) <= set(NEEDS)
    # Commits are abbreviated alike.
    commits = re.findall(r"\b(?=[0-9a-f]*[0-9])(?=[0-9a-f]*[a-f])[0-9a-f]{7,40}\b", text)
    assert {len(commit) for commit in commits} <= {12}


def test_a_rule_is_explained_with_its_severity_and_needs() -> None:
    text = " ".join(explain("zone-counter-matches-list").split())
    assert "(C21)" in text
    assert "critical in a vmcore, warning on a live kernel" in text
    assert "Needs: `zone->unaccepted_pages`; `zone->vm_stat[NR_UNACCEPTED]`" in text
    assert "Fixed by: 0862438c9048 (7.0, 6.19.4, 6.18.14, 6.12.75)" in explain("advisory-reservation-short")


def test_texts_refer_to_rules_that_exist() -> None:
    names = set(rule_names())
    stems = {name.split("-")[0] for name in names}
    for name in names:
        words = re.findall(r"\b[a-z]+(?:-[a-z0-9]+){2,}\b", explain(name))
        assert {word for word in words if word.split("-")[0] in stems} <= names, name


# Whatever a snapshot file holds, a rule answers or is skipped

# fmt: off
NUMBERS = st.sampled_from([
    0, 1, 2, 3, 7, 24, 512, 1024, 4095, 4096, 1 << 21, (1 << 21) + 8, 3 << 21, 1 << 32, (1 << 32) + 4096, 1 << 40,
    (1 << 52) - 1, 1 << 52, 1 << 60, (1 << 64) - 1, 1 << 64, 1 << 80, -1, -4096,
])
# fmt: on


def assert_sound(report: Report) -> None:
    assert report.status in ("ok", "warning", "critical", "unknown")
    assert len(report.findings) >= 32
    for finding in report.findings:
        assert finding.status in ("pass", "info", "warning", "critical", "skip")
        assert finding.message
        assert all(start < end for start, end in finding.ranges)
        assert list(finding.ranges) == sorted(finding.ranges)


@pytest.mark.parametrize("examples", [20, pytest.param(500, marks=pytest.mark.long)])
def test_no_rule_raises_on_anything(examples: int) -> None:
    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(snapshots(), snapshots())
    def test(snapshot: Snapshot, other: Snapshot) -> None:
        report = run_checks(snapshot)
        assert_sound(report)
        assert_sound(confirm(run_checks(other), report))

    test()


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([1, 1, 1, 2, 0]), NUMBERS, NUMBERS, NUMBERS, NUMBERS)
def test_a_header_that_the_reader_refuses_is_a_finding(
    version: int, unit_size: int, phys_base: int, bitmap_bytes: int, address: int
) -> None:
    """If a header is refused, a rule fails; if it is taken, no rule of the header blames it."""
    numbers = (unit_size, phys_base, bitmap_bytes, address)
    if min(numbers) < 0 or max(numbers) >= 1 << 64:
        return
    state, reason = judge_header(Header(version, unit_size, phys_base, bitmap_bytes), address)
    table = Table(state, reason, address, version, unit_size, phys_base, bitmap_bytes)
    snapshot = Snapshot(Target("vmcore", None, None, None, "none", ""), table)
    report = run_checks(snapshot, only=["header-version", "unit-size-valid", "bitmap-geometry"])
    failed = any(finding.status == "critical" for finding in report.findings)
    assert state == "not-captured" or failed == (state != "present")


def test_type_15_up_to_the_last_address_is_no_bitmap_to_replay() -> None:
    """The stub's bitmap for it would have a TiB."""
    report = run_checks(clean(c.not_captured, c.descriptors(EfiDescriptor(15, 0, (1 << 64) - (2 << 20), 0xF))))
    (finding,) = [finding for finding in report.findings if finding.rule == "bits-within-initial-map"]
    assert finding.status == "skip" and "beyond all physical addresses" in finding.message
