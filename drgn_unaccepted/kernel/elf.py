# SPDX-License-Identifier: LGPL-2.1-or-later
"""Notes, and the sections of a vmlinux, its debug file or another ELF file given with ``-s``.

pyelftools reads the sections, and believes their headers: a section, or a name, as long as the file. So the headers
are checked before it sees the file, and it is asked only for sections that are of use here. Notes are read as those of
a dump are: pyelftools before 0.32 takes Xen's notes for GNU's of the same numbers.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple, Optional

from drgn_unaccepted import limits
from drgn_unaccepted.kernel.errors import Unavailable

#: ``Elf64_Ehdr``: e_ident up to EI_DATA, e_shoff, e_shentsize, e_shnum, e_shstrndx.
_EHDR = struct.Struct("<6s34xQ10xHHH")
#: ``Elf64_Shdr``: sh_name, sh_type, sh_offset, sh_size.
_SHDR = struct.Struct("<II16xQQ24x")
#: ``Elf64_Nhdr``: n_namesz, n_descsz, n_type.
_NHDR = struct.Struct("<III")

_SHT_PROGBITS, _SHT_STRTAB, _SHT_NOTE = 1, 3, 7
_NT_GNU_BUILD_ID = 3


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


class ElfSections:
    """The sections of an open file: those with bytes of the kernel, and notes.

    :raises Unavailable: not a 64-bit little-endian ELF file, or its headers are damaged
    """

    def __init__(self, file: BinaryIO) -> None:
        #: Numbers of the sections of notes; the first section of each name.
        self._notes, self.named = _check(file)
        # Only -s needs it, and its import takes as long as all of a summary without -s.
        from elftools.common.exceptions import ELFError
        from elftools.elf.elffile import ELFFile

        self._error = ELFError
        self._elf = ELFFile(file) if self.named else None

    def data(self, name: str, most: int) -> Optional[bytes]:
        """The content of the first section of this name; None if there is none.

        :param most: bytes that it may have
        :raises Unavailable: it has more, or is compressed
        """
        return self._content(self.named[name], most) if name in self.named else None

    def notes(self) -> Iterator[Note]:
        """The notes in all sections of notes.

        :raises Unavailable: together they have more than :data:`limits.VMLINUX_NOTE_BYTES`
        """
        left = limits.VMLINUX_NOTE_BYTES
        for number in self._notes:
            data = self._content(number, left)
            left -= len(data)
            yield from parse_notes(data)

    def _content(self, number: int, most: int) -> bytes:
        assert self._elf is not None
        try:
            section = self._elf.get_section(number)
        except self._error as error:
            raise Unavailable(f"damaged: {error}") from None
        if section.compressed:
            raise Unavailable(f"section {section.name} is compressed")
        if section["sh_size"] > most:
            raise Unavailable(f"section {section.name} has {section['sh_size']} bytes, limit {most}")
        data: bytes = section.data()
        return data


def _check(file: BinaryIO) -> tuple[list[int], dict[str, int]]:
    """What pyelftools can be asked for: all that it reads then is in the file, and bounded.

    :return: the sections of notes; the number of the first section of each name
    """
    size = file.seek(0, io.SEEK_END)

    def read(offset: int, count: int) -> bytes:
        if offset + count > size:
            raise Unavailable("cut short or damaged: its headers name bytes that it does not have")
        file.seek(offset)
        return file.read(count)

    ident, offset, entry_size, count, names_at = _EHDR.unpack(read(0, min(size, _EHDR.size)).ljust(_EHDR.size, b"\0"))
    if ident != b"\x7fELF\x02\x01":
        raise Unavailable("not an ELF file with symbols: no 64-bit ELF file in little endian")
    if not offset or not count:
        return [], {}
    if entry_size != _SHDR.size:
        raise Unavailable(f"damaged: section headers of {entry_size} bytes instead of {_SHDR.size}")
    headers = list(_SHDR.iter_unpack(read(offset, count * _SHDR.size)))
    if names_at >= count or headers[names_at][1] != _SHT_STRTAB:
        raise Unavailable("damaged: no names of its sections")
    of_use = [n for n, (_, kind, *_) in enumerate(headers) if kind in (_SHT_PROGBITS, _SHT_NOTE)]
    for n in (*of_use, names_at):
        read(headers[n][2] + headers[n][3], 0)
    _, _, start, length = headers[names_at]
    if length > limits.ELF_SECTION_NAMES_BYTES:
        raise Unavailable(f"names of sections have {length} bytes, limit {limits.ELF_SECTION_NAMES_BYTES}")
    names, named = read(start, length), {}
    for n in reversed(of_use):
        end = names.find(b"\0", headers[n][0], headers[n][0] + limits.SYMBOL_NAME_BYTES)
        if end < 0:
            raise Unavailable("damaged: a section's name has no end")
        named[names[headers[n][0] : end].decode("latin-1")] = n
    return [n for n in of_use if headers[n][1] == _SHT_NOTE], named
