# SPDX-License-Identifier: LGPL-2.1-or-later
"""Answer every question live, then have the host dump this guest as it stands.

All that was read stands in /share/live.json; /share/before.json and after.json are snapshots from before and after the
dump, /share/kept what the flight recorder wrote.
"""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

from drgn_unaccepted.cli import main
from drgn_unaccepted.kernel.capture import capture
from drgn_unaccepted.snapshot import ALL_MEMORY, ALL_PARTS, Wanted
from drgn_unaccepted.snapshot_file import write
from drgn_unaccepted.targets.live import open_kernel
from tests.lab.in_guest.guest import SHARE, dump, nr_unaccepted

ADDRESSES = "0x100000000-0x140000000"


def ask(*argv: str) -> Any:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        status = main([*argv, "--format", "json"])
    return {"status": status, "answer": json.loads(out.getvalue())}


def answers() -> dict[str, Any]:
    found = {command: ask(command) for command in ("summary", "header", "ranges", "zones", "e820", "efi", "check")}
    found["resolve"] = ask("resolve", ADDRESSES)
    found["page-lists"] = ask("ranges", "--source", "page-lists")
    return found


main_answers = answers()
assert main(["keep", "--directory", str(SHARE / "kept")]) == 0
opened = open_kernel()
wanted = Wanted(ALL_PARTS, ALL_MEMORY)
write(capture(opened, wanted), str(SHARE / "before.json"))
nr_before = nr_unaccepted()
dump("now")
write(capture(opened, wanted), str(SHARE / "after.json"))
(SHARE / "live.json").write_text(
    json.dumps(
        {
            "answers": main_answers,
            "nr_unaccepted": [nr_before, nr_unaccepted()],
            "boot_id": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        }
    )
)
