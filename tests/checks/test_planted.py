# SPDX-License-Identifier: LGPL-2.1-or-later
"""Each planted fault is found by its rule, and blamed on no other; a clean snapshot has none."""

from __future__ import annotations

import pytest

from drgn_unaccepted.checks import rule_names, run_checks

from . import build
from .planted import PLANTED, Planted, usable, verify

#: The interface's table of rules, C1 to C32. Names and order are stable; a new rule follows them.
INTERFACE_ORDER = """
    table-captured header-version unit-size-valid bitmap-geometry table-aligned table-reserved table-in-acpi-memory
    padding-bits-clear bits-within-initial-map table-covers-efi-unaccepted efi-unaccepted-has-table
    bits-within-firmware-ram bits-trimmed-by-kernel kernel-memory-accepted buddy-pages-accepted allocated-pages-accepted
    guard-unit-accepted list-entries-sane list-page-type list-entries-without-bits zone-counter-matches-list
    global-counter-matches-zones free-pages-include-unaccepted eager-means-empty orphan-bits accepting-ranges-sane
    platform-can-accept table-expected kexec-segments-accepted static-key-matches-lists masked-pages-in-use
    watermark-starvation
"""
INTERFACE = INTERFACE_ORDER.split()
RULES = [name for name in rule_names() if not name.startswith("advisory-")]


def test_the_rules_of_the_interface_come_first() -> None:
    assert rule_names()[: len(INTERFACE)] == INTERFACE


def test_each_rule_has_a_planted_fault() -> None:
    assert {case.rule for case in PLANTED} == set(RULES)


def test_a_clean_snapshot_passes_every_rule() -> None:
    assert usable(build.clean()) is None
    report = run_checks(build.clean())
    # The kernel has no static key since 6.12.30.
    assert [(finding.rule, finding.status) for finding in report.findings] == [
        (name, "skip" if name == "static-key-matches-lists" else "pass") for name in RULES
    ]
    assert report.status == "ok"


@pytest.mark.parametrize("case", PLANTED, ids=lambda case: f"{case.rule}: {case.fault}")
def test_a_planted_fault_is_found_and_blamed_on_no_other_rule(case: Planted) -> None:
    verify(case, build.clean())
