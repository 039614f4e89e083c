# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whatever a snapshot file holds, a rule answers or is skipped: it never raises."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drgn_unaccepted.checks import Report, confirm, run_checks
from drgn_unaccepted.model.efi import EfiDescriptor
from drgn_unaccepted.model.header import Header, judge_header
from drgn_unaccepted.snapshot import Snapshot, Table, Target
from tests.snapshot_strategies import snapshots

from . import changes as c
from .build import clean

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
