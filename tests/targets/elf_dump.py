# SPDX-License-Identifier: LGPL-2.1-or-later
"""Dumps as test input: the pages of a kdump-compressed sample, and ELF dumps made of pages.

Nothing here uses the package, drgn or libkdumpfile.
"""

from __future__ import annotations

import json
import re
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Optional

PAGE = 4096
C_BIT = 51
SAMPLES = Path(__file__).parent.parent.parent / "vmcore-samples"
PT_LOAD, PT_NOTE = 1, 4
PRESENT, LARGE = 1 << 0, 1 << 7
ADDRESS = 0xFFFFFFFFFF000
START_KERNEL_MAP = 0xFFFFFFFF80000000


class Sample(NamedTuple):
    """A sample's physical pages by number, and its VMCOREINFO."""

    pages: dict[int, bytes]
    vmcoreinfo: bytes

    def number(self, key: str, base: int = 10) -> int:
        match = re.search(rb"^" + re.escape(key.encode()) + rb"=(\S+)$", self.vmcoreinfo, re.M)
        assert match, key
        return int(match[1], base)

    def physical(self, symbol: str) -> int:
        """Physical address of a symbol in the kernel image, which VMCOREINFO has."""
        return self.number(f"SYMBOL({symbol})", 16) - START_KERNEL_MAP + self.number("NUMBER(phys_base)")

    def read(self, address: int, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            page, offset = divmod(address + len(data), PAGE)
            data += self.pages[page][offset : offset + size - len(data)]
        return bytes(data)

    def write(self, address: int, data: bytes) -> None:
        page, offset = divmod(address, PAGE)
        assert offset + len(data) <= PAGE
        old = self.pages[page]
        self.pages[page] = old[:offset] + data + old[offset + len(data) :]


def read_sample(name: str) -> Sample:
    """A kdump-compressed file: struct disk_dump_header, kdump_sub_header, two bitmaps, page_desc[], zlib pages."""
    data = (SAMPLES / name / "vmcore").read_bytes()
    assert data[:8] == b"KDUMP   "
    (blocks_of_sub_header,) = struct.unpack_from("<i", data, 432)
    (blocks_of_bitmaps,) = struct.unpack_from("<I", data, 436)
    offset_vmcoreinfo, size_vmcoreinfo = struct.unpack_from("<QQ", data, PAGE + 32)
    bitmaps = (1 + blocks_of_sub_header) * PAGE
    dumped = data[bitmaps + blocks_of_bitmaps * PAGE // 2 : bitmaps + blocks_of_bitmaps * PAGE]
    numbers = [at * 8 + bit for at, byte in enumerate(dumped) for bit in range(8) if byte >> bit & 1]
    descriptors = struct.iter_unpack("<QIIQ", data[bitmaps + blocks_of_bitmaps * PAGE :][: len(numbers) * 24])
    pages = {}
    for number, (offset, size, flags, _) in zip(numbers, descriptors):
        raw = data[offset : offset + size]
        pages[number] = zlib.decompress(raw) if flags & 1 else raw
        assert len(pages[number]) == PAGE
    vmcoreinfo = data[offset_vmcoreinfo : offset_vmcoreinfo + size_vmcoreinfo]
    if not vmcoreinfo:  # in an ELF note
        start = data.index(b"OSRELEASE=", PAGE)
        vmcoreinfo = data[start : data.index(b"\0", start)]
    return Sample(pages, vmcoreinfo)


def with_own_text(sample: Sample) -> Sample:
    """As every kernel's memory has it: VMCOREINFO in a page of its own, and ``init_uts_ns``. They are in no sample."""
    name = sample.physical("init_uts_ns") + sample.number("OFFSET(uts_namespace.name)")
    release = sample.vmcoreinfo.partition(b"OSRELEASE=")[2].partition(b"\n")[0]
    for number, text in enumerate((b"Linux", b"guest", release, b"#1", b"x86_64")):
        sample.pages.setdefault((name + number * 65) // PAGE, bytes(PAGE))
        sample.write(name + number * 65, text + b"\0")
    sample.pages[0x12345] = sample.vmcoreinfo.ljust(PAGE, b"\0")
    return sample


def note(name: bytes, type_: int, desc: bytes) -> bytes:
    name += b"\0"
    return struct.pack("<III", len(name), len(desc), type_) + _pad(name) + _pad(desc)


def cpu_note(cr3: int, cr4: int) -> bytes:
    """What QEMU notes of a CPU (``struct QEMUCPUState``)."""
    return note(b"QEMU", 0, struct.pack("<II384x5Q8x", 1, 440, 0x80050033, 0, 0, cr3, cr4))


def _pad(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


class Load(NamedTuple):
    """A PT_LOAD; ``memory`` are the bytes that it claims if that is more than its data."""

    paddr: int
    data: bytes
    vaddr: int = 0
    memory: Optional[int] = None


def runs(pages: Mapping[int, bytes]) -> list[Load]:
    """Pages as PT_LOADs, one for each contiguous run."""
    loads: list[tuple[int, list[bytes]]] = []
    for number in sorted(pages):
        if loads and loads[-1][0] + len(loads[-1][1]) == number:
            loads[-1][1].append(pages[number])
        else:
            loads.append((number, [pages[number]]))
    return [Load(first * PAGE, b"".join(data)) for first, data in loads]


def write_elf(path: Path, loads: Iterable[Load], notes: bytes) -> Path:
    path.write_bytes(elf(loads, notes))
    return path


def elf(loads: Iterable[Load], notes: bytes) -> bytes:
    """An ELF core file of an x86-64 machine: headers, notes, data."""
    loads = list(loads)
    at = 64 + 56 * (1 + len(loads))
    headers = [struct.pack("<IIQQQQQQ", PT_NOTE, 0, at, 0, 0, len(notes), len(notes), 0)]
    at += len(notes)
    for load in loads:
        size = len(load.data)
        memory = size if load.memory is None else load.memory
        headers.append(struct.pack("<IIQQQQQQ", PT_LOAD, 7, at, load.vaddr, load.paddr, size, memory, 0))
        at += size
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    ehdr = struct.pack("<16sHHIQQQIHHHHHH", ident, 4, 62, 1, 0, 64, 0, 0, 64, 56, len(headers), 0, 0, 0)
    return ehdr + b"".join(headers) + notes + b"".join(load.data for load in loads)


def set_c_bit(sample: Sample, bit: int, levels: int) -> int:
    """Set the C-bit in every entry of the kernel's page tables, as in an SEV guest, and in VMCOREINFO's account of it.

    :return: how many entries were set
    """
    todo = [(sample.physical("swapper_pg_dir"), levels)]
    done = set()
    entries = 0
    while todo:
        table, level = todo.pop()
        if table in done or table // PAGE not in sample.pages:
            continue
        done.add(table)
        found = list(struct.unpack("<512Q", sample.read(table, PAGE)))
        for index, entry in enumerate(found):
            if entry & PRESENT:
                assert not entry >> bit & 1
                found[index] = entry | 1 << bit
                entries += 1
                if level > 1 and not entry & LARGE:
                    todo.append((entry & ADDRESS, level - 1))
        sample.write(table, struct.pack("<512Q", *found))
    return entries


def with_sme_mask(vmcoreinfo: bytes, bit: int) -> bytes:
    assert vmcoreinfo.count(b"NUMBER(sme_mask)=0\n") == 1
    return vmcoreinfo.replace(b"NUMBER(sme_mask)=0\n", b"NUMBER(sme_mask)=%d\n" % (1 << bit))


def encrypted(name: str) -> Sample:
    """A sample as of an SEV guest, with the C-bit at :data:`C_BIT`."""
    sample = read_sample(name)
    assert set_c_bit(sample, C_BIT, levels=4) > 1000
    return Sample(sample.pages, with_sme_mask(sample.vmcoreinfo, C_BIT))


def vmcoreinfo_note(vmcoreinfo: bytes) -> bytes:
    return note(b"VMCOREINFO", 0, vmcoreinfo)


def every(sequence: Sequence[int], step: int) -> list[int]:
    return [*sequence[::step], sequence[-1]]


def kernel_image(payload: bytes) -> bytes:
    """A bzImage of one sector of setup code (Documentation/arch/x86/boot.rst), and something behind its payload."""
    setup = bytearray(1024)
    setup[0x1F1], setup[0x202:0x206] = 1, b"HdrS"
    struct.pack_into("<H", setup, 0x206, 0x20F)
    struct.pack_into("<II", setup, 0x248, 0x30, len(payload) + 4)
    return bytes(setup) + bytes(0x30) + payload + struct.pack("<I", 60 << 20) + b"\x90" * 5000


def gnu_build_id(name: str) -> bytes:
    """The note in a vmlinux of a sample's kernel."""
    truth = json.loads((SAMPLES / name / "truth.json").read_text())
    return note(b"GNU", 3, bytes.fromhex(truth["build_id"]))


def section_elf(path: Path, sections: Mapping[str, bytes], symbols: Optional[Mapping[str, int]] = None) -> Path:
    """An ELF file with these sections, perhaps a symbol table, and no segments. Names share their ends."""
    contents = dict(sections)
    names = [".shstrtab", *sections, *([".symtab"] if symbols is not None else [])]
    strings = b"\0"
    for name in (*names, *(symbols or ())):
        if name.encode() + b"\0" not in strings:
            strings += name.encode() + b"\0"
    if symbols is not None:
        contents[".symtab"] = bytes(24) + b"".join(
            struct.pack("<IBBHQQ", strings.index(name.encode() + b"\0"), 0x11, 0, 1, address, 512)
            for name, address in symbols.items()
        )
    headers = [bytes(64)]
    at = 64
    for name, content in {".shstrtab": strings, **contents}.items():
        kind = {".shstrtab": 3, ".symtab": 2}.get(name, 7 if name.startswith(".note") else 1)
        place = strings.index(name.encode() + b"\0")
        headers.append(
            struct.pack("<IIQQQQIIQQ", place, kind, 0, 0, at, len(content), kind == 2, 0, 4, 24 * (kind == 2))
        )
        at += len(content)
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    ehdr = struct.pack("<16sHHIQQQIHHHHHH", ident, 2, 62, 1, 0, 0, at, 0, 64, 56, 0, 64, len(headers), 1)
    path.write_bytes(ehdr + strings + b"".join(contents.values()) + b"".join(headers))
    return path
