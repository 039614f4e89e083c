# SPDX-License-Identifier: LGPL-2.1-or-later
"""The table that a crash kernel saved beside a dump: exact if it is of that crash, and otherwise not used."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from drgn_unaccepted.commands import keep as command
from drgn_unaccepted.errors import CommandError, TargetError
from drgn_unaccepted.files import TABLE
from drgn_unaccepted.kernel import crash
from drgn_unaccepted.kernel import table as table_reader
from drgn_unaccepted.kernel.capture import capture
from drgn_unaccepted.kernel.target import open_vmcore
from drgn_unaccepted.model.bitmap import from_runs
from drgn_unaccepted.snapshot import CRASH_KERNEL, Snapshot, Wanted
from drgn_unaccepted.snapshot_file import read, write
from tests.asking import SAMPLES, ask, units
from tests.fleet.tools import give_away

BOOT = "11111111-2222-4333-8444-555555555555"


@pytest.fixture(params=["6.12", "7.3"])
def dump(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A kdump without a table, of a boot that is known."""
    monkeypatch.setattr(table_reader, "boot_id", lambda prog: BOOT)
    return Path(shutil.copytree(SAMPLES / f"{request.param}-fill-kdump", tmp_path / "crash")) / "vmcore"


def known(dump: Path) -> Any:
    return json.loads((dump.parent / "truth.json").read_text())


def saved(dump: Path) -> Snapshot:
    """What the crash kernel saves, with the bits that the guest itself reported."""
    snapshot, account = capture(open_vmcore(str(dump)), Wanted(frozenset())), known(dump)
    bitmap = from_runs([(unit - 2048, unit - 2047) for unit in sorted(account["unaccepted_units"])], 56)
    found = table_reader.Table("present", None, account["table_address"], 1, 2 << 20, 1 << 32, 56, bitmap, CRASH_KERNEL)
    return dataclasses.replace(snapshot, table=found)


def test_the_table_of_this_crash_is_found_and_exact(dump: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(saved(dump), f"{dump}{TABLE}")
    _, answer, said = ask(capsys, "-c", dump, "ranges")
    assert (answer["source"], answer["exact"], answer["table"]["read_through"]) == ("bitmap", True, CRASH_KERNEL)
    assert (units(answer), said) == (set(known(dump)["unaccepted_units"]), "")


def other(snapshot: Snapshot, part: str, **fields: Any) -> Snapshot:
    return dataclasses.replace(snapshot, **{part: dataclasses.replace(getattr(snapshot, part), **fields)})


OTHERS: dict[str, dict[str, Any]] = {
    "boot": {"part": "target", "boot_id": BOOT.replace("1", "2")},
    "no boot": {"part": "target", "boot_id": None},
    "crash": {"part": "target", "crashed_at": "2026-11-22T16:00:00+00:00"},
    "no crash": {"part": "target", "crashed_at": None},
    "table": {"part": "table", "address": 527904792 - 4096},
}


@pytest.mark.parametrize("which", [*OTHERS, "owner", "mode", "link", "damaged", "pipe"])
def test_another_one_is_not_used_and_the_reason_is_said(
    which: str, dump: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(f"{dump}{TABLE}")
    _, before, _ = ask(capsys, "-c", dump, "ranges")
    table = saved(dump)
    assert table.table.bitmap is not None
    # A planted table that says "all accepted".
    table = other(table, "table", bitmap=bytes(len(table.table.bitmap)))
    write(other(table, **OTHERS[which]) if which in OTHERS else table, str(path))
    if which == "owner":
        give_away(path, monkeypatch)
    elif which == "mode":
        path.chmod(0o666)
    elif which == "link":
        path.symlink_to(path.rename(dump.parent / "elsewhere"))
    elif which == "damaged":
        path.write_bytes(path.read_bytes()[:-20])
    elif which == "pipe":
        path.unlink()
        os.mkfifo(path)
    _, answer, said = ask(capsys, "-c", dump, "ranges")
    assert {**answer, "target": None} == {**before, "target": None}
    assert said.startswith(f"drgn-unaccepted: warning: {path}: ") and said.count("\n") == 1
    assert which not in OTHERS or f"of another {which.split()[-1]}, " in said


def test_it_counts_for_nothing_against_proof(dump: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Zeros under listed chunks, which no crash kernel ever saved: nothing unaccepted is called accepted."""
    table = saved(dump)
    assert table.table.bitmap is not None
    write(other(table, "table", bitmap=bytes(len(table.table.bitmap))), f"{dump}{TABLE}")
    _, answer, _ = ask(capsys, "-c", dump, "ranges")
    for one in answer["ranges"]:
        if one["state"] in ("accepted", "no-ram"):
            assert not [unit for unit in known(dump)["unaccepted_units"] if one["start"] <= unit << 21 < one["end"]]
    assert answer["source"] != "bitmap"


def test_what_the_crash_kernel_saves(dump: Path, tmp_path: Path) -> None:
    """Its own table, which lies where the crashed kernel's does, and whose crash it was."""
    at_crash = saved(dump)
    running: Any = SimpleNamespace(name="the running kernel")
    crashed = open_vmcore(str(dump))
    seen = [at_crash]

    def look(opened: Any, wanted: Wanted) -> Snapshot:
        return seen[0] if opened is running else capture(crashed, wanted)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(crash, "capture", look)
        write(crash.capture_at_crash(running, crashed), str(tmp_path / "table"))
        assert read(str(tmp_path / "table")).table == at_crash.table
        for seen[0], reason in (
            (other(at_crash, "table", address=0x1000), "the crashed kernel's table is not that at 0x1000"),
            (other(at_crash, "table", bitmap=None, state="not-captured", reason="no CAP_BPF"), "no CAP_BPF"),
        ):
            with pytest.raises(TargetError, match=reason):
                crash.capture_at_crash(running, crashed)


@pytest.mark.parametrize("words", ["--crash-kernel", "-o x", "--crash-kernel -o x"])
def test_only_a_crash_kernel_keeps_so(words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "DUMP", str(tmp_path / "vmcore"))
    args: Any = SimpleNamespace(crash_kernel="--crash" in words, output="x" if "-o" in words else None)
    with pytest.raises(CommandError, match=r"go together|no crash kernel"):
        command.COMMAND.run(args, lambda: SimpleNamespace(is_this_kernel=True))
