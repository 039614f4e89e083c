# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files given with -s that harm: an answer or one line, and no time or memory that the file's headers ask for."""

from __future__ import annotations

import random
import struct
from pathlib import Path
from typing import Callable

import pytest

from drgn_unaccepted import limits
from drgn_unaccepted.kernel.elf_sections import ElfSections
from drgn_unaccepted.kernel.errors import Unavailable
from tests.fuzz import run
from tests.kernel.elf_dump import note
from tests.kernel.test_target import SAMPLES, gnu_build_id, section_elf

HEADER = 64
SHT_NOTE = 7


def build(path: Path) -> bytearray:
    """A stripped vmlinux with the build-id of a sample's kernel."""
    contents = {".notes": gnu_build_id("6.12-fill"), ".BTF": b"\x9f\xeb\x01\0" + bytes(60), ".text": b"\xc3" * 64}
    return bytearray(section_elf(path, contents).read_bytes())


def shoff(data: bytes) -> int:
    return int(struct.unpack_from("<Q", data, 40)[0])


def sections_without_end(data: bytearray) -> None:
    """e_shnum 0, and the first header says that there are 2^60."""
    struct.pack_into("<H", data, 60, 0)
    struct.pack_into("<Q", data, shoff(data) + 32, 1 << 60)


def headers_without_size(data: bytearray) -> None:
    sections_without_end(data)
    struct.pack_into("<H", data, 58, 0)


def huge_note(data: bytearray) -> None:
    struct.pack_into("<Q", data, shoff(data) + 2 * HEADER + 32, 1 << 63)


def beyond_any_file(data: bytearray) -> None:
    struct.pack_into("<Q", data, shoff(data) + 2 * HEADER + 24, (1 << 64) - 1)


def many_notes_again_and_again(data: bytearray) -> None:
    """65,535 sections of notes that are the same 64 KiB."""
    at = len(data)
    data += struct.pack("<III", 0, 0, 0) * 5000
    count = (1 << 16) - 1
    struct.pack_into("<Q", data, 40, len(data))
    struct.pack_into("<HH", data, 60, count, 1)
    data += struct.pack("<IIQQQQIIQQ", 1, SHT_NOTE, 0, 0, at, 60_000, 0, 0, 4, 0) * count


def names_elsewhere(data: bytearray) -> None:
    struct.pack_into("<H", data, 62, 0xFFFE)


def compressed(data: bytearray) -> None:
    """SHF_COMPRESSED on BTF: what it would unpack to is not looked at."""
    struct.pack_into("<Q", data, shoff(data) + 3 * HEADER + 8, 0x800)


WAYS: tuple[Callable[[bytearray], None], ...] = (
    sections_without_end,
    headers_without_size,
    huge_note,
    beyond_any_file,
    many_notes_again_and_again,
    names_elsewhere,
    compressed,
)


def ask(path: Path) -> run.Outcome:
    def check() -> run.Outcome:
        status, _, said = run.command("-c", SAMPLES / "6.12-fill" / "vmcore", "-s", path, "header")
        return run.Outcome(run.REFUSED if status == 3 else run.ANSWERED, "".join(said))

    return run.isolated(check)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_headers_that_lie(way: Callable[[bytearray], None], tmp_path: Path) -> None:
    path = tmp_path / "vmlinux"
    data = build(path)
    way(data)
    path.write_bytes(data)
    outcome = ask(path)
    assert outcome.kind == run.REFUSED and f"{path}: " in outcome.text, outcome
    assert outcome.seconds < 5


def test_damage_anywhere(tmp_path: Path) -> None:
    """Of ELF header, section headers and notes."""
    path = tmp_path / "vmlinux"
    whole = bytes(build(path))
    for number in range(40):
        rng = random.Random(number)
        data = bytearray(whole)
        for _ in range(rng.choice((1, 2, 8))):
            at = rng.choice((rng.randrange(64), rng.randrange(shoff(whole), len(whole)), rng.randrange(len(whole))))
            data[at : at + 8] = rng.choice((bytes(8), b"\xff" * 8, rng.randbytes(8)))
        path.write_bytes(data[: rng.choice((len(data), rng.randrange(len(data))))])
        outcome = ask(path)
        assert outcome.kind in (run.REFUSED, run.ANSWERED), outcome


