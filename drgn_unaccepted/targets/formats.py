# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a file is, by its first bytes: no dump that can be read, with the way to one; compressed; a kdump that is whole.

libkdumpfile maps a kdump-compressed file and believes its page descriptors: one that leads behind the end of the file,
as where a full disk cut it short, ends the process with SIGBUS, and one that names 4 GiB of compressed data takes a
second and as much memory for each read. So the headers and all page descriptors are read here first (disk_dump_header,
kdump_sub_header, two bitmaps, page_desc[], pages; makedumpfile's IMPLEMENTATION and diskdump_mod.h).
"""

from __future__ import annotations

import io
import os
import struct
from array import array
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Optional

from drgn_unaccepted import limits
from drgn_unaccepted.errors import one_line
from drgn_unaccepted.files import open_dump, tmpdir
from drgn_unaccepted.model import bitmap as bits
from drgn_unaccepted.model import ranges as rng
from drgn_unaccepted.model.ranges import Range
from drgn_unaccepted.targets.elf import Piece
from drgn_unaccepted.targets.errors import TargetError, Unavailable
from drgn_unaccepted.targets.ram_files import FileMemory
from drgn_unaccepted.targets.unpack import unpack, unpacks
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

_SIGNATURE, _FLATTENED = b"KDUMP   ", b"makedumpfile\0"
#: header_version, status, block_size, sub_hdr_size, bitmap_blocks, max_mapnr of struct disk_dump_header.
_HEADER = struct.Struct("<8xI412xIiiII")
#: split, offset_vmcoreinfo, size_vmcoreinfo, offset_note, size_note, offset_eraseinfo, size_eraseinfo, start_pfn_64,
#: end_pfn_64, max_mapnr_64 of struct kdump_sub_header.
_SUB_HEADER = struct.Struct("<12xi16xQQQQQQQQQ")
_DESCRIPTOR_BYTES = 24  #: page_desc_t: u64 offset, u32 size, u32 flags, u64 page_flags.
_INCOMPLETE = 0x8  #: DUMP_DH_COMPRESSED_INCOMPLETE: makedumpfile ran out of space.
_STEP = 1024  #: Descriptors that are looked at together.


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
        beginning = file.read(64 << 10)
        program = unpacks(beginning)
        if program is not None:
            try:
                unpacked = unpack(file, program, _why_not)
            except Unavailable as error:
                raise TargetError(f"{path}: {error}") from None
            except OSError as error:
                to = one_line(error, tmpdir())
                raise TargetError(f"{path}: compressed, and cannot be unpacked to {to}: set TMPDIR") from None
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
    if beginning[4] == 1:
        return f"of a 32-bit machine: {ONLY_X86_64}"
    if beginning[5] == 2:
        return f"of a big-endian machine: {ONLY_X86_64}"
    kind, machine = struct.unpack_from("<HH", beginning, 16)
    if kind != _ET_CORE:
        return "an ELF file that is no dump; a vmlinux is given with -s, beside a dump"
    if machine != _X86_64:
        return f"a dump of {'an arm64' if machine == _ARM64 else 'another'} machine: {ONLY_X86_64}"
    return None


def read_kdump(place: str, path: str) -> tuple[Optional[str], Sequence[Range]]:
    """What a kdump-compressed file lacks, and the memory that must not be read of it; nothing of any other file.

    :param path: its name for the user
    :raises TargetError: it is cut short within its headers or page descriptors
    :raises ValueError: these are damaged; FaultError: those of the flattened form
    """
    with open_dump(place) as file:
        beginning, size = file.read(len(_FLATTENED)), file.seek(0, io.SEEK_END)
        pieces = [Piece(place, 0, 0, size)] if beginning.startswith(_SIGNATURE) else []
        if beginning == _FLATTENED:
            pieces = [*islice(_segments(file, place, size), limits.KDUMP_SEGMENTS + 1)]
    if len(pieces) > limits.KDUMP_SEGMENTS:
        return f"of more than {limits.KDUMP_SEGMENTS} segments, not checked: makedumpfile -R reassembles it", ()
    if not any(piece.address == 0 for piece in pieces):
        return None, ()
    size = max(piece.address + piece.size for piece in pieces)
    with FileMemory(pieces) as memory:

        def at(offset: int, length: int) -> bytes:
            if offset + length > size:
                flaw = f"cut short: its headers name {offset + length:#x} bytes, the file has {size:#x}"
                raise TargetError(f"{path}: {flaw}: copy it anew, or give the kernel log beside it with --log")
            return memory.read(offset, min(length, limits.KDUMP_BITMAP_BYTES))

        if at(0, len(_SIGNATURE)) != _SIGNATURE:
            return None, ()
        version, status, page, blocks, bitmap_blocks, pages = _HEADER.unpack(at(0, _HEADER.size))
        if not 512 <= page <= 64 << 10 or blocks < 0:
            raise ValueError(f"blocks of {page} bytes, {blocks} of them in the second header")
        split, *places, first, last, pages_64 = _SUB_HEADER.unpack(at(page, _SUB_HEADER.size))
        for offset, length in zip(places[::2], places[1::2]):
            at(offset + length, 0)
        # The second bitmap has the pages that are in the file.
        bitmap = at((1 + blocks + bitmap_blocks // 2) * page, bitmap_blocks // 2 * page)
        if (pages_64 if version >= 6 else pages) > 8 * len(bitmap):
            raise ValueError(f"a bitmap of {len(bitmap)} bytes for {pages_64 if version >= 6 else pages} pages")
        there = range(8 * len(bitmap))[slice(first, last) if split else slice(None)]
        number, descriptors = bits.count(bitmap, there.start, there.stop), (1 + blocks + bitmap_blocks) * page
        end = descriptors + number * _DESCRIPTOR_BYTES
        at(end, 0)
        there_is = rng.merge((piece.address, piece.address + piece.size) for piece in pieces)
        checked, holes = min(number, limits.KDUMP_DESCRIPTORS), rng.subtract([Range(0, 1 << 65)], there_is)
        lost = _lost(memory, descriptors, checked, rng.merge([Range(0, end), *holes]), page)
    missing, is_cut = rng.total(lost), bool(status & _INCOMPLETE)
    flaws = {
        f"a part of a split dump, pages {first:#x} to {last:#x}: join the parts with makedumpfile --reassemble": split,
        f"incomplete, makedumpfile ran out of space after {number - missing} of {number} pages": is_cut,
        f"cut short or damaged: {missing} of {number} page descriptors lead to no page in it (copy it anew, or give "
        "the kernel log with --log)": missing and not is_cut,
        f"the first {checked} of {number} page descriptors were checked": checked < number,
    }
    unread = rng.merge([*lost, Range(checked, number)])
    return "; ".join(flaw for flaw, holds in flaws.items() if holds) or None, _pages(unread, bitmap, there, page)


def _segments(file: BinaryIO, place: str, size: int) -> Iterator[Piece]:
    """Those of the flattened form (``makedumpfile -F``, QEMU): offset and size, big-endian, before the bytes."""
    at = 4096
    while at + 16 <= size:
        offset, length = struct.unpack(">qq", os.pread(file.fileno(), 16, at))
        at += 16
        if offset < 0 or not 0 < length <= size - at:
            return
        yield Piece(place, at, offset, length)
        at += length


def _lost(memory: FileMemory, descriptors: int, number: int, no_page: Sequence[Range], block_size: int) -> list[Range]:
    """The descriptors, by number, of no page that is in the file whole. ValueError: too many runs of them.

    :param no_page: the places in the file where there can be none: what is before the pages, holes, what is behind
    """
    lost: list[Range] = []
    low, high = no_page[0].end, no_page[1].start
    for first in range(0, number, _STEP):
        count = min(_STEP, number - first)
        data = memory.read(descriptors + first * _DESCRIPTOR_BYTES, count * _DESCRIPTOR_BYTES)
        # Pages of zeros have one and the same descriptor.
        one = data[:_DESCRIPTOR_BYTES]
        few = one if data == one * count else data
        offsets, lengths = array("Q", few)[::3], array("I", few)[2::6]
        if _are_within(offsets, low, high - block_size) and _are_within(lengths, 1, block_size):
            continue
        offsets, lengths = array("Q", data)[::3], array("I", data)[2::6]
        for at, (offset, length) in enumerate(zip(offsets, lengths), first):
            end = offset + length
            is_there = (low <= offset and end <= high) or not any(rng.clip(no_page, offset, end))
            if not is_there or not 0 < length <= block_size:
                start = lost.pop().start if lost and lost[-1].end == at else at
                lost.append(Range(start, at + 1))
        if len(lost) > limits.KDUMP_HOLES:
            raise ValueError(f"page descriptors that lead nowhere in more than {limits.KDUMP_HOLES} places")
    return lost


def _are_within(values: array[int], low: int, high: int) -> bool:
    """Whether all numbers are from ``low`` to ``high``, by arithmetic on one long integer: a dump has millions."""
    # A number keeps its top bit, which is set here, in a subtraction of what is not larger.
    ones = int.from_bytes((1).to_bytes(values.itemsize, "little") * len(values), "little")
    tops, found = ones << 8 * values.itemsize - 1, int.from_bytes(values.tobytes(), "little")
    if low > high or found & tops:
        return False
    return ((found | tops) - low * ones) & ((high * ones | tops) - found) & tops == tops


def _pages(lost: Sequence[Range], bitmap: bytes, pages: range, page_size: int) -> list[Range]:
    """The memory of the pages with these descriptors; of neighbours, with what is between them and has none."""
    found: list[Range] = []
    before, last = 0, None
    for low, high in bits.runs(bitmap, pages.start, pages.stop):
        if not lost or before >= lost[-1].end:
            break
        for start, end in rng.clip(lost, before, before + high - low):
            first = found.pop().start if start == last else (low + start - before) * page_size
            found.append(Range(first, (low + end - before) * page_size))
            last = end
        before += high - low
    return found
