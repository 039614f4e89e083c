# SPDX-License-Identifier: LGPL-2.1-or-later
"""No damage to what the program reads makes it call unaccepted memory accepted. ``scripts/fuzz --oracle`` does more."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.fuzz import oracle, run
from tests.fuzz.case import NAMES, Case, truth

SEED = os.environ.get("DRGN_UNACCEPTED_SEED", "1")


@pytest.mark.parametrize(
    "numbers", [range(8), *(pytest.param(range(n, n + 104), marks=pytest.mark.long) for n in (8, 112, 216))]
)
def test_damage(numbers: range, tmp_path: Path) -> None:
    for number in numbers:
        case = oracle.damaged(random.Random(f"{SEED}:{number}"))
        outcome = run.isolated(lambda case=case, n=number: oracle.check(case, tmp_path, n % 100 == 99))  # type: ignore[misc]
        assert not outcome.failed, f"{number}: {outcome}\n{case.to_json()}"


@pytest.mark.parametrize("name", NAMES)
def test_the_undamaged_dump_is_answered_with_the_truth(name: str, tmp_path: Path) -> None:
    outcome = run.isolated(lambda: oracle.check(Case(name, "nothing"), tmp_path, by_commands=name == "6.12-numa"))
    assert (outcome.kind, outcome.text) == (run.ANSWERED, "bitmap" if truth(name)["has_table"] else "reconstructed")


def test_the_oracle_sees_what_it_looks_for() -> None:
    case = Case("6.12-fill", "nothing")
    ((start, end), *_) = run.unaccepted(case)
    for pieces, exact, bounds in (
        ([(start, start + 1, "accepted")], False, (None, None)),
        ([(start, end, "unaccepted")], True, (None, None)),
        ([], False, (None, end - start)),
    ):
        with pytest.raises(run.Defect):
            run.hold(case, "made up", pieces, exact, bounds)
