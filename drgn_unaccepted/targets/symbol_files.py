# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files given with ``-s``: what of a vmlinux, its debug file, a kernel image or bare BTF is of use.

pyelftools reads sections, and believes their headers: a section, or a name, as long as the file. So the headers are
checked before it sees the file, and it is asked only for sections that are of use here. Notes are read as those of a
dump are: pyelftools before 0.32 takes Xen's notes for GNU's of the same numbers.
"""

from __future__ import annotations

import io
import lzma
import os
import struct
import subprocess
import zlib
from collections.abc import Iterator
from typing import BinaryIO, Optional

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from drgn_unaccepted import limits
from drgn_unaccepted.errors import one_line
from drgn_unaccepted.files import open_dump
from drgn_unaccepted.targets.debug_info import SymbolFile
from drgn_unaccepted.targets.elf import EHDR, IDENT, SHDR, Note, build_id, parse_notes
from drgn_unaccepted.targets.errors import TargetError, Unavailable
from drgn_unaccepted.targets.unpack import start_program, unpacks

_BTF_MAGIC = b"\x9f\xeb"  #: The first bytes of BTF outside an ELF file, in little endian.
_SHT_PROGBITS, _SHT_STRTAB, _SHT_NOTE = 1, 3, 7
#: ``struct setup_header`` (Documentation/arch/x86/boot.rst): setup_sects, header, payload_offset, payload_length.
_SETUP = struct.Struct("<497xB16x4s66xII")


def read_symbol_file(path: str, wanted: str) -> SymbolFile:
    """vmlinux, its debug file, or BTF alone: a stripped vmlinux, a kernel image, a copy of ``/sys/kernel/btf/vmlinux``.

    :param wanted: ``auto``, ``dwarf`` or ``btf``
    :raises TargetError: it cannot be read, or is damaged
    """
    try:
        with open_dump(path) as file:
            if file.read(2) == _BTF_MAGIC:
                file.seek(0)
                return SymbolFile(path, None, False, file.read(limits.BTF_BYTES + 1))  # one more than Btf takes
            file.seek(0)
            sections = ElfSections(_vmlinux_in(file))
            has_dwarf = ".debug_info" in sections.named
            use_btf = wanted == "btf" or not has_dwarf
            btf = sections.data(".BTF", limits.BTF_BYTES) if use_btf else None
            return SymbolFile(path, build_id(sections.notes()), has_dwarf, btf)
    except (OSError, Unavailable) as error:
        raise TargetError(one_line(error, path)) from None


def _vmlinux_in(file: BinaryIO) -> BinaryIO:
    """The unpacked vmlinux of a kernel image; another file as it is, at its beginning. Unavailable: damaged."""
    sectors, magic, offset, length = _SETUP.unpack(file.read(_SETUP.size).ljust(_SETUP.size, b"\0"))
    file.seek(0)
    if magic != b"HdrS":
        return file
    start, most = ((sectors or 4) + 1) * 512 + offset, limits.KERNEL_FILE_BYTES
    packed = os.pread(file.fileno(), min(length, most), start)
    if len(packed) < min(length, most):
        raise Unavailable("a kernel image, cut short")
    try:
        if packed.startswith(b"\x1f\x8b"):
            data = zlib.decompressobj(31).decompress(packed, most + 1)
        elif packed.startswith((b"\xfd7zXZ\0", b"]\0\0")):
            data = lzma.LZMADecompressor(lzma.FORMAT_AUTO, limits.XZ_MEMORY_BYTES).decompress(packed, most + 1)
        else:
            data = _by_program(packed, file, start, most + 1)
    except (zlib.error, lzma.LZMAError) as error:
        raise Unavailable(f"a kernel image, damaged: {error}") from None
    if len(data) > most:
        raise Unavailable(f"a kernel image of more than {most} bytes")
    return io.BytesIO(data)


def _by_program(packed: bytes, file: BinaryIO, start: int, most: int) -> bytes:
    """What a program makes of a file from ``start`` on. It complains of what follows, which nobody asked for."""
    program = unpacks(packed)
    if program is None:
        raise Unavailable("a kernel image, compressed in a way that is not known here")
    with start_program(program, file, start, subprocess.DEVNULL) as process:
        assert process.stdout is not None
        data = process.stdout.read(most)
        process.kill()
    return data


class ElfSections:
    """The sections of an open file: those with bytes of the kernel, and notes. Unavailable: damaged, or no ELF."""

    def __init__(self, file: BinaryIO) -> None:
        self._notes, self.named = _check(file)  #: Numbers of the sections of notes; the first section of each name.
        self._elf = ELFFile(file) if self.named else None

    def data(self, name: str, most: int) -> Optional[bytes]:
        """The content of the first section of this name, of at most so many bytes; None if there is none."""
        return self._content(self.named[name], most) if name in self.named else None

    def notes(self) -> Iterator[Note]:
        """The notes in all sections of notes, together at most :data:`limits.VMLINUX_NOTE_BYTES`."""
        left = limits.VMLINUX_NOTE_BYTES
        for number in self._notes:
            data = self._content(number, left)
            left -= len(data)
            yield from parse_notes(data)

    def _content(self, number: int, most: int) -> bytes:
        assert self._elf is not None
        try:
            section = self._elf.get_section(number)
        except ELFError as error:
            raise Unavailable(f"damaged: {error}") from None
        if section.compressed:
            raise Unavailable(f"section {section.name} is compressed")
        if section["sh_size"] > most:
            raise Unavailable(f"section {section.name} has {section['sh_size']} bytes, limit {most}")
        data: bytes = section.data()
        return data


def _check(file: BinaryIO) -> tuple[list[int], dict[str, int]]:
    """What pyelftools can be asked for, as in :class:`ElfSections`: what it reads is in the file, and bounded."""
    size = file.seek(0, io.SEEK_END)

    def read(offset: int, count: int) -> bytes:
        if offset + count > size:
            raise Unavailable("cut short or damaged: its headers name bytes that it does not have")
        file.seek(offset)
        return file.read(count)

    header = read(0, min(size, EHDR.size)).ljust(EHDR.size, b"\0")
    ident, _, _, offset, _, _, entry_size, count, names_at = EHDR.unpack(header)
    if ident != IDENT:
        raise Unavailable("not an ELF file with symbols: no 64-bit ELF file in little endian")
    if not offset or not count:
        return [], {}
    if entry_size != SHDR.size:
        raise Unavailable(f"damaged: section headers of {entry_size} bytes instead of {SHDR.size}")
    headers = list(SHDR.iter_unpack(read(offset, count * SHDR.size)))
    if names_at >= count or headers[names_at][1] != _SHT_STRTAB:
        raise Unavailable("damaged: no names of its sections")
    of_use = [n for n, (_, kind, *_) in enumerate(headers) if kind in (_SHT_PROGBITS, _SHT_NOTE)]
    for n in (*of_use, names_at):
        read(headers[n][2] + headers[n][3], 0)
    _, _, start, length, _ = headers[names_at]
    if length > limits.ELF_SECTION_NAMES_BYTES:
        raise Unavailable(f"names of sections have {length} bytes, limit {limits.ELF_SECTION_NAMES_BYTES}")
    names, named = read(start, length), {}
    for n in reversed(of_use):
        end = names.find(b"\0", headers[n][0], headers[n][0] + limits.SYMBOL_NAME_BYTES)
        if end < 0:
            raise Unavailable("damaged: a section's name has no end")
        named[names[headers[n][0] : end].decode("latin-1")] = n
    return [n for n in of_use if headers[n][1] == _SHT_NOTE], named
