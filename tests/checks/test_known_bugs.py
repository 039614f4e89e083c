# SPDX-License-Identifier: LGPL-2.1-or-later
"""Known bugs are reported on evidence only, and not for kernels whose version has the fix."""

from __future__ import annotations

from dataclasses import replace
from typing import Optional

import pytest

from drgn_unaccepted.checks import Finding, confirm, run_checks
from drgn_unaccepted.checks.facts import Facts, version
from drgn_unaccepted.model.efi import EfiDescriptor
from drgn_unaccepted.model.ranges import Range
from drgn_unaccepted.snapshot import KexecSegment, Snapshot, Task, Watermarks

from . import build
from .changes import Change, accepting, pages, part, trimmed, without
from .test_rules import short_reservation


def advice(snapshot: Snapshot, slug: str) -> Optional[Finding]:
    findings = run_checks(snapshot, only=[f"advisory-{slug}"]).findings
    return findings[0] if findings else None


def status(snapshot: Snapshot, slug: str) -> Optional[str]:
    found = advice(snapshot, slug)
    return found.status if found else None


def test_versions() -> None:
    known = ("6.12.117", "6.12.0-55.el10.x86_64", "6.8.0-40-generic", "7.0-rc3", "6.12.117+deb12-amd64")
    assert [*map(version, known)] == [(6, 12, 117), (6, 12, 0), (6, 8, 0), (7, 0, 0), (6, 12, 117)]
    assert {version(release) for release in ("", None, "next", "6", "99999.1.2")} == {None}


def test_a_stable_fix_holds_for_its_own_series() -> None:
    def has_fix(release: Optional[str]) -> bool:
        facts = Facts(build.of_release(build.clean(), release), lambda rule: None)
        return facts.has_fix((6, 15, 0), (6, 14, 8), (6, 12, 30))

    assert all(map(has_fix, ("6.15.0", "7.3.4", "6.14.8", "6.12.30")))
    assert not any(map(has_fix, ("6.14.7", "6.13.20", "6.12.29", "6.6.200", None)))


@pytest.mark.parametrize("release", ["6.5.0", "6.6.1", "6.12.117", "7.3.4", None])
def test_a_clean_snapshot_has_no_known_bug(release: Optional[str]) -> None:
    names = [found.rule for found in run_checks(build.of_release(build.clean(), release)).findings]
    # It has unaccepted memory in a TDX guest, so this one is true of an old kernel.
    old = ["advisory-kcore-touches-unaccepted"] if release in ("6.5.0", "6.6.1") else []
    assert [name for name in names if name.startswith("advisory-")] == old


def short(snapshot: Snapshot) -> Snapshot:
    return build.with_table(short_reservation(snapshot), unmapped=None)


def low(snapshot: Snapshot) -> Snapshot:
    low = build.with_zone(snapshot, free_pages=9216 + 10, buddy_pages=10)
    return replace(low, reclaiming=(Task(7, "cc1", 0),))


SEGMENTS = (KexecSegment("kexec_image", 0x101A00000, 0x101A01000),)
key_off = part("kernel", static_key=0)


def deadlocked(snapshot: Snapshot) -> Snapshot:
    zero = tuple(replace(zone, watermarks=Watermarks(0, 0, 0, 0, 0)) for zone in snapshot.zones)
    return replace(snapshot, zones=zero, panic="System is deadlocked on memory")


@pytest.mark.parametrize(
    ("slug", "change", "by_release"),
    [
        (
            "reservation-short",
            short,
            {"6.5.13": None, "6.6.0": "warning", "6.12.74": "warning", "6.12.75": None, "6.19.2": "warning"}
            | {"7.0.0": None, None: "info"},
        ),
        # A mapped table shows that the kernel has the fix.
        ("reservation-short", short_reservation, {"6.6.10": None}),
        ("static-key-race", key_off, {"6.12.117": "warning", "6.6.1": "warning"}),
        ("watermark-zero", deadlocked, {"6.12.20": "warning", "6.12.21": None}),
        ("kexec-unaccepted", lambda s: replace(s, kexec_segments=SEGMENTS), {"6.12.117": "warning", "6.15.0": None}),
        ("endless-reclaim", low, {"6.10.6": "warning", "6.10.7": None, "6.9.9": "warning"}),
        ("guard-skipped", pages(0x1019FF000, 0x101A00000, "in-use"), {"6.12.117": "info", "7.0.0": None}),
        (
            "accept-lock-held",
            without("accepting"),
            {"6.5.0": "info", "6.5.8": "info", "6.5.9": None, "6.6.0": None, None: None},
        ),
        ("accept-overlap-spin", accepting((0, 3), (3, 5)), {"6.6.4": "info", "6.6.5": None, "6.7.0": None}),
        (
            "accept-softlockup",
            lambda s: replace(accepting((0, 3))(s), panic="softlockup: hung tasks"),
            {"6.8.9": "warning", "6.8.10": None, "6.9.0": None},
        ),
        ("kcore-touches-unaccepted", build.live, {"6.6.50": "warning", "6.7.0": None}),
        # By the counter, if the table was not captured.
        ("kcore-touches-unaccepted", build.not_captured, {"6.6.50": "info"}),
        ("kcore-touches-unaccepted", part("platform", kind="none"), {"6.6.50": None}),
    ],
)  # fmt: skip
def test_a_known_bug_by_release(slug: str, change: Change, by_release: dict[Optional[str], Optional[str]]) -> None:
    found = {release: status(change(build.of_release(build.clean(), release)), slug) for release in by_release}
    assert found == by_release


