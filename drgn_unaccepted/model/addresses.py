# SPDX-License-Identifier: LGPL-2.1-or-later
"""Addresses and ranges, as users type them or paste them out of a kernel log."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple, Optional

from drgn_unaccepted.limits import PHYSICAL_END
from drgn_unaccepted.model.ranges import Range

#: Where the kernel image is mapped (arch/x86/include/asm/page_64_types.h). KASLR moves the image within this mapping,
#: and in physical memory, each by its own amount.
START_KERNEL_MAP = 0xFFFFFFFF80000000

#: The kernel's half of the address space, with four levels and with five.
KERNEL_SPACE = Range(0xFF00000000000000, 1 << 64)


class Query(NamedTuple):
    """An address, or a range of them: physical, or kernel virtual until it is translated."""

    start: int
    #: Exclusive; None for a single address.
    end: Optional[int]
    #: As it was written.
    text: str = ""
    #: The virtual address that ``start`` is the translation of, and the mapping that it lies in.
    virtual: Optional[int] = None
    mapping: Optional[str] = None

    @property
    def range(self) -> Range:
        return Range(self.start, self.start + 1 if self.end is None else self.end)

    @property
    def is_virtual(self) -> bool:
        return self.start >= KERNEL_SPACE.start


_HEXADECIMAL = "0123456789abcdefABCDEF"
_SUFFIXES = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_PFN, _PAGE_SHIFT = "pfn:", 12
#: As printk() writes a struct resource or a range of an e820 or EFI memory map; the end is inclusive.
_MEM = re.compile(r"\[mem (0x[0-9a-f]{1,16})-(0x[0-9a-f]{1,16})\]", re.IGNORECASE)


def split_queries(words: Iterable[str]) -> list[str]:
    """The words of a command line, with those of each ``[mem 0xa-0xb]`` in one."""
    return re.findall(r"\[[^]]*]?|\S+", " ".join(words))


def parse_query(text: str) -> Query:
    """``ADDR``, ``ADDR-END`` (END exclusive), ``ADDR+LEN`` or ``[mem ADDR-LAST]``.

    :raises ValueError: one line that says what is wrong with it
    """
    pasted = _MEM.fullmatch(text)
    if pasted:
        return bounded(Query(int(pasted[1], 16), int(pasted[2], 16) + 1, text))
    for mark in "-+":
        first, found, second = text.partition(mark)
        if found and not text.startswith("["):
            start, other = _part(first, text), _part(second, text)
            return bounded(Query(start, other if mark == "-" else start + other, text))
    return bounded(Query(parse_address(text), None, text))


def parse_address(text: str) -> int:
    """A hexadecimal number with ``0x``, or of 16 digits as in an oops, ``pfn:`` and one of them, or a decimal number
    with a suffix K, M, G or T (powers of 1024).

    Other digits alone are refused: ``100000000`` out of /proc/iomem is hexadecimal, out of JSON decimal.
    """
    if text[:4].lower() == _PFN:
        return _part(text[4:], text) << _PAGE_SHIFT
    digits = text[2:] if text[:2].lower() == "0x" else text
    # int() alone takes signs, underscores and another 0x.
    is_hexadecimal = bool(digits) and not digits.strip(_HEXADECIMAL)
    as_in_an_oops = len(text) == 16 and (text.startswith("0") or not text.isdecimal())
    if is_hexadecimal and (digits is not text or as_in_an_oops):
        return int(digits, 16)
    if digits is not text:
        raise ValueError(f"{text}: not an address")
    if text[-1:].upper() in _SUFFIXES and text[:-1].isascii() and text[:-1].isdecimal():
        return int(text[:-1]) * _SUFFIXES[text[-1].upper()]
    if text and not text.strip("0"):
        return 0
    if text.isascii() and text.isdecimal() and len(text) < 20:
        raise ValueError(f"{text}: decimal or hexadecimal? write {int(text):#x} or 0x{text}")
    if is_hexadecimal:
        raise ValueError(f"{text}: not an address: did you mean 0x{text}?")
    raise ValueError(
        f"{text}: not an address (0x125a00000, 16 digits as in an oops, pfn:0x125a00, 4G, or [mem 0xa-0xb])"
    )


def _part(text: str, of: str) -> int:
    if not text:
        raise ValueError(f"{of}: not an address, and not a range of them")
    try:
        return parse_address(text)
    except ValueError as error:
        raise ValueError(f"{of}: {error}") from None


def bounded(query: Query) -> Query:
    """The same query, if it is one.

    :raises ValueError: it is empty, or neither physical nor in the kernel's half of the address space
    """
    text, (start, end) = query.text, query.range
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
                size, start = (int(match[n], 0) * _SUFFIXES.get(match[n + 1].upper(), 1) for n in (1, 3))
                found.append(Range(start, min(start + size, PHYSICAL_END)))
    return [range_ for range_ in found if range_.start < range_.end]
