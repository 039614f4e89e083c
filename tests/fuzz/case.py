# SPDX-License-Identifier: LGPL-2.1-or-later
"""A damaged dump as a few bytes: a sample, and what differs in it."""

from __future__ import annotations

import dataclasses
import json
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Optional

from tests.targets.elf_dump import (
    SAMPLES,
    Sample,
    elf,
    encrypted,
    note,
    read_sample,
    runs,
    vmcoreinfo_note,
    with_own_text,
)

U64 = (1 << 64) - 1

#: Harmful numbers and pointers: edges of integers; addresses of user space, not canonical, LIST_POISON1, a poisoned
#: struct page, the start of the direct map, kernel text.
NASTY = (
    *(0, 1, 2, 3, 7, 24, 0x7F, 0x80, 0xFF, 0x1000, 0xFFFF, 1 << 16, 1 << 20, (1 << 31) - 1, 1 << 31, (1 << 32) - 1),
    *(1 << 32, 1 << 40, (1 << 52) - 4096, 1 << 52, 1 << 62, (1 << 63) - 1, 1 << 63, U64, U64 - 7, U64 - 4095),
    *(0x7FFF00001000, 0x0000900000000000, 0xDEAD000000000100, 0x6B6B6B6B6B6B6B6B),
    *(0xFFFF888000000000, 0xFFFFFFFF81000000),
)

NAMES = tuple(sorted(path.parent.name for path in SAMPLES.glob("*/truth.json")))


@dataclass(frozen=True)
class Case:
    """What to do to which sample."""

    sample: str
    group: str  #: What was damaged: ``zones``, ``btf``, ``headers``, ...
    #: ``elf``: the pages as an ELF dump; ``bare``: without VMCOREINFO note; ``encrypted``: with the C-bit in its
    #: page tables; ``kdump``: the sample's own file.
    form: str = "elf"
    memory: tuple[tuple[int, str], ...] = ()  #: (physical address, bytes in hexadecimal) of a dump in ELF form.
    file: tuple[tuple[int, str], ...] = ()  #: (offset in the file, bytes in hexadecimal).
    #: VMCOREINFO's text is searched for the first and gets the second, all in latin-1.
    vmcoreinfo: tuple[tuple[str, str], ...] = ()
    size: Optional[int] = None  #: Bytes of the file that are left.
    about: str = ""  #: What was found with it.

    def write(self, path: Path) -> Path:
        plain = not self.vmcoreinfo
        image = clean(self.sample, self.form) if plain else _elf_image(self.sample, self.form, self.vmcoreinfo)
        data = bytearray(image.data)
        for address, text in self.memory:
            at = image.offset(address)
            if at is not None:
                data[at : at + len(text) // 2] = bytes.fromhex(text)
        for at, text in self.file:
            data[at : at + len(text) // 2] = bytes.fromhex(text)
        path.write_bytes(data if self.size is None else data[: self.size])
        return path

    def to_json(self) -> str:
        return json.dumps({k: v for k, v in dataclasses.asdict(self).items() if v not in ((), None, "")}) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Case:
        value = json.loads(text)
        for key in ("memory", "file", "vmcoreinfo"):
            value[key] = tuple(tuple(pair) for pair in value.get(key, ()))
        return cls(**value)


class Image(NamedTuple):
    data: bytes
    loads: tuple[tuple[int, int, int], ...]

    def offset(self, address: int) -> Optional[int]:
        """Where a physical address lies in the file."""
        for start, end, at in self.loads:
            if start <= address < end:
                return at + address - start
        return None


@cache
def truth(name: str) -> dict[str, Any]:
    """The guest's own account; nothing in it comes from the program."""
    loaded: dict[str, Any] = json.loads((SAMPLES / name / "truth.json").read_text())
    return loaded


@lru_cache(maxsize=8)
def sample(name: str, form: str = "elf") -> Sample:
    """The pages of a sample as they are in this form."""
    if form == "encrypted":
        return encrypted(name)
    found = read_sample(name)
    return with_own_text(found) if form == "bare" else found


def _notes(of: Sample, form: str, replace: tuple[tuple[str, str], ...]) -> bytes:
    if form == "bare":
        # QEMU's, with CR3; interrupt table and the other control registers are of no use.
        state = struct.pack("<II376xQ5Q", 1, 440, 0, 0, 0, 0, of.physical("swapper_pg_dir"), 0)
        return note(b"QEMU", 0, state)
    return vmcoreinfo_note(replaced(of.vmcoreinfo, replace))


def replaced(text: bytes, pairs: Iterable[tuple[str, str]]) -> bytes:
    for old, new in pairs:
        text = text.replace(old.encode("latin-1"), new.encode("latin-1"), 1)
    return text


@lru_cache(maxsize=6)
def clean(name: str, form: str) -> Image:
    """The undamaged dump."""
    if form == "kdump":
        return Image((SAMPLES / name / "vmcore").read_bytes(), ())
    return _elf_image(name, form, ())


def _elf_image(name: str, form: str, replace: tuple[tuple[str, str], ...]) -> Image:
    of = sample(name, form)
    notes = _notes(of, form, replace)
    loads = runs(of.pages)
    at = 64 + 56 * (1 + len(loads)) + len(notes)
    places = []
    for load in loads:
        places.append((load.paddr, load.paddr + len(load.data), at))
        at += len(load.data)
    return Image(elf(loads, notes), tuple(places))
