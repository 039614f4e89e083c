# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether a kdump-compressed file is whole.

libkdumpfile maps the file and does not look at its length: a read of a page behind the end of a file that was cut
short, as kdump leaves it on a full disk, ends the process with SIGBUS. So it is looked at here, without reading more
than the headers and the last page descriptors (disk_dump_header, kdump_sub_header, two bitmaps, page_desc[], pages;
makedumpfile's IMPLEMENTATION and diskdump_mod.h).
"""

from __future__ import annotations

import os
import struct
from typing import BinaryIO, Optional

from drgn_unaccepted.files import open_dump

_SIGNATURE = b"KDUMP   "
#: status, block_size, sub_hdr_size, bitmap_blocks of struct disk_dump_header.
_HEADER = struct.Struct("<424xIiiI")
#: offset_vmcoreinfo, size_vmcoreinfo, offset_note, size_note, offset_eraseinfo, size_eraseinfo of struct
#: kdump_sub_header.
_SUB_HEADER = struct.Struct("<32xQQQQQQ")
#: offset, size, flags, page_flags of page_desc_t; nothing uses the last one.
_DESCRIPTOR = struct.Struct("<QIIQ")
#: DUMP_DH_COMPRESSED_INCOMPLETE: makedumpfile ran out of space.
_INCOMPLETE = 0x8
#: Descriptors that are looked at. The last page is the last in the file, if it is not the shared page of zeros.
_LAST_DESCRIPTORS = 4096
_LARGEST_PAGE = 64 << 10


def read_kdump_extent(path: str) -> Optional[tuple[int, int, bool]]:
    """Bytes that a kdump-compressed file needs, bytes that it has, and whether makedumpfile could not write all.

    The needed bytes end with the last page and the notes, as far as the headers tell.

    :return: None for any other file, among them the flattened form
    :raises OSError: the file cannot be read
    :raises ValueError: the header is damaged
    """
    with open_dump(path) as file:
        data = file.read(_HEADER.size)
        if data[: len(_SIGNATURE)] != _SIGNATURE:
            return None
        size = os.fstat(file.fileno()).st_size
        if len(data) < _HEADER.size:
            return _HEADER.size, size, False
        status, block_size, sub_header_blocks, bitmap_blocks = _HEADER.unpack(data)
        if not 512 <= block_size <= _LARGEST_PAGE or sub_header_blocks < 0:
            raise ValueError(f"blocks of {block_size} bytes, {sub_header_blocks} of them in the second header")
        descriptors = (1 + sub_header_blocks + bitmap_blocks) * block_size
        needed = max(_end_of_notes(file, block_size), _end_of_pages(file, descriptors, size))
        return needed, size, bool(status & _INCOMPLETE)


def _end_of_notes(file: BinaryIO, sub_header: int) -> int:
    file.seek(sub_header)
    data = file.read(_SUB_HEADER.size)
    if len(data) < _SUB_HEADER.size:
        return sub_header + _SUB_HEADER.size
    fields = _SUB_HEADER.unpack(data)
    return max(int(offset + size) for offset, size in zip(fields[::2], fields[1::2]))


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
