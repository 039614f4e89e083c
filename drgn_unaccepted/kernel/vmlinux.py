# SPDX-License-Identifier: LGPL-2.1-or-later
"""Addresses out of a vmlinux's symbol table, for what has to be known before drgn can open a dump."""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator
from typing import NamedTuple

from drgn_unaccepted.files import open_dump
from drgn_unaccepted.kernel.elf_sections import ElfSections
from drgn_unaccepted.kernel.errors import Unavailable

#: ``Elf64_Sym``: st_name, st_info, st_other, st_shndx, st_value, st_size.
_SYM = struct.Struct("<IBBHQQ")


class VmlinuxSymbol(NamedTuple):
    #: As linked, without what KASLR adds.
    address: int
    #: Bytes.
    size: int


def read_vmlinux_symbols(path: str, names: Collection[str]) -> dict[str, VmlinuxSymbol]:
    """The symbols of these names; of a name that several have, the first.

    The table is searched in bulk: a distribution's kernel has 200 thousand.

    :raises Unavailable: not an ELF file
    :raises OSError: the file cannot be read
    """
    try:
        with open_dump(path) as file:
            tables = list(ElfSections(file).symbol_tables())
    except Unavailable as error:
        raise Unavailable(f"{path}: {error}") from None
    found: dict[str, VmlinuxSymbol] = {}
    for symbols, strings in tables:
        places = {at: name for name in names for at in _places(strings, name.encode() + b"\0")}
        for name_at, _, _, section, value, size in _SYM.iter_unpack(symbols[: len(symbols) // _SYM.size * _SYM.size]):
            if name_at in places and section:
                found.setdefault(places[name_at], VmlinuxSymbol(value, size))
    return found


def _places(strings: bytes, name: bytes) -> Iterator[int]:
    """Where a name may be. It may be the end of a longer one: the linker stores a common end once."""
    at = strings.find(name)
    while at >= 0:
        yield at
        at = strings.find(name, at + 1)
