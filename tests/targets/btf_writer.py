# SPDX-License-Identifier: LGPL-2.1-or-later
"""Writes BTF from Documentation/bpf/btf.rst: what the tests need, well-formed or not."""

from __future__ import annotations

import struct
from collections.abc import Sequence

INT, PTR, ARRAY, STRUCT, UNION, ENUM, FWD, TYPEDEF, VOLATILE, CONST, RESTRICT = range(1, 12)
FUNC, FUNC_PROTO, VAR, DATASEC, FLOAT, DECL_TAG, TYPE_TAG, ENUM64 = range(12, 20)

SIGNED, CHAR, BOOL = 1, 2, 4


class BtfWriter:
    """Each method adds one type and returns its number; :meth:`data` is the whole."""

    def __init__(self) -> None:
        self.types = bytearray()
        self.strings = bytearray(b"\0")
        self.count = 0

    def string(self, text: str) -> int:
        """Offset of the text, which is stored once."""
        if not text:
            return 0
        found = self.strings.find(b"\0" + text.encode() + b"\0")
        if found < 0:
            found = len(self.strings) - 1
            self.strings += text.encode() + b"\0"
        return found + 1

    def record(
        self, kind: int, name: str = "", size_or_type: int = 0, *words: int, vlen: int = 0, flag: bool = False
    ) -> int:
        info = flag << 31 | kind << 24 | vlen
        self.types += struct.pack("<III", self.string(name), info, size_or_type)
        for word in words:
            self.types += struct.pack("<I", word & 0xFFFFFFFF)
        self.count += 1
        return self.count

    def integer(self, name: str, size: int, encoding: int = 0) -> int:
        return self.record(INT, name, size, encoding << 24 | size * 8)

    def array(self, of: int, nelems: int, index: int = 1) -> int:
        return self.record(ARRAY, "", 0, of, index, nelems)

    def compound(
        self, kind: int, name: str, size: int, members: Sequence[tuple[str, int, int]], bit_fields: Sequence[int] = ()
    ) -> int:
        """Members are (name, type, bit offset); bit_fields are their sizes, all of them, with kind_flag."""
        bits = bit_fields or len(members) * [0]
        words = [x for (n, of, at), size in zip(members, bits) for x in (self.string(n), of, at | size << 24)]
        return self.record(kind, name, size, *words, vlen=len(members), flag=bool(bit_fields))

    def enum(self, name: str, values: Sequence[tuple[str, int]], size: int = 4, signed: bool = False) -> int:
        words = [word for text, value in values for word in (self.string(text), value)]
        return self.record(ENUM, name, size, *words, vlen=len(values), flag=signed)

    def enum64(self, name: str, values: Sequence[tuple[str, int]], signed: bool = False) -> int:
        words = [word for text, value in values for word in (self.string(text), value, value >> 32)]
        return self.record(ENUM64, name, 8, *words, vlen=len(values), flag=signed)

    def function(self, returns: int, parameters: Sequence[tuple[str, int]]) -> int:
        words = [word for text, of in parameters for word in (self.string(text), of)]
        return self.record(FUNC_PROTO, "", returns, *words, vlen=len(parameters))

    def data(self) -> bytes:
        header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(self.types), len(self.types), len(self.strings))
        return header + bytes(self.types) + bytes(self.strings)
