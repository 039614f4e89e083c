# SPDX-License-Identifier: LGPL-2.1-or-later
"""Guests of the lab from their host, and their crash kernels: the answers are those of all RAM at that moment."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from pathlib import Path

import pytest

from scripts.guest import capture, kernel, live
from scripts.guest.scenarios import READY, SCENARIOS
from tests.fleet.tools import INTEGRATIONS
from tests.lab.asking import ask, on


@pytest.mark.parametrize("series", [on("6.12")])
def test_a_guest_from_its_host(series: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Through QMP, and through the file that is its RAM."""
    ram, socket, dump, work = (tmp_path / name for name in ("ram", "qmp", "dump.elf", "share"))
    work.mkdir()
    extra = ["-object", f"memory-backend-file,id=ram,size=1536M,share=on,mem-path={ram}"]
    extra += ["-machine", "memory-backend=ram", "-qmp", f"unix:{socket},server=on,wait=off"]
    scenario = SCENARIOS["fill"]
    with capture.boot(kernel.get(series), scenario, work, extra) as guest:
        guest.wait_for_words(READY, scenario.seconds)
        _, running, _ = ask(capsys, "--qemu", socket, "ranges")
        guest.stop()
        guest.dump(dump)
        _, told, _ = ask(capsys, "-c", dump, "ranges")
        _, raw, _ = ask(capsys, "--raw", f"{ram}@0x0+512M", "--raw", f"{ram}@0x100000000", "ranges")
    assert (running["target"]["kind"], running["source"], running["exact"]) == ("remote", "bitmap", True)
    # It accepts nothing any more when it is ready.
    assert running["ranges"] == raw["ranges"] == told["ranges"]


@pytest.mark.parametrize("series", [on("6.12"), on("7.3")])
def test_the_hook_in_the_crash_kernel(series: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A guest crashes, and its crash kernel of 256 MiB runs the hook before makedumpfile."""
    settings = ["UNACCEPTED_RUN=/share", "UNACCEPTED_TRIES=0", "PYTHONDONTWRITEBYTECODE=1", f"PYTHONPATH={Path.cwd()}"]
    settings += [f"UNACCEPTED_COMMAND={sys.executable} -m drgn_unaccepted"]
    words = ["env", *settings, str(INTEGRATIONS / "kdump" / "unaccepted-table"), "/none"]
    (tmp_path / "crash-kernel").write_text(f"cd /share\n{shlex.join(words)}\necho status $?\n")
    fill = SCENARIOS["fill"]
    # With KASLR the kernel may lie where no 256 MiB below 4 GiB are left.
    scenario = dataclasses.replace(fill, kdump=("z",), options=(*fill.options, "crashkernel=256M", "nokaslr"))
    with capture.boot(kernel.get(series), scenario, tmp_path, ["-virtfs", live.HOST]) as guest:
        guest.wait_for_words(READY, scenario.seconds)
        guest.stop()
        guest.dump(tmp_path / "dump.elf")
        capture.kdump(guest, scenario, tmp_path)
    capture.tidy(tmp_path)
    said = (tmp_path / "crash-kernel.out").read_text()
    assert said.endswith("status 0\n") and " in the crash kernel's own memory, 0x" in said, said
    assert ask(capsys, "-c", tmp_path / "kdump.z", "ranges")[1]["source"] != "bitmap"
    (tmp_path / "vmcore.unaccepted-table").rename(tmp_path / "kdump.z.unaccepted-table")
    ram, kdump = (ask(capsys, "-c", tmp_path / name, "ranges")[1] for name in ("dump.elf", "kdump.z"))
    assert (kdump["source"], kdump["exact"], kdump["table"]["read_through"]) == ("bitmap", True, "crash-kernel")
    assert kdump["ranges"] == ram["ranges"] and kdump["unaccepted_bytes"] > 0
