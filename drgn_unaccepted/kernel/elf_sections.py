# SPDX-License-Identifier: LGPL-2.1-or-later
"""The sections of a vmlinux, its debug file, or another ELF file that is given with ``-s``.

Read with bounds, unlike by a library that believes the headers: they can name 2^64 sections, sizes of 2^63 bytes, or
the same bytes ten thousand times.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple, Optional

from drgn_unaccepted import limits
from drgn_unaccepted.kernel.elf import Note, parse_notes
from drgn_unaccepted.kernel.errors import Unavailable

SHT_SYMTAB, SHT_NOTE, SHT_NOBITS, SHT_DYNSYM = 2, 7, 8, 11
_SHF_COMPRESSED = 0x800
_SHN_XINDEX = 0xFFFF

_IDENT = b"\x7fELF\x02\x01"
#: ``Elf64_Ehdr`` from e_shoff on: e_shoff, e_shentsize, e_shnum, e_shstrndx.
_EHDR = struct.Struct("<40xQ10xHHH")
#: ``Elf64_Shdr``: sh_name, sh_type, sh_flags, sh_addr, sh_offset, sh_size, sh_link, sh_info, sh_addralign, sh_entsize.
_SHDR = struct.Struct("<IIQQQQIIQQ")


class Section(NamedTuple):
    """A section header."""

    name: str
    type: int
    flags: int
    offset: int
    size: int
    #: Of a symbol table, the section with its names.
    link: int


class ElfSections:
    """The sections of an open file.

    :raises Unavailable: no 64-bit ELF file in little endian, or its headers are damaged
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        file.seek(0)
        start = file.read(_EHDR.size)
        if len(start) < _EHDR.size or not start.startswith(_IDENT):
            raise Unavailable("not an ELF file with symbols: no 64-bit ELF file in little endian")
        offset, entry_size, count, names_at = _EHDR.unpack(start)
        if offset and entry_size != _SHDR.size:
            raise Unavailable(f"damaged: section headers of {entry_size} bytes instead of {_SHDR.size}")
        if offset and not count:
            # More than SHN_LORESERVE sections: the first header, of no section, says how many.
            count = self._header(self._read(offset, _SHDR.size)).size
        if count > limits.ELF_SECTIONS:
            raise Unavailable(f"damaged: {count} sections, limit {limits.ELF_SECTIONS}")
        headers = self._read(offset, count * _SHDR.size) if offset else b""
        plain = [self._header(headers[at : at + _SHDR.size]) for at in range(0, len(headers), _SHDR.size)]
        if names_at == _SHN_XINDEX and plain:
            names_at = plain[0].link
        names = self.data(plain[names_at], limits.ELF_SECTION_NAMES_BYTES) if 0 < names_at < len(plain) else b""
        starts = (struct.unpack_from("<I", headers, at)[0] for at in range(0, len(headers), _SHDR.size))
        self.all: list[Section] = [section._replace(name=_text(names, start)) for section, start in zip(plain, starts)]

    def named(self, name: str) -> Optional[Section]:
        """The first section of this name."""
        return next((section for section in self.all if section.name == name), None)

    def data(self, section: Section, most: int) -> bytes:
        """The content of a section.

        :param most: bytes that it may have
        :raises Unavailable: it has more, is compressed, or is not in the file
        """
        if section.flags & _SHF_COMPRESSED:
            raise Unavailable(f"section {section.name} is compressed")
        if section.type == SHT_NOBITS:
            raise Unavailable(f"section {section.name} is not in this file")
        if section.size > most:
            raise Unavailable(f"section {section.name} has {section.size} bytes, limit {most}")
        return self._read(section.offset, section.size)

    def notes(self) -> Iterator[Note]:
        """The notes in all sections of notes, of :data:`limits.VMLINUX_NOTE_BYTES` together.

        :raises Unavailable: there are more
        """
        left = limits.VMLINUX_NOTE_BYTES
        for section in self.all:
            if section.type == SHT_NOTE:
                yield from parse_notes(self.data(section, left))
                left -= section.size

    def _read(self, offset: int, size: int) -> bytes:
        if offset >= 1 << 63:
            raise Unavailable("damaged: its headers name bytes beyond any file")
        self._file.seek(offset)
        data = self._file.read(size)
        if len(data) < size:
            raise Unavailable("cut short or damaged: its headers name bytes that it does not have")
        return data

    @staticmethod
    def _header(data: bytes) -> Section:
        _, type_, flags, _, offset, size, link, _, _, _ = _SHDR.unpack(data)
        return Section("", type_, flags, offset, size, link)


def _text(strings: bytes, start: int) -> str:
    end = strings.find(b"\0", start, start + limits.SYMBOL_NAME_BYTES)
    return "" if end < 0 else strings[start:end].decode("latin-1")
