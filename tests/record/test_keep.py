# SPDX-License-Identifier: LGPL-2.1-or-later
"""The flight recorder: what is kept, what is deleted, what a kill leaves."""

from __future__ import annotations

import argparse
import os
import random
import struct
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from drgn import ProgramFlags

from drgn_unaccepted.commands import keep as command
from drgn_unaccepted.errors import CommandError
from drgn_unaccepted.kernel.target import Opened
from drgn_unaccepted.record import keep as flight
from drgn_unaccepted.snapshot import Table
from drgn_unaccepted.snapshot_file import load
from tests.checks.build import BASE, BITMAP, clean
from tests.samples_over_time import series

ROOT = Path(__file__).parents[2]

BOOT = "0f0e0d0c-0b0a-4908-8706-050403020100"


def test_what_is_kept_is_the_table_as_it_lies_in_memory(tmp_path: Path) -> None:
    kept = flight.keep(clean(), BOOT, str(tmp_path))
    table = tmp_path / BOOT / "table-0x7fb73018.bin"
    assert kept.table == str(table)
    assert kept.option == str(tmp_path / BOOT / "snapshot.json")
    # u32 version, u32 unit_size, u64 phys_base, u64 size, bitmap
    assert table.read_bytes() == struct.pack("<IIQQ", 1, 2 << 20, BASE, 4) + BITMAP
    assert load((tmp_path / BOOT / "snapshot.json").read_text()) == clean()
    assert sorted(path.name for path in (tmp_path / BOOT).iterdir()) == ["snapshot.json", "table-0x7fb73018.bin"]
    assert [path.stat().st_mode & 0o777 for path in (tmp_path / BOOT).iterdir()] == [0o600, 0o600]


def test_an_older_table_stays_where_no_newer_one_can_be_read(tmp_path: Path) -> None:
    flight.keep(clean(), BOOT, str(tmp_path))
    before = (tmp_path / BOOT / "table-0x7fb73018.bin").read_bytes()
    without = replace(clean(), table=replace(clean().table, state="not-captured", reason="no BPF", bitmap=None))
    kept = flight.keep(without, BOOT, str(tmp_path))
    assert kept.table is None
    assert kept.option is not None and kept.option.endswith("table-0x7fb73018.bin@0x7fb73018")
    assert (tmp_path / BOOT / "table-0x7fb73018.bin").read_bytes() == before
    assert load((tmp_path / BOOT / "snapshot.json").read_text()) == without
    assert flight.keep(without, BOOT.replace("0f", "1f"), str(tmp_path)).option is None


