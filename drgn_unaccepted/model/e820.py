# SPDX-License-Identifier: LGPL-2.1-or-later
"""The e820 tables: the type of each physical range.

There is no type for unaccepted memory; the stub reports it as RAM.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple, Optional

from drgn_unaccepted import limits
from drgn_unaccepted.field_types import U32, Edge, hexadecimal
from drgn_unaccepted.model.ranges import Range, merge

RAM, RESERVED, ACPI, NVS = 1, 2, 3, 4

RAM_TYPES = (RAM, 128)  #: RAM, and E820_TYPE_RESERVED_KERN, which Linux before 7.2 makes of the RAM under setup_data.

#: ``enum e820_type`` (arch/x86/include/asm/e820/types.h), by its constants. The kernel's log uses
#: other words: "usable", "reserved", "ACPI data", "ACPI NVS" in 6.x, "System RAM", "device reserved" in 7.x.
TYPES = {
    **{RAM: "RAM", RESERVED: "Reserved", ACPI: "ACPI", NVS: "NVS", 5: "Unusable", 7: "PMEM", 12: "PRAM"},
    **{128: "Reserved Kern", 0xEFFFFFFF: "Soft Reserved"},
}

#: The same by e820_print_type() of Linux 6.x, in the log.
PRINTED = {
    **{RAM: "usable", RESERVED: "reserved", ACPI: "ACPI data", NVS: "ACPI NVS", 5: "unusable"},
    **{7: "persistent (type 7)", 12: "persistent (type 12)", 128: "usable", 0xEFFFFFFF: "soft reserved"},
}
#: By the words of the log, in Linux 7.x those of e820_type_to_str(); others have their number in them.
LOGGED = {
    **{word: kind for kind, word in PRINTED.items() if kind not in (7, 12, 128)},
    **{"System RAM": RAM, "device reserved": RESERVED},
}
_NUMBERED = re.compile(r"(?:persistent (?:RAM )?\()?type (\d{1,9})\)?")

# struct e820_entry and struct boot_e820_entry, both packed: u64 addr; u64 size; u32 type.
_ENTRY = struct.Struct("<QQI")


@hexadecimal
class E820Entry(NamedTuple):
    start: Edge  #: ``u64 addr``
    end: Edge  #: Exclusive, ``addr + size``.
    type: U32  #: ``enum e820_type``

    @property
    def name(self) -> str:
        return type_name(self.type)


def type_name(type_: int) -> str:
    """The name of an e820 type; ``type N`` without one, as the kernel prints it."""
    return TYPES.get(type_, f"type {type_}")


def parse_type(words: str) -> Optional[int]:
    """The e820 type that the kernel's log names so, or None."""
    numbered = _NUMBERED.fullmatch(words)
    return LOGGED.get(words) if numbered is None else int(numbered[1])


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


def find_entry(entries: Sequence[E820Entry], address: int) -> Optional[E820Entry]:
    """The entry with ``address``, or None. The order does not matter; if entries overlap, the highest type wins."""
    holding = (entry for entry in entries if entry.start <= address < entry.end)
    return max(holding, key=lambda entry: entry.type, default=None)


def flatten(entries: Sequence[E820Entry]) -> list[E820Entry]:
    """Sort, merge neighbours of the same type; if entries overlap, the highest type wins.

    This is the rule of the kernel's e820__update_table(), which keeps only neighbours of types 12 (PRAM) and
    0xefffffff (soft reserved) apart.
    """
    return [E820Entry(start, end, type_) for start, end, (type_,) in _sweep(entries) if type_ is not None]


class Difference(NamedTuple):
    """A range whose type is ``a`` in one table and ``b`` in the other; None where the table has no entry."""

    range: Range
    a: Optional[int]
    b: Optional[int]


def differences(a: Sequence[E820Entry], b: Sequence[E820Entry]) -> list[Difference]:
    """Where two tables differ, ascending, neighbours of the same pair of types joined."""
    return [Difference(Range(start, end), one, other) for start, end, (one, other) in _sweep(a, b) if one != other]


def _sweep(*tables: Sequence[E820Entry]) -> list[tuple[int, int, tuple[Optional[int], ...]]]:
    """The highest type in each table, or None, for each range in which they stay the same, ascending."""
    edges = sorted(
        (edge, number, type_, step)
        for number, table in enumerate(tables)
        for start, end, type_ in table
        if start < end
        for edge, step in ((start, 1), (end, -1))
    )
    swept: list[tuple[int, int, tuple[Optional[int], ...]]] = []
    counts: list[Counter[int]] = [Counter() for _ in tables]
    last = 0
    for address, number, type_, step in edges:
        if last < address:
            types = tuple(max(+each, default=None) for each in counts)
            if swept and swept[-1][2] == types:
                swept[-1] = (swept[-1][0], address, types)
            else:
                swept.append((last, address, types))
            last = address
        counts[number][type_] += step
    return swept


def memory(entries: Optional[Sequence[E820Entry]], *types: int) -> list[Range]:
    """The memory that a table has as one of ``types``, by default RAM."""
    return merge((entry.start, entry.end) for entry in flatten(entries or ()) if entry.type in (types or RAM_TYPES))
