# SPDX-License-Identifier: LGPL-2.1-or-later
"""Explanations, and the rule reference that is made of them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from drgn_unaccepted.checks import explain, rule_names
from drgn_unaccepted.checks.rule import NEEDS, RULES

ROOT = Path(__file__).resolve().parents[2]


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


def test_the_rule_reference_is_up_to_date() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "rules-doc"), "--check"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
