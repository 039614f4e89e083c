# SPDX-License-Identifier: LGPL-2.1-or-later
"""A table saved earlier is of one boot. Its address does not tell which: firmware uses the same place each time.

One that a crash kernel saved beside a dump is exact if it is of that crash, and otherwise not used.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import uuid
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Optional

import drgn
import pytest

from drgn_unaccepted.answer.best_source import judge
from drgn_unaccepted.cli import main
from drgn_unaccepted.commands import keep as command
from drgn_unaccepted.errors import CommandError, TargetError
from drgn_unaccepted.files import TABLE
from drgn_unaccepted.kernel import crash_kernel
from drgn_unaccepted.kernel import table as table_reader
from drgn_unaccepted.kernel.capture import capture
from drgn_unaccepted.kernel.table import SavedTable, locate_table, saved_table_from_snapshot
from drgn_unaccepted.model.bitmap import from_runs
from drgn_unaccepted.run import look
from drgn_unaccepted.snapshot import ALL_MEMORY, ALL_PARTS, CRASH_KERNEL, Snapshot, Table, Wanted
from drgn_unaccepted.snapshot_file import read, write
from drgn_unaccepted.targets.errors import Unavailable
from drgn_unaccepted.targets.opened import Opened
from drgn_unaccepted.targets.vmcore import open_vmcore
from tests.asking import SAMPLES, Capsys, ask, truth, units
from tests.fleet.tools import give_away
from tests.kernel.allocator_program import AllocatorProgram

THIS_BOOT, OTHER_BOOT = "11111111-2222-4333-8444-555555555555", "99999999-2222-4333-8444-555555555555"


def put(opened: Opened, address: int, data: bytes, physical: bool = False) -> None:
    opened.prog.add_memory_segment(address, len(data), lambda a, n, o, p: data[o : o + n], physical)


def open_kdump(boot: Optional[str]) -> Opened:
    """The kdump of a guest in which somebody read /proc/sys/kernel/random/boot_id, or nobody did."""
    opened = open_vmcore(str(SAMPLES / "6.12-fill-kdump" / "vmcore"))
    put(opened, opened.prog.symbol("sysctl_bootid").address, bytes(16) if boot is None else uuid.UUID(boot).bytes)
    return opened


def saved(boot: Optional[str], name: str = "6.12-fill") -> SavedTable:
    """The table of the same guest, from its whole-RAM dump."""
    address = truth(name)["table_address"]
    prog = drgn.Program()
    prog.set_core_dump(str(SAMPLES / name / "vmcore"))
    size = int.from_bytes(prog.read(address + 16, 8, physical=True), "little")
    return SavedTable("kept", address, bytes(prog.read(address, 24 + size, physical=True)), boot)


def test_of_another_boot_it_is_refused_and_both_are_named() -> None:
    with pytest.raises(TargetError, match=f"another boot, {OTHER_BOOT}.*{THIS_BOOT}"):
        capture(open_kdump(THIS_BOOT), Wanted(frozenset()), saved(OTHER_BOOT))


@pytest.mark.parametrize(
    ("now", "then", "words"),
    [
        (THIS_BOOT, THIS_BOOT, f"^saved in this boot, {THIS_BOOT}$"),
        *((now, then, "not known") for now, then in ((None, OTHER_BOOT), (THIS_BOOT, None), (None, None))),
    ],
)
def test_the_reason_says_whether_it_is_of_this_boot(now: Optional[str], then: Optional[str], words: str) -> None:
    snapshot = capture(open_kdump(now), Wanted(frozenset()), saved(then))
    assert (snapshot.table.state, snapshot.target.boot_id) == ("present", now)
    assert re.search(words, snapshot.table.reason or "")


@pytest.mark.parametrize(("boot", "known"), [(None, False), (THIS_BOOT, True)])
def test_a_snapshot_with_a_saved_table_does_not_prove_the_boot(boot: Optional[str], known: bool) -> None:
    """Bytes of an unknown boot, given to a target that knows its own: the snapshot's boot is not the table's."""
    laundered = capture(open_kdump(THIS_BOOT), Wanted(frozenset()), saved(boot))
    again = saved_table_from_snapshot("laundered", laundered)
    assert again.boot_id == (THIS_BOOT if known else None)
    table = capture(open_kdump(THIS_BOOT), Wanted(frozenset()), again).table
    assert table.same_boot is known
    assert ("not known" in (table.reason or "")) is not known


def test_a_table_that_was_not_believed_is_not_taken_up_again(tmp_path: Path, capsys: Capsys) -> None:
    opened = open_vmcore(str(SAMPLES / "6.12-fill" / "vmcore"))
    table = capture(opened, Wanted(frozenset())).table
    assert table.address is not None and table.bitmap_bytes is not None
    put(opened, table.address + 24, bytes(table.bitmap_bytes), physical=True)
    write(capture(opened, Wanted(ALL_PARTS, ALL_MEMORY)), str(tmp_path / "doubted"))
    kdump = str(SAMPLES / "6.12-fill-kdump" / "vmcore")
    assert main(["-c", kdump, "--table", str(tmp_path / "doubted")]) == 3
    assert re.search(r"doubted: its table is not to be believed: .* on zone->unaccepted_pages", capsys.readouterr().err)


def test_a_doubted_bitmap_is_gone_before_it_is_read_again() -> None:
    """One for 4 PiB has 256 MiB."""
    opened = open_vmcore(str(SAMPLES / "6.12-fill" / "vmcore"))
    table = capture(opened, Wanted(frozenset())).table
    assert table.address is not None and table.bitmap_bytes is not None
    put(opened, table.address + 24, bytes(table.bitmap_bytes), physical=True)
    taken: list[weakref.ref[Snapshot]] = []

    def sample(wanted: Wanted) -> Snapshot:
        assert [each() for each in taken] == [None] * len(taken)
        snapshot = capture(opened, wanted)
        taken.append(weakref.ref(snapshot))
        return snapshot

    look(lambda wanted: (sample(wanted) for _ in range(1)), Wanted(ALL_PARTS, ALL_MEMORY))
    assert len(taken) == 2


@pytest.mark.parametrize("name", ["6.12-fill", "7.3-fill"])
@pytest.mark.parametrize("bits", [0xFF, 0x11])
def test_a_table_of_an_earlier_moment_gives_one_answer(
    name: str, bits: int, tmp_path: Path, capsys: Capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More was unaccepted then; ``summary`` once said at most 592 MiB, ``ranges`` 548."""
    monkeypatch.setattr(table_reader, "boot_id", lambda prog: THIS_BOOT)
    whole = capture(open_vmcore(str(SAMPLES / name / "vmcore")), Wanted(frozenset()))
    assert whole.table.bitmap is not None
    earlier = dataclasses.replace(whole.table, bitmap=bytes(byte | bits for byte in whole.table.bitmap))
    write(dataclasses.replace(whole, table=earlier), str(tmp_path / "kept"))
    target = ("-c", SAMPLES / f"{name}-kdump" / "vmcore", "--table", tmp_path / "kept")
    found = {command: ask(capsys, *target, command)[1] for command in ("summary", "ranges", "check", "map")}
    keys = ("source", "exact", "unaccepted_bytes", "unaccepted_bytes_min", "unaccepted_bytes_max")
    assert len({tuple(answer[key] for key in keys) for answer in found.values()}) == 1
    size = {"unaccepted": 0, "unknown": 0, "accepted": 0}
    for each in found["ranges"]["ranges"]:
        size[each["state"]] += each["end"] - each["start"]
    least, most = (found["summary"][f"unaccepted_bytes_{end}"] for end in ("min", "max"))
    assert (least, most) == (size["unaccepted"], size["unaccepted"] + size["unknown"])
    assert least <= len(truth(f"{name}-kdump")["unaccepted_units"]) << 21 <= most


