# SPDX-License-Identifier: LGPL-2.1-or-later
"""A few symbols out of the kernel's own symbol table, read in its memory: no debuginfo, no drgn.

``drgn.helpers.linux.kallsyms.load_vmlinux_kallsyms()`` decodes all of the 60 to 200 thousand symbols, and
to import it is to import all of drgn's Linux helpers; together that is as long as the rest of a start
without debuginfo. We know the names that we want, so nothing is decoded: each name is *encoded* as the
kernel's build did it, and the table is searched for the encoded bytes in one pass.

The table (kernel/kallsyms.c, scripts/kallsyms.c) is a sequence of length-prefixed records, one a symbol, of
the symbol's type letter and name in a byte-pair code of at most 256 tokens. The build replaces the most
profitable pair of adjacent bytes by token 255, then the next one by the token before, and so on. The order
is all that matters: for each token in that order its expansion, as coded with the tokens before it, must be
a pair, and that is the pair that it stands for. The same replacements in the same order then encode any
name.

VMCOREINFO says where the tables are since Linux 6.0 (commit f09bddbd8661 ("vmcoreinfo: add
kallsyms_num_syms symbol") and the ones before it). The length of a record is one byte, or two where bit 7
is set since Linux 6.1 (commit 73bbb94466fd ("kallsyms: support "big" kernel symbols")).
"""

from __future__ import annotations

import re
import struct
from array import array
from collections.abc import Iterable, Mapping
from typing import Callable, NamedTuple

from drgn_unaccepted import limits

#: nm(1)'s letters, as in /proc/kallsyms: G and S are for sections that x86 does not have, N is left out by the build.
TYPE_LETTERS = "ABDRTVWabdrtvw"

# Stands between the texts in one long string. No token, so that no replacement crosses it.
_END = "\u0100"


class KallsymsError(ValueError):
    """The symbol table is not there or not as we know it; the text says what is wrong."""


class Kallsym(NamedTuple):
    name: str
    #: nm(1)'s letter; upper case is global.
    letter: str
    #: Virtual address; for a per-CPU variable before Linux 6.15 its offset in the per-CPU area.
    address: int
    #: Bytes to the next symbol: the symbol's size at most. 0 for the last one.
    size: int


def vmcoreinfo_symbols(vmcoreinfo: bytes) -> dict[str, int]:
    """``SYMBOL(name)=address`` lines of VMCOREINFO."""
    return {
        name.decode(): int(address, 16)
        for name, address in re.findall(rb"^SYMBOL\(([\w.]+)\)=([0-9a-f]{1,16})$", vmcoreinfo, re.M)
    }


def find_symbols(
    read: Callable[[int, int], bytes], known: Mapping[str, int], names: Iterable[str]
) -> dict[str, list[Kallsym]]:
    """All symbols with one of these names, in the order of the table; a name that no symbol has is left out.

    :param read: ``read(address, size)`` of the target's virtual memory; what it raises passes through
    :param known: addresses by name, from :func:`vmcoreinfo_symbols`
    :raises KallsymsError: no table (CONFIG_KALLSYMS=n, or Linux before 6.0), or one in an unknown format
    """
    lacking = [name for name in _NEEDED if name not in known]
    if lacking:
        raise KallsymsError(f"VMCOREINFO does not say where kallsyms is: no SYMBOL({lacking[0]})")
    table = _Table(read, known)
    found = table.search(names)
    addresses = table.addresses(found)
    result: dict[str, list[Kallsym]] = {}
    for index, (letter, name) in found.items():
        address, size = addresses(index)
        result.setdefault(name, []).append(Kallsym(name, letter, address, size))
    return result


_NEEDED = (
    "_stext",
    "kallsyms_names",
    "kallsyms_num_syms",
    "kallsyms_offsets",
    "kallsyms_token_index",
    "kallsyms_token_table",
)


def _length(of: int) -> bytes:
    """What stands before a record of so many bytes."""
    return bytes((of,)) if of < 0x80 else bytes((of & 0x7F | 0x80, of >> 7))