def test_the_last_boots_are_kept_and_nothing_else_is_touched(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "snapshot.json").write_text("mine")
    boots = [f"{number:08x}-0000-4000-8000-000000000000" for number in range(6)]
    for number, boot in enumerate(boots):
        flight.keep(clean(), boot, str(tmp_path))
        os.utime(tmp_path / boot / "snapshot.json", (number, number))
    (tmp_path / boots[5] / ".table-0x1.bin.0a1b2c3d").write_text("half")
    flight.keep(clean(), BOOT, str(tmp_path), boots=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([boots[5], BOOT, "notes"])
    assert (tmp_path / "notes" / "snapshot.json").read_text() == "mine"
    (tmp_path / boots[5] / "theirs").write_text("x")
    flight.keep(clean(), BOOT, str(tmp_path), boots=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([boots[5], BOOT, "notes"])
    assert [path.name for path in (tmp_path / boots[5]).iterdir()] == ["theirs"], "a file that is not ours stays"


KEEP = """
import sys
from drgn_unaccepted.record.keep import keep
from tests.samples_over_time import series
taken = series(20)
keep(taken[0], sys.argv[2], sys.argv[1])
print("ready", flush=True)
while True:
    for snapshot in taken:
        keep(snapshot, sys.argv[2], sys.argv[1])
"""


def test_a_kill_leaves_whole_files_and_the_next_run_deletes_the_rest(tmp_path: Path) -> None:
    chance = random.Random(7)
    possible = {struct.pack("<IIQQ", 1, 2 << 20, BASE, 4) + (each.table.bitmap or b"") for each in series(20)}
    place = tmp_path / BOOT
    for _ in range(5):
        with subprocess.Popen(
            [sys.executable, "-c", KEEP, str(tmp_path), BOOT], stdout=subprocess.PIPE, text=True, cwd=ROOT
        ) as process:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
            time.sleep(chance.random() / 10)
            process.kill()
        names = {path.name for path in place.iterdir()}
        assert {name for name in names if not name.startswith(".")} == {"snapshot.json", "table-0x7fb73018.bin"}
        assert len(names) <= 3
        assert (place / "table-0x7fb73018.bin").read_bytes() in possible
        assert load((place / "snapshot.json").read_text()).table.address == 0x7FB73018
    (place / "table-0x7fb73018.bin.new").write_text("half of a file of an earlier version")
    flight.keep(clean(), BOOT, str(tmp_path))
    assert {path.name for path in place.iterdir()} == {"snapshot.json", "table-0x7fb73018.bin"}


def test_two_runs_at_once_do_not_meet(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    command = [sys.executable, "-c", KEEP.replace("while True:", "for _ in range(1):"), str(tmp_path), BOOT]
    both = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=ROOT) for _ in range(3)]
    for process in both:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert {path.name for path in (tmp_path / BOOT).iterdir()} == {"snapshot.json", "table-0x7fb73018.bin"}


def test_the_boot_id_is_the_kernels(tmp_path: Path) -> None:
    (tmp_path / "boot_id").write_text(f"{BOOT}\n")
    assert flight.boot_id(str(tmp_path / "boot_id")) == BOOT
    for text in ("", "../../etc", BOOT + "/..", BOOT.upper()):
        (tmp_path / "boot_id").write_text(text)
        with pytest.raises(OSError, match="not a boot id"):
            flight.boot_id(str(tmp_path / "boot_id"))


#: This machine's running kernel, as far as keep asks.
_LIVE_PROGRAM: Any = SimpleNamespace(flags=ProgramFlags.IS_LIVE | ProgramFlags.IS_LOCAL)
RUNNING = Opened(_LIVE_PROGRAM, "live", None, "btf", None)


@pytest.mark.parametrize("flags", (ProgramFlags(0), ProgramFlags.IS_LIVE), ids=("a dump", "another machine's"))
def test_only_this_machines_kernel_is_kept(
    flags: ProgramFlags, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is filed under the boot of this machine is of this boot; nothing that was kept is touched."""
    monkeypatch.setattr(command, "boot_id", lambda: BOOT)
    flight.keep(clean(), BOOT, str(tmp_path))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    prog: Any = SimpleNamespace(flags=flags)
    opened = replace(RUNNING, prog=prog, path="vmcore")
    with pytest.raises(CommandError, match="vmcore is not its running kernel"):
        command.COMMAND.run(argparse.Namespace(directory=str(tmp_path), boots=3), lambda: opened)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before


def test_what_is_printed_of_what_was_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the table it says why, also where one that was read earlier in this boot is there still."""
    lost = replace(clean(), table=Table("not-captured", "bpf: needs CAP_BPF", clean().table.address))
    args = argparse.Namespace(directory=str(tmp_path), boots=3)
    monkeypatch.setattr(command, "boot_id", lambda: BOOT)
    said = []
    for snapshot in (lost, clean(), lost):
        monkeypatch.setattr(command, "capture", lambda *_, snapshot=snapshot: snapshot)
        assert command.COMMAND.run(args, lambda: RUNNING) == 0
        said.append(capsys.readouterr().out.splitlines()[1:])
    why = "without the table: not-captured: bpf: needs CAP_BPF"
    assert said[0] == [why]
    assert len(said[1]) == 1 and said[1][0].endswith("/snapshot.json")
    assert said[2][0] == why and said[2][1].endswith(f"@{clean().table.address:#x} (read earlier)")
