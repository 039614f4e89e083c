# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a kernel's types are like, found by looking and not by its version."""

from __future__ import annotations

from drgn import Object, Program, offsetof, sizeof

from drgn_unaccepted.kernel.errors import Unavailable

U64_MAX = (1 << 64) - 1


def enumerators(prog: Program, name: str) -> dict[str, int]:
    """The constants of ``enum name``; empty where the kernel has no such enumeration."""
    try:
        found = prog.type(f"enum {name}").enumerators
    except LookupError:
        return {}
    return {} if found is None else {constant.name: constant.value for constant in found}


def has_symbol(prog: Program, name: str) -> bool:
    try:
        prog.symbol(name)
    except LookupError:
        return False
    return True


def member_offset(prog: Program, structure: str, *names: str, size: int = 0) -> int:
    """Bytes from the start of ``struct structure`` to the first of these members that it has.

    :param size: bytes that the caller reads there, where it reads the whole structure as bytes
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


def read_string(prog: Program, address: int, limit: int) -> bytes:
    """The C string at ``address``, up to ``limit`` bytes. drgn has ``read_c_string()`` since 0.0.32."""
    text: bytes = Object(prog, prog.array_type(prog.type("char"), limit), address=address).string_()
    return text
