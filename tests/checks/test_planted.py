# SPDX-License-Identifier: LGPL-2.1-or-later
"""Each planted fault is found by its rule, and blamed on no other; a clean snapshot has none."""

from __future__ import annotations

import pytest

from drgn_unaccepted.checks import run_checks
from drgn_unaccepted.checks.engine import rules

from . import build
from .planted import PLANTED, Planted, usable, verify

#: The interface's table of rules, C1 to C32.
RULES = [
    "table-captured",
    "header-version",
    "unit-size-valid",
    "bitmap-geometry",
    "table-aligned",
    "table-reserved",
    "table-in-acpi-memory",
    "padding-bits-clear",
    "bits-within-initial-map",
    "table-covers-efi-unaccepted",
    "efi-unaccepted-has-table",
    "bits-within-firmware-ram",
    "bits-trimmed-by-kernel",
    "kernel-memory-accepted",
    "buddy-pages-accepted",
    "allocated-pages-accepted",
    "guard-unit-accepted",
    "list-entries-sane",
    "list-page-type",
    "list-entries-without-bits",
    "zone-counter-matches-list",
    "global-counter-matches-zones",
    "free-pages-include-unaccepted",
    "eager-means-empty",
    "orphan-bits",
    "accepting-ranges-sane",
    "platform-can-accept",
    "table-expected",
    "kexec-segments-accepted",
    "static-key-matches-lists",
    "masked-pages-in-use",
    "watermark-starvation",
]


def test_the_rules_are_those_of_the_interface_in_its_order() -> None:
    assert [rule.name for rule in rules()] == RULES
    assert [rule.number for rule in rules()] == list(range(1, 33))


def test_each_rule_has_a_planted_fault() -> None:
    assert {case.rule for case in PLANTED} == set(RULES)


def test_a_clean_snapshot_passes_every_rule() -> None:
    snapshot = build.clean()
    assert usable(snapshot) is None
    report = run_checks(snapshot)
    assert [(finding.rule, finding.status) for finding in report.findings] == [
        # The kernel has no such key since 6.12.30.
        (name, "skip" if name == "static-key-matches-lists" else "pass")
        for name in RULES
    ]
    assert report.status == "ok"
    assert report.exit_status == 0


def test_a_clean_snapshot_with_a_static_key_passes_that_rule() -> None:
    snapshot = build.with_part(build.clean(), "kernel", static_key=1)
    (finding,) = run_checks(snapshot, only=["static-key-matches-lists"]).findings
    assert finding.status == "pass"


@pytest.mark.parametrize("case", PLANTED, ids=lambda case: f"{case.rule}: {case.fault}")
def test_a_planted_fault_is_found_and_blamed_on_no_other_rule(case: Planted) -> None:
    verify(case, build.clean())
