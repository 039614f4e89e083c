# SPDX-License-Identifier: LGPL-2.1-or-later
"""A copy of an ELF dump whose memory and notes can be changed. Nothing here uses the package or drgn."""

from __future__ import annotations

import os
import re
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Optional

PAGE = 4096
PRESENT, LARGE = 1 << 0, 1 << 7
ADDRESS = 0xFFFFFFFFFF000
START_KERNEL_MAP = 0xFFFFFFFF80000000
PT_LOAD, PT_NOTE = 1, 4


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

    def set_notes(self, notes: list[Note]) -> None:
        """Write these notes behind everything else, and let the header lead there."""
        data = b"".join(
            struct.pack("<III", len(note.name), len(note.desc), note.type)
            + note.name.ljust((len(note.name) + 3) // 4 * 4, b"\0")
            + note.desc.ljust((len(note.desc) + 3) // 4 * 4, b"\0")
            for note in notes
        )
        (header,) = [header for header in self.headers if header.p_type == PT_NOTE]
        end = os.fstat(self._file.fileno()).st_size
        os.pwrite(self._file.fileno(), data, end)
        os.pwrite(
            self._file.fileno(), struct.pack("<IIQQQQQQ", PT_NOTE, 0, end, 0, 0, len(data), len(data), 0), header.at
        )

    def edit_vmcoreinfo(self, change: Callable[[bytes], bytes]) -> None:
        notes = self.notes()
        assert sum(note.name == b"VMCOREINFO\0" for note in notes) == 1
        self.set_notes(
            [note._replace(desc=change(note.desc)) if note.name == b"VMCOREINFO\0" else note for note in notes]
        )

    def vmcoreinfo(self) -> Optional[bytes]:
        return next((note.desc.rstrip(b"\0") for note in self.notes() if note.name == b"VMCOREINFO\0"), None)

    def set_c_bit(self, bit: int) -> int:
        """Make the page tables of the running kernel those of an SEV guest, and VMCOREINFO say so.

        :return: how many entries were changed
        """
        text = self.vmcoreinfo()

        def number(key: bytes, base: int = 10) -> int:
            match = re.search(rb"^" + key + rb"=(\S+)$", text, re.M)
            assert match
            return int(match[1], base)

        root = number(rb"SYMBOL\(swapper_pg_dir\)", 16) - START_KERNEL_MAP + number(rb"NUMBER\(phys_base\)")
        todo = [(root, 4 + number(rb"NUMBER\(pgtable_l5_enabled\)"))]
        done, changed = set(), 0
        while todo:
            table, level = todo.pop()
            data = self.read(table, PAGE)
            if table in done or data is None:
                continue
            done.add(table)
            entries = list(struct.unpack("<512Q", data))
            for index, entry in enumerate(entries):
                if entry & PRESENT:
                    entries[index] = entry | 1 << bit
                    changed += 1
                    if level > 1 and not entry & LARGE:
                        todo.append((entry & ADDRESS, level - 1))
            self.write(table, struct.pack("<512Q", *entries))
        self.edit_vmcoreinfo(lambda old: old.replace(b"NUMBER(sme_mask)=0\n", b"NUMBER(sme_mask)=%d\n" % (1 << bit)))
        return changed


def copy(source: Path, target: Path) -> EditableDump:
    """A sparse copy, opened."""
    subprocess.run(["cp", "--sparse=always", source, target], check=True, timeout=300)
    target.chmod(0o600)
    return EditableDump(target)
