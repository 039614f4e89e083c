# SPDX-License-Identifier: LGPL-2.1-or-later
"""The real tools of the fleets, out of Debian or PyPI; a test without its tool is skipped, and says what brings it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

TOP = Path(__file__).resolve().parent.parent.parent
INTEGRATIONS = TOP / "drgn_unaccepted" / "integrations"
SAMPLES = TOP / "vmcore-samples"


def tool(name: str, package: str) -> str:
    """The path of a program, or the test is skipped."""
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if path is None:
        pytest.skip(f"{name} is not here: apt-get install {package}")
    return path


def run(argv: Sequence[object], stdin: str = "", timeout: float = 120, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(argument) for argument in argv],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        **more,
    )


def check_document(**changes: Any) -> dict[str, Any]:
    """The answer of ``check``, as the contract has it, written by hand."""
    document: dict[str, Any] = {
        "schema": "drgn-unaccepted/1",
        "command": "check",
        "target": {
            "kind": "live",
            "path": None,
            "release": "6.12.117",
            "build_id": "dfe6ef2966087fd8748d4524039f33705b1c62d5",
            "debug_info": "btf",
            "taken_at": "2026-11-01T12:00:00.250+00:00",
        },
        "table": {
            "state": "present",
            "reason": None,
            "address": 0x7D624018,
            "version": 1,
            "unit_size": 2 << 20,
            "phys_base": 4 << 30,
            "bitmap_bytes": 0xFDC,
            "read_through": "bpf",
        },
        "source": "bitmap",
        "exact": True,
        "source_reason": None,
        "covered_bytes": 0xFDC * 8 << 21,
        "unaccepted_bytes": 12 << 30,
        "nr_unaccepted_bytes": 12 << 30,
        "torn": [],
        "platform": {"kind": "tdx", "cc_vendor": "INTEL", "lazy": True},
        "status": "ok",
        "findings": [],
    }
    return {**document, **changes}


def finding(rule: str, status: str, message: str = "words") -> dict[str, Any]:
    return {"rule": rule, "status": status, "message": message, "ranges": [], "needs": []}


def json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
