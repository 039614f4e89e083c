# SPDX-License-Identifier: LGPL-2.1-or-later
"""ELF core files: the memory and notes of a dump.

drgn fills with zeros what a PT_LOAD does not have in the file (``p_filesz < p_memsz``, which makedumpfile writes for
the pages that it leaves out), and zeros decode as "all accepted". The program headers tell the difference.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Optional

from drgn_unaccepted import limits
from drgn_unaccepted.files import open_dump
from drgn_unaccepted.model import ranges as rng
from drgn_unaccepted.model.ranges import Range

IDENT = b"\x7fELF\x02\x01"
#: ``Elf64_Ehdr``: e_ident up to EI_DATA, e_type, e_phoff, e_shoff, e_phentsize, e_phnum, e_shentsize, e_shnum,
#: e_shstrndx.
EHDR = struct.Struct("<6s10xH14xQQ6xHHHHH")
_PHDR = struct.Struct("<I4xQQQQQ8x")  #: ``Elf64_Phdr`` without p_flags and p_align.
SHDR = struct.Struct("<II16xQQ4xI16x")  #: ``Elf64_Shdr``: sh_name, sh_type, sh_offset, sh_size, sh_info.
_NHDR = struct.Struct("<III")  #: ``Elf64_Nhdr``: n_namesz, n_descsz, n_type.
PT_LOAD, PT_NOTE = 1, 4
_PN_XNUM = 0xFFFF
_ET_CORE = 4
_NT_GNU_BUILD_ID = 3

SPACE_END = 1 << 64


class Note(NamedTuple):
    name: bytes
    type: int
    data: bytes


def parse_notes(data: bytes) -> Iterator[Note]:
    """The notes in a PT_NOTE segment or a section of notes, up to the first one that is not whole."""
    at = 0
    while at + _NHDR.size <= len(data):
        name_size, size, type_ = _NHDR.unpack_from(data, at)
        name = at + _NHDR.size
        start = name + (name_size + 3 & ~3)
        if start + size > len(data):
            return
        yield Note(data[name : name + name_size].rstrip(b"\0"), type_, data[start : start + size])
        at = start + (size + 3 & ~3)


def build_id(notes: Iterator[Note]) -> Optional[str]:
    """GNU build-id in hexadecimal. Other owners have notes of the same type: Xen's 3 is an address."""
    return next((note.data.hex() for note in notes if (note.name, note.type) == (b"GNU", _NT_GNU_BUILD_ID)), None)


class Segment(NamedTuple):
    """The members of ``Elf64_Phdr`` that are of use here."""

    type: int
    offset: int
    vaddr: int
    paddr: int
    filesz: int
    memsz: int


class Piece(NamedTuple):
    """Bytes of a file that are physical memory."""

    path: str
    offset: int
    address: int
    size: int
    virtual: int = 0  #: Virtual address where a PT_LOAD maps it; 0 for none.


class ElfCore(NamedTuple):
    """The segments of an ELF core file, or of other files of memory, which then are :attr:`raw`."""

    path: str
    lacking: list[Range]  #: Physical memory that a PT_LOAD names without bytes for it, sorted and merged.
    lacking_virtual: list[Range]  #: The same in virtual memory.
    needed_size: int  #: File offset after the last byte that a program header names.
    size: int  #: Bytes that the file has.
    headers: bytes  #: ``Elf64_Phdr[]``, as many as the file has: there may be a million.
    raw: tuple[Piece, ...] = ()  #: Memory in files that have neither headers nor notes.

    def virtual(self) -> list[Range]:
        """Virtual memory that the PT_LOADs describe, sorted and merged."""
        return rng.merge((s.vaddr, min(s.vaddr + s.memsz, SPACE_END)) for s in self.segments(PT_LOAD))

    def segments(self, p_type: int) -> Iterator[Segment]:
        return (Segment(*fields) for fields in _PHDR.iter_unpack(self.headers) if fields[0] == p_type)

    @property
    def pieces(self) -> Iterator[Piece]:
        """The memory that is in files."""
        yield from self.raw
        for s in self.segments(PT_LOAD):
            yield Piece(self.path, s.offset, s.paddr, min(s.filesz, self.size - s.offset), s.vaddr)

    def notes(self) -> Iterator[Note]:
        """The whole notes among the first :data:`limits.ELF_NOTE_BYTES` of notes."""
        left = limits.ELF_NOTE_BYTES
        with Path(self.path).open("rb") as file:
            # Each of a million segments may name the same bytes.
            for segment in self.segments(PT_NOTE):
                file.seek(min(segment.offset, self.size))
                data = file.read(min(segment.filesz, left))
                left -= len(data)
                yield from parse_notes(data)
                if not left:
                    return


def read_elf_core(path: str) -> Optional[ElfCore]:
    """The segments of a 64-bit little-endian ELF core; None: another file. OSError: unreadable. ValueError: damaged."""
    if Path(path).name == "kcore" and path.startswith("/proc/"):
        return None
    with open_dump(path) as file:
        header = file.read(EHDR.size).ljust(EHDR.size, b"\0")
        ident, e_type, phoff, shoff, phentsize, count, *_ = EHDR.unpack(header)
        if ident != IDENT or e_type != _ET_CORE:
            return None
        if phentsize != _PHDR.size:
            raise ValueError(f"program headers of {phentsize} bytes instead of {_PHDR.size}")
        size = file.seek(0, io.SEEK_END)
        if count == _PN_XNUM:
            # sh_info of section 0, of no section, is the number.
            file.seek(min(shoff, size))
            *_, count = SHDR.unpack(file.read(SHDR.size).ljust(SHDR.size, b"\0"))
        if count > limits.ELF_SEGMENTS:
            raise ValueError(f"{count} program headers, more than {limits.ELF_SEGMENTS}")
        file.seek(min(phoff, size))
        headers = file.read(count * _PHDR.size)
    needed, lacking, lacking_virtual = phoff + count * _PHDR.size, [], []
    headers = headers[: len(headers) // _PHDR.size * _PHDR.size]
    for p_type, offset, vaddr, paddr, filesz, memsz in _PHDR.iter_unpack(headers):
        needed = max(needed, offset + filesz)
        in_file = min(filesz, memsz, max(0, size - offset))
        if p_type == PT_LOAD and in_file < memsz:
            lacking.append(Range(paddr + in_file, paddr + memsz))
            lacking_virtual.append(Range(vaddr + in_file, vaddr + memsz))
    # Where segments overlap, drgn reads the last one; what any of them lacks may read as zeros.
    return ElfCore(path, rng.merge(lacking), rng.merge(lacking_virtual), needed, size, headers)
