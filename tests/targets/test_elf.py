# SPDX-License-Identifier: LGPL-2.1-or-later
"""Hostile ELF files: an answer or one line, and no time or memory that their headers ask for."""

from __future__ import annotations

import contextlib
import random
import struct
from functools import partial
from pathlib import Path
from typing import Callable

import pytest
from drgn import FaultError

from drgn_unaccepted import limits
from drgn_unaccepted.targets.elf import read_elf_core
from drgn_unaccepted.targets.errors import Unavailable
from drgn_unaccepted.targets.ram_files import FileMemory
from drgn_unaccepted.targets.symbol_files import ElfSections
from drgn_unaccepted.targets.vmcoreinfo_search import cpu_page_tables
from tests.fuzz import run
from tests.targets import elf_dump as made
from tests.targets.elf_dump import PT_LOAD, PT_NOTE, SAMPLES, cpu_note, elf, note, runs, section_elf, write_elf
from tests.targets.elf_dump import Load as L

HEADER = 64
SHT_NOTE = 7
#: Fields of ``Elf64_Shdr``: form and offset.
FIELDS = {"name": ("<I", 0), "type": ("<I", 4), "flags": ("<Q", 8), "offset": ("<Q", 24), "size": ("<Q", 32)}
QEMU = cpu_note(0x2000, 0)

# Sections, of what is given with -s


def build(path: Path) -> bytearray:
    """A stripped vmlinux with the build-id of a sample's kernel: sections 1 .shstrtab, 2 .notes, 3 .BTF, 4 .text."""
    contents = {".notes": made.gnu_build_id("6.12-fill"), ".BTF": b"\x9f\xeb\x01\0" + bytes(60), ".text": b"\xc3" * 72}
    return bytearray(section_elf(path, contents).read_bytes())


def shoff(data: bytes) -> int:
    return int(struct.unpack_from("<Q", data, 40)[0])


def section(data: bytearray, number: int, **fields: int) -> None:
    """Change fields of a section's header."""
    for name, value in fields.items():
        form, at = FIELDS[name]
        struct.pack_into(form, data, shoff(data) + number * HEADER + at, value)


def many_notes_again_and_again(data: bytearray) -> None:
    """65,534 sections of notes that are the same 60,000 bytes, behind the section of names."""
    names = data[shoff(data) + HEADER : shoff(data) + 2 * HEADER]
    at = len(data)
    data += bytes(60_000)
    struct.pack_into("<Q", data, 40, len(data))
    struct.pack_into("<HH", data, 60, (1 << 16) - 1, 0)
    data += names + struct.pack("<IIQQQQIIQQ", 1, SHT_NOTE, 0, 0, at, 60_000, 0, 0, 4, 0) * ((1 << 16) - 2)


HOSTILE: dict[str, tuple[str, Callable[[bytearray], None]]] = {
    "headers without a size": ("headers of 0 bytes", lambda data: struct.pack_into("<H", data, 58, 0)),
    "headers of another size": ("headers of 40 bytes", lambda data: struct.pack_into("<H", data, 58, 40)),
    "a huge note": ("cut short", lambda data: section(data, 2, size=1 << 63)),
    "beyond any file": ("cut short", lambda data: section(data, 2, offset=(1 << 64) - 1)),
    "one byte too long": ("cut short", lambda data: section(data, 4, offset=len(data) - 9, size=10)),
    "no ELF file": ("not an ELF file", lambda data: data.__setitem__(0, 0)),
    "many notes": ("limit", many_notes_again_and_again),
    "names elsewhere": ("no names", lambda data: struct.pack_into("<H", data, 62, 5)),
    "names that are none": ("no names", lambda data: section(data, 1, type=8)),
    "a name without end": ("a section's name has no end", lambda data: section(data, 1, size=28)),
    "a name elsewhere": ("a section's name has no end", lambda data: section(data, 3, name=1 << 31)),
    "compressed BTF": ("compressed", lambda data: section(data, 3, flags=0x800)),
}


