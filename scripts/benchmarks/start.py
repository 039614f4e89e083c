# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whole programs: start to summary against a bare drgn, and merge against jq."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.measure import (
    LAB,
    RUNS,
    SAMPLE,
    TOP,
    Command,
    Missing,
    Row,
    as_seconds_and_peak,
    drgn,
    pairs,
    peak,
    program,
    row,
    run,
    seconds,
)


def versus(name: str, ours: Command, other: Command, time_wanted: float, memory_wanted: float, runs: int) -> list[Row]:
    both = pairs(lambda: run(ours), lambda: run(other), runs)
    return as_seconds_and_peak(name, both, time_wanted, memory_wanted)


def bare_drgn(dump: Path, *words: str) -> Command:
    return drgn(dump, "--no-default-symbols", *words, "-e", "print(1)")


def sample(runs: int = RUNS) -> list[Row]:
    """summary without debuginfo against a drgn that only opens the dump"""
    ours = program("-c", str(SAMPLE), "summary")
    return versus("summary of a sample / bare drgn", ours, bare_drgn(SAMPLE), 1.5, 2.0, runs)


def distribution(runs: int = RUNS) -> list[Row]:
    """summary with a distribution's BTF against drgn with that kernel's DWARF"""
    capture = LAB / "stock" / "debian" / "stock-idle"
    if not (capture / "scenario.json").exists():
        raise Missing("no capture of a distribution's kernel: scripts/lab run stock-idle --kernel debian")
    vmlinux = Path(json.loads((capture / "scenario.json").read_text())["kernel"]["vmlinux"])
    if not vmlinux.exists():
        raise Missing(f"{vmlinux} is gone: scripts/lab run stock-idle --kernel debian")
    dump = capture / "dump.elf"
    ours = program("-c", str(dump), "summary")
    with_dwarf = bare_drgn(dump, "-s", str(vmlinux))
    return [
        *versus("summary, Debian's kernel / bare drgn", ours, bare_drgn(dump), 2.0, 2.0, runs),
        *versus("summary, Debian's kernel / drgn with DWARF", ours, with_dwarf, 1.0, 0.34, runs),
    ]


def merge(runs: int = 3, count: int = 100_000) -> list[Row]:
    """merge of 100,000 records against jq, which only counts their statuses"""
    jq = shutil.which("jq")
    if jq is None:
        raise Missing("jq is not here: apt-get install jq")
    scan = [sys.executable, "-m", "drgn_unaccepted", "scan", "--quiet", str(SAMPLE)]
    lines = subprocess.run(scan, capture_output=True, text=True, check=True, cwd=TOP).stdout.splitlines()
    one = json.loads(lines[-1])
    with TemporaryDirectory(prefix="bench-merge-") as directory:
        path = Path(directory) / "all.jsonl"
        with path.open("w") as file:
            for number in range(count):
                file.write(json.dumps({**one, "id": f"{number:032x}", "host": f"guest-{number}"}) + "\n")
        other = Command((jq, "-n", "reduce inputs as $r ({}; .[$r.status] += 1)", str(path)))
        both = pairs(lambda: run(program("merge", str(path))), lambda: run(other), runs)
        # jq needs next to nothing, less than what can be told of a process that this one starts.
        peaks = [(peak(ours), path.stat().st_size) for ours, _ in both]
    return [
        row("merge of 100,000 records / jq that counts statuses: time", seconds(both), 1.0),
        row("merge of 100,000 records: peak memory / the file they are in", peaks, 1.0, "bytes"),
    ]
