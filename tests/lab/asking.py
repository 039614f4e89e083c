# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run the program on the lab's captures, or modules in its guests."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.asking import ask as ask
from tests.lab.captures import LAB, Capture, all_captures

ROOT = Path(__file__).parents[2]

NEEDS_CAPTURES = [
    pytest.mark.lab,
    pytest.mark.skipif(not all_captures(), reason="no captures of the guest lab: make them with scripts/lab all"),
]


def needs_guests(series: str) -> list[pytest.MarkDecorator]:
    """Marks of a test whose guests have this kernel of the lab."""
    lacking = not list(LAB.glob(f"kernels/{series}-*/bzImage")) or shutil.which("qemu-system-x86_64") is None
    return [
        pytest.mark.lab,
        pytest.mark.skipif(lacking, reason=f"no QEMU or no lab kernel {series}: scripts/lab setup"),
    ]


def on(series: str, *values: object) -> Any:
    """Parameters of a test whose guest has this kernel of the lab."""
    return pytest.param(series, *values, marks=needs_guests(series))


def in_guest(
    share: Path, module: str, *options: object, arguments: Sequence[object] = (), python: str = sys.executable
) -> Path:
    """Run a module of tests.lab.in_guest in a guest by ``scripts/lab live``; returns its /share.

    :param options: scenario and options of ``scripts/lab live``, which limits how long it takes
    """
    share.mkdir(exist_ok=True)
    words = ["--share", share, "--", python, "-B", "-m", f"tests.lab.in_guest.{module}", *arguments]
    argv = [str(word) for word in (sys.executable, "scripts/lab", "live", *options, *words)]
    done = subprocess.run(
        argv, cwd=ROOT, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL, check=False
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-5000:]}"
    return share


def ids(capture: Capture) -> str:
    return capture.name
