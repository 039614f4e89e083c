# SPDX-License-Identifier: LGPL-2.1-or-later
"""The EFI memory map: ``efi_memory_desc_t`` as firmware writes it, and as the kernel prints it."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Sequence
from itertools import takewhile
from typing import NamedTuple, Optional

from drgn_unaccepted import limits
from drgn_unaccepted.field_types import U32, U64, Edge, hexadecimal
from drgn_unaccepted.model.ranges import PAGE_SHIFT

#: Memory types of the UEFI specification, named as in the kernel's memory_type_name[] (efi.c).
TYPES = tuple(
    (
        "Reserved|Loader Code|Loader Data|Boot Code|Boot Data|Runtime Code|Runtime Data|Conventional"
        "|Unusable|ACPI Reclaim|ACPI Mem NVS|MMIO|MMIO Port|PAL Code|Persistent|Unaccepted"
    ).split("|")
)

RESERVED, BOOT_CODE, BOOT_DATA, CONVENTIONAL, ACPI_RECLAIM, UNACCEPTED = 0, 3, 4, 7, 9, 15

#: Types of which the EFI stub makes RAM (setup_e820()).
RAM_TYPES = (1, 2, BOOT_CODE, BOOT_DATA, CONVENTIONAL, UNACCEPTED)

#: ``EFI_MEMORY_*`` by the short names in the kernel's efi_md_typeattr_format(), in its order.
ATTRIBUTES = {
    **{"RUN": 1 << 63, "HP": 1 << 20, "MR": 1 << 16, "CC": 1 << 19, "SP": 1 << 18, "NV": 1 << 15, "XP": 1 << 14},
    **{"RP": 1 << 13, "WP": 1 << 12, "RO": 1 << 17, "UCE": 1 << 4, "WB": 1 << 3, "WT": 1 << 2, "WC": 1 << 1, "UC": 1},
}

RUNTIME = ATTRIBUTES["RUN"]  #: ``EFI_MEMORY_RUNTIME``

_DESCRIPTOR = struct.Struct("<I4xQQQQ")  # u32 type; u32 pad; u64 phys_addr, virt_addr, num_pages, attribute.


@hexadecimal
class EfiDescriptor(NamedTuple):
    type: U32
    start: Edge  #: ``u64 phys_addr``
    end: Edge
    attribute: Optional[U64]  #: None if a log line has a word unknown here.

    @property
    def name(self) -> str:
        return type_name(self.type)


def type_name(type_: int) -> str:
    """The kernel's name for an EFI memory type; ``type=N`` without one, as the kernel prints it."""
    return TYPES[type_] if 0 <= type_ < len(TYPES) else f"type={type_}"


def attribute_names(attribute: int) -> list[str]:
    """The short names of the bits of ``attribute``, in the kernel's order; the other bits as a number."""
    other = attribute & ~sum(ATTRIBUTES.values())
    return [*(name for name, bit in ATTRIBUTES.items() if attribute & bit), *([f"{other:#x}"] if other else [])]


def decode_memory_map(data: bytes, stride: int) -> list[EfiDescriptor]:
    """Decode a memory map, in map order, including entries without pages.

    :param stride: bytes from one entry to the next (``efi_memdesc_size``): 48 on OVMF, more than sizeof()
    :raises ValueError: the stride or the length is impossible, or an entry (named as in the log) wraps
    """
    if not _DESCRIPTOR.size <= stride <= limits.EFI_DESCRIPTOR_BYTES:
        raise ValueError(f"EFI descriptors of {stride} bytes, not {_DESCRIPTOR.size} to {limits.EFI_DESCRIPTOR_BYTES}")
    number, rest = divmod(len(data), stride)
    if rest:
        raise ValueError(f"an EFI memory map of {len(data)} bytes, no multiple of its descriptors' {stride}")
    if number > limits.EFI_DESCRIPTORS:
        raise ValueError(f"an EFI memory map of {number} entries, over the limit of {limits.EFI_DESCRIPTORS}")
    descriptors = []
    for index in range(number):
        type_, start, _virt_addr, num_pages, attribute = _DESCRIPTOR.unpack_from(data, index * stride)
        end = start + (num_pages << PAGE_SHIFT)
        if end > 1 << 64:
            raise ValueError(f"EFI memory map: mem{index:02}: {num_pages:#x} pages from {start:#x} wrap")
        descriptors.append(EfiDescriptor(type_, start, end, attribute))
    return descriptors


