# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether a kdump-compressed file is whole.

libkdumpfile maps the file and does not look at its length: a read of a page behind the end of a file that was cut
short, as kdump leaves it on a full disk, ends the process with SIGBUS. So it is looked at here, without reading more
than the headers and the last page descriptors (disk_dump_header, kdump_sub_header, two bitmaps, page_desc[], pages;
makedumpfile's IMPLEMENTATION and diskdump_mod.h).
"""

from __future__ import annotations

import io
import struct
from typing import BinaryIO, NamedTuple, Optional

from drgn_unaccepted.files import open_dump

_SIGNATURE = b"KDUMP   "
#: status, block_size, sub_hdr_size, bitmap_blocks of struct disk_dump_header.
_HEADER = struct.Struct("<424xIiiI")
#: split, offset_vmcoreinfo, size_vmcoreinfo, offset_note, size_note, offset_eraseinfo, size_eraseinfo, start_pfn_64,
#: end_pfn_64 of struct kdump_sub_header.
_SUB_HEADER = struct.Struct("<12xi16xQQQQQQQQ")
#: offset, size, flags, page_flags of page_desc_t; nothing uses the last one.
_DESCRIPTOR = struct.Struct("<QIIQ")
#: DUMP_DH_COMPRESSED_INCOMPLETE: makedumpfile ran out of space.
_INCOMPLETE = 0x8
#: Descriptors that are looked at. The last page is the last in the file, if it is not the shared page of zeros.
_LAST_DESCRIPTORS = 4096
_LARGEST_PAGE = 64 << 10


class Kdump(NamedTuple):
    """What the headers of a kdump-compressed file say about its completeness."""

    #: Bytes that it needs: up to the last page and the notes.
    needed_size: int
    #: Bytes that it has.
    size: int
    #: Why it does not have all pages although the file is as long as it says; None if it has them.
    incomplete: Optional[str] = None


def read_kdump(path: str) -> Optional[Kdump]:
    """The headers of a kdump-compressed file.

    :return: None for any other file, among them the flattened form
    :raises OSError: the file cannot be read
    :raises ValueError: the header is damaged
    """
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
            incomplete = (
                f"a part of a split dump, pages {start:#x} to {end:#x}: join the parts with makedumpfile --reassemble"
            )
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
