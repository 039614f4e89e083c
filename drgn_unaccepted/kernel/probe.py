# SPDX-License-Identifier: LGPL-2.1-or-later
"""Facts about a kernel that stand in its types and in VMCOREINFO, not in its memory."""

from __future__ import annotations

import re
from typing import Optional

from drgn import Program, offsetof, sizeof

from drgn_unaccepted.kernel.errors import Unavailable

# A value is printed as %ld, %lu or %lx without 0x, by the macro that exports it.
_DECIMAL = r"^%s=(-?\d{1,20})$"
_HEXADECIMAL = r"^%s=(?:0x)?([0-9a-f]{1,16})$"


def enumerators(prog: Program, name: str) -> dict[str, int]:
    """The constants of ``enum name``; empty where the kernel has no such enumeration."""
    try:
        found = prog.type(f"enum {name}").enumerators
    except LookupError:
        return {}
    return {} if found is None else {constant.name: constant.value for constant in found}


def member_offset(prog: Program, structure: str, *names: str, size: int = 0) -> int:
    """Bytes from the start of ``struct structure`` to the first of these members that it has.

    :param size: bytes that are read there, where all of the structure is read as bytes; what follows it is another's
    :raises LookupError: it has none of them, or there is no such structure
    :raises Unavailable: these bytes are not all in the structure
    """
    type_ = prog.type(structure)
    for name in names:
        try:
            offset = int(offsetof(type_, name))
        except LookupError:
            continue
        if size and offset + size > sizeof(type_):
            raise Unavailable(f"{structure} has {sizeof(type_)} bytes and members up to {offset + size}: not supported")
        return offset
    raise LookupError(f"{structure} has no member {' or '.join(names)}")


def vmcoreinfo_number(prog: Program, key: str) -> Optional[int]:
    """A decimal of VMCOREINFO, by what stands before ``=``: ``NUMBER(PG_lru)``, ``LENGTH(mem_section)``."""
    return _vmcoreinfo(prog, _DECIMAL, key, 10)


def vmcoreinfo_symbol(prog: Program, name: str) -> Optional[int]:
    """``SYMBOL(name)`` of VMCOREINFO: an address."""
    return _vmcoreinfo(prog, _HEXADECIMAL, f"SYMBOL({name})", 16)


def _vmcoreinfo(prog: Program, pattern: str, key: str, base: int) -> Optional[int]:
    text = prog["VMCOREINFO"].string_().decode("ascii", "replace")
    match = re.search(pattern % re.escape(key), text, re.MULTILINE)
    return None if match is None else int(match[1], base)
