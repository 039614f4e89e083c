# SPDX-License-Identifier: LGPL-2.1-or-later
"""The header of ``struct efi_unaccepted_memory`` (include/linux/efi.h, unchanged from Linux 6.5 to 7.3)."""

from __future__ import annotations

import struct
from typing import NamedTuple, Optional

from drgn_unaccepted import limits
from drgn_unaccepted.model.bitmap import Geometry
from drgn_unaccepted.model.ranges import PAGE_SIZE, Range

HEADER = struct.Struct("<IIQQ")  #: ``u32 version; u32 unit_size; u64 phys_base; u64 size;`` and then the bitmap.

VERSION = 1

X86_UNIT_SIZE = 2 << 20  #: EFI_UNACCEPTED_UNIT_SIZE on x86, PMD_SIZE, the smallest unit that a kernel uses.

#: States of a table whose address is known; ``absent`` is the state without a table.
PRESENT, NOT_CAPTURED, UNSUPPORTED, INVALID = "present", "not-captured", "unsupported", "invalid"


class Header(NamedTuple):
    version: int  #: 1 in every released kernel.
    unit_size: int  #: Bytes that one bit stands for.
    phys_base: int  #: Physical address of bit 0.
    bitmap_bytes: int  #: The C field ``size``: length of the bitmap, without the header.

    @property
    def geometry(self) -> Geometry:
        """The addresses that the bitmap covers; valid only if :func:`judge_header` returns "present"."""
        return Geometry(self.phys_base, self.bitmap_bytes, self.unit_size)


def decode_header(data: bytes) -> Header:
    """Decode the first 24 bytes of the table; ValueError if there are fewer."""
    if len(data) < HEADER.size:
        raise ValueError(f"a header of {len(data)} bytes where {HEADER.size} are needed")
    return Header(*HEADER.unpack_from(data))


def is_unit_size(unit_size: int) -> bool:
    """Whether a table can have units of so many bytes: a power of two, at least a page."""
    return unit_size >= PAGE_SIZE and unit_size & (unit_size - 1) == 0


def judge_header(header: Header, address: int) -> tuple[str, Optional[str]]:
    """Whether the bitmap of a table at ``address`` may be read: the table's state and the reason (None if present)."""
    version, unit_size, phys_base, size = header
    if not any(header):
        # A filtered vmcore returns zeros for pages that it lacks; they are no evidence of a table.
        return NOT_CAPTURED, "the header reads as zeros"
    if version == 2:
        series = "an unmerged patch series (TDX memory hotplug, RFC of 2026)"
        return UNSUPPORTED, f"version 2, as in {series}: two bitmaps, the second one of plugged memory"
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
    end, beyond = header.geometry.end, f"beyond the last physical address {limits.PHYSICAL_END - 1:#x}"
    if end > limits.PHYSICAL_END:
        wraps = ", which wraps in 64 bits" if end > 1 << 64 else ""
        return INVALID, f"phys_base, size: the bitmap covers up to {end:#x}{wraps}, {beyond}"
    if address + HEADER.size + size > limits.PHYSICAL_END:
        return INVALID, f"size: the table at {address:#x} would reach {beyond}"
    return PRESENT, None


def unreserved_tail(table: Range) -> Optional[Range]:
    """The end of a table, with header, that reserve_unaccepted() left unreserved before its fix; None if nothing.

    From Linux 6.6 on (8dbe33956d96) the kernel reserved ``PAGE_ALIGN(24 + size)`` bytes from the start of the
    table's first page, and forgot the table's offset in that page. 0862438c9048 (7.0; 6.12.75) fixes it. This says
    what a kernel without the fix does, not whether this kernel has it.
    """
    reserved = table.start - table.start % PAGE_SIZE + -((table.start - table.end) // PAGE_SIZE) * PAGE_SIZE
    return Range(reserved, table.end) if reserved < table.end else None
