# SPDX-License-Identifier: LGPL-2.1-or-later
"""Known bugs are reported on evidence only, and not for kernels whose version has the fix."""

from __future__ import annotations

from typing import Optional

import pytest

from drgn_unaccepted.checks import Finding, confirm, run_checks
from drgn_unaccepted.checks.facts import Facts, version
from drgn_unaccepted.model.efi import EfiDescriptor
from drgn_unaccepted.model.ranges import Range
from drgn_unaccepted.snapshot import KexecSegment, NamedRange, Task, Watermarks

from . import changes as c
from .build import BITMAP, Change, both, clean, listed, live
from .test_rules import short_reservation


def advice(slug: str, *changes: Change) -> Optional[Finding]:
    findings = run_checks(clean(*changes), only=[f"advisory-{slug}"]).findings
    return findings[0] if findings else None


def status(slug: str, *changes: Change) -> Optional[str]:
    found = advice(slug, *changes)
    return found.status if found else None


def test_versions() -> None:
    known = ("6.12.117", "6.12.0-55.el10.x86_64", "6.8.0-40-generic", "7.0-rc3", "6.12.117+deb12-amd64")
    assert [*map(version, known)] == [(6, 12, 117), (6, 12, 0), (6, 8, 0), (7, 0, 0), (6, 12, 117)]
    assert {version(release) for release in ("", None, "next", "6", "99999.1.2")} == {None}


def test_a_stable_fix_holds_for_its_own_series() -> None:
    def has_fix(release: Optional[str]) -> Optional[bool]:
        facts = Facts(clean(c.release(release)), lambda rule: None)
        return facts.has_fix("fefc07518227 (6.15, 6.14.8, 6.12.30)")

    assert {*map(has_fix, ("6.15.0", "7.3.4", "6.14.8", "6.12.30"))} == {True}
    assert {*map(has_fix, ("6.14.7", "6.13.20", "6.12.29", "6.6.200"))} == {False}
    assert {*map(has_fix, (None, "5.14.0-503.el9", "6.8.0-40-generic"))} == {None}


@pytest.mark.parametrize("release", ["6.5.0", "6.6.1", "6.12.117", "7.3.4", None])
def test_a_clean_snapshot_has_no_known_bug(release: Optional[str]) -> None:
    names = [found.rule for found in run_checks(clean(c.release(release))).findings]
    # It has unaccepted memory in a TDX guest, so this one is true of an old kernel.
    old = ["advisory-kcore-touches-unaccepted"] if release in ("6.5.0", "6.6.1") else []
    assert [name for name in names if name.startswith("advisory-")] == old


short = both(short_reservation, c.table(unmapped=None))
low = both(c.zone(free_pages=9216 + 10, buddy_pages=10), c.put(reclaiming=(Task(7, "cc1", 0),)))
kexec = c.put(kexec_segments=(KexecSegment("kexec_image", 0x101A00000, 0x101A01000),))
key_off = c.part("kernel", static_key=0)
deadlocked = both(c.zones(watermarks=Watermarks(0, 0, 0, 0, 0)), c.put(panic="System is deadlocked on memory"))
lockup = both(c.accepting((0, 3)), c.put(panic="softlockup: hung tasks"))
#: A bitmap from 1 TiB - 32 MiB on: units 16 and above lie over 1 TiB.
above = both(c.table(phys_base=(1 << 40) - (32 << 20)), c.part("platform", kind="snp"))
below, beside = (
    c.put(kernel_memory=(NamedRange("crash kernel", at, at + (128 << 20)),)) for at in (0x70000000, 0x140000000)
)


