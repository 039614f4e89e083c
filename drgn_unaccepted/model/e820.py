# SPDX-License-Identifier: LGPL-2.1-or-later
"""The e820 tables: the type of each physical range.

There is no type for unaccepted memory; the stub reports it as RAM.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple, Optional

from drgn_unaccepted import limits
from drgn_unaccepted.bounds import U32, Edge
from drgn_unaccepted.model.ranges import Range

RAM, RESERVED, ACPI, NVS = 1, 2, 3, 4

#: ``enum e820_type`` (arch/x86/include/asm/e820/types.h), by its constants. The kernel's log uses
#: other words: "usable", "reserved", "ACPI data", "ACPI NVS" in 6.x, "System RAM", "device reserved" in 7.x.
TYPES = {
    RAM: "RAM",
    RESERVED: "Reserved",
    ACPI: "ACPI",
    NVS: "NVS",
    5: "Unusable",
    7: "PMEM",
    12: "PRAM",
    128: "Reserved Kern",  # RAM that the kernel itself uses; gone by 7.2
    0xEFFFFFFF: "Soft Reserved",
}

# struct e820_entry and struct boot_e820_entry, both packed: u64 addr; u64 size; u32 type.
_ENTRY = struct.Struct("<QQI")


class E820Entry(NamedTuple):
    """One entry.

    :ivar start: ``u64 addr``
    :ivar end: end (exclusive), ``addr + size``
    :ivar type: ``enum e820_type type``, see :func:`type_name`
    """

    start: Edge
    end: Edge
    type: U32


def type_name(type_: int) -> str:
    """The name of an e820 type; ``type N`` without one, as the kernel prints it."""
    return TYPES.get(type_, f"type {type_}")


def decode_e820_entries(data: bytes, number: int) -> list[E820Entry]:
    """Decode the first ``number`` entries of an array, for example ``boot_params.e820_table``, in its order.

    :raises ValueError: more entries than a table can have or than there are bytes for, or an entry wraps
    """
    if not 0 <= number <= limits.E820_ENTRIES:
        raise ValueError(f"an e820 table of {number} entries, over the limit of {limits.E820_ENTRIES}")
    if number * _ENTRY.size > len(data):
        raise ValueError(f"an e820 table of {number} entries in {len(data)} bytes")
    entries = []
    for index, (address, size, type_) in enumerate(_ENTRY.iter_unpack(data[: number * _ENTRY.size])):
        if address + size > 1 << 64:
            raise ValueError(f"e820 entry {index}: {size:#x} bytes from {address:#x} wrap")
        entries.append(E820Entry(address, address + size, type_))
    return entries


def decode_e820_ext(data: bytes) -> list[E820Entry]:
    """Decode the payload of a ``struct setup_data`` of type SETUP_E820_EXT: entries that did not fit in boot_params.

    Like the kernel's e820__memory_setup_extended() this takes ``len / 20`` entries.

    :param data: the payload, ``len`` bytes, without the ``struct setup_data`` before it
    :raises ValueError: as in :func:`decode_e820_entries`
    """
    return decode_e820_entries(data, len(data) // _ENTRY.size)


def find_entry(entries: Sequence[E820Entry], address: int) -> Optional[E820Entry]:
    """The entry with ``address``, or None. The order does not matter; if entries overlap, the highest type wins."""
    holding = [entry for entry in entries if entry.start <= address < entry.end]
    return max(holding, key=lambda entry: entry.type) if holding else None


def flatten(entries: Sequence[E820Entry]) -> list[E820Entry]:
    """Sort, merge neighbours of the same type; if entries overlap, the highest type wins.

    This is the rule of the kernel's e820__update_table(), which keeps only neighbours of types 12 (PRAM) and
    0xefffffff (soft reserved) apart.
    """
    edges = sorted(
        edge for start, end, type_ in entries if start < end for edge in ((start, 1, type_), (end, -1, type_))
    )
    flat: list[E820Entry] = []
    open_types: dict[int, int] = {}
    last = 0
    for address, step, type_ in edges:
        if open_types and last < address:
            winner = max(open_types)
            if flat and flat[-1].end == last and flat[-1].type == winner:
                flat[-1] = flat[-1]._replace(end=address)
            else:
                flat.append(E820Entry(last, address, winner))
        last = address
        open_types[type_] = open_types.get(type_, 0) + step
        if not open_types[type_]:
            del open_types[type_]
    return flat


class Difference(NamedTuple):
    """A range whose type is ``a`` in one table and ``b`` in the other; None where the table has no entry."""

    range: Range
    a: Optional[int]
    b: Optional[int]


def differences(a: Sequence[E820Entry], b: Sequence[E820Entry]) -> list[Difference]:
    """Where two tables differ, ascending, neighbours of the same pair of types joined."""
    flat_a, flat_b = flatten(a), flatten(b)
    edges = sorted({edge for entry in flat_a + flat_b for edge in entry[:2]})
    found: list[Difference] = []
    i = j = 0
    for start, end in zip(edges, edges[1:]):
        while i < len(flat_a) and flat_a[i].end <= start:
            i += 1
        while j < len(flat_b) and flat_b[j].end <= start:
            j += 1
        type_a = flat_a[i].type if i < len(flat_a) and flat_a[i].start <= start else None
        type_b = flat_b[j].type if j < len(flat_b) and flat_b[j].start <= start else None
        if type_a == type_b:
            continue
        if found and found[-1][1:] == (type_a, type_b) and found[-1].range.end == start:
            found[-1] = Difference(Range(found[-1].range.start, end), type_a, type_b)
        else:
            found.append(Difference(Range(start, end), type_a, type_b))
    return found
