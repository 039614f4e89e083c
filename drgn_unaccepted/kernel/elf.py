# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which physical memory an ELF dump really holds.

drgn fills what a PT_LOAD does not have in the file (``p_filesz < p_memsz``) with zeros, and zeros decode as "all
accepted". The program headers tell the difference.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import BinaryIO, NamedTuple, Optional

from drgn_unaccepted import limits
from drgn_unaccepted.model import ranges as rng
from drgn_unaccepted.model.ranges import Range

_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
_PHDR = struct.Struct("<IIQQQQQQ")
_SHDR_INFO = struct.Struct("<I")
_PT_LOAD = 1
_PN_XNUM = 0xFFFF
_ET_CORE = 4


class ElfCore(NamedTuple):
    """The PT_LOAD segments of an ELF core file."""

    #: Physical memory whose bytes are in the file, sorted and merged.
    backed: list[Range]
    #: File offset after the last byte that a program header names.
    needed_size: int
    #: Bytes that the file has.
    size: int

    @property
    def cut_short(self) -> bool:
        return self.needed_size > self.size

    def holds(self, start: int, end: int) -> bool:
        """Whether all of physical ``[start, end)`` is in the file."""
        return rng.total(rng.intersect(self.backed, [Range(start, end)])) == end - start


def read_elf_core(path: str) -> Optional[ElfCore]:
    """The segments of a 64-bit little-endian ELF core file; None for any other file.

    :raises OSError: the file cannot be read
    :raises ValueError: the program headers are damaged
    """
    if Path(path).name == "kcore" and path.startswith("/proc/"):
        return None
    with Path(path).open("rb") as file:
        ident = file.read(_EHDR.size)
        if len(ident) < _EHDR.size or ident[:6] != b"\x7fELF\x02\x01":
            return None
        fields = _EHDR.unpack(ident)
        if fields[1] != _ET_CORE:
            return None
        size = os.fstat(file.fileno()).st_size
        return _segments(file, fields[5], fields[6], fields[9], fields[10], size)


def _segments(file: BinaryIO, phoff: int, shoff: int, phentsize: int, phnum: int, size: int) -> ElfCore:
    if phentsize != _PHDR.size:
        raise ValueError(f"program headers of {phentsize} bytes instead of {_PHDR.size}")
    if phnum == _PN_XNUM:
        # More than 65534 segments: the count is sh_info of the first section header.
        file.seek(shoff + 44)
        phnum = _SHDR_INFO.unpack(file.read(4).ljust(4, b"\0"))[0]
    if phnum > limits.ELF_SEGMENTS:
        raise ValueError(f"{phnum} program headers, more than {limits.ELF_SEGMENTS}")
    file.seek(min(phoff, size))
    data = file.read(phnum * _PHDR.size)
    needed = phoff + phnum * _PHDR.size
    backed = []
    for p_type, _, offset, _, paddr, filesz, memsz, _ in _PHDR.iter_unpack(
        data[: len(data) // _PHDR.size * _PHDR.size]
    ):
        needed = max(needed, offset + filesz)
        in_file = min(filesz, memsz, max(0, size - offset))
        if p_type == _PT_LOAD and in_file:
            backed.append(Range(paddr, paddr + in_file))
    return ElfCore(rng.merge(backed), needed, size)
