# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files given with -s that harm: an answer or one line, and no time or memory that the file's headers ask for."""

from __future__ import annotations

import random
import struct
from pathlib import Path
from typing import Callable

import pytest

from drgn_unaccepted import limits
from drgn_unaccepted.kernel.elf_sections import SHT_NOTE, ElfSections
from drgn_unaccepted.kernel.errors import Unavailable
from tests.fuzz import run
from tests.kernel.elf_dump import note
from tests.kernel.test_target import SAMPLES, gnu_build_id, section_elf

HEADER = 64


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


@pytest.mark.parametrize("name", ("ELF_SECTIONS", "VMLINUX_NOTE_BYTES"))
def test_at_the_limit_and_beyond(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = note(b"GNU", 3, bytes(20))
    path = section_elf(tmp_path / "file", {".note.a": one, ".note.b": one})
    # With the section of no name and that of names; and of notes all together.
    size = {"ELF_SECTIONS": 4, "VMLINUX_NOTE_BYTES": 2 * len(one)}[name]
    monkeypatch.setattr(limits, name, size)
    with path.open("rb") as file:
        assert [found.data for found in ElfSections(file).notes()] == 2 * [bytes(20)]
        monkeypatch.setattr(limits, name, size - 1)
        with pytest.raises(Unavailable, match=f"limit {size - 1 if name == 'ELF_SECTIONS' else len(one) - 1}"):
            list(ElfSections(file).notes())