def undo_merge_regions(descriptors: Sequence[EfiDescriptor]) -> list[EfiDescriptor]:
    """The map as it was before efi_merge_regions() (arch/x86/platform/efi/efi.c) edited it in place.

    That function extends an entry over the neighbours of the same type and attribute that follow it, and sets their
    type and attribute to 0. So entries with zeros that touch each other, and end where the entry before them ends,
    were absorbed by it: they get its type and attribute back, and it ends where they start. Other entries are left
    alone.
    """
    restored: list[EfiDescriptor] = []
    while len(restored) < len(descriptors):
        at = len(restored)
        grown, absorbed = descriptors[at], list[EfiDescriptor]()
        for entry in map(descriptors.__getitem__, range(at + 1, len(descriptors))):
            touches = entry.start == absorbed[-1].end if absorbed else grown.start <= entry.start
            if entry.type != RESERVED or entry.attribute != 0 or entry.end > grown.end or not touches:
                break
            absorbed.append(entry._replace(type=grown.type, attribute=grown.attribute))
        if absorbed and absorbed[-1].end == grown.end:
            restored += [grown._replace(end=absorbed[0].start), *absorbed]
        else:
            restored += descriptors[at : at + 1 + len(absorbed)]
    return restored


def undo_reserve_boot_services(descriptors: Sequence[EfiDescriptor]) -> list[EfiDescriptor]:
    """The map without the EFI_MEMORY_RUNTIME that efi_reserve_boot_services() (quirks.c) adds in its buffer.

    The kernel marks boot services memory that it must not free in this way. Firmware never sets the attribute there:
    boot services are gone when the operating system runs.
    """
    boot = (BOOT_CODE, BOOT_DATA)
    return [d._replace(attribute=d.attribute and d.attribute & ~RUNTIME) if d.type in boot else d for d in descriptors]


# efi_print_memmap(): "efi: mem%02u: %s range=[0x%016llx-0x%016llx] (%lluMB)", where %s is "[%-12s|RUN|HP|..." with an
# empty column for each attribute that is not set, "|attr=0x%016llx]" if there are attributes without a column, and
# "[type=%u" for a type without a name. The kernel drops entries that it prints with the size "(invalid)".
_LINE = re.compile(
    r"\befi: mem(\d{2,10}): \[([^|\]]{1,32})\|([^\]]{0,128})\] "
    r"range=\[0x([0-9a-f]{16})-0x([0-9a-f]{16})\] \(\d+MB\)"
)
RUNTIME_MAP = "efi: EFI runtime memory map:"  #: The heading of the second map.


def parse_log_lines(lines: Iterable[str]) -> tuple[list[EfiDescriptor], Optional[str]]:
    """The boot map, in map order, and why the lines show that it is not whole.

    ``efi=debug`` prints it (efi_print_memmap(), the same in Linux 6.12 and 7.3), and after "EFI runtime memory map:"
    the runtime entries again, which are not used. A log loses its oldest records first, so the map has a whole
    beginning if it starts at mem00 and has no gap. A kernel started by kexec prints only runtime entries the first time
    too, which the lines do not show.
    """
    descriptors: list[EfiDescriptor] = []
    first: Optional[int] = None
    for match in filter(None, map(_LINE.search, takewhile(lambda line: RUNTIME_MAP not in line, lines))):
        index = int(match.group(1))
        if first is None:
            first = index
        elif index < first + len(descriptors):
            break  # the map is printed again
        if index != first + len(descriptors):
            return descriptors, f"the log has no mem{first + len(descriptors):02}"
        if index >= limits.EFI_DESCRIPTORS:
            return descriptors, f"the log has over {limits.EFI_DESCRIPTORS} entries"
        type_ = _parse_type(match.group(2).rstrip(" "))
        start, last = int(match.group(4), 16), int(match.group(5), 16)
        if type_ is None or last + 1 < start:
            return descriptors, f"mem{index:02} cannot be read"
        descriptors.append(EfiDescriptor(type_, start, last + 1, _parse_attribute(match.group(3))))
    if first is None:
        return [], "the log has no efi: mem lines (the kernel prints them with efi=debug)"
    if first:
        return descriptors, f"the log starts at mem{first:02}, earlier entries are lost"
    return descriptors, None


def _parse_type(name: str) -> Optional[int]:
    if name in TYPES:
        return TYPES.index(name)
    number = re.fullmatch(r"type=(\d{1,10})", name)
    return int(number.group(1)) if number else None


def _parse_attribute(columns: str) -> Optional[int]:
    number = re.fullmatch(r"attr=0x([0-9a-f]{16})", columns)
    if number:
        return int(number.group(1), 16)
    names = {*map(str.strip, columns.split("|"))} - {""}
    return sum(map(ATTRIBUTES.__getitem__, names)) if names <= ATTRIBUTES.keys() else None
