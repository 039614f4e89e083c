# SPDX-License-Identifier: LGPL-2.1-or-later
"""ELF dumps: which memory they hold, their notes, and their memory before drgn can open them.

drgn fills with zeros what a PT_LOAD does not have in the file (``p_filesz < p_memsz``, which makedumpfile writes for
the pages that it leaves out), and zeros decode as "all accepted". The program headers tell the difference.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple, Optional

from drgn import Architecture, Platform, Program

from drgn_unaccepted import limits
from drgn_unaccepted.files import open_dump
from drgn_unaccepted.kernel.elf import Note, parse_notes
from drgn_unaccepted.kernel.errors import Unavailable
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


class ElfCore(NamedTuple):
    """The segments of an ELF core file."""

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

    def holds(self, start: int, end: int) -> bool:
        """Whether all of physical ``[start, end)`` is in the file."""
        return rng.total(rng.intersect(self.backed, [Range(start, end)])) == end - start

    def virtual(self) -> list[Range]:
        """Virtual memory that the PT_LOADs describe, sorted and merged."""
        return rng.merge((s.vaddr, min(s.vaddr + s.memsz, _SPACE_END)) for s in self.segments(PT_LOAD))

    def segments(self, p_type: int) -> Iterator[Segment]:
        return (Segment(*fields) for fields in _PHDR.iter_unpack(self.headers) if fields[0] == p_type)

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
        size = os.fstat(file.fileno()).st_size
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


class ElfMemory:
    """The physical memory in an ELF core file that drgn cannot open as such."""

    def __init__(self, core: ElfCore) -> None:
        self._file = Path(core.path).open("rb")  # noqa: SIM115
        self._size = core.size
        self._segments = [s for s in core.segments(PT_LOAD) if s.filesz and s.offset < core.size]
        self._prog = Program(Platform(Architecture.X86_64))
        for segment in self._segments:
            size = min(segment.filesz, core.size - segment.offset, _SPACE_END - segment.paddr)
            self._prog.add_memory_segment(segment.paddr, size, partial(self._read, segment.offset), physical=True)

    def __enter__(self) -> ElfMemory:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _read(self, start: int, address: int, count: int, offset: int, physical: bool) -> bytes:
        return os.pread(self._file.fileno(), count, start + offset)

    def read(self, address: int, size: int) -> bytes:
        """``size`` bytes at a physical address.

        :raises FaultError: the dump does not hold them all
        """
        # A damaged base can make an address negative.
        data: bytes = self._prog.read(address % _SPACE_END, size, physical=True)
        return data

    def find(self, pattern: bytes, most: int) -> Iterator[int]:
        """Physical addresses of ``pattern``. Holes of a sparse file are skipped.

        :param most: bytes of the file to search
        :raises Unavailable: there are more
        """
        # Segments that all name the same bytes would be searched again and again: no more than the file has.
        piece, left = limits.SEARCH_PIECE_BYTES, min(most, self._size)
        for segment in self._segments:
            end = min(segment.offset + segment.filesz, self._size)
            for start, stop in self._data(segment.offset, end):
                for at in range(start, stop, piece):
                    if left <= 0 and self._size <= most:
                        raise Unavailable("its program headers name the same bytes more than once")
                    if left <= 0:
                        raise Unavailable(f"not found in the first {most >> 30} GiB of the dump")
                    # Overlap by len(pattern) - 1, so that a match across the boundary is found.
                    data = os.pread(self._file.fileno(), min(piece + len(pattern) - 1, stop - at), at)
                    left -= min(piece, len(data))
                    found = data.find(pattern)
                    while found >= 0:
                        yield segment.paddr + at + found - segment.offset
                        found = data.find(pattern, found + 1)

    def _data(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """The parts of the file between two offsets that are no holes."""
        while start < end:
            try:
                start = os.lseek(self._file.fileno(), start, os.SEEK_DATA)
            except OSError:
                return  # a hole up to the end of the file
            stop = min(end, os.lseek(self._file.fileno(), start, os.SEEK_HOLE))
            yield start, stop
            start = stop
