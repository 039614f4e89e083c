# SPDX-License-Identifier: LGPL-2.1-or-later
"""Hostile ELF files given with -s: an answer or one line, and no time or memory that the file's headers ask for."""

from __future__ import annotations

import contextlib
import random
import struct
from pathlib import Path
from typing import Callable

import pytest

from drgn_unaccepted import limits
from drgn_unaccepted.kernel.elf import ElfSections
from drgn_unaccepted.kernel.errors import Unavailable
from tests.fuzz import run
from tests.kernel.elf_dump import SAMPLES, gnu_build_id, note, section_elf

HEADER = 64
SHT_SYMTAB, SHT_NOTE = 2, 7
#: Fields of ``Elf64_Shdr``: form and offset.
FIELDS = {
    "name": ("<I", 0),
    "type": ("<I", 4),
    "flags": ("<Q", 8),
    "offset": ("<Q", 24),
    "size": ("<Q", 32),
    "link": ("<I", 40),
    "entsize": ("<Q", 56),
}


def build(path: Path) -> bytearray:
    """A stripped vmlinux with the build-id of a sample's kernel: sections 1 .shstrtab, 2 .notes, 3 .BTF, 4 .text."""
    contents = {".notes": gnu_build_id("6.12-fill"), ".BTF": b"\x9f\xeb\x01\0" + bytes(60), ".text": b"\xc3" * 64}
    return bytearray(section_elf(path, contents).read_bytes())


def shoff(data: bytes) -> int:
    return int(struct.unpack_from("<Q", data, 40)[0])


def section(data: bytearray, number: int, **fields: int) -> None:
    """Change fields of a section's header."""
    for name, value in fields.items():
        form, at = FIELDS[name]
        struct.pack_into(form, data, shoff(data) + number * HEADER + at, value)


def sections_without_end(data: bytearray) -> None:
    """e_shnum 0, and the first header says that there are 2^60."""
    struct.pack_into("<H", data, 60, 0)
    section(data, 0, size=1 << 60)


def headers_without_size(data: bytearray) -> None:
    sections_without_end(data)
    struct.pack_into("<H", data, 58, 0)


def many_notes_again_and_again(data: bytearray) -> None:
    """65,534 sections of notes that are the same 60,000 bytes, behind the section of names."""
    names = data[shoff(data) + HEADER : shoff(data) + 2 * HEADER]
    at = len(data)
    data += bytes(60_000)
    struct.pack_into("<Q", data, 40, len(data))
    struct.pack_into("<HH", data, 60, (1 << 16) - 1, 0)
    data += names + struct.pack("<IIQQQQIIQQ", 1, SHT_NOTE, 0, 0, at, 60_000, 0, 0, 4, 0) * ((1 << 16) - 2)


HOSTILE: dict[str, tuple[str, Callable[[bytearray], None]]] = {
    "sections without end": ("sections, limit", sections_without_end),
    "headers without a size": ("headers of 0 bytes", headers_without_size),
    "headers of another size": ("headers of 40 bytes", lambda data: struct.pack_into("<H", data, 58, 40)),
    "a huge note": ("cut short", lambda data: section(data, 2, size=1 << 63)),
    "beyond any file": ("cut short", lambda data: section(data, 2, offset=(1 << 64) - 1)),
    "one byte too long": ("cut short", lambda data: section(data, 4, offset=len(data) - 9, size=10)),
    "no ELF file": ("not an ELF file", lambda data: data.__setitem__(0, 0)),
    "many notes": ("limit", many_notes_again_and_again),
    "names elsewhere": ("no names", lambda data: struct.pack_into("<H", data, 62, 0xFFFE)),
    "names that are none": ("no names", lambda data: section(data, 1, type=8)),
    "a name without end": ("a section's name has no end", lambda data: section(data, 1, size=28)),
    "a name elsewhere": ("a section's name has no end", lambda data: section(data, 3, name=1 << 31)),
    "compressed BTF": ("compressed", lambda data: section(data, 3, flags=0x800)),
}


def read_all(path: Path) -> None:
    with path.open("rb") as file:
        sections = ElfSections(file)
        list(sections.notes())
        sections.data(".BTF", limits.BTF_BYTES)
        sections.symbols(["_stext"])