def test_reservation_short_names_the_bytes() -> None:
    """The table ends at 0x7fb73018 + 24 + 4049 = 0x7fb74001: one byte on the second page."""
    found = advice(build.of_release(short(build.clean()), "6.6.10"), "reservation-short")
    assert found.ranges == (Range(0x7FB74000, 0x7FB74001),)
    assert found.message == "0x7fb74000-0x7fb74001 of the table ending at 0x7fb74001 is likely not reserved by 6.6.10"


def test_evidence_beats_the_release() -> None:
    snapshot = build.of_release(short_reservation(build.clean()), "7.3.4")
    found = advice(build.with_table(snapshot, unmapped=(Range(0x7FB74000, 0x7FB75000),)), "reservation-short")
    assert (found.status, found.message[-26:]) == ("warning", ", and table-reserved fails")


def test_a_reservation_that_is_whole_is_no_bug() -> None:
    """4048 bytes of bitmap fill the page to its last byte."""
    table = {"bitmap_bytes": 4048, "bitmap": build.BITMAP + bytes(4044), "unmapped": None}
    snapshot = build.with_table(build.of_release(build.clean(), "6.6.10"), **table)
    assert status(snapshot, "reservation-short") is None


def test_watermark_zero_needs_a_dump_a_list_and_no_other_panic() -> None:
    oom = build.of_release(deadlocked(build.clean()), "6.12.20")
    assert status(replace(oom, panic=None), "watermark-zero") == "info"
    others = (replace(oom, panic=""), replace(oom, panic="Fatal exception"), build.live(oom))
    for snapshot in (
        *others,
        build.with_zone(oom, listed=build.listed(())),
        build.of_release(build.clean(), "6.12.20"),
    ):
        assert status(snapshot, "watermark-zero") is None


def test_what_is_not_there_is_no_bug() -> None:
    clean = build.of_release(build.clean(), "6.6.4")
    assert status(replace(low(clean), reclaiming=()), "endless-reclaim") is None
    assert status(clean, "accept-overlap-spin") is None
    assert status(accepting((0, 3))(clean), "accept-softlockup") is None


def test_a_known_bug_of_one_of_two_live_samples_is_a_note() -> None:
    """The rule that it builds on is one, too."""
    clean, off = build.live(build.clean()), build.live(key_off(build.clean()))
    report = confirm(run_checks(clean), run_checks(off))
    assert {found.status for found in report.findings if "static-key" in found.rule} == {"info"}
    assert report.status == "ok"
    assert confirm(run_checks(off), run_checks(off)).status == "warning"


def test_snp_high_memory() -> None:
    """A bitmap from 1 TiB - 32 MiB on: units 16 and above lie over 1 TiB."""
    snapshot = build.with_table(build.of_release(build.clean(), "6.8.0"), phys_base=(1 << 40) - (32 << 20))
    snapshot = build.with_part(snapshot, "platform", kind="snp")
    assert status(snapshot, "snp-high-memory") == "info"
    assert status(accepting((0, 16))(snapshot), "snp-high-memory") == "info"
    assert status(accepting((0, 17))(snapshot), "snp-high-memory") == "warning"
    assert status(build.with_part(snapshot, "platform", kind="tdx"), "snp-high-memory") is None
    assert status(build.of_release(snapshot, "6.9.0"), "snp-high-memory") is None


def test_type_15_reserved() -> None:
    reserved = trimmed("current", 0x101800000, 0x103C00000, 2)(build.clean())
    found = advice(reserved, "type-15-reserved")
    assert (found.status, found.ranges) == ("info", (Range(0x101800000, 0x103C00000),))
    # Only taken away, for example by mem=: not this bug.
    assert status(trimmed("current", 0x101800000, 0x103C00000)(build.clean()), "type-15-reserved") is None


def test_specific_purpose_ignored() -> None:
    special = EfiDescriptor(15, 0x101800000, 0x103C00000, 0xF | 1 << 18)
    others = (EfiDescriptor(15, 0x100000000, 0x101400000, None), EfiDescriptor(7, 0x1000, 0x2000, 1 << 18))
    snapshot = build.with_part(build.clean(), "efi_map", descriptors=(special, *others))
    assert advice(snapshot, "specific-purpose-ignored").ranges == (Range(0x101800000, 0x103C00000),)


def test_stub_beyond_bitmap() -> None:
    def with_descriptor(start: int) -> Snapshot:
        more = EfiDescriptor(15, start, 0x106000000, 0xF)
        return build.with_part(build.clean(), "efi_map", descriptors=(*build.clean().efi_map.descriptors, more))

    found = advice(with_descriptor(0x105000000), "stub-beyond-bitmap")
    assert (found.status, found.ranges) == ("warning", (Range(0x105000000, 0x106000000),))
    # One that only ends above is accepted there, and the stub copes.
    assert status(with_descriptor(0x103C00000), "stub-beyond-bitmap") is None
