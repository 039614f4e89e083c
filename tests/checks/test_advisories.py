# SPDX-License-Identifier: LGPL-2.1-or-later
"""Advisories speak on evidence only, and not of kernels that have the fix by their number."""

from __future__ import annotations

from dataclasses import replace
from typing import Optional

import pytest

from drgn_unaccepted.checks import Finding, run_checks
from drgn_unaccepted.checks.advisory import has_fix, version
from drgn_unaccepted.model.efi import EfiDescriptor
from drgn_unaccepted.model.ranges import Range
from drgn_unaccepted.snapshot import Accept, AcceptingList, KexecSegment, Snapshot, Task, Watermarks

from . import build
from .test_rules import short_reservation


def advice(snapshot: Snapshot, slug: str) -> Optional[Finding]:
    findings = run_checks(snapshot, only=[f"advisory-{slug}"]).findings
    return findings[0] if findings else None


def status(snapshot: Snapshot, slug: str) -> Optional[str]:
    found = advice(snapshot, slug)
    return found.status if found else None


@pytest.mark.parametrize(
    ("release", "expected"),
    [
        ("6.12.117", (6, 12, 117)),
        ("6.12.0-55.el10.x86_64", (6, 12, 0)),
        ("6.8.0-40-generic", (6, 8, 0)),
        ("7.0-rc3", (7, 0, 0)),
        ("6.12.117+deb12-amd64", (6, 12, 117)),
        ("", None),
        (None, None),
        ("next", None),
        ("6", None),
        ("99999.1.2", None),
    ],
)
def test_versions(release: Optional[str], expected: object) -> None:
    assert version(release) == expected


@pytest.mark.parametrize(
    ("release", "expected"),
    [
        ("6.15.0", True),
        ("7.3.4", True),
        ("6.14.7", False),
        ("6.14.8", True),
        ("6.13.20", False),
        ("6.12.29", False),
        ("6.12.30", True),
        ("6.6.200", False),
        (None, False),
    ],
)
def test_a_stable_fix_holds_for_its_own_series(release: Optional[str], expected: bool) -> None:
    assert has_fix(release, (6, 15, 0), [(6, 14, 8), (6, 12, 30)]) is expected


def test_a_clean_snapshot_has_no_advice() -> None:
    for release in ("6.5.0", "6.6.1", "6.12.117", "7.3.4", None):
        names = [found.rule for found in run_checks(build.of_release(build.clean(), release)).findings]
        advisories = [name for name in names if name.startswith("advisory-")]
        # With unaccepted memory in a TDX guest this one is true of such a kernel.
        old = release in ("6.5.0", "6.6.1")
        assert advisories == (["advisory-kcore-touches-unaccepted"] if old else [])


@pytest.mark.parametrize(
    ("release", "expected"),
    [
        ("6.5.13", None),
        ("6.6.0", "warning"),
        ("6.12.74", "warning"),
        ("6.12.75", None),
        ("6.19.2", "warning"),
        ("7.0.0", None),
        (None, "info"),
    ],
)
def test_reservation_short_by_release(release: Optional[str], expected: Optional[str]) -> None:
    snapshot = build.with_table(build.of_release(short_reservation(), release), unmapped=None)
    assert status(snapshot, "reservation-short") == expected


def test_reservation_short_names_the_bytes() -> None:
    """The table ends at 0x7fb73018 + 24 + 4049 = 0x7fb74001: one byte on the second page."""
    snapshot = build.with_table(build.of_release(short_reservation(), "6.6.10"), unmapped=None)
    found = advice(snapshot, "reservation-short")
    assert found is not None
    assert found.ranges == (Range(0x7FB74000, 0x7FB74001),)
    assert found.message == "0x7fb74000-0x7fb74001 of the table ending at 0x7fb74001 is likely not reserved by 6.6.10"


def test_a_mapped_table_shows_that_the_kernel_has_the_fix() -> None:
    assert status(build.of_release(short_reservation(), "6.6.10"), "reservation-short") is None


def test_evidence_beats_the_release() -> None:
    snapshot = build.with_table(
        build.of_release(short_reservation(), "7.3.4"), unmapped=(Range(0x7FB74000, 0x7FB75000),)
    )
    found = advice(snapshot, "reservation-short")
    assert found is not None and found.status == "warning"
    assert found.message.endswith(", and table-reserved fails")


