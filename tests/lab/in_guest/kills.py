# SPDX-License-Identifier: LGPL-2.1-or-later
"""Kill the program at random moments, and look for what it leaves: BPF objects, files, complaints of the kernel."""

from __future__ import annotations

import errno
import json
import random
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from drgn_unaccepted.kernel import bpf
from tests.lab.in_guest.guest import SHARE

# BPF_PROG_GET_NEXT_ID and BPF_MAP_GET_NEXT_ID of include/uapi/linux/bpf.h
NEXT = {"programs": 11, "maps": 12}


def objects(kind: str) -> Iterator[int]:
    number = 0
    while True:
        attributes = bytearray(struct.pack("=III", number, 0, 0))
        try:
            bpf._bpf(NEXT[kind], attributes)
        except OSError as error:
            assert error.errno == errno.ENOENT
            return
        number = struct.unpack_from("=I", attributes, 4)[0]
        yield number


def main(times: int) -> None:
    chance = random.Random(3)
    before = {kind: list(objects(kind)) for kind in NEXT}
    directory = Path("/run/kills")
    directory.mkdir()
    seen = 0
    # A machine that is busy takes ten times as long, and the looking below as much again; what is killed before it
    # begins leaves nothing in any case.
    start = time.monotonic()
    subprocess.run([sys.executable, "-B", "-m", "drgn_unaccepted", "summary"], stdout=subprocess.DEVNULL, check=True)
    whole = time.monotonic() - start
    commands = (
        ["record", "-o", str(directory / "recording"), "--interval", "0"],
        ["watch", "--interval", "0"],
        ["keep", "--directory", str(directory / "kept")],
        ["summary"],
        ["check"],
    )
    for number in range(times):
        (directory / "recording").unlink(missing_ok=True)
        command = [sys.executable, "-B", "-m", "drgn_unaccepted", *commands[number % len(commands)]]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            end = time.monotonic() + chance.random() * 4 * whole
            while process.poll() is None and time.monotonic() < end:
                time.sleep(0.01)
                seen += any(set(objects(kind)) - set(before[kind]) for kind in NEXT)
            process.kill()
    deadline = time.monotonic() + 20
    while (after := {kind: list(objects(kind)) for kind in NEXT}) != before and time.monotonic() < deadline:
        time.sleep(0.1)
    files = sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())
    lines = subprocess.run(["dmesg"], capture_output=True, text=True, errors="replace", check=True).stdout.splitlines()
    complaints = [line for line in lines if any(word in line for word in ("WARNING:", "BUG:", "Oops", "panic"))]
    result = {"seen": seen, "before": before, "after": after, "files": files, "complaints": complaints}
    (SHARE / "kills.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(int(sys.argv[1]))
