# SPDX-License-Identifier: LGPL-2.1-or-later
"""Questions to the program, and what the guest of a sample said of itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from drgn_unaccepted.cli import main

SAMPLES = Path(__file__).parent.parent / "vmcore-samples"
UNIT = 2 << 20
Capsys = pytest.CaptureFixture[str]


def ask(capsys: Capsys, *argv: object) -> tuple[int, Any, str]:
    """Exit status, JSON document and stderr of one run."""
    status = main([*map(str, argv), "--format", "json"])
    out, err = capsys.readouterr()
    return status, json.loads(out) if out else None, err


def refused(capsys: Capsys, *argv: object) -> str:
    """The one line that is all of the answer."""
    status, document, err = ask(capsys, *argv)
    assert (status, document) == (3, None) and len(err.splitlines()) == 1, err
    return err


def units(answer: Any, state: str = "unaccepted") -> set[int]:
    """Numbers of the units in this state, from an answer of ``ranges``."""
    found = ((r["start"] // UNIT, r["end"] // UNIT) for r in answer["ranges"] or () if r["state"] == state)
    return {n for start, end in found for n in range(start, end)}


def truth(sample: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((SAMPLES / sample / "truth.json").read_text())
    return loaded
