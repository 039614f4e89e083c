# SPDX-License-Identifier: LGPL-2.1-or-later
"""The ELF format: header, notes, and the sections of a vmlinux, its debug file or another file given with ``-s``.

Sizes and places in the headers are not believed: everything that is read lies in the file, and is bounded.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Collection, Iterator
from typing import BinaryIO, NamedTuple, Optional

from drgn_unaccepted import limits
from drgn_unaccepted.kernel.errors import Unavailable

_IDENT = b"\x7fELF\x02\x01"
_EHDR = struct.Struct("<16xH14xQQ6xHHHHH")
_SHDR = struct.Struct("<IIQ8xQQII16x")
#: ``Elf64_Sym``: st_name, st_info, st_other, st_shndx, st_value, st_size.
_SYM = struct.Struct("<IBBHQQ")
_NHDR = struct.Struct("<III")

_SHT_PROGBITS, _SHT_SYMTAB, _SHT_STRTAB, _SHT_NOTE = 1, 2, 3, 7
#: Section types that are of use here, and have bytes in the file.
_WANTED = (_SHT_PROGBITS, _SHT_SYMTAB, _SHT_NOTE)
_SHF_COMPRESSED = 1 << 11
_SHN_XINDEX = 0xFFFF
_NT_GNU_BUILD_ID = 3


class ElfHeader(NamedTuple):
    """The members of ``Elf64_Ehdr`` that are of use here."""

    type: int
    phoff: int
    shoff: int
    phentsize: int
    phnum: int
    shentsize: int
    shnum: int
    shstrndx: int


class SectionHeader(NamedTuple):
    """The members of ``Elf64_Shdr`` that are of use here."""

    name: int
    type: int
    flags: int
    offset: int
    size: int
    link: int
    info: int


class Note(NamedTuple):
    name: bytes
    type: int
    data: bytes


class ElfSymbol(NamedTuple):
    #: As linked, without KASLR's offset.
    address: int
    #: Bytes.
    size: int


def read_elf_header(file: BinaryIO) -> Optional[ElfHeader]:
    """The header of a 64-bit little-endian ELF file; None for any other file."""
    file.seek(0)
    data = file.read(_EHDR.size)
    if len(data) < _EHDR.size or not data.startswith(_IDENT):
        return None
    return ElfHeader(*_EHDR.unpack(data))


def read_first_section_header(file: BinaryIO, header: ElfHeader) -> SectionHeader:
    """Header 0, of no section: it has the counts that are too large for ``Elf64_Ehdr``. Zeros beyond the file's end."""
    file.seek(min(header.shoff, file.seek(0, io.SEEK_END)))
    return SectionHeader(*_SHDR.unpack(file.read(_SHDR.size).ljust(_SHDR.size, b"\0")))


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
    """The named sections of an open file: those with bytes of the kernel, symbol tables, and notes.

    :raises Unavailable: not a 64-bit little-endian ELF file, or its headers are damaged
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = file.seek(0, io.SEEK_END)
        header = read_elf_header(file)
        if header is None:
            raise Unavailable("not an ELF file with symbols: no 64-bit ELF file in little endian")
        self._headers: list[SectionHeader] = []
        #: (name, header), in the order of the file.
        self.all: list[tuple[str, SectionHeader]] = []
        if header.shoff:
            self._read_headers(header)

    def _read_headers(self, header: ElfHeader) -> None:
        if header.shentsize != _SHDR.size:
            raise Unavailable(f"damaged: section headers of {header.shentsize} bytes instead of {_SHDR.size}")
        first = read_first_section_header(self._file, header)
        count = header.shnum or first.size
        if count > limits.ELF_SECTIONS:
            raise Unavailable(f"damaged: {count} sections, limit {limits.ELF_SECTIONS}")
        data = self._read(header.shoff, count * _SHDR.size)
        self._headers = [SectionHeader(*fields) for fields in _SHDR.iter_unpack(data)]
        wanted = [section for section in self._headers if section.type in _WANTED]
        for section in wanted:
            self._read(section.offset + section.size, 0)
        names = self._strings(
            first.link if header.shstrndx == _SHN_XINDEX else header.shstrndx, limits.ELF_SECTION_NAMES_BYTES
        )
        self.all = [(_name(names, section.name), section) for section in wanted]

    def _strings(self, index: int, most: int) -> bytes:
        if index >= len(self._headers) or self._headers[index].type != _SHT_STRTAB:
            raise Unavailable("damaged: no names of its sections or symbols")
        return self._content("of names", self._headers[index], most)

    def _content(self, name: str, section: SectionHeader, most: int) -> bytes:
        if section.flags & _SHF_COMPRESSED:
            raise Unavailable(f"section {name} is compressed")
        if section.size > most:
            raise Unavailable(f"section {name} has {section.size} bytes, limit {most}")
        return self._read(section.offset, section.size)

    def _read(self, offset: int, size: int) -> bytes:
        if offset + size > self._size:
            raise Unavailable("cut short or damaged: its headers name bytes that it does not have")
        self._file.seek(offset)
        return self._file.read(size)

    def data(self, name: str, most: int) -> Optional[bytes]:
        """The content of the first section of this name; None if there is none.

        :param most: bytes that it may have
        :raises Unavailable: it has more, or is compressed
        """
        section = next((section for found, section in self.all if found == name), None)
        return None if section is None else self._content(name, section, most)

    def notes(self) -> Iterator[Note]:
        """The notes in all sections of notes.

        :raises Unavailable: together they have more than :data:`limits.VMLINUX_NOTE_BYTES`
        """
        left = limits.VMLINUX_NOTE_BYTES
        for name, section in self.all:
            if section.type == _SHT_NOTE:
                data = self._content(name, section, left)
                left -= len(data)
                yield from parse_notes(data)

    def symbols(self, names: Collection[str]) -> dict[str, ElfSymbol]:
        """The defined symbols of these names; of a name that several have, the first.

        :raises Unavailable: the symbol tables have more than :data:`limits.VMLINUX_SYMBOLS_BYTES` together
        """
        found: dict[str, ElfSymbol] = {}
        left = limits.VMLINUX_SYMBOLS_BYTES
        for section_name, section in self.all:
            if section.type != _SHT_SYMTAB:
                continue
            table = self._content(section_name, section, left)
            strings = self._strings(section.link, left - len(table))
            left -= len(table) + len(strings)
            places = {at: name for name in names for at in _places(strings, name.encode() + b"\0")}
            for at, _, _, defined_in, value, size in _SYM.iter_unpack(table[: len(table) // _SYM.size * _SYM.size]):
                if at in places and defined_in:
                    found.setdefault(places[at], ElfSymbol(value, size))
        return found


def _name(strings: bytes, start: int) -> str:
    end = strings.find(b"\0", start, start + limits.SYMBOL_NAME_BYTES)
    if end < 0:
        raise Unavailable("damaged: a section's name has no end")
    return strings[start:end].decode("latin-1")


def _places(strings: bytes, name: bytes) -> Iterator[int]:
    """Where a name may begin. It may be the end of a longer one: linkers store a common end once."""
    at = strings.find(name)
    while at >= 0:
        yield at
        at = strings.find(name, at + 1)