def asked(*target: object) -> run.Outcome:
    status, _, said = run.command(*target, "header")
    return run.Outcome(run.REFUSED if status == 3 else run.ANSWERED, "".join(said))


def read_all(path: Path) -> list[str]:
    """The names of the sections."""
    with path.open("rb") as file:
        sections = ElfSections(file)
        list(sections.notes())
        sections.data(".BTF", limits.BTF_BYTES)
    return sorted(sections.named)


@pytest.mark.parametrize(("words", "change"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_headers_are_a_reason(words: str, change: Callable[[bytearray], None], tmp_path: Path) -> None:
    path = tmp_path / "vmlinux"
    data = build(path)
    assert read_all(path) == [".BTF", ".notes", ".text"]
    change(data)
    path.write_bytes(data)

    with pytest.raises(Unavailable, match=words):
        read_all(path)
    if words == "limit" or "headers" in words:
        outcome = run.isolated(partial(asked, "-c", SAMPLES / "6.12-fill" / "vmcore", "-s", path))
        assert outcome.kind == run.REFUSED and f"{path}: " in outcome.text, outcome


def test_damage_anywhere(tmp_path: Path) -> None:
    """In ELF header, section headers and notes."""
    path = tmp_path / "vmlinux"
    whole = bytes(build(path))
    for number in range(100):
        rng = random.Random(number)
        data = bytearray(whole)
        for _ in range(rng.choice((1, 2, 8))):
            at = rng.choice((rng.randrange(64), rng.randrange(shoff(whole), len(whole)), rng.randrange(len(whole))))
            data[at : at + 8] = rng.choice((bytes(8), b"\xff" * 8, rng.randbytes(8)))
        path.write_bytes(data[: rng.choice((len(data), rng.randrange(len(data))))])
        with contextlib.suppress(Unavailable):
            read_all(path)


@pytest.mark.parametrize("name", ("ELF_SECTION_NAMES_BYTES", "VMLINUX_NOTE_BYTES"))
def test_sections_at_the_limit_and_beyond(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = note(b"GNU", 3, bytes(20))
    path = section_elf(tmp_path / "file", {".note.a": one, ".note.b": one})
    # Notes count together.
    names = b"\0.shstrtab\0.note.a\0.note.b\0"
    size = {"ELF_SECTION_NAMES_BYTES": len(names), "VMLINUX_NOTE_BYTES": 2 * len(one)}[name]
    monkeypatch.setattr(limits, name, size)
    with path.open("rb") as file:
        assert [found.data for found in ElfSections(file).notes()] == 2 * [bytes(20)]
        monkeypatch.setattr(limits, name, size - 1)
        with pytest.raises(Unavailable, match=f"limit {len(one) - 1 if name == 'VMLINUX_NOTE_BYTES' else size - 1}"):
            list(ElfSections(file).notes())


def test_a_long_name_and_one_that_is_too_long(tmp_path: Path) -> None:
    name = "." + (limits.SYMBOL_NAME_BYTES - 2) * "n"
    assert read_all(section_elf(tmp_path / "file", {name: b"content"})) == [name]
    with pytest.raises(Unavailable, match="no end"):
        read_all(section_elf(tmp_path / "file", {name + "n": b""}))


@pytest.mark.parametrize("kind", (4, 5, 6, 8, 9, 11, 0x6FFFFFF6, 0x6FFFFFFE), ids=hex)
def test_sections_of_no_use_are_not_read(kind: int, tmp_path: Path) -> None:
    """Relocations, hash tables, dynamic linking, versions."""
    path = tmp_path / "vmlinux"
    data = build(path)
    section(data, 4, type=kind, offset=1 << 62, size=1 << 62)
    path.write_bytes(data)
    assert read_all(path) == [".BTF", ".notes"]


# Program headers, of dumps


@pytest.mark.parametrize("p_type", (PT_LOAD, PT_NOTE))
@pytest.mark.parametrize("has_note", (True, False))
def test_the_same_bytes_again_and_again(p_type: int, has_note: bool, tmp_path: Path) -> None:
    """A sample as an ELF dump, and 60,000 program headers that each name all of the file."""
    path, more = tmp_path / "dump", 60_000
    sample = made.read_sample("6.12-fill")
    data = bytearray(elf(runs(sample.pages), made.vmcoreinfo_note(sample.vmcoreinfo) if has_note else QEMU))
    (count,) = struct.unpack_from("<H", data, 56)
    for at in range(64 + 8, 64 + 56 * count, 56):
        struct.pack_into("<Q", data, at, struct.unpack_from("<Q", data, at)[0] + 56 * more)
    struct.pack_into("<H", data, 56, count + more)
    size = len(data) + 56 * more
    header = struct.pack("<IIQQQQQQ", p_type, 7, 64, 0, 1 << 40, size - 64, size - 64, 0)
    data[64 + 56 * count : 64 + 56 * count] = header * more
    path.write_bytes(data)

    outcome = run.isolated(partial(asked, "-c", path))
    assert outcome.kind == (run.ANSWERED if has_note else run.REFUSED), outcome
    if not has_note and p_type == PT_LOAD:
        assert "the same bytes more than once" in outcome.text


def test_notes_and_segments_at_the_limit_and_beyond(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(write_elf(tmp_path / "dump", [L(0x1000, b"a"), L(0x2000, b"b")], 3 * QEMU))
    monkeypatch.setattr(limits, "ELF_SEGMENTS", 3)
    core = read_elf_core(path)
    assert core is not None
    for bytes_, cpus, found in ((3 * len(QEMU), 8, 3), (3 * len(QEMU) - 1, 8, 2), (3 * len(QEMU), 1, 1)):
        monkeypatch.setattr(limits, "ELF_NOTE_BYTES", bytes_)
        monkeypatch.setattr(limits, "GLOBAL_ARRAY_LENGTH", cpus)
        with FileMemory(core.pieces) as memory:
            assert len(list(cpu_page_tables(core, memory))) == found
    monkeypatch.setattr(limits, "ELF_SEGMENTS", 2)
    with pytest.raises(ValueError, match="3 program headers, more than 2"):
        read_elf_core(path)


def test_more_segments_than_the_header_can_say(tmp_path: Path) -> None:
    """e_phnum PN_XNUM: sh_info of the first section header has the number (elf(5))."""
    data = bytearray(elf([L(0x1000, b"a"), L(0x2000, b"b")], QEMU))
    struct.pack_into("<H", data, 56, 0xFFFF)
    struct.pack_into("<Q", data, 40, len(data))
    (tmp_path / "dump").write_bytes(data + struct.pack("<44xI16x", 3))
    core = read_elf_core(str(tmp_path / "dump"))
    assert core is not None and [p[2:4] for p in core.pieces] == [(0x1000, 1), (0x2000, 1)]


def test_reads_across_segments_and_beside_them(tmp_path: Path) -> None:
    """Neighbours, and two that overlap as those of a kdump do: kernel text and the direct map."""
    loads = [L(0x1000, b"a" * 0x1000), L(0x2000, b"b" * 0x1000), L(0x5000, b"c" * 0x1000), L(0x4000, b"c" * 0x3000)]
    core = read_elf_core(str(write_elf(tmp_path / "dump", loads, b"")))
    assert core is not None
    with FileMemory(core.pieces) as memory:
        assert memory.read(0x1FFE, 4) == b"aabb"
        assert memory.read(0x4FFF, 0x1002) == b"c" * 0x1002
        assert memory.read(0x6FFF, 1) == b"c"
        for address, size in ((0xFFF, 1), (0x2FFF, 2), (0x3000, 1), (0x7000, 1), (0x6FFF, 2), (0, 0x8000)):
            with pytest.raises(FaultError):
                memory.read(address, size)