@pytest.mark.parametrize("name", ["6.12-fill", "7.3-fill"])
@pytest.mark.parametrize("with_map", [True, False])
def test_a_table_of_this_boot_that_lost_its_bits_accepts_nothing(name: str, with_map: bool) -> None:
    """No unit that its guest calls unaccepted is accepted, whatever the saved bytes say."""
    snapshot = capture(open_vmcore(str(SAMPLES / f"{name}-kdump" / "vmcore")), Wanted(ALL_PARTS, ALL_MEMORY))
    if not with_map:
        snapshot = dataclasses.replace(snapshot, efi_map=None, missing={**snapshot.missing, "efi_map": "no"})
    whole = capture(open_vmcore(str(SAMPLES / name / "vmcore")), Wanted(frozenset())).table
    units = truth(f"{name}-kdump")["unaccepted_units"]
    assert whole.bitmap is not None
    halves = (bytes(byte & mask for byte in whole.bitmap) for mask in (0x33, 0x55))
    for bitmap in (bytes(len(whole.bitmap)), *halves, whole.bitmap[:-4] + bytes(4)):
        table = dataclasses.replace(whole, bitmap=bitmap, read_through="file", same_boot=True, reason="saved")
        judgement = judge(dataclasses.replace(snapshot, table=table))
        assert not [unit for unit in units if judgement.at(unit * (2 << 20)).state == "accepted"]