@pytest.mark.parametrize("name", ("ELF_SECTIONS", "ELF_SECTION_NAMES_BYTES", "VMLINUX_NOTE_BYTES"))
def test_at_the_limit_and_beyond(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = note(b"GNU", 3, bytes(20))
    path = section_elf(tmp_path / "file", {".note.a": one, ".note.b": one})
    # With the section of no name and that of names; and of notes all together.
    names = b"\0.shstrtab\0.note.a\0.note.b\0"
    size = {"ELF_SECTIONS": 4, "ELF_SECTION_NAMES_BYTES": len(names), "VMLINUX_NOTE_BYTES": 2 * len(one)}[name]
    monkeypatch.setattr(limits, name, size)
    with path.open("rb") as file:
        assert [found.data for found in ElfSections(file).notes()] == 2 * [bytes(20)]
        monkeypatch.setattr(limits, name, size - 1)
        with pytest.raises(Unavailable, match=f"limit {len(one) - 1 if name == 'VMLINUX_NOTE_BYTES' else size - 1}"):
            list(ElfSections(file).notes())


#: Fields of ``Elf64_Shdr``: form and offset.
FIELDS = {"name": ("<I", 0), "type": ("<I", 4), "offset": ("<Q", 24), "size": ("<Q", 32), "link": ("<I", 40)}


def section(data: bytearray, number: int, **fields: int) -> None:
    """Change fields of a header; the sections of build() are 1 .shstrtab, 2 .notes, 3 .BTF, 4 .text."""
    for name, value in fields.items():
        form, at = FIELDS[name]
        struct.pack_into(form, data, shoff(data) + number * HEADER + at, value)


BELIEVED: tuple[tuple[str, str, Callable[[bytearray], None]], ...] = (
    ("name of no end", "a section's name has no end", lambda data: section(data, 1, size=28)),
    ("name elsewhere", "a section's name has no end", lambda data: section(data, 3, name=1 << 31)),
    ("names that are none", "no names", lambda data: section(data, 1, type=8)),
    ("symbols named by themselves", "no names", lambda data: section(data, 4, type=2, link=4)),
    ("symbols named by none", "no names", lambda data: section(data, 4, type=2, link=5)),
    ("headers of another size", "headers of 40 bytes", lambda data: struct.pack_into("<H", data, 58, 40)),
    ("one byte too long", "cut short", lambda data: section(data, 4, offset=len(data) - 9, size=10)),
    ("symbols without a size", "damaged: Expected entry size", lambda data: section(data, 4, type=2, link=1)),
)


@pytest.mark.parametrize(("words", "way"), [case[1:] for case in BELIEVED], ids=[case[0] for case in BELIEVED])
def test_what_a_library_believes(words: str, way: Callable[[bytearray], None], tmp_path: Path) -> None:
    path = tmp_path / "vmlinux"
    data = build(path)
    with path.open("rb") as file:
        assert [found.name for found in ElfSections(file).all] == [".notes", ".BTF", ".text"]
    way(data)
    path.write_bytes(data)
    with path.open("rb") as file, pytest.raises(Unavailable, match=words):
        ElfSections(file)


def test_numbers_that_the_first_header_has(tmp_path: Path) -> None:
    """As of 65,280 sections and more: e_shnum 0, e_shstrndx SHN_XINDEX (System V gABI, ELF header)."""
    path = tmp_path / "vmlinux"
    data = build(path)
    section(data, 0, size=5, link=1)
    struct.pack_into("<HH", data, 60, 0, 0xFFFF)
    path.write_bytes(data)
    with path.open("rb") as file:
        assert [found.name for found in ElfSections(file).all] == [".notes", ".BTF", ".text"]


def test_no_section_headers(tmp_path: Path) -> None:
    path = tmp_path / "vmlinux"
    data = build(path)
    struct.pack_into("<Q", data, 40, 0)
    path.write_bytes(data)
    with path.open("rb") as file:
        assert ElfSections(file).all == []


def test_a_long_name_and_one_that_is_too_long(tmp_path: Path) -> None:
    """With the NUL, as many bytes as a symbol's may have."""
    name = "." + (limits.SYMBOL_NAME_BYTES - 2) * "n"
    with section_elf(tmp_path / "file", {name: b"content"}).open("rb") as file:
        found = ElfSections(file).named(name)
    assert found is not None
    with (
        section_elf(tmp_path / "file", {name + "n": b""}).open("rb") as file,
        pytest.raises(Unavailable, match="no end"),
    ):
        ElfSections(file)


@pytest.mark.parametrize("kind", (4, 5, 6, 8, 9, 11, 0x6FFFFFF6, 0x6FFFFFFE), ids=hex)
def test_what_is_not_looked_for_is_not_read(kind: int, tmp_path: Path) -> None:
    """Relocations, hash tables, dynamic linking, versions: pyelftools would read some of them."""
    path = tmp_path / "vmlinux"
    data = build(path)
    section(data, 4, type=kind, offset=1 << 62, size=1 << 62, link=4)
    path.write_bytes(data)
    with path.open("rb") as file:
        sections = ElfSections(file)
        found = sections.named(".BTF")
        assert found is not None and sections.data(found, 64)[:4] == b"\x9f\xeb\x01\0"


def test_symbol_tables_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of 65,535 may be the same one."""
    path = tmp_path / "vmlinux"
    data = bytearray(section_elf(path, {".symtab": bytes(48), ".again": bytes(24)}).read_bytes())
    names = struct.unpack_from("<Q", data, shoff(data) + HEADER + 32)[0]
    for number in (2, 3):
        section(data, number, type=2, link=1)
        struct.pack_into("<Q", data, shoff(data) + number * HEADER + 56, 24)
    path.write_bytes(data)
    monkeypatch.setattr(limits, "VMLINUX_SYMBOLS_BYTES", 72 + 2 * names)
    with path.open("rb") as file:
        assert [len(symbols) for symbols, _ in ElfSections(file).symbol_tables()] == [48, 24]
        monkeypatch.setattr(limits, "VMLINUX_SYMBOLS_BYTES", 71 + 2 * names)
        with pytest.raises(Unavailable, match=f"limit {names - 1}"):
            list(ElfSections(file).symbol_tables())