def test_a_reservation_that_is_whole_is_no_bug() -> None:
    """4048 bytes of bitmap fill the page to its last byte."""
    table = {"bitmap_bytes": 4048, "bitmap": build.BITMAP + bytes(4044), "unmapped": None}
    snapshot = build.with_table(build.of_release(build.clean(), "6.6.10"), **table)
    assert status(snapshot, "reservation-short") is None


def test_static_key_race_goes_by_the_key() -> None:
    for release in ("6.12.117", "6.6.1"):
        snapshot = build.of_release(build.with_part(build.clean(), "kernel", static_key=0), release)
        assert status(snapshot, "static-key-race") == "warning"


def test_watermark_zero_needs_a_dump_and_a_list() -> None:
    assert build.clean().zones is not None
    zero = tuple(replace(zone, watermarks=Watermarks(0, 0, 0, 0, 0)) for zone in build.clean().zones or ())
    snapshot = build.of_release(replace(build.clean(), zones=zero), "6.12.20")
    oom = replace(snapshot, panic="System is deadlocked on memory")
    assert status(oom, "watermark-zero") == "warning"
    assert status(replace(snapshot, panic=None), "watermark-zero") == "info"
    assert status(snapshot, "watermark-zero") is None
    assert status(replace(snapshot, panic="Fatal exception"), "watermark-zero") is None
    assert status(build.of_release(oom, "6.12.21"), "watermark-zero") is None
    assert status(build.live(oom), "watermark-zero") is None
    assert status(build.of_release(build.clean(), "6.12.20"), "watermark-zero") is None
    assert status(build.with_zone(oom, listed=build.listed(())), "watermark-zero") is None


@pytest.mark.parametrize(("release", "expected"), [("6.12.117", "warning"), ("6.15.0", None)])
def test_kexec_unaccepted(release: str, expected: Optional[str]) -> None:
    segment = KexecSegment("kexec_image", 0x101A00000, 0x101A01000)
    snapshot = replace(build.of_release(build.clean(), release), kexec_segments=(segment,))
    assert status(snapshot, "kexec-unaccepted") == expected


@pytest.mark.parametrize(("release", "expected"), [("6.10.6", "warning"), ("6.10.7", None), ("6.9.9", "warning")])
def test_endless_reclaim(release: str, expected: Optional[str]) -> None:
    low = build.with_zone(build.of_release(build.clean(), release), free_pages=9216 + 10, buddy_pages=10)
    assert status(replace(low, reclaiming=(Task(7, "cc1", 0),)), "endless-reclaim") == expected
    assert status(low, "endless-reclaim") is None


@pytest.mark.parametrize(("release", "expected"), [("6.12.117", "info"), ("7.0.0", None)])
def test_guard_skipped(release: str, expected: Optional[str]) -> None:
    snapshot = build.with_page_state(build.clean(), 0x1019FF000, 0x101A00000, "in-use")
    assert status(build.of_release(snapshot, release), "guard-skipped") == expected


@pytest.mark.parametrize(
    ("release", "expected"), [("6.5.0", "info"), ("6.5.8", "info"), ("6.5.9", None), ("6.6.0", None), (None, None)]
)
def test_accept_lock_held(release: Optional[str], expected: Optional[str]) -> None:
    snapshot = build.without(build.of_release(build.clean(), release), "accepting")
    assert status(snapshot, "accept-lock-held") == expected


@pytest.mark.parametrize(("release", "expected"), [("6.6.4", "info"), ("6.6.5", None), ("6.7.0", None)])
def test_accept_overlap_spin(release: str, expected: Optional[str]) -> None:
    touching = AcceptingList((Accept(0xA000, 0, 3, Task(1, "a", 0)), Accept(0xB000, 3, 5, Task(2, "b", 1))))
    snapshot = build.of_release(build.clean(), release)
    assert status(replace(snapshot, accepting=touching), "accept-overlap-spin") == expected
    assert status(snapshot, "accept-overlap-spin") is None


