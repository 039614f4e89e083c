# SPDX-License-Identifier: LGPL-2.1-or-later
"""Crash the guest of "fill" whose crash kernel (256 MiB) runs a command of this source tree before makedumpfile.

Arguments: the kernel's series, a directory for what comes of it, the command. The directory has dump.elf, all RAM just
before the crash, kdump.z, and crash-kernel.out, what the command printed.
"""

from __future__ import annotations

import dataclasses
import shlex
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from guest import capture, kernel, live  # noqa: E402
from guest.scenarios import READY, SCENARIOS  # noqa: E402


def main() -> None:
    series, work, words = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
    fill = SCENARIOS["fill"]
    scenario = dataclasses.replace(fill, kdump=("z",), options=(*fill.options, "crashkernel=256M"))
    (work / "crash-kernel").write_text(f"cd /share\n{shlex.join(words)}\necho status $?\n")
    with capture.boot(kernel.get(series), scenario, work, ["-virtfs", live.HOST]) as guest:
        guest.wait_for_words(READY, scenario.seconds)
        guest.stop()
        guest.dump(work / "dump.elf")
        capture.kdump(guest, scenario)
    capture.tidy(work)


main()
