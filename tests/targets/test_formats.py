# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files that users hold in their hands, made by the real tools or from documented magic numbers."""

from __future__ import annotations

import os
import struct
import subprocess
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import drgn
import pytest

from drgn_unaccepted import limits
from drgn_unaccepted.cli import main
from drgn_unaccepted.kernel.memmap import page_layout
from drgn_unaccepted.targets.adopt import adopt
from drgn_unaccepted.targets.page_tables import kernel_page_tables
from drgn_unaccepted.targets.vmcore import open_vmcore
from tests.asking import SAMPLES, Capsys, ask, refused, truth, units
from tests.fleet.tools import tool
from tests.targets.elf_dump import PAGE, elf

Patch = pytest.MonkeyPatch
Form = Callable[[bytes], bytes]
SAMPLE = SAMPLES / "6.12-fill" / "vmcore"
KDUMP = SAMPLES / "6.12-fill-kdump" / "vmcore"


def header(bits: int = 2, order: int = 1, kind: int = 4, machine: int = 62) -> bytes:
    """``e_ident``, ``e_type`` and ``e_machine`` of an ELF file."""
    return b"\x7fELF" + bytes((bits, order, 1)) + bytes(9) + struct.pack("<HH" if order == 1 else ">HH", kind, machine)


@pytest.mark.parametrize(
    ("content", "what", "how"),
    [
        (b"KDUMP   ", "file: ", "header"),
        (b"makedumpfile\0\0\0\0" + bytes(8000), "flattened", ""),
        *((SAMPLE.read_bytes()[:kept], "file: ", "") for kept in (100, 20000, 1000000)),
        (b"PK\x03\x04", "zip", "unzip"),
        (b"QEVM\0\0\0\3", "migration stream of QEMU", "dump-guest-memory without -p"),
        (b"LibvirtQemudSave\2\0\0\0", "libvirt saved", "virsh dump --memory-only"),
        (b"LibvirtQemudPart\2\0\0\0", "did not save to the end", "again"),
        (b"AVML\2\0\0\0", "AVML", "avml-convert"),
        (struct.pack("<I", 0xBED2BED2), "VMware", "vmss2core"),
        (struct.pack("<I", 0xBAD1BAD1), "VMware", "vmss2core"),
        (struct.pack("<I", 0x01282014), "Hyper-V", "kdump in the guest"),
        (b"PAGEDU64", "Windows", "without -w"),
        (struct.pack("<II", 0x75646173, 0x706D), "sadump", "makedumpfile"),
        (struct.pack("<Q", 0xA8190173618F23ED), "LKCD", "before unaccepted memory"),
        (b"DISKDUMP", "diskdump", "before unaccepted memory"),
        (bytes(510) + b"\x55\xaa\xeb\x6aHdrS", "kernel image", "-s"),
        (b"[    0.000000] Linux version 6.12.1 (gcc)\n", "kernel log", "--log"),
        (header(kind=2), "no dump", "-s"),
        (header(bits=1, machine=3), "32-bit", "x86-64"),
        (header(order=2, machine=22), "big-endian", "x86-64"),
        (header(machine=183), "arm64", "x86-64"),
        (bytes(range(1, 65)), "not a dump", "--raw"),
    ],
)
def test_what_it_is_and_how_to_make_it_readable(
    content: bytes, what: str, how: str, capsys: Capsys, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(content if content.endswith(b"\n") else content.ljust(1024, b"\0"))
    said = refused(capsys, "-c", path)
    assert what in said and how in said


def test_a_kdump_of_another_machine(capsys: Capsys, tmp_path: Path) -> None:
    """``utsname.machine`` of struct disk_dump_header; drgn opens it."""
    data = bytearray(SAMPLE.read_bytes())
    struct.pack_into("65s", data, 12 + 4 * 65, b"aarch64")
    (tmp_path / "dump").write_bytes(data)
    assert "AARCH64" in refused(capsys, "-c", tmp_path / "dump")


def test_qemus_own_files(capsys: Capsys, tmp_path: Path) -> None:
    qemu = tool("qemu-system-x86_64")
    stream, disk = tmp_path / "stream", tmp_path / "disk"
    quiet = ("-S", "-nodefaults", "-display", "none", "-monitor", "stdio", "-m", "16M", "-accel", "tcg")
    subprocess.run((qemu, *quiet), input=f"migrate exec:cat>{stream}\nquit\n".encode(), capture_output=True, check=True)
    assert "migration stream of QEMU" in refused(capsys, "-c", stream)
    subprocess.run((tool("qemu-img"), "create", "-q", "-f", "qcow2", disk, "1M"), check=True)
    assert "qcow2" in refused(capsys, "-c", disk)


def test_a_directory(capsys: Capsys, tmp_path: Path) -> None:
    (tmp_path / "vmcore-dmesg.txt").write_text("")
    assert "without a vmcore" in refused(capsys, "-c", tmp_path)
    (tmp_path / "vmcore").write_bytes(b"")
    assert f"-c {tmp_path}/vmcore" in refused(capsys, "-c", tmp_path)


def compressed(program: str, data: bytes, path: Path) -> Path:
    path.write_bytes(subprocess.run((tool(program), "-c"), input=data, capture_output=True, check=True).stdout)
    return path


@pytest.mark.parametrize("program", ["gzip", "xz", "zstd", "bzip2", "lz4", "lzop"])
def test_a_compressed_dump_is_read_and_leaves_nothing(
    program: str, capsys: Capsys, tmp_path: Path, monkeypatch: Patch
) -> None:
    room, path = tmp_path / "room", tmp_path / "dump"
    room.mkdir()
    monkeypatch.setenv("TMPDIR", str(room))
    assert main(["-c", str(SAMPLE), "ranges"]) == 0
    expected = capsys.readouterr()
    assert main(["-c", str(compressed(program, SAMPLE.read_bytes(), path)), "ranges"]) == 0
    assert capsys.readouterr() == expected
    usage = namedtuple("usage", "f_blocks f_bavail")
    with monkeypatch.context() as full:
        full.setattr(os, "statvfs", lambda _: usage(100, 4))
        assert f"{room} has no room" in refused(capsys, "-c", path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "cannot be unpacked" in refused(capsys, "-c", path)
    # A dump that ends in zeros, as that of unused RAM does, is as long as it was.
    for content, words in (
        (elf([], b"") + bytes(3 << 20), "not a dump of a Linux kernel"),
        (bytes(257) + b"ustar", "in it: a tar archive"),
    ):
        assert words in refused(capsys, "-c", compressed(program, content, path))
    assert not any(room.iterdir())
    monkeypatch.setenv("PATH", str(tmp_path))
    assert f"no program {program} here" in refused(capsys, "-c", path)


def descriptors(data: bytes) -> dict[int, int]:
    """Where ``page_desc_t`` of each PFN lies in a kdump-compressed file."""
    sub_header, bitmaps = struct.unpack_from("<iI", data, 432)
    bits, at = (1 + sub_header + bitmaps // 2) * PAGE, (1 + sub_header + bitmaps) * PAGE
    pfns = [8 * byte + bit for byte in range(at - bits) for bit in range(8) if data[bits + byte] >> bit & 1]
    return {pfn: at + 24 * number for number, pfn in enumerate(pfns)}


def flattened(data: bytes) -> bytes:
    """As makedumpfile -F writes it, and QEMU: struct makedumpfile_header, and segments each with its own header."""
    parts = ((at, data[at : at + 16384]) for at in range(0, len(data), 16384))
    body = b"".join(struct.pack(">qq", at, len(part)) + part for at, part in parts)
    return struct.pack(">16sqq4064x", b"makedumpfile", 1, 1) + body + struct.pack(">qq", -1, -1)


@pytest.mark.parametrize("form", (bytes, flattened))
@pytest.mark.parametrize(
    "wrong", [(1 << 63, 900), (-8, 900), (2 << 20, 0xFFFFFFFF), (2 << 20, PAGE + 1), (0, 0), (9, 9)]
)
def test_descriptors_that_lead_nowhere(wrong: tuple[int, int], form: Form, capsys: Capsys, tmp_path: Path) -> None:
    """Those of a third of the memory map: libkdumpfile would read 4 GiB for each such page, or die."""
    data, path, whole = bytearray(KDUMP.read_bytes()), tmp_path / "dump", open_vmcore(str(KDUMP)).prog
    layout, tables, places = page_layout(whole), kernel_page_tables(whole), descriptors(data)
    assert tables is not None
    # A page of it describes 64 pages of memory.
    third = (tables.translate(layout.address(pfn)).start // PAGE for pfn in range(1 << 20, 0x138000, 3 * 64))
    lost, (offset, length) = {*third} & {*places}, wrong
    for pfn in lost:
        struct.pack_into("<QI", data, places[pfn], offset if offset > 0 else len(data) + offset, length)
    path.write_bytes(form(data))
    adopted = drgn.Program()
    adopted.set_core_dump(path)
    for prog in open_vmcore(str(path)).prog, adopt(adopted).prog:
        for pfn in lost:
            with pytest.raises(drgn.FaultError, match="not saved in this dump"):
                prog.read(pfn * PAGE, 8, physical=True)
            with pytest.raises(drgn.FaultError, match="not in this target"):
                prog.read(whole["page_offset_base"].value_() + pfn * PAGE, 8)
        for pfn in places.keys() - lost:
            assert prog.read(pfn * PAGE, PAGE, physical=True) == whole.read(pfn * PAGE, PAGE, physical=True)
    status, document, err = ask(capsys, "-c", path, "ranges")
    assert (status, document["exact"]) == (0, False) and f"{len(lost)} of {len(places)} page descriptors" in err
    assert units(document, "accepted").isdisjoint(truth(KDUMP.parent.name)["unaccepted_units"])


def test_a_hole_is_not_there_nor_what_was_not_checked(capsys: Capsys, tmp_path: Path, monkeypatch: Patch) -> None:
    data, path = flattened(KDUMP.read_bytes()), tmp_path / "dump"
    path.write_bytes(data[: 4096 + 200 * 16400] + data[4096 + 220 * 16400 :])
    assert "page descriptors lead to no page" in ask(capsys, "-c", path, "ranges")[2]
    monkeypatch.setattr(limits, "KDUMP_DESCRIPTORS", 1000)
    assert "the first 1000 of 7590 page descriptors were checked: no types" in refused(capsys, "-c", KDUMP)
