# SPDX-License-Identifier: LGPL-2.1-or-later
"""RAM as it is, a QEMU guest, block devices, and kdumps that makedumpfile did not write whole: all of one guest."""

from __future__ import annotations

import gc
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from socket import AF_UNIX
from socket import socket as Connection
from typing import Any

import pytest

from drgn_unaccepted import limits
from drgn_unaccepted.cli import main
from drgn_unaccepted.errors import TargetError
from drgn_unaccepted.targets import live, privileges
from drgn_unaccepted.targets.ram_files import read_raw
from tests.asking import SAMPLES, UNIT, Capsys, ask, refused, truth, units
from tests.fleet.tools import tool
from tests.targets.elf_dump import PAGE, note, read_sample, runs, vmcoreinfo_note, with_own_text, write_elf

TRUTH = truth("6.12-fill")
HIGH = 4 << 30
#: RAM below 4 GiB, which QEMU puts before the rest into one file.
LOW_SIZE, RAM_SIZE = 512 << 20, 1536 << 20


@pytest.fixture(scope="module")
def ram(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The guest's RAM in a sparse file."""
    path = tmp_path_factory.mktemp("ram") / "ram"
    with path.open("wb") as file:
        file.truncate(RAM_SIZE)
        for number, data in with_own_text(read_sample("6.12-fill")).pages.items():
            at = number * PAGE
            file.seek(at if at < LOW_SIZE else at - HIGH + LOW_SIZE)
            file.write(data)
    return path


@pytest.fixture(scope="module")
def elf_dump(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sample = with_own_text(read_sample("6.12-fill"))
    notes = note(b"QEMU", 0, bytes(440)) + vmcoreinfo_note(sample.vmcoreinfo)
    return write_elf(tmp_path_factory.mktemp("elf") / "dump", runs(sample.pages), notes)


@pytest.fixture
def socket(ram: Path, tmp_path: Path) -> Iterator[Path]:
    """QMP of a guest with that RAM. It never runs, so that it stays as it was."""
    path = tmp_path / "qmp"
    machine = f"q35,max-ram-below-4g={LOW_SIZE},memory-backend=ram,accel=tcg"
    memory = f"memory-backend-file,id=ram,size={RAM_SIZE},share=on,mem-path={ram}"
    argv = [tool("qemu-system-x86_64"), "-S", "-nodefaults", "-display", "none", "-m", f"{RAM_SIZE >> 20}M"]
    argv += ["-machine", machine, "-object", memory, "-qmp", f"unix:{path},server=on,wait=off", "-daemonize"]
    argv += ["-pidfile", str(tmp_path / "pid")]
    subprocess.run(argv, check=True, stderr=subprocess.DEVNULL)
    yield path
    os.kill(int((tmp_path / "pid").read_text()), 15)


def assert_true(capsys: Capsys, *source: object) -> Any:
    """The answer is the guest's own account."""
    gc.collect()  # a program that is not gone yet keeps QMP busy
    status, document, _ = ask(capsys, *source, "ranges")
    assert (status, document["exact"], units(document)) == (0, True, set(TRUTH["unaccepted_units"]))
    return document


def assert_refused(capsys: Capsys, words: Sequence[str], *argv: object) -> None:
    gc.collect()
    err = refused(capsys, *argv)
    assert [word for word in words if word not in err] == [], err


def raw(ram: Path) -> list[object]:
    return ["--raw", f"{ram}@0x0+512M", "--raw", f"{ram}@0x100000000"]


def test_raw_memory(ram: Path, capsys: Capsys, tmp_path: Path) -> None:
    assert assert_true(capsys, *raw(ram))["target"]["kind"] == "vmcore"
    for words, names in (
        (["not LiME", "FILE@0xADDRESS"], [ram]),
        (["the same memory twice"], [f"{ram}@0x0+512M", f"{ram}@0x1000"]),
        (["the file has 0x60000000"], [f"{ram}@0x0+2G"]),
        (["decimal or hexadecimal"], [f"{ram}@1000"]),
        (["bytes of RAM"], [f"{ram}@0xffffffffff000"]),
        (["No such file"], [f"{tmp_path}/gone@0x0"]),
    ):
        assert_refused(capsys, words, *(word for name in names for word in ("--raw", name)))


def test_lime(capsys: Capsys, tmp_path: Path) -> None:
    """``struct lime_header``: magic, version, s_addr, e_addr (inclusive), 8 reserved bytes."""
    path, whole = tmp_path / "lime", b""
    for load in runs(with_own_text(read_sample("6.12-fill")).pages):
        last = load.paddr + len(load.data) - 1
        whole += struct.pack("<IIQQ8x", 0x4C694D45, 1, load.paddr, last) + load.data
    path.write_bytes(whole)
    for source in (("-c", path), ("--raw", path)):
        assert_true(capsys, *source)
    for data, words in ((whole[:-1], "cut short"), (whole + bytes(64), "damaged"), (whole[:24], "damaged")):
        path.write_bytes(data)
        assert_refused(capsys, ["LiME", words], "-c", path)
    path.write_bytes(b"")
    with pytest.raises(TargetError, match="not LiME"):
        read_raw([str(path)])


def test_a_qemu_guest(socket: Path, capsys: Capsys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PIPE_SECONDS", 1)
    source = ("--qemu", socket)
    with Connection(AF_UNIX) as other:
        other.connect(str(socket))
        assert_refused(capsys, ["QEMU serves one client at a time"], *source)
    monkeypatch.undo()
    assert_refused(capsys, ["-device vmcoreinfo", "--vmcoreinfo FILE"], *source)
    text = tmp_path / "text"
    text.write_bytes(read_sample("6.12-fill").vmcoreinfo)
    source = (*source, "--vmcoreinfo", text)
    document = assert_true(capsys, *source)
    assert (document["target"]["kind"], document["target"]["path"]) == ("remote", str(socket))
    assert_refused(capsys, ["not its running kernel"], *source, "keep", "--directory", tmp_path / "kept")
    assert not (tmp_path / "kept").exists()
    # Page tables that are in no sample read as zeros here: that maps nothing, and proves nothing.
    gc.collect()
    status, document, _ = ask(capsys, *source, "check")
    assert (status, document["status"]) == (0, "ok")
    gc.collect()
    assert main([*map(str, source), "watch", "--count", "2", "--interval", "0.01"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert_refused(capsys, [f"{tmp_path}/gone: No such file"], "--qemu", tmp_path / "gone")


@pytest.mark.parametrize("form", ["kdump", "ELF"])
def test_a_block_device(form: str, elf_dump: Path, capsys: Capsys, tmp_path: Path) -> None:
    path = tmp_path / "dump"
    shutil.copy(SAMPLES / "6.12-fill" / "vmcore" if form == "kdump" else elf_dump, path)
    os.truncate(path, -(-path.stat().st_size // 512) * 512)
    made = subprocess.run((tool("losetup"), "-r", "-f", "--show", path), capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no loop device: {made.stderr.strip()}")
    device = made.stdout.strip()
    try:
        assert_true(capsys, "-c", device)
    finally:
        subprocess.run(("losetup", "-d", device), check=True)


def test_a_part_of_a_split_dump(elf_dump: Path, capsys: Capsys, tmp_path: Path) -> None:
    parts = [tmp_path / "1", tmp_path / "2"]
    argv = (tool("makedumpfile"), "-c", "-d", "0", "--split", elf_dump, *parts)
    subprocess.run(argv, check=True, capture_output=True)
    for part in parts:
        _, _, err = ask(capsys, "-c", part, "summary")
        assert "a part of a split dump, pages 0x" in err and "makedumpfile --reassemble" in err
    subprocess.run(("makedumpfile", "--reassemble", *parts, tmp_path / "whole"), check=True, capture_output=True)
    assert_true(capsys, "-c", tmp_path / "whole")


@pytest.mark.parametrize(("room", "answers"), [(1, False), (3, True)])
def test_a_dump_that_makedumpfile_had_no_room_for(
    room: int, answers: bool, elf_dump: Path, capsys: Capsys, tmp_path: Path
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    script = f"mount -t tmpfs -o size={room}m tmpfs {small} || exit 9; {tool('makedumpfile')} -l -d 0 {elf_dump} "
    script += f"{small}/dump; cp {small}/dump {tmp_path}"
    done = subprocess.run((tool("unshare"), "-m", "sh", "-c", script), capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no small file system: {done.stderr.strip()}")
    words = "incomplete, makedumpfile ran out of space after "
    if not answers:
        return assert_refused(capsys, [words], "-c", tmp_path / "dump")
    status, document, err = ask(capsys, "-c", tmp_path / "dump", "summary")
    assert status == 0 and words in err and document["unaccepted_bytes_max"] >= len(TRUTH["unaccepted_units"]) * UNIT


def test_a_download_whose_end_is_zeros(elf_dump: Path, capsys: Capsys, tmp_path: Path) -> None:
    """What is not there proves nothing, and the dump is said to have holes."""
    data = elf_dump.read_bytes()
    (tmp_path / "dump").write_bytes(data[: len(data) * 3 // 4] + bytes(len(data) - len(data) * 3 // 4))
    status, document, _ = ask(capsys, "-c", tmp_path / "dump", "check")
    found = {finding["rule"]: finding for finding in document["findings"]}
    assert (status, found["table-reserved"]["status"]) == (1, "skip")
    assert "holes that read as zeros" in found["structures-undamaged"]["message"]


# The running kernel


@pytest.mark.parametrize(
    ("error", "effective", "uid", "words"),
    [
        (FileNotFoundError(), -1, 0, "hides it"),
        (ValueError("not an ELF core file"), -1, 0, "masked"),
        (PermissionError(1, "No"), 0, 0, "lacks CAP_SYS_RAWIO, which"),
        (PermissionError(1, "No"), 0, 1, "lacks CAP_SYS_RAWIO and CAP_DAC_READ_SEARCH, which"),
        (PermissionError(1, "No"), -1, 0, "security module"),
    ],
)
def test_why_the_running_kernel_cannot_be_read(
    error: Exception, effective: int, uid: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(privileges, "_effective", lambda: effective)
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    assert words in live._why_no_kcore(error)