def with_efi_unaccepted(value: int) -> Opened:
    opened = open_kdump(None)
    address = opened.prog["efi"].unaccepted.address_
    assert address is not None
    put(opened, address, value.to_bytes(8, "little"))
    return opened


def test_a_kernel_without_a_table_is_given_none() -> None:
    with pytest.raises(TargetError, match="kept: this target has no such table: efi"):
        capture(with_efi_unaccepted((1 << 64) - 1), Wanted(frozenset()), saved(None))


def test_where_the_address_cannot_be_compared_it_says_so() -> None:
    table = capture(with_efi_unaccepted(0), Wanted(frozenset()), saved(None)).table
    assert (table.state, table.same_boot) == ("present", False)
    assert table.reason is not None
    assert "nor is it known that its address is that of this target: efi.unaccepted reads as 0" in table.reason


@pytest.mark.parametrize("data", [b"# A text, and no table\n" * 9, b"", bytes(100)])
def test_a_file_that_is_no_table_is_refused(data: bytes) -> None:
    with pytest.raises(TargetError, match=r"^kept: no table in it: "):
        capture(open_kdump(None), Wanted(frozenset()), saved(None)._replace(data=data))


@pytest.mark.parametrize("shown_by", ["zone->unaccepted_pages", "accept_memory()", None])
def test_a_member_that_types_lack_is_named_and_proves_nothing_alone(shown_by: Optional[str]) -> None:
    """BTF may lack it, or be another kernel's: what else shows the feature tells."""
    guest = AllocatorProgram()
    guest.structs["efi"] = [("flags", "unsigned long")]
    guest.set_global("efi", "efi", bytes(8))
    if shown_by != "zone->unaccepted_pages":
        guest.structs["zone"] = [entry for entry in guest.structs["zone"] if entry[0] != "unaccepted_pages"]
    if shown_by == "accept_memory()":
        guest.symbols["accept_memory"] = 0xFFFFFFFF81000000
    lack = "struct efi has no member unaccepted"
    if shown_by is None:
        assert locate_table(guest.prog) == Table("absent", lack)
        return
    with pytest.raises(Unavailable, match=re.escape(f"{lack}, but the kernel has {shown_by}")):
        locate_table(guest.prog)


# Of a crash kernel


