# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which memory an ELF dump really holds, its notes, and its bytes before drgn can open it.

drgn fills what a PT_LOAD does not have in the file (``p_filesz < p_memsz``, as makedumpfile writes it for the pages
that it leaves out) with zeros, and zeros decode as "all accepted". The program headers tell the difference.
"""

from __future__ import annotations

import os
import struct
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, Optional

from drgn import FaultError

from drgn_unaccepted import limits
from drgn_unaccepted.files import open_dump
from drgn_unaccepted.kernel.errors import Unavailable
from drgn_unaccepted.model import ranges as rng
from drgn_unaccepted.model.ranges import Range

_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
_PHDR = struct.Struct("<IIQQQQQQ")
_NHDR = struct.Struct("<III")
_SHDR_INFO = struct.Struct("<I")
PT_LOAD = 1
PT_NOTE = 4
_PN_XNUM = 0xFFFF
_ET_CORE = 4

_SPACE_END = 1 << 64


class ElfCore(NamedTuple):
    """The segments of an ELF core file."""

    path: str
    #: Physical memory whose bytes are in the file, sorted and merged.
    backed: list[Range]
    #: Physical and virtual memory that a PT_LOAD names and has no bytes for, likewise.
    lacking: list[Range]
    lacking_virtual: list[Range]
    #: File offset after the last byte that a program header names.
    needed_size: int
    #: Bytes that the file has.
    size: int
    #: ``Elf64_Phdr[]`` as far as the file has it.
    headers: bytes

    @property
    def cut_short(self) -> bool:
        return self.needed_size > self.size

    def holds(self, start: int, end: int) -> bool:
        """Whether all of physical ``[start, end)`` is in the file."""
        return rng.total(rng.intersect(self.backed, [Range(start, end)])) == end - start

    def virtual(self) -> list[Range]:
        """Virtual memory that the PT_LOADs describe, sorted and merged."""
        return rng.merge((s.vaddr, min(s.vaddr + s.memsz, _SPACE_END)) for s in self.segments(PT_LOAD))

    def segments(self, p_type: int) -> Iterator[Segment]:
        for found, _, offset, vaddr, paddr, filesz, memsz, _ in _PHDR.iter_unpack(self.headers):
            if found == p_type:
                yield Segment(offset, vaddr, paddr, filesz, memsz)

    def notes(self) -> Iterator[Note]:
        """The notes, as far as they are whole; :data:`limits.ELF_NOTE_BYTES` of them at most."""
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


class Segment(NamedTuple):
    """A program header."""

    offset: int
    vaddr: int
    paddr: int
    filesz: int
    memsz: int


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


class ElfMemory:
    """The physical memory in an ELF core file, read without drgn."""

    def __init__(self, core: ElfCore) -> None:
        self._file = Path(core.path).open("rb")  # noqa: SIM115
        self._size = core.size
        self._segments = [s for s in core.segments(PT_LOAD) if s.filesz and s.offset < core.size]
        #: Where physical memory lies in the file, without overlap: start, end, offset of the start.
        self._pieces: list[tuple[int, int, int]] = []
        end = 0
        for segment in sorted(self._segments, key=lambda segment: segment.paddr):
            start, stop = max(segment.paddr, end), segment.paddr + segment.filesz
            if start < stop:
                self._pieces.append((start, stop, segment.offset + start - segment.paddr))
                end = stop

    def __enter__(self) -> ElfMemory:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, address: int, size: int) -> bytes:
        """``size`` bytes at a physical address.

        :raises FaultError: the dump does not hold them all
        """
        data = b""
        for index in range(max(0, bisect_right(self._pieces, (address, _SPACE_END, 0)) - 1), len(self._pieces)):
            start, end, offset = self._pieces[index]
            at = address + len(data)
            if not start <= at < end:
                break
            wanted = min(size - len(data), end - at)
            piece = os.pread(self._file.fileno(), wanted, offset + at - start)
            data += piece
            if len(piece) < wanted or len(data) == size:
                break
        if len(data) < size:
            raise FaultError("not in this dump", address)
        return data

    def find(self, pattern: bytes, most: int) -> Iterator[int]:
        """Physical addresses of ``pattern``. Holes of a sparse file are passed over.

        :param most: bytes of the file that are searched
        :raises Unavailable: there are more
        """
        # Segments that name the same bytes again and again would be searched again and again.
        piece, left = limits.SEARCH_PIECE_BYTES, min(most, self._size)
        for segment in self._segments:
            end = min(segment.offset + segment.filesz, self._size)
            for start, stop in self._data(segment.offset, end):
                for at in range(start, stop, piece):
                    if left <= 0 and self._size <= most:
                        raise Unavailable("its program headers name the same bytes more than once")
                    if left <= 0:
                        raise Unavailable(f"not found in the first {most >> 30} GiB of the dump")
                    # Together with what a match that begins in this piece can reach into the next.
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
            if start >= end:
                return
            stop = min(end, os.lseek(self._file.fileno(), start, os.SEEK_HOLE))
            yield start, stop
            start = stop


def read_elf_core(path: str) -> Optional[ElfCore]:
    """The segments of a 64-bit little-endian ELF core file; None for any other file.

    :raises OSError: the file cannot be read
    :raises ValueError: the program headers are damaged
    """
    if Path(path).name == "kcore" and path.startswith("/proc/"):
        return None
    with open_dump(path) as file:
        ident = file.read(_EHDR.size)
        if len(ident) < _EHDR.size or ident[:6] != b"\x7fELF\x02\x01":
            return None
        fields = _EHDR.unpack(ident)
        if fields[1] != _ET_CORE:
            return None
        size = os.fstat(file.fileno()).st_size
        phoff = fields[5]
        phnum = _number_of_headers(file, fields[6], fields[9], fields[10])
        file.seek(min(phoff, size))
        headers = file.read(phnum * _PHDR.size)
    return _segments(path, headers, phoff + phnum * _PHDR.size, size)


def _number_of_headers(file: BinaryIO, shoff: int, phentsize: int, phnum: int) -> int:
    if phentsize != _PHDR.size:
        raise ValueError(f"program headers of {phentsize} bytes instead of {_PHDR.size}")
    if phnum == _PN_XNUM:
        # More than 65534 segments: the count is sh_info of the first section header.
        file.seek(shoff + 44)
        phnum = _SHDR_INFO.unpack(file.read(4).ljust(4, b"\0"))[0]
    if phnum > limits.ELF_SEGMENTS:
        raise ValueError(f"{phnum} program headers, more than {limits.ELF_SEGMENTS}")
    return int(phnum)


def _segments(path: str, headers: bytes, needed: int, size: int) -> ElfCore:
    headers = headers[: len(headers) // _PHDR.size * _PHDR.size]
    backed, lacking, lacking_virtual = [], [], []
    for p_type, _, offset, vaddr, paddr, filesz, memsz, _ in _PHDR.iter_unpack(headers):
        needed = max(needed, offset + filesz)
        if p_type != PT_LOAD:
            continue
        in_file = min(filesz, memsz, max(0, size - offset))
        if in_file:
            backed.append(Range(paddr, paddr + in_file))
        if in_file < memsz:
            lacking.append(Range(paddr + in_file, paddr + memsz))
            lacking_virtual.append(Range(vaddr + in_file, vaddr + memsz))
    # Where segments overlap, drgn takes the last one; what any of them lacks may read as zeros.
    absent = rng.merge(lacking)
    return ElfCore(
        path, rng.subtract(rng.merge(backed), absent), absent, rng.merge(lacking_virtual), needed, size, headers
    )
