# SPDX-License-Identifier: LGPL-2.1-or-later
"""A guest crashes, and its crash kernel runs the hook: kdump and table answer as all RAM just before the crash does."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from drgn_unaccepted.cli import main
from tests.fleet.tools import INTEGRATIONS
from tests.lab.captures import LAB

pytestmark = pytest.mark.lab

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("series", ["6.12", "7.3"])
def test_the_answer_is_exact(series: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if shutil.which("qemu-system-x86_64") is None or not list(LAB.glob(f"kernels/{series}-*/bzImage")):
        pytest.skip(f"no QEMU, or no lab kernel {series}: scripts/lab setup")
    hook = INTEGRATIONS / "kdump" / "unaccepted-table"
    settings = ["UNACCEPTED_RUN=/share", "UNACCEPTED_TRIES=0", "PYTHONDONTWRITEBYTECODE=1"]
    program = f"UNACCEPTED_COMMAND={sys.executable} -m drgn_unaccepted"
    argv = [sys.executable, "tests/lab/lab_crash_kernel.py", series, tmp_path, "env", *settings, program, hook, "/none"]
    done = subprocess.run(list(map(str, argv)), cwd=ROOT, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-3000:]
    said = (tmp_path / "crash-kernel.out").read_text()
    assert said.endswith("status 0\n") and " in the crash kernel's own memory, 0x" in said, said

    def ranges(dump: str) -> Any:
        assert main(["-c", str(tmp_path / dump), "ranges", "--format", "json"]) == 0
        return json.loads(capsys.readouterr().out)

    assert ranges("kdump.z")["source"] != "bitmap"
    (tmp_path / "vmcore.unaccepted-table").rename(tmp_path / "kdump.z.unaccepted-table")
    ram, kdump = ranges("dump.elf"), ranges("kdump.z")
    assert (kdump["source"], kdump["exact"], kdump["table"]["read_through"]) == ("bitmap", True, "crash-kernel")
    assert kdump["ranges"] == ram["ranges"] and kdump["unaccepted_bytes"] > 0
