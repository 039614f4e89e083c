# SPDX-License-Identifier: LGPL-2.1-or-later
"""Addresses and ranges, as users type them or paste them out of a kernel log."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple, Optional

from drgn_unaccepted.limits import PHYSICAL_END
from drgn_unaccepted.model.ranges import PAGE_SHIFT, Range

#: Where the kernel image is mapped (arch/x86/include/asm/page_64_types.h). KASLR moves the image within this mapping,
#: and in physical memory, each by its own amount.
START_KERNEL_MAP = 0xFFFFFFFF80000000

#: The kernel's half of the address space, with four levels and with five.
KERNEL_SPACE = Range(0xFF00000000000000, 1 << 64)


class Query(NamedTuple):
    """An address, or a range of them: physical, or kernel virtual until it is translated."""

    start: int
    end: Optional[int]  #: Exclusive; None for a single address.
    text: str = ""  #: As it was written.
    #: The virtual address that ``start`` is the translation of, and the mapping that it lies in.
    virtual: Optional[int] = None
    mapping: Optional[str] = None

    @property
    def range(self) -> Range:
        return Range(self.start, self.start + 1 if self.end is None else self.end)

    @property
    def is_virtual(self) -> bool:
        return self.start >= KERNEL_SPACE.start


_SHIFTS = {"K": 10, "M": 20, "G": 30, "T": 40}
#: A number: with 0x, of 16 digits as in an oops, or with a suffix; the PFN of a page has a prefix.
_ADDRESS = re.compile(r"(pfn:)?(?:0x([0-9a-f]+)|(0[0-9a-f]{15}|(?![0-9]{16})[0-9a-f]{16})|([0-9]+)([KMGT])|0+)", re.I)
#: As printk() writes a struct resource or a range of an e820 or EFI memory map; the end is inclusive.
_MEM = re.compile(r"\[mem (0x[0-9a-f]{1,16})-(0x[0-9a-f]{1,16})\]", re.I)


def split_queries(words: Iterable[str]) -> list[str]:
    """The words of a command line, with those of each ``[mem 0xa-0xb]`` in one."""
    return re.findall(r"\[[^]]*]?|\S+", " ".join(words))


def parse_query(text: str) -> Query:
    """``ADDR``, ``ADDR-END`` (END exclusive), ``ADDR+LEN`` or ``[mem ADDR-LAST]``; ValueError says what is wrong."""
    pasted = _MEM.fullmatch(text)
    if pasted:
        return bounded(Query(int(pasted[1], 16), int(pasted[2], 16) + 1, text))
    first, mark, second = re.split("([-+]|$)", text, maxsplit=1)
    try:
        start = parse_address(first)
        end = parse_address(second) + (start if mark == "+" else 0) if mark else None
    except ValueError as error:
        raise ValueError(f"{text}: {error}" if mark else str(error)) from None
    return bounded(Query(start, end, text))


def parse_address(text: str) -> int:
    """A hexadecimal number with ``0x`` or of 16 digits, ``pfn:`` and one, or a decimal one with K, M, G or T.

    Other digits alone are refused: ``100000000`` out of /proc/iomem is hexadecimal, out of JSON decimal.
    """
    found = _ADDRESS.fullmatch(text)
    if found:
        pfn, with_0x, of_16, decimal, suffix = found.groups()
        number = int(decimal) << _SHIFTS[suffix.upper()] if decimal else int(with_0x or of_16 or "0", 16)
        return number << PAGE_SHIFT if pfn else number
    digits = text[4:] if text[:4].lower() == "pfn:" else text
    if re.fullmatch("[0-9]{1,19}", digits):
        raise ValueError(f"{text}: decimal or hexadecimal? write {int(digits):#x} or 0x{digits}")
    if re.fullmatch("[0-9a-fA-F]+", text):
        raise ValueError(f"{text}: not an address: did you mean 0x{text}?")
    what = "0x125a00000, 16 digits as in an oops, pfn:0x125a00, 4G, or [mem 0xa-0xb]"
    raise ValueError(f"{text}: not an address ({what})")


def bounded(query: Query) -> Query:
    """The same query; ValueError if it is empty, or neither physical nor in the kernel's half of the address space."""
    text, (start, end) = query.text, query.range
    if start < 0:
        raise ValueError(f"{text}: negative")
    if end <= start:
        raise ValueError(f"{text}: the range {'is empty' if end == start else 'ends before it starts'}")
    if end > (KERNEL_SPACE.end if query.is_virtual else PHYSICAL_END):
        last, kernel = PHYSICAL_END - 1, KERNEL_SPACE.start
        raise ValueError(f"{text}: beyond the last physical address, {last:#x}; the kernel's begin at {kernel:#x}")
    return query


def on_command_line(line: str, option: str, marks: str) -> list[Range]:
    """``OPTION=SIZE@START,...`` of the kernel's command line, with one of ``marks`` for the ``@``."""
    number = r"(0x[0-9a-f]{1,16}|0|[1-9][0-9]{0,18})([kmgt]?)"
    found = []
    for words in re.findall(rf"(?:^|\s){option}=(\S+)", line):
        for part in words.lower().split(","):
            match = re.fullmatch(rf"{number}[{marks}]{number}", part)
            if match is not None:
                size, start = (int(match[n], 0) << _SHIFTS.get(match[n + 1].upper(), 0) for n in (1, 3))
                found.append(Range(start, min(start + size, PHYSICAL_END)))
    return [range_ for range_ in found if range_.start < range_.end]