class _Table:
    def __init__(self, read: Callable[[int, int], bytes], known: Mapping[str, int]) -> None:
        self._read = read
        self._known = known
        self.count = int.from_bytes(read(known["kallsyms_num_syms"], 4), "little")
        if not 0 < self.count <= limits.KALLSYMS_SYMBOLS:
            raise KallsymsError(f"kallsyms_num_syms is {self.count}, the limit is {limits.KALLSYMS_SYMBOLS}")
        # The order in memory has always been: names, markers, token table, token index.
        tokens_at = known["kallsyms_token_table"]
        self.tokens = self._read_tokens(tokens_at, known["kallsyms_token_index"])
        size = tokens_at - known["kallsyms_names"]
        if not 0 < size <= limits.KALLSYMS_NAMES_BYTES:
            raise KallsymsError(f"kallsyms_names has {size} bytes, the limit is {limits.KALLSYMS_NAMES_BYTES}")
        self.names = read(known["kallsyms_names"], size)

    def _read_tokens(self, table_at: int, index_at: int) -> list[str]:
        size = index_at - table_at
        if not 0 < size <= limits.KALLSYMS_TOKEN_BYTES:
            raise KallsymsError(f"kallsyms_token_table has {size} bytes, the limit is {limits.KALLSYMS_TOKEN_BYTES}")
        table = self._read(table_at, size)
        index = struct.unpack("<256H", self._read(index_at, 512))
        tokens = []
        for start in index:
            end = table.find(b"\0", start)
            if end < 0:
                raise KallsymsError(f"kallsyms_token_index points at {start}, beyond the token table")
            if end - start > limits.SYMBOL_NAME_BYTES:
                raise KallsymsError(f"a kallsyms token is longer than {limits.SYMBOL_NAME_BYTES} bytes")
            tokens.append(table[start:end].decode("latin-1"))
        return tokens

    def encode(self, texts: list[str]) -> list[bytes]:
        """The texts as the kernel's build encodes them."""
        # One string of all tokens and all texts: 256 calls of str.replace() do the whole work.
        text = _END.join(self.tokens + texts)
        for code in range(255, -1, -1):
            if len(self.tokens[code]) < 2:
                continue  # a character that stands for itself, or a token not needed
            pair = text.split(_END, code + 1)[code]
            if len(pair) != 2:
                raise KallsymsError(f"kallsyms token {code} ({self.tokens[code]!r}) is no pair of others")
            text = text.replace(pair, chr(code))
        return [encoded.encode("latin-1") for encoded in text.split(_END)[256:]]

    def search(self, names: Iterable[str]) -> dict[int, tuple[str, str]]:
        """(letter, name) by the index of the symbol, in the order of the table; ``_stext`` always."""
        # A character that is in no symbol has no code of its own; its code may be a token.
        own = {chr(code) for code, token in enumerate(self.tokens) if token == chr(code)}
        possible = {name for name in (*names, "_stext") if own.issuperset(name)}
        wanted = [(letter, name) for name in possible for letter in own.intersection(TYPE_LETTERS)]
        encoded = self.encode([letter + name for letter, name in wanted])
        records = {_length(len(code)) + code: text for code, text in zip(encoded, wanted)}
        found = {}
        names_bytes, start = self.names, 0
        try:
            for index in range(self.count):
                length = names_bytes[start] + 1
                if length > 0x80:
                    length = (length - 1 & 0x7F | names_bytes[start + 1] << 7) + 2
                end = start + length
                record = names_bytes[start:end]
                if record in records:
                    found[index] = records[record]
                start = end
        except IndexError:
            raise KallsymsError(f"kallsyms_names ends inside of symbol {index} of {self.count}") from None
        return found

    def addresses(self, found: Mapping[int, tuple[str, str]]) -> Callable[[int], tuple[int, int]]:
        """A function from index to (address, bytes to the next symbol)."""
        offsets_at = self._known["kallsyms_offsets"]
        offsets = array("i", self._read(offsets_at, 4 * self.count))
        ways: list[Callable[[int], int]] = []
        if "kallsyms_relative_base" in self._known:
            base = int.from_bytes(self._read(self._known["kallsyms_relative_base"], 8), "little")
            # Unsigned from the base; but with CONFIG_KALLSYMS_ABSOLUTE_PERCPU (x86-64 before Linux 6.15)
            # negative from it, and what is not negative is a per-CPU symbol's own value.
            ways.append(lambda index: base + (offsets[index] & 0xFFFFFFFF))
            ways.append(lambda index: base - 1 - offsets[index] if offsets[index] < 0 else offsets[index])
        # Since Linux 7.0 relative to the offset's own place, commit a081b5789255 ("kallsyms: Get rid of
        # kallsyms relative base").
        ways.append(lambda index: offsets_at + 4 * index + offsets[index])
        stext = [index for index, (_, name) in found.items() if name == "_stext"]
        for address in ways:
            if any(address(index) == self._known["_stext"] for index in stext):
                break
        else:
            raise KallsymsError("kallsyms and VMCOREINFO disagree about _stext")

        def address_and_size(index: int) -> tuple[int, int]:
            start = address(index)
            for following in range(index + 1, min(index + 1 + limits.KALLSYMS_ALIASES, self.count)):
                if address(following) > start:
                    return start, address(following) - start
            return start, 0

        return address_and_size