@pytest.mark.parametrize(
    ("slug", "change", "by_release"),
    [
        (
            "reservation-short",
            short,
            {"6.5.13": None, "6.6.0": "info", "6.12.74": "info", "6.12.75": None, "6.19.3": "info", "6.19.4": None}
            | {"6.18.13": "info", "6.18.14": None, "7.0.0": None, None: "info", "5.14.0-503.el9": "info"},
        ),
        # 4048 bytes of bitmap fill the page to its last byte.
        ("reservation-short", c.table(bitmap_bytes=4048, bitmap=BITMAP + bytes(4044), unmapped=None), {"6.6.10": None}),
        # A mapped table shows that the kernel has the fix.
        ("reservation-short", short_reservation, {"6.6.10": None}),
        ("static-key-race", key_off, {"6.12.117": "warning", "6.6.1": "warning"}),
        ("watermark-zero", deadlocked, {"6.12.20": "warning", "6.12.21": None}),
        ("kexec-unaccepted", kexec, {"6.12.117": "warning", "6.15.0": None}),
        ("endless-reclaim", low, {"6.10.6": "warning", "6.10.7": None, "6.9.9": "warning"}),
        ("guard-skipped", c.pages(0x1019FF000, 0x101A00000, "in-use"), {"6.12.117": "info", "7.0.0": None}),
        (
            "accept-lock-held",
            c.without("accepting"),
            {"6.5.0": "info", "6.5.8": "info", "6.5.9": None, "6.6.0": None, None: None},
        ),
        ("accept-overlap-spin", c.accepting((0, 3), (3, 5)), {"6.6.4": "info", "6.6.5": None, "6.7.0": None}),
        ("accept-softlockup", lockup, {"6.8.9": "warning", "6.8.10": None, "6.9.0": None}),
        ("kcore-touches-unaccepted", live, {"6.6.50": "warning", "6.7.0": None}),
        # What is not there is no bug.
        ("endless-reclaim", both(low, c.put(reclaiming=())), {"6.6.4": None}),
        ("accept-overlap-spin", c.put(), {"6.6.4": None}),
        ("accept-softlockup", c.accepting((0, 3)), {"6.6.4": None}),
        # By the counter, if the table was not captured.
        ("kcore-touches-unaccepted", c.not_captured, {"6.6.50": "info"}),
        ("kcore-touches-unaccepted", c.part("platform", kind="none"), {"6.6.50": None}),
        ("snp-high-memory", above, {"6.8.0": "info", "6.9.0": None}),
        ("snp-high-memory", both(above, c.accepting((0, 16))), {"6.8.0": "info"}),
        ("snp-high-memory", both(above, c.accepting((0, 17))), {"6.8.0": "warning"}),
        ("snp-high-memory", both(above, c.part("platform", kind="tdx")), {"6.8.0": None}),
        # Seen with 6.6.80: its crash kernel does not map a table above its last page.
        ("crash-kernel-below-table", below, {"6.6.80": "warning", "6.12.117": None, None: None}),
        ("crash-kernel-below-table", beside, {"6.6.80": None}),
        # It needs a dump, a list and no other panic.
        ("watermark-zero", both(deadlocked, c.put(panic=None)), {"6.12.20": "info"}),
        ("watermark-zero", both(deadlocked, c.put(panic="")), {"6.12.20": None}),
        ("watermark-zero", both(deadlocked, c.put(panic="Fatal exception")), {"6.12.20": None}),
        ("watermark-zero", both(deadlocked, live), {"6.12.20": None}),
        ("watermark-zero", both(deadlocked, c.zone(listed=listed(()))), {"6.12.20": None}),
        ("watermark-zero", c.put(), {"6.12.20": None}),
    ],
)  # fmt: skip
def test_a_known_bug_by_release(slug: str, change: Change, by_release: dict[Optional[str], Optional[str]]) -> None:
    found = {release: status(slug, c.release(release), change) for release in by_release}
    assert found == by_release


@pytest.mark.parametrize("release", ["5.14.0-503.11.1.el9_5.x86_64", "6.8.0-40-generic"])
def test_a_distribution_may_have_backported_the_fix(release: str) -> None:
    found = advice("kexec-unaccepted", c.release(release), kexec)
    assert found.status == "info"
    assert found.message.endswith(" (unknown for a backport, which may have the fix)")