@pytest.mark.parametrize(("release", "expected"), [("6.8.9", "warning"), ("6.8.10", None), ("6.9.0", None)])
def test_accept_softlockup(release: str, expected: Optional[str]) -> None:
    accept = AcceptingList((Accept(0xA000, 0, 3, Task(1, "a", 0)),))
    snapshot = replace(build.of_release(build.clean(), release), accepting=accept, panic="softlockup: hung tasks")
    assert status(snapshot, "accept-softlockup") == expected
    assert status(replace(snapshot, panic=""), "accept-softlockup") is None


def test_kcore_touches_unaccepted() -> None:
    snapshot = build.of_release(build.clean(), "6.6.50")
    assert status(build.live(snapshot), "kcore-touches-unaccepted") == "warning"
    assert status(snapshot, "kcore-touches-unaccepted") == "info"
    # By the counter, where the table was not captured.
    assert status(build.not_captured(snapshot), "kcore-touches-unaccepted") == "info"
    assert status(build.with_part(snapshot, "platform", kind="none"), "kcore-touches-unaccepted") is None
    assert status(build.of_release(snapshot, "6.7.0"), "kcore-touches-unaccepted") is None


def test_snp_high_memory() -> None:
    """A bitmap from 1 TiB - 32 MiB on: units 16 and above lie over 1 TiB."""
    snapshot = build.with_table(build.of_release(build.clean(), "6.8.0"), phys_base=(1 << 40) - (32 << 20))
    snapshot = build.with_part(snapshot, "platform", kind="snp")
    assert status(snapshot, "snp-high-memory") == "info"
    below = AcceptingList((Accept(0xA000, 0, 16, None),))
    above = AcceptingList((Accept(0xA000, 0, 17, None),))
    assert status(replace(snapshot, accepting=below), "snp-high-memory") == "info"
    assert status(replace(snapshot, accepting=above), "snp-high-memory") == "warning"
    assert status(build.with_part(snapshot, "platform", kind="tdx"), "snp-high-memory") is None
    assert status(build.of_release(snapshot, "6.9.0"), "snp-high-memory") is None


def test_type_15_reserved() -> None:
    e820 = build.clean().e820
    assert e820 is not None and e820.current is not None
    left = build.with_ram_removed(e820.current, 0x101800000, 0x103C00000)
    reserved = (*left, left[0]._replace(start=0x101800000, end=0x103C00000, type=2))
    found = advice(build.with_part(build.clean(), "e820", current=reserved), "type-15-reserved")
    assert found is not None
    assert (found.status, found.ranges) == ("info", (Range(0x101800000, 0x103C00000),))
    # Only taken away, as by mem=: not this bug.
    assert status(build.with_part(build.clean(), "e820", current=left), "type-15-reserved") is None


def test_specific_purpose_ignored() -> None:
    efi_map = build.clean().efi_map
    assert efi_map is not None
    special = EfiDescriptor(15, 0x101800000, 0x103C00000, 0xF | 1 << 18)
    unknown = EfiDescriptor(15, 0x100000000, 0x101400000, None)
    ordinary = EfiDescriptor(7, 0x1000, 0x2000, 1 << 18)
    snapshot = build.with_part(build.clean(), "efi_map", descriptors=(special, unknown, ordinary))
    found = advice(snapshot, "specific-purpose-ignored")
    assert found is not None
    assert found.ranges == (Range(0x101800000, 0x103C00000),)


def test_stub_beyond_bitmap() -> None:
    efi_map = build.clean().efi_map
    assert efi_map is not None
    above = EfiDescriptor(15, 0x105000000, 0x106000000, 0xF)
    snapshot = build.with_part(build.clean(), "efi_map", descriptors=(*efi_map.descriptors, above))
    found = advice(snapshot, "stub-beyond-bitmap")
    assert found is not None
    assert (found.status, found.ranges) == ("warning", (Range(0x105000000, 0x106000000),))
    # One that only ends above is accepted there, and the stub copes.
    across = EfiDescriptor(15, 0x103C00000, 0x106000000, 0xF)
    snapshot = build.with_part(build.clean(), "efi_map", descriptors=(*efi_map.descriptors, across))
    assert status(snapshot, "stub-beyond-bitmap") is None
