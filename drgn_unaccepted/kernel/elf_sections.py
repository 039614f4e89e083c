# SPDX-License-Identifier: LGPL-2.1-or-later
"""The sections of a vmlinux, its debug file, or another ELF file that is given with ``-s``.

pyelftools reads them, and believes the headers: 2^60 sections, a name as long as the file, hash tables that nobody
asked for. So the headers are checked before it sees the file, and it is asked for what is looked for alone. The notes
are read as those of a dump are: pyelftools before 0.32 takes Xen's, which distributions' kernels have, for GNU's of the
same numbers, with sizes of megabytes that are text.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, Optional

from drgn_unaccepted import limits
from drgn_unaccepted.kernel.elf import Note, parse_notes
from drgn_unaccepted.kernel.errors import Unavailable

if TYPE_CHECKING:
    from elftools.elf.sections import Section

_SHT_PROGBITS, _SHT_SYMTAB, _SHT_STRTAB, _SHT_NOTE = 1, 2, 3, 7
#: Types of what is looked for, and has bytes in the file.
_WANTED = (_SHT_PROGBITS, _SHT_SYMTAB, _SHT_NOTE)
_SHN_XINDEX = 0xFFFF

_IDENT = b"\x7fELF\x02\x01"
#: ``Elf64_Ehdr`` from e_shoff on: e_shoff, e_shentsize, e_shnum, e_shstrndx.
_EHDR = struct.Struct("<40xQ10xHHH")
#: ``Elf64_Shdr`` as far as it is checked: sh_name, sh_type, sh_offset, sh_size, sh_link.
_SHDR = struct.Struct("<II16xQQI20x")


class ElfSections:
    """The sections of an open file.

    :raises Unavailable: no 64-bit ELF file in little endian, or its headers are damaged
    """

    def __init__(self, file: BinaryIO) -> None:
        wanted = _check(file)
        from elftools.common.exceptions import ELFError
        from elftools.elf.elffile import ELFFile

        try:
            elf = ELFFile(file)
            #: Those with bytes of the kernel, symbol tables, and notes.
            self.all: list[Section] = [elf.get_section(index) for index in wanted]
        except ELFError as error:
            raise Unavailable(f"damaged: {error}") from None

    def named(self, name: str) -> Optional[Section]:
        """The first section of this name."""
        return next((section for section in self.all if section.name == name), None)

    def data(self, section: Section, most: int) -> bytes:
        """The content of a section.

        :param most: bytes that it may have
        :raises Unavailable: it has more, or is compressed
        """
        if section.compressed:
            raise Unavailable(f"section {section.name} is compressed")
        if section["sh_size"] > most:
            raise Unavailable(f"section {section.name} has {section['sh_size']} bytes, limit {most}")
        data: bytes = section.data()
        return data

    def notes(self) -> Iterator[Note]:
        """The notes in all sections of notes, of :data:`limits.VMLINUX_NOTE_BYTES` together.

        :raises Unavailable: there are more
        """
        left = limits.VMLINUX_NOTE_BYTES
        for section in self.all:
            if section["sh_type"] == "SHT_NOTE":
                data = self.data(section, left)
                left -= len(data)
                yield from parse_notes(data)

    def symbol_tables(self) -> Iterator[tuple[bytes, bytes]]:
        """``Elf64_Sym[]`` and the names of each symbol table, of :data:`limits.VMLINUX_SYMBOLS_BYTES` together.

        :raises Unavailable: there are more
        """
        from elftools.elf.sections import SymbolTableSection

        left = limits.VMLINUX_SYMBOLS_BYTES
        for section in self.all:
            if isinstance(section, SymbolTableSection):
                symbols = self.data(section, left)
                strings = self.data(section.stringtable, left - len(symbols))
                left -= len(symbols) + len(strings)
                yield symbols, strings


class _Header(NamedTuple):
    name: int
    type: int
    offset: int
    size: int
    #: Of a symbol table, the section with its names.
    link: int


def _check(file: BinaryIO) -> list[int]:
    """The sections that pyelftools can be asked for: all that it then reads is in the file, and bounded."""
    file.seek(0)
    start = file.read(_EHDR.size)
    if len(start) < _EHDR.size or not start.startswith(_IDENT):
        raise Unavailable("not an ELF file with symbols: no 64-bit ELF file in little endian")
    offset, entry_size, count, names_at = _EHDR.unpack(start)
    if not offset:
        return []
    if entry_size != _SHDR.size:
        raise Unavailable(f"damaged: section headers of {entry_size} bytes instead of {_SHDR.size}")
    first = _Header(*_SHDR.unpack(_read(file, offset, _SHDR.size)))
    # More than SHN_LORESERVE sections: the first header, of no section, says how many, and where their names are.
    count = count or first.size
    names_at = first.link if names_at == _SHN_XINDEX else names_at
    if count > limits.ELF_SECTIONS:
        raise Unavailable(f"damaged: {count} sections, limit {limits.ELF_SECTIONS}")
    headers = [_Header(*fields) for fields in _SHDR.iter_unpack(_read(file, offset, count * _SHDR.size))]
    wanted = [index for index, header in enumerate(headers) if header.type in _WANTED]
    tables = [names_at, *(headers[index].link for index in wanted if headers[index].type == _SHT_SYMTAB)]
    if any(table >= count or headers[table].type != _SHT_STRTAB for table in tables):
        raise Unavailable("damaged: no names of its sections or symbols")
    for index in (*wanted, *tables):
        _read(file, headers[index].offset + headers[index].size, 0)
    _check_names(file, headers[names_at], [headers[index].name for index in wanted])
    return wanted


def _check_names(file: BinaryIO, table: _Header, starts: list[int]) -> None:
    """Each name ends within the section of names, and soon."""
    if table.size > limits.ELF_SECTION_NAMES_BYTES:
        raise Unavailable(f"names of sections have {table.size} bytes, limit {limits.ELF_SECTION_NAMES_BYTES}")
    *names, rest = _read(file, table.offset, table.size).split(b"\0")
    if rest or any(start >= table.size for start in starts) or any(len(n) >= limits.SYMBOL_NAME_BYTES for n in names):
        raise Unavailable("damaged: a section's name has no end")


def _read(file: BinaryIO, offset: int, size: int) -> bytes:
    if offset + size > file.seek(0, io.SEEK_END):
        raise Unavailable("cut short or damaged: its headers name bytes that it does not have")
    file.seek(offset)
    return file.read(size)
