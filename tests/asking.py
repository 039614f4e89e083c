# SPDX-License-Identifier: LGPL-2.1-or-later
"""The program, asked in this process, and what the guest of a sample said of itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from drgn_unaccepted.cli import main

SAMPLES = Path(__file__).parent.parent / "vmcore-samples"
UNIT = 2 << 20
Capsys = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch


def run(capsys: Capsys, *argv: object) -> tuple[int, str, str]:
    """Exit status, standard output, standard error."""
    try:
        status = main([str(argument) for argument in argv])
    except SystemExit as stop:
        status = int(stop.code or 0)
    return (status, *capsys.readouterr())


def answered(capsys: Capsys, *argv: object) -> str:
    """What was printed of an answer."""
    status, out, err = run(capsys, *argv)
    assert (status, err) == (0, "")
    return out


def ask(capsys: Capsys, *argv: object) -> tuple[int, Any, str]:
    """Exit status, JSON document and stderr of one run."""
    status, out, err = run(capsys, *argv, "--format", "json")
    return status, json.loads(out) if out else None, err


def refused(capsys: Capsys, *argv: object) -> str:
    """The one line with which it was refused."""
    status, out, err = run(capsys, *argv)
    assert (status, out) == (3, "") and len(err.splitlines()) == 1, err
    return err


def units(answer: Any, state: str = "unaccepted") -> set[int]:
    """Numbers of the units in this state, from an answer of ``ranges``."""
    found = ((r["start"] // UNIT, r["end"] // UNIT) for r in answer["ranges"] or () if r["state"] == state)
    return {n for start, end in found for n in range(start, end)}


def truth(sample: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((SAMPLES / sample / "truth.json").read_text())
    return loaded