def test_reservation_short_names_the_bytes() -> None:
    """The table ends at 0x7fb73018 + 24 + 4049 = 0x7fb74001: one byte on the second page."""
    found = advice("reservation-short", c.release("6.6.10"), short)
    assert found.ranges == (Range(0x7FB74000, 0x7FB74001),)
    message = "0x7fb74000-0x7fb74001 of the table ending at 0x7fb74001 is likely not reserved by 6.6.10"
    assert found.message == message + "; whether it is mapped cannot be read"


def test_evidence_beats_the_release() -> None:
    unmapped = c.table(unmapped=(Range(0x7FB74000, 0x7FB75000),))
    found = advice("reservation-short", c.release("7.3.4"), short_reservation, unmapped)
    assert (found.status, found.message[-26:]) == ("warning", ", and table-reserved fails")
    # A fix that left code in the kernel of a distribution, and one that did not.
    fixes = {"6.12.0-55.el10": "info", "6.14.1": "warning", "6.15.1": None}
    assert {each: status("kexec-unaccepted", c.release(each), kexec) for each in fixes} == fixes
    for image, said in (({"fixes": ("caeb8ba598f0",)}, None), ({"lacks": ("caeb8ba598f0",)}, "warning")):
        change = c.part("image", **image)
        assert {status("kexec-unaccepted", c.release(each), kexec, change) for each in fixes} == {said}


def test_no_known_bug_is_told_by_a_release_that_the_banner_contradicts() -> None:
    found = advice("kexec-unaccepted", c.release("6.14.1"), kexec, c.part("image", banner="6.16.0"))
    assert found.status == "info" and "6.14" not in found.message and "not known" in found.message


def test_a_known_bug_of_one_of_two_live_samples_is_a_note() -> None:
    """The rule that it builds on is one, too."""
    off = run_checks(clean(key_off, live))
    report = confirm(run_checks(clean(live)), off)
    assert {found.status for found in report.findings if "static-key" in found.rule} == {"info"}
    assert report.status == "ok"
    assert confirm(off, off).status == "warning"


def test_type_15_reserved() -> None:
    lost = c.trimmed("current", 0x101800000, 0x103C00000, 2)
    found = advice("type-15-reserved", lost)
    assert (found.status, found.ranges) == ("info", (Range(0x101800000, 0x103C00000),))
    # What the command line took away is no fault of the firmware.
    for line, said in (("quiet memmap=36M$0x101800000", None), ("add_efi_memmap", "add_efi_memmap: "), ("", "SP: ")):
        finding = advice("type-15-reserved", lost, c.part("image", command_line=line))
        assert finding is None if said is None else said in finding.message
    # Only taken away, for example by mem=: not this bug.
    assert status("type-15-reserved", c.trimmed("current", 0x101800000, 0x103C00000)) is None


def test_specific_purpose_ignored() -> None:
    special = EfiDescriptor(15, 0x101800000, 0x103C00000, 0xF | 1 << 18)
    others = (EfiDescriptor(15, 0x100000000, 0x101400000, None), EfiDescriptor(7, 0x1000, 0x2000, 1 << 18))
    found = advice("specific-purpose-ignored", c.descriptors(special, *others, first=0))
    assert found.ranges == (Range(0x101800000, 0x103C00000),)


def test_stub_beyond_bitmap() -> None:
    found = advice("stub-beyond-bitmap", c.descriptors(EfiDescriptor(15, 0x105000000, 0x106000000, 0xF)))
    assert (found.status, found.ranges) == ("warning", (Range(0x105000000, 0x106000000),))
    # One that only ends above is accepted there, and the stub copes.
    assert status("stub-beyond-bitmap", c.descriptors(EfiDescriptor(15, 0x103C00000, 0x106000000, 0xF))) is None
