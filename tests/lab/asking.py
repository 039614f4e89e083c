# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run the program on the lab's captures."""

from __future__ import annotations

import json
from typing import Any

import pytest

from drgn_unaccepted.cli import main
from tests.lab.captures import Capture, all_captures

NEEDS_CAPTURES = [
    pytest.mark.lab,
    pytest.mark.skipif(not all_captures(), reason="no captures of the guest lab: make them with scripts/lab all"),
]


def ids(capture: Capture) -> str:
    return capture.name


def ask(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, Any, str]:
    """Exit status, JSON document and stderr of one run."""
    status = main([*map(str, argv), "--format", "json"])
    out, err = capsys.readouterr()
    return status, json.loads(out) if out else None, err