@pytest.fixture(params=["6.12", "7.3"])
def dump(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A kdump without a table, of a boot that is known."""
    monkeypatch.setattr(table_reader, "boot_id", lambda prog: THIS_BOOT)
    return Path(shutil.copytree(SAMPLES / f"{request.param}-fill-kdump", tmp_path / "crash")) / "vmcore"


def known(dump: Path) -> Any:
    return json.loads((dump.parent / "truth.json").read_text())


def at_crash(dump: Path) -> Snapshot:
    """What the crash kernel saves, with the bits that the guest itself reported."""
    snapshot, account = capture(open_vmcore(str(dump)), Wanted(frozenset())), known(dump)
    bitmap = from_runs([(unit - 2048, unit - 2047) for unit in sorted(account["unaccepted_units"])], 56)
    found = Table("present", None, account["table_address"], 1, 2 << 20, 1 << 32, 56, bitmap, CRASH_KERNEL)
    return dataclasses.replace(snapshot, table=found)


def test_the_table_of_this_crash_is_found_and_exact(dump: Path, capsys: Capsys) -> None:
    write(at_crash(dump), f"{dump}{TABLE}")
    _, answer, said = ask(capsys, "-c", dump, "ranges")
    assert (answer["source"], answer["exact"], answer["table"]["read_through"]) == ("bitmap", True, CRASH_KERNEL)
    assert (units(answer), said) == (set(known(dump)["unaccepted_units"]), "")


def other(snapshot: Snapshot, part: str, **fields: Any) -> Snapshot:
    return dataclasses.replace(snapshot, **{part: dataclasses.replace(getattr(snapshot, part), **fields)})


OTHERS: dict[str, dict[str, Any]] = {
    "boot": {"part": "target", "boot_id": THIS_BOOT.replace("1", "2")},
    "no boot": {"part": "target", "boot_id": None},
    "crash": {"part": "target", "crashed_at": "2026-11-22T16:00:00+00:00"},
    "no crash": {"part": "target", "crashed_at": None},
    "table": {"part": "table", "address": 527904792 - 4096},
}


@pytest.mark.parametrize("which", [*OTHERS, "owner", "mode", "link", "damaged", "pipe"])
def test_another_one_is_not_used_and_the_reason_is_said(
    which: str, dump: Path, capsys: Capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(f"{dump}{TABLE}")
    _, before, _ = ask(capsys, "-c", dump, "ranges")
    table = at_crash(dump)
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


def test_it_counts_for_nothing_against_proof(dump: Path, capsys: Capsys) -> None:
    """Zeros under listed chunks, which no crash kernel ever saved: nothing unaccepted is called accepted."""
    table = at_crash(dump)
    assert table.table.bitmap is not None
    write(other(table, "table", bitmap=bytes(len(table.table.bitmap))), f"{dump}{TABLE}")
    _, answer, _ = ask(capsys, "-c", dump, "ranges")
    for one in answer["ranges"]:
        if one["state"] in ("accepted", "no-ram"):
            assert not [unit for unit in known(dump)["unaccepted_units"] if one["start"] <= unit << 21 < one["end"]]
    assert answer["source"] != "bitmap"


def test_what_the_crash_kernel_saves(dump: Path, tmp_path: Path) -> None:
    """Its own table, which lies where the crashed kernel's does, and whose crash it was."""
    whole = at_crash(dump)
    running: Any = SimpleNamespace(name="the running kernel")
    crashed = open_vmcore(str(dump))
    seen = [whole]

    def look(opened: Any, wanted: Wanted) -> Snapshot:
        return seen[0] if opened is running else capture(crashed, wanted)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(crash_kernel, "capture", look)
        write(crash_kernel.capture_at_crash(running, crashed), str(tmp_path / "table"))
        assert read(str(tmp_path / "table")).table == whole.table
        for seen[0], reason in (
            (other(whole, "table", address=0x1000), "the crashed kernel's table is not that at 0x1000"),
            (other(whole, "table", bitmap=None, state="not-captured", reason="no CAP_BPF"), "no CAP_BPF"),
        ):
            with pytest.raises(TargetError, match=reason):
                crash_kernel.capture_at_crash(running, crashed)


@pytest.mark.parametrize("words", ["--crash-kernel", "-o x", "--crash-kernel -o x"])
def test_only_a_crash_kernel_keeps_so(words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "DUMP", str(tmp_path / "vmcore"))
    args: Any = SimpleNamespace(crash_kernel="--crash" in words, output="x" if "-o" in words else None)
    with pytest.raises(CommandError, match=r"go together|no crash kernel"):
        command.COMMAND.run(args, lambda: SimpleNamespace(is_this_kernel=True))
