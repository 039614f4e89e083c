# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a file is, by its first bytes: no dump that can be read, with the way to one; compressed; a kdump that is whole.

libkdumpfile maps a kdump-compressed file and does not look at its length: a read of a page behind the end of a file
that was cut short, as kdump leaves it on a full disk, ends the process with SIGBUS. So the headers and the last page
descriptors are read here first (disk_dump_header, kdump_sub_header, two bitmaps, page_desc[], pages; makedumpfile's
IMPLEMENTATION and diskdump_mod.h).
"""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import BinaryIO, NamedTuple, Optional

from drgn_unaccepted import limits
from drgn_unaccepted.files import open_dump
from drgn_unaccepted.target.errors import TargetError, Unavailable
from drgn_unaccepted.target.unpack import unpack, unpacks
from drgn_unaccepted.words import safe

_DUMP_AGAIN = "let it run and take a dump with dump-guest-memory without -p, or virsh dump --memory-only"
_VMSS = "a saved state of VMware: vmss2core -N6 makes a dump of it and its .vmem"

#: Where a file has these bytes, what it then is, and what makes it readable.
_KNOWN = (
    (0, b"PK\3\4", "a zip archive: unpack it with unzip"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it with 7z x"),
    (257, b"ustar", "a tar archive: unpack it with tar -xf"),
    (0, b"QEVM", f"a migration stream of QEMU: load it with -incoming, {_DUMP_AGAIN}"),
    (0, b"LibvirtQemudSave", f"a guest that libvirt saved: virsh restore it, {_DUMP_AGAIN}"),
    (0, b"LibvirtQemudPart", "a guest that libvirt did not save to the end: save it again"),
    (0, b"QFI\xfb", f"a qcow2 disk: where qemu-img snapshot -l shows one of a running guest, {_DUMP_AGAIN}"),
    (0, b"AVML", "AVML, compressed: avml-convert makes LiME of it, which can be read"),
    *((0, magic * 2, _VMSS) for magic in (b"\xd0\xbe", b"\xd1\xba", b"\xd2\xbe", b"\xd3\xbe")),
    (0, b"\x14\x20\x28\x01", "a saved state of Hyper-V, of which nothing makes a vmcore: use kdump in the guest"),
    (0, b"PAGEDU", "a Windows crash dump: dump-guest-memory without -w makes one for Linux"),
    (0, b"sadump\0\0", "sadump: makedumpfile -l -x VMLINUX FILE DUMP makes a kdump of it"),
    (0, b"\xed\x23\x8f\x61\x73\x01\x19\xa8", "LKCD, of kernels before unaccepted memory"),
    (0, b"DISKDUMP", "diskdump, of kernels before unaccepted memory"),
    (0, b'{"schema": "drgn-unaccepted-snapshot/', "a file written by snapshot, and no dump: give it with --snapshot"),
    (514, b"HdrS", "a kernel image (bzImage), and no dump: it is given with -s, beside a dump"),
)
_X86_64, _ARM64, _ET_CORE = 62, 183, 4
ONLY_X86_64 = "unaccepted memory is known of x86-64 alone"

_SIGNATURE = b"KDUMP   "
_HEADER = struct.Struct("<424xIiiI")  #: status, block_size, sub_hdr_size, bitmap_blocks of struct disk_dump_header.
#: split, offset_vmcoreinfo, size_vmcoreinfo, offset_note, size_note, offset_eraseinfo, size_eraseinfo, start_pfn_64,
#: end_pfn_64 of struct kdump_sub_header.
_SUB_HEADER = struct.Struct("<12xi16xQQQQQQQQ")
_DESCRIPTOR = struct.Struct("<QIIQ")  #: offset, size, flags, page_flags of page_desc_t; nothing uses the last one.
_INCOMPLETE = 0x8  #: DUMP_DH_COMPRESSED_INCOMPLETE: makedumpfile ran out of space.
#: Descriptors that are looked at. The last page is the last in the file, if it is not the shared page of zeros.
_LAST_DESCRIPTORS = 4096
_LARGEST_PAGE = 64 << 10

_BEGINNING = 64 << 10


def readable(path: str) -> tuple[str, Optional[BinaryIO]]:
    """Where to read the dump that ``path`` names: there, or in the open file that it was unpacked into.

    :raises TargetError: it is no dump; what it is, and how to get one
    :raises OSError: it cannot be read
    """
    if Path(path).is_dir():
        names = sorted(entry.name for entry in Path(path).iterdir())
        inside = [name for name in names if name.startswith(("vmcore", "dump")) and "dmesg" not in name]
        what = f"give the dump in it: -c {safe(str(Path(path, inside[0])))}" if inside else "without a vmcore"
        raise TargetError(f"{path}: a directory, {what}")
    with open_dump(path) as file:
        beginning = file.read(_BEGINNING)
        program = unpacks(beginning)
        if program is not None:
            try:
                unpacked = unpack(file, program, limits.UNPACKED_BYTES, _why_not)
            except Unavailable as error:
                raise TargetError(f"{path}: {error}") from None
            return f"/proc/self/fd/{unpacked.fileno()}", unpacked
    why = _why_not(beginning)
    if why is not None:
        raise TargetError(f"{path}: {why}")
    return path, None


def _why_not(beginning: bytes) -> Optional[str]:
    """Why a file with this beginning is no dump that can be read; None where that is not known."""
    if not beginning:
        return "empty file"
    if beginning.startswith(b"\x7fELF") and len(beginning) >= 20:
        return _why_not_elf(beginning)
    for at, magic, what in _KNOWN:
        if beginning.startswith(magic, at):
            return what
    if b"\0" not in beginning and b"Linux version " in beginning:
        return "a kernel log, and no dump: give it with --log"
    return None


def _why_not_elf(beginning: bytes) -> Optional[str]:
    byteorder = "big" if beginning[5] == 2 else "little"
    kind, machine = (int.from_bytes(beginning[at : at + 2], byteorder) for at in (16, 18))  # type: ignore[arg-type]
    if beginning[4] == 1:
        return f"of a 32-bit machine: {ONLY_X86_64}"
    if byteorder == "big":
        return f"of a big-endian machine: {ONLY_X86_64}"
    if kind != _ET_CORE:
        return "an ELF file that is no dump; a vmlinux is given with -s, beside a dump"
    if machine != _X86_64:
        return f"a dump of {'an arm64' if machine == _ARM64 else 'another'} machine: {ONLY_X86_64}"
    return None


class Kdump(NamedTuple):
    """What the headers of a kdump-compressed file say about its completeness."""

    needed_size: int  #: Bytes that it needs: up to the last page and the notes.
    size: int  #: Bytes that it has.
    #: Why it does not have all pages although the file is as long as it says; None if it has them.
    incomplete: Optional[str] = None


def read_kdump(path: str) -> Optional[Kdump]:
    """The headers of a kdump-compressed file; None for any other, also the flattened form. ValueError: damaged."""
    with open_dump(path) as file:
        data = file.read(_HEADER.size)
        if data[: len(_SIGNATURE)] != _SIGNATURE:
            return None
        size = file.seek(0, io.SEEK_END)
        if len(data) < _HEADER.size:
            return Kdump(_HEADER.size, size)
        status, block_size, sub_header_blocks, bitmap_blocks = _HEADER.unpack(data)
        if not 512 <= block_size <= _LARGEST_PAGE or sub_header_blocks < 0:
            raise ValueError(f"blocks of {block_size} bytes, {sub_header_blocks} of them in the second header")
        file.seek(block_size)
        data = file.read(_SUB_HEADER.size)
        if len(data) < _SUB_HEADER.size:
            return Kdump(block_size + _SUB_HEADER.size, size)
        split, *places, start, end = _SUB_HEADER.unpack(data)
        descriptors = (1 + sub_header_blocks + bitmap_blocks) * block_size
        end_of_notes = max(offset + length for offset, length in zip(places[::2], places[1::2]))
        needed = max(end_of_notes, _end_of_pages(file, descriptors, size))
        incomplete = None
        if split == 1:
            how = "join the parts with makedumpfile --reassemble"
            incomplete = f"a part of a split dump, pages {start:#x} to {end:#x}: {how}"
        elif status & _INCOMPLETE:
            written, pages = _written(file, descriptors, size)
            incomplete = f"incomplete, makedumpfile ran out of space after {written} of {pages} pages"
        return Kdump(needed, size, incomplete)


def _written(file: BinaryIO, descriptors: int, size: int) -> tuple[int, int]:
    """Pages whose descriptors were written, and pages that have one. They are written in order."""

    def offset_of(page: int) -> int:
        file.seek(descriptors + page * _DESCRIPTOR.size)
        return int.from_bytes(file.read(8), "little")

    pages = max(0, min(offset_of(0), size) - descriptors) // _DESCRIPTOR.size
    low, high = 0, pages
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if offset_of(middle) else (low, middle)
    return low, pages


def _end_of_pages(file: BinaryIO, descriptors: int, size: int) -> int:
    # Bounded before it is sought: the header's numbers may lead beyond any file.
    if descriptors + _DESCRIPTOR.size > size:
        return descriptors + _DESCRIPTOR.size
    file.seek(descriptors)
    first = _DESCRIPTOR.unpack(file.read(_DESCRIPTOR.size))[0]
    if not descriptors < first <= size:
        return int(first)
    # The pages begin right behind the descriptors, possibly with a page of zeros that none but later ones use.
    number = min(_LAST_DESCRIPTORS, (first - descriptors) // _DESCRIPTOR.size)
    file.seek(first - (first - descriptors) % _DESCRIPTOR.size - number * _DESCRIPTOR.size)
    ends = [
        offset + length
        for offset, length, _, page_flags in _DESCRIPTOR.iter_unpack(file.read(number * _DESCRIPTOR.size))
        if offset >= first and 0 < length <= _LARGEST_PAGE and not page_flags
    ]
    return int(max(ends, default=first))