@pytest.mark.parametrize(("words", "change"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_headers_are_a_reason(words: str, change: Callable[[bytearray], None], tmp_path: Path) -> None:
    path = tmp_path / "vmlinux"
    data = build(path)
    read_all(path)
    change(data)
    path.write_bytes(data)
    with pytest.raises(Unavailable, match=words):
        read_all(path)


@pytest.mark.parametrize("kind", ("many notes", "headers without a size"))
def test_hostile_headers_are_one_line_soon(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "vmlinux"
    data = build(path)
    HOSTILE[kind][1](data)
    path.write_bytes(data)

    def check() -> run.Outcome:
        status, _, said = run.command("-c", SAMPLES / "6.12-fill" / "vmcore", "-s", path, "header")
        return run.Outcome(run.REFUSED if status == 3 else run.ANSWERED, "".join(said))

    outcome = run.isolated(check)
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


@pytest.mark.parametrize("name", ("ELF_SECTIONS", "ELF_SECTION_NAMES_BYTES", "VMLINUX_NOTE_BYTES"))
def test_at_the_limit_and_beyond(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = note(b"GNU", 3, bytes(20))
    path = section_elf(tmp_path / "file", {".note.a": one, ".note.b": one})
    # The sections without a name and of names count, too; notes count together.
    names = b"\0.shstrtab\0.note.a\0.note.b\0"
    size = {"ELF_SECTIONS": 4, "ELF_SECTION_NAMES_BYTES": len(names), "VMLINUX_NOTE_BYTES": 2 * len(one)}[name]
    monkeypatch.setattr(limits, name, size)
    with path.open("rb") as file:
        assert [found.data for found in ElfSections(file).notes()] == 2 * [bytes(20)]
        monkeypatch.setattr(limits, name, size - 1)
        with pytest.raises(Unavailable, match=f"limit {len(one) - 1 if name == 'VMLINUX_NOTE_BYTES' else size - 1}"):
            list(ElfSections(file).notes())


def names_of(path: Path) -> list[str]:
    with path.open("rb") as file:
        return [section.name for section in ElfSections(file).all]


def test_counts_in_the_first_section_header(tmp_path: Path) -> None:
    """With 65,280 sections and more: e_shnum 0, e_shstrndx SHN_XINDEX (System V gABI, ELF header)."""
    path = tmp_path / "vmlinux"
    data = build(path)
    section(data, 0, size=5, link=1)
    struct.pack_into("<HH", data, 60, 0, 0xFFFF)
    path.write_bytes(data)
    assert names_of(path) == [".notes", ".BTF", ".text"]
    struct.pack_into("<Q", data, 40, 0)  # no section headers
    path.write_bytes(data)
    assert names_of(path) == []


def test_a_long_name_and_one_that_is_too_long(tmp_path: Path) -> None:
    name = "." + (limits.SYMBOL_NAME_BYTES - 2) * "n"
    assert names_of(section_elf(tmp_path / "file", {name: b"content"})) == [name]
    with pytest.raises(Unavailable, match="no end"):
        names_of(section_elf(tmp_path / "file", {name + "n": b""}))


@pytest.mark.parametrize("kind", (4, 5, 6, 8, 9, 11, 0x6FFFFFF6, 0x6FFFFFFE), ids=hex)
def test_sections_of_no_use_are_not_read(kind: int, tmp_path: Path) -> None:
    """Relocations, hash tables, dynamic linking, versions."""
    path = tmp_path / "vmlinux"
    data = build(path)
    section(data, 4, type=kind, offset=1 << 62, size=1 << 62, link=4)
    path.write_bytes(data)
    with path.open("rb") as file:
        assert (ElfSections(file).data(".BTF", 64) or b"")[:4] == b"\x9f\xeb\x01\0"


@pytest.mark.parametrize("link", (3, 5))
def test_symbols_without_names(link: int, tmp_path: Path) -> None:
    path = tmp_path / "vmlinux"
    data = build(path)
    section(data, 4, type=SHT_SYMTAB, link=link, entsize=24)
    path.write_bytes(data)
    with path.open("rb") as file, pytest.raises(Unavailable, match="no names"):
        ElfSections(file).symbols(["_stext"])


def test_symbols_whose_names_end_alike(tmp_path: Path) -> None:
    """Names share the ends of others; `banner` is no symbol, although a name ends so; the first of two counts."""
    symbols = {"not_linux_banner": 1, "linux_banner": 0x21000, "a_stext": 2, "_stext": 0x1000}
    path = section_elf(tmp_path / "file", {}, symbols)
    with path.open("rb") as file:
        found = ElfSections(file).symbols(("linux_banner", "banner", "_stext"))
    assert {name: address for name, (address, _) in found.items()} == {"linux_banner": 0x21000, "_stext": 0x1000}


@pytest.mark.parametrize("beyond", (0, 1))
def test_symbol_tables_count_together(beyond: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of 65,535 may be the same one."""
    path = section_elf(tmp_path / "file", {".again": bytes(48)}, {"_stext": 1})
    data = bytearray(path.read_bytes())
    names = struct.unpack_from("<Q", data, shoff(data) + HEADER + 32)[0]
    section(data, 2, type=SHT_SYMTAB, link=1, entsize=24)
    path.write_bytes(data)
    monkeypatch.setattr(limits, "VMLINUX_SYMBOLS_BYTES", 96 + 2 * names - beyond)
    with path.open("rb") as file:
        sections = ElfSections(file)
        if beyond:
            with pytest.raises(Unavailable, match=f"limit {names - 1}"):
                sections.symbols(["_stext"])
        else:
            assert sections.symbols(["_stext"])
