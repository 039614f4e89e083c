# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rules on a kdump, which lacks the table: faults planted in what the real samples hold.

Where memory is unaccepted comes from the guest's own account (truth.json).
"""

from __future__ import annotations

import pytest

from drgn_unaccepted.checks import run_checks
from drgn_unaccepted.checks.rule import Finding
from drgn_unaccepted.snapshot import KexecSegment, NamedRange
from tests.answer.test_judgement import KDUMPS, UNIT, snapshot_of, truth

from . import changes as c
from .build import Change, both

pytestmark = pytest.mark.parametrize("sample", KDUMPS)


def never_accepted(sample: str) -> int:
    """A unit amid others that the guest never accepted."""
    units = truth(sample)
    return next(n for n in sorted(units) if n % 2 == 0 and {n - 2, n - 1, n + 1, n + 2, n + 3} <= units) * UNIT


def found(sample: str, rule: str, *changes: Change) -> Finding:
    (finding,) = run_checks(both(*changes)(snapshot_of(sample)), only=[rule]).findings
    return finding


INDEPENDENT = (
    "bits-within-initial-map",
    "bits-within-firmware-ram",
    "kernel-memory-accepted",
    "buddy-pages-accepted",
    "allocated-pages-accepted",
    "kexec-segments-accepted",
    # Its place by what the stub makes of the EFI memory map.
    "table-reserved",
)


def test_rules_with_evidence_of_their_own_run(sample: str) -> None:
    assert {rule: found(sample, rule).status for rule in INDEPENDENT} == dict.fromkeys(INDEPENDENT, "pass")


@pytest.mark.parametrize("rule", ["guard-unit-accepted", "orphan-bits", "list-entries-without-bits"])
def test_a_rule_that_would_be_judged_by_its_own_evidence_does_not_pass(sample: str, rule: str) -> None:
    assert found(sample, rule).message == "bitmap.now: the table was not captured"


@pytest.mark.parametrize(("state", "rule"), [("in-use", "allocated"), ("buddy", "buddy")])
def test_a_listed_page_in_use_is_critical(sample: str, state: str, rule: str) -> None:
    at = never_accepted(sample) + 0x5000
    finding = found(sample, f"{rule}-pages-accepted", c.pages(at, at + 0x1000, state))
    assert (finding.status, finding.ranges) == ("critical", ((at, at + 0x1000),))


def test_kernel_memory_in_a_listed_chunk_is_critical(sample: str) -> None:
    at = never_accepted(sample)
    used = (*snapshot_of(sample).kernel_memory, NamedRange("initrd", at, at + 0x1000))
    assert found(sample, "kernel-memory-accepted", c.put(kernel_memory=used)).status == "critical"


def test_a_kexec_destination_in_a_listed_chunk_is_a_warning_before_kexec_accepts(sample: str) -> None:
    at = never_accepted(sample)
    image = c.put(kexec_segments=(KexecSegment("kexec_image", at, at + 0x1000),))
    rule = "kexec-segments-accepted"
    # From 6.15 on kexec accepts them, and their chunks stay listed.
    assert found(sample, rule, image).status == ("warning" if sample.startswith("6.12") else "skip")


def test_a_listed_chunk_without_a_bit_at_boot_is_critical(sample: str) -> None:
    """As in memory that the EFI memory map calls Conventional."""
    at = never_accepted(sample)
    efi_map = snapshot_of(sample).efi_map
    hole, cut = (at, at + 4 * UNIT), []
    for d in efi_map.descriptors:
        inside = d.start < at < d.end
        cut += [d._replace(end=at), d._replace(start=hole[1])] if inside else [d]
    cut.append(cut[0]._replace(type=7, start=hole[0], end=hole[1]))
    finding = found(sample, "bits-within-initial-map", c.descriptors(*cut, first=0))
    # The last of the two chunks has its guard.
    assert (finding.status, finding.ranges[0].start) == ("critical", at)


@pytest.mark.parametrize("rule", ["header-version", "orphan-bits"])
def test_nothing_but_skips_is_no_answer(sample: str, rule: str) -> None:
    report = run_checks(snapshot_of(sample), only=[rule])
    assert (report.findings[0].status, report.status) == ("skip", "unknown")
