# SPDX-License-Identifier: LGPL-2.1-or-later
"""A copy of an ELF dump whose memory and notes can be changed. Nothing here uses the package or drgn."""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Optional

from tests.kernel.elf_dump import PAGE, PT_LOAD, PT_NOTE, Sample, note, set_c_bit, with_sme_mask


class Header(NamedTuple):
    at: int
    p_type: int
    offset: int
    vaddr: int
    paddr: int
    filesz: int


class Note(NamedTuple):
    name: bytes
    type: int
    desc: bytes


class EditableDump:
    """An ELF dump, opened for writing unless ``mode`` says otherwise."""

    def __init__(self, path: Path, mode: str = "r+b") -> None:
        self._file = path.open(mode, buffering=0)
        ehdr = self._pread(0, 64)
        phoff, phnum = struct.unpack_from("<Q", ehdr, 32)[0], struct.unpack_from("<H", ehdr, 56)[0]
        self.headers = []
        for number in range(phnum):
            at = phoff + 56 * number
            p_type, _, offset, vaddr, paddr, filesz, _, _ = struct.unpack("<IIQQQQQQ", self._pread(at, 56))
            self.headers.append(Header(at, p_type, offset, vaddr, paddr, filesz))

    def close(self) -> None:
        self._file.close()

    def _pread(self, at: int, size: int) -> bytes:
        return os.pread(self._file.fileno(), size, at)

    def _places(self, address: int, size: int) -> list[int]:
        """File offsets of physical memory. A kdump has the kernel image twice."""
        return [
            header.offset + address - header.paddr
            for header in self.headers
            if header.p_type == PT_LOAD and header.paddr <= address and address + size <= header.paddr + header.filesz
        ]

    def read(self, address: int, size: int) -> Optional[bytes]:
        places = self._places(address, size)
        return self._pread(places[-1], size) if places else None

    def write(self, address: int, data: bytes) -> None:
        places = self._places(address, len(data))
        assert places
        for place in places:
            os.pwrite(self._file.fileno(), data, place)

    def notes(self) -> list[Note]:
        (header,) = [header for header in self.headers if header.p_type == PT_NOTE]
        data, at, found = self._pread(header.offset, header.filesz), 0, []
        while at + 12 <= len(data):
            name_size, desc_size, type_ = struct.unpack_from("<III", data, at)
            desc = at + 12 + (name_size + 3) // 4 * 4
            found.append(Note(data[at + 12 : at + 12 + name_size], type_, data[desc : desc + desc_size]))
            at = desc + (desc_size + 3) // 4 * 4
        return found

    def edit_vmcoreinfo(self, change: Callable[[bytes], bytes]) -> None:
        """Write all notes, this one changed, behind everything else, and let the header lead there."""
        data, changed = b"", 0
        for name, type_, desc in self.notes():
            if name == b"VMCOREINFO\0":
                desc, changed = change(desc), changed + 1
            data += note(name[:-1], type_, desc)
        assert changed == 1
        (header,) = [header for header in self.headers if header.p_type == PT_NOTE]
        end = os.fstat(self._file.fileno()).st_size
        os.pwrite(self._file.fileno(), data, end)
        fields = struct.pack("<IIQQQQQQ", PT_NOTE, 0, end, 0, 0, len(data), len(data), 0)
        os.pwrite(self._file.fileno(), fields, header.at)

    def vmcoreinfo(self) -> Optional[bytes]:
        return next((note.desc.rstrip(b"\0") for note in self.notes() if note.name == b"VMCOREINFO\0"), None)

    def set_c_bit(self, bit: int) -> int:
        """Make the page tables of the running kernel those of an SEV guest, and VMCOREINFO say so.

        :return: how many entries were changed
        """
        sample = Sample(Pages(self), self.vmcoreinfo() or b"")
        changed = set_c_bit(sample, bit, 4 + sample.number("NUMBER(pgtable_l5_enabled)"))
        self.edit_vmcoreinfo(lambda old: with_sme_mask(old, bit))
        return changed


class Pages(dict[int, bytes]):
    """The pages of a dump by number, as those of a sample."""

    def __init__(self, dump: EditableDump) -> None:
        self._dump = dump

    def __contains__(self, number: object) -> bool:
        return isinstance(number, int) and self._dump.read(number * PAGE, PAGE) is not None

    def __getitem__(self, number: int) -> bytes:
        return self._dump.read(number * PAGE, PAGE) or b""

    def __setitem__(self, number: int, data: bytes) -> None:
        self._dump.write(number * PAGE, data)


def copy(source: Path, target: Path) -> EditableDump:
    """A sparse copy, opened."""
    subprocess.run(["cp", "--sparse=always", source, target], check=True, timeout=300)
    target.chmod(0o600)
    return EditableDump(target)
