# SPDX-License-Identifier: LGPL-2.1-or-later
"""ELF dumps: which memory they hold, their notes, and their memory before drgn can open them.

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
from drgn_unaccepted.kernel.elf import Note, parse_notes
from drgn_unaccepted.model import ranges as rng
from drgn_unaccepted.model.ranges import Range

_IDENT = b"\x7fELF\x02\x01"
#: ``Elf64_Ehdr``: e_type, e_phoff, e_shoff, e_phentsize, e_phnum.
_EHDR = struct.Struct("<16xH14xQQ6xHH6x")
#: ``Elf64_Phdr`` without p_flags and p_align.
_PHDR = struct.Struct("<I4xQQQQQ8x")
#: Offset of sh_info in ``Elf64_Shdr``.
_SH_INFO = 44
PT_LOAD = 1
PT_NOTE = 4
_PN_XNUM = 0xFFFF
_ET_CORE = 4

_SPACE_END = 1 << 64


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
    #: Virtual address where a PT_LOAD maps it; 0 for none.
    virtual: int = 0


class ElfCore(NamedTuple):
    """The segments of an ELF core file, or of other files of memory, which then are :attr:`raw`."""

    path: str
    #: Physical memory whose bytes are in the file, sorted and merged.
    backed: list[Range]
    #: Physical memory that a PT_LOAD names without bytes for it, sorted and merged.
    lacking: list[Range]
    #: The same in virtual memory.
    lacking_virtual: list[Range]
    #: File offset after the last byte that a program header names.
    needed_size: int
    #: Bytes that the file has.
    size: int
    #: ``Elf64_Phdr[]``, as many as the file has: there may be a million.
    headers: bytes
    #: Memory in files that have neither headers nor notes.
    raw: tuple[Piece, ...] = ()

    def holds(self, start: int, end: int) -> bool:
        """Whether all of physical ``[start, end)`` is in the file."""
        return rng.total(rng.intersect(self.backed, [Range(start, end)])) == end - start

    def virtual(self) -> list[Range]:
        """Virtual memory that the PT_LOADs describe, sorted and merged."""
        return rng.merge((s.vaddr, min(s.vaddr + s.memsz, _SPACE_END)) for s in self.segments(PT_LOAD))

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
    """The segments of a 64-bit little-endian ELF core file; None for any other file.

    :raises OSError: the file cannot be read
    :raises ValueError: the program headers are damaged
    """
    if Path(path).name == "kcore" and path.startswith("/proc/"):
        return None
    with open_dump(path) as file:
        data = file.read(_EHDR.size)
        if len(data) < _EHDR.size or not data.startswith(_IDENT):
            return None
        e_type, phoff, shoff, phentsize, count = _EHDR.unpack(data)
        if e_type != _ET_CORE:
            return None
        if phentsize != _PHDR.size:
            raise ValueError(f"program headers of {phentsize} bytes instead of {_PHDR.size}")
        size = file.seek(0, io.SEEK_END)
        if count == _PN_XNUM:
            # The header of section 0, of no section, has the number.
            file.seek(min(shoff + _SH_INFO, size))
            count = int.from_bytes(file.read(4), "little")
        if count > limits.ELF_SEGMENTS:
            raise ValueError(f"{count} program headers, more than {limits.ELF_SEGMENTS}")
        file.seek(min(phoff, size))
        headers = file.read(count * _PHDR.size)
    needed, backed, lacking, lacking_virtual = phoff + count * _PHDR.size, [], [], []
    headers = headers[: len(headers) // _PHDR.size * _PHDR.size]
    for p_type, offset, vaddr, paddr, filesz, memsz in _PHDR.iter_unpack(headers):
        needed = max(needed, offset + filesz)
        in_file = min(filesz, memsz, max(0, size - offset)) if p_type == PT_LOAD else 0
        if in_file:
            backed.append(Range(paddr, paddr + in_file))
        if p_type == PT_LOAD and in_file < memsz:
            lacking.append(Range(paddr + in_file, paddr + memsz))
            lacking_virtual.append(Range(vaddr + in_file, vaddr + memsz))
    # Where segments overlap, drgn reads the last one; what any of them lacks may read as zeros.
    absent = rng.merge(lacking)
    present = rng.subtract(rng.merge(backed), absent)
    return ElfCore(path, present, absent, rng.merge(lacking_virtual), needed, size, headers)
