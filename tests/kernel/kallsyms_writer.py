# SPDX-License-Identifier: LGPL-2.1-or-later
"""Writes a kallsyms table as scripts/kallsyms.c of the kernel does: counted pairs, the most profitable one first."""

from __future__ import annotations

import struct
from collections import Counter
from typing import Optional

Symbols = list[tuple[str, str, int]]  # letter, name, address, in the order of the table


def compress(texts: list[str]) -> tuple[list[bytes], list[str]]:
    """Each text in its code, and what the 256 tokens stand for."""
    coded = [text.encode("latin-1") for text in texts]
    table: list[Optional[bytes]] = [None] * 256
    for text in coded:
        for byte in text:
            table[byte] = bytes([byte])
    for code in range(255, -1, -1):
        if table[code] is not None:
            continue
        counts: Counter[bytes] = Counter()
        for text in coded:
            counts.update(text[i : i + 2] for i in range(len(text) - 1))
        if not counts:
            break
        # The kernel's choice among equals is the lowest pair with the second byte as the high one.
        pair = max(counts, key=lambda p: (counts[p], -(p[0] | p[1] << 8)))
        table[code] = pair
        coded = [text.replace(pair, bytes([code])) for text in coded]

    def expand(code: int) -> str:
        entry = table[code]
        if entry is None:
            return ""
        return entry.decode("latin-1") if entry == bytes([code]) else "".join(map(expand, entry))

    return coded, [expand(code) for code in range(256)]


class KallsymsWriter:
    """The table in memory at ``base``; :meth:`vmcoreinfo` says where its parts are."""

    def __init__(self, symbols: Symbols, encoding: str, base: int = 0xFFFFFFFF82000000) -> None:
        coded, tokens = compress([letter + name for letter, name, _ in symbols])
        self.records = coded
        self.names = b"".join(
            (bytes([len(c)]) if len(c) < 0x80 else bytes([len(c) & 0x7F | 0x80, len(c) >> 7])) + c for c in coded
        )
        strings, index = b"", []
        for token in tokens:
            index.append(len(strings))
            strings += token.encode("latin-1") + b"\0"
        self.base = base
        self.memory = bytearray()
        self.at: dict[str, int] = {}
        self.add("kallsyms_num_syms", struct.pack("<I", len(symbols)))
        self.add("kallsyms_names", self.names)
        self.add("kallsyms_markers", bytes(8))
        self.add("kallsyms_token_table", strings)
        self.add("kallsyms_token_index", struct.pack("<256H", *index))
        here = base + len(self.memory)
        relative_base = min((address for _, _, address in symbols if address > 1 << 32), default=0)
        offsets = []
        for number, (letter, _, address) in enumerate(symbols):
            if encoding == "place":
                offsets.append(address - (here + 4 * number))
            elif encoding == "base":
                offsets.append(address - relative_base)
            elif letter in "aA":
                offsets.append(address)
            else:
                offsets.append(relative_base - 1 - address)
        self.add("kallsyms_offsets", b"".join(struct.pack("<I", o & 0xFFFFFFFF) for o in offsets))
        if encoding != "place":
            self.add("kallsyms_relative_base", struct.pack("<Q", relative_base))
        self.at["_stext"] = next((address for _, name, address in symbols if name == "_stext"), 0)

    def add(self, name: str, data: bytes) -> None:
        self.at[name] = self.base + len(self.memory)
        self.memory += data + bytes(-len(data) % 8)

    def vmcoreinfo(self) -> str:
        lines = ["OSRELEASE=6.12.0", "PAGESIZE=4096"]
        lines += [f"SYMBOL({name})={at:x}" for name, at in self.at.items() if name != "kallsyms_markers"]
        return "\n".join([*lines, "LENGTH(node_data)=4", ""])

    def read(self, address: int, size: int) -> bytes:
        start = address - self.base
        if start < 0 or start + size > len(self.memory):
            raise LookupError(f"nothing at {address:#x}")
        return bytes(self.memory[start : start + size])
