# SPDX-License-Identifier: LGPL-2.1-or-later
"""The header of ``struct efi_unaccepted_memory`` (include/linux/efi.h, unchanged from Linux 6.5 to 7.3)."""

from __future__ import annotations

import struct
from typing import NamedTuple, Optional

from drgn_unaccepted import limits
from drgn_unaccepted.model.bitmap import PAGE_SIZE, Geometry
from drgn_unaccepted.model.ranges import Range

#: ``u32 version; u32 unit_size; u64 phys_base; u64 size;`` and then the bitmap.
HEADER = struct.Struct("<IIQQ")

VERSION = 1

#: EFI_UNACCEPTED_UNIT_SIZE on x86, PMD_SIZE, the smallest unit that a kernel uses.
X86_UNIT_SIZE = 2 << 20

#: States of a table whose address is known; ``absent`` is the state without a table.
PRESENT, NOT_CAPTURED, UNSUPPORTED, INVALID = "present", "not-captured", "unsupported", "invalid"


class Header(NamedTuple):
    """The header's fields.

    :ivar version: ``u32 version``, 1 in every released kernel
    :ivar unit_size: ``u32 unit_size``, bytes that one bit stands for
    :ivar phys_base: ``u64 phys_base``, physical address of bit 0
    :ivar bitmap_bytes: ``u64 size``, length of the bitmap in bytes, without the header
    """

    version: int
    unit_size: int
    phys_base: int
    bitmap_bytes: int

    @property
    def geometry(self) -> Geometry:
        """The addresses that the bitmap covers; valid only if :func:`judge_header` returns "present"."""
        return Geometry(self.phys_base, self.bitmap_bytes, self.unit_size)


def decode_header(data: bytes) -> Header:
    """Decode the first 24 bytes of the table.

    :raises ValueError: there are fewer than 24 bytes
    """
    if len(data) < HEADER.size:
        raise ValueError(f"a header of {len(data)} bytes where {HEADER.size} are needed")
    return Header(*HEADER.unpack_from(data))


def is_unit_size(unit_size: int) -> bool:
    """Whether a table can have units of so many bytes: a power of two, at least a page."""
    return unit_size >= PAGE_SIZE and unit_size & (unit_size - 1) == 0


def judge_header(header: Header, address: int) -> tuple[str, Optional[str]]:
    """Whether the bitmap behind this header may be read: the table's state and the reason (None if present).

    :param address: physical address of the table (``efi.unaccepted``)
    """
    version, unit_size, phys_base, size = header
    if not any(header):
        # A filtered vmcore returns zeros for pages that it lacks; they are no evidence of a table.
        return NOT_CAPTURED, "the header reads as zeros"
    if version == 2:
        return UNSUPPORTED, (
            "version 2, as in an unmerged patch series (TDX memory hotplug, RFC of 2026): two bitmaps, the"
            " second one of plugged memory"
        )
    if version != VERSION:
        return UNSUPPORTED, f"version {version}, only version 1 is known"
    if not is_unit_size(unit_size):
        return INVALID, f"unit_size: {unit_size} is not a power of two of at least {PAGE_SIZE}"
    if phys_base % unit_size:
        return INVALID, f"phys_base: {phys_base:#x} is not a multiple of unit_size {unit_size:#x}"
    if size == 0:
        return INVALID, "size: the bitmap has no bytes"
    if size > limits.BITMAP_BYTES:
        return INVALID, f"size: a bitmap of {size} bytes, over the limit of {limits.BITMAP_BYTES}"
    end = header.geometry.end
    if end > limits.PHYSICAL_END:
        wraps = ", which wraps in 64 bits" if end > 1 << 64 else ""
        return INVALID, (
            f"phys_base, size: the bitmap covers up to {end:#x}{wraps}, beyond the last physical address"
            f" {limits.PHYSICAL_END - 1:#x}"
        )
    if address + HEADER.size + size > limits.PHYSICAL_END:
        return INVALID, (
            f"size: the table at {address:#x} would reach beyond the last physical address {limits.PHYSICAL_END - 1:#x}"
        )
    return PRESENT, None


def unreserved_tail(table: Range) -> Optional[Range]:
    """The end of a table that reserve_unaccepted() left unreserved before its fix; None if it reserved all.

    From Linux 6.6 on (8dbe33956d96) the kernel reserved ``PAGE_ALIGN(24 + size)`` bytes from the start of the
    table's first page, and forgot the table's offset in that page. 0862438c9048 (7.0; 6.12.75) fixes it. This says
    what a kernel without the fix does, not whether this kernel has it.

    :param table: header and bitmap
    """
    reserved = table.start - table.start % PAGE_SIZE + -((table.start - table.end) // PAGE_SIZE) * PAGE_SIZE
    return Range(reserved, table.end) if reserved < table.end else None
