# SPDX-License-Identifier: LGPL-2.1-or-later
"""A guest of the lab from its host, through QMP and through the file that is its RAM, against its dump."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from drgn_unaccepted.cli import main
from scripts.guest import kernel
from scripts.guest.capture import _wait_until_ready, boot
from scripts.guest.scenarios import SCENARIOS
from tests.lab.captures import LAB

pytestmark = pytest.mark.lab

if shutil.which("qemu-system-x86_64") is None or not list(LAB.glob("kernels/6.12-*/bzImage")):
    pytest.skip("no QEMU or no lab kernel 6.12: scripts/lab setup", allow_module_level=True)


def ranges(capsys: pytest.CaptureFixture[str], *source: str) -> dict[str, Any]:
    assert main([*source, "--format", "json", "ranges"]) == 0
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def test_a_guest_from_its_host(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    ram, socket, dump = tmp_path / "ram", tmp_path / "qmp", tmp_path / "dump.elf"
    work = tmp_path / "share"
    work.mkdir()
    extra = ["-object", f"memory-backend-file,id=ram,size=1536M,share=on,mem-path={ram}"]
    extra += ["-machine", "memory-backend=ram", "-qmp", f"unix:{socket},server=on,wait=off"]
    scenario = SCENARIOS["fill"]
    with boot(kernel.get("6.12"), scenario, work, extra) as guest:
        _wait_until_ready(guest, scenario)
        running = ranges(capsys, "--qemu", str(socket))
        guest.stop()
        guest.dump(dump)
        told = ranges(capsys, "-c", str(dump))
        raw = ranges(capsys, "--raw", f"{ram}@0x0+512M", "--raw", f"{ram}@0x100000000")
    assert (running["target"]["kind"], running["source"], running["exact"]) == ("remote", "bitmap", True)
    assert raw["ranges"] == told["ranges"]
    # It accepts nothing any more when it is ready.
    assert running["ranges"] == told["ranges"]
