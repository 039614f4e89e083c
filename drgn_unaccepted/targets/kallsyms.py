# SPDX-License-Identifier: LGPL-2.1-or-later
"""Symbols from the kernel's own symbol table, read in its memory without debuginfo.

The table (kernel/kallsyms.c, scripts/kallsyms.c) is a sequence of length-prefixed records, one for each symbol: its
type letter and name in a byte-pair code of at most 256 tokens. To decode all 100 to 250 thousand of them takes as long
as the rest of a start. We know most names that we want, so each name is *encoded* as the kernel's build did it, and the
table is searched for the encoded bytes in one pass. The build replaced the most frequent pair of adjacent bytes with
token 255, then the next one with token 254, and so on: for each token, in this order, its expansion in the code so far
is the pair that it stands for.

VMCOREINFO says where the tables are since Linux 6.0 (commit f09bddbd8661 ("vmcoreinfo: add kallsyms_num_syms symbol")
and the ones before it); :func:`find_kallsyms` finds them without it. The length of a record is one byte, or two where
bit 7 is set since Linux 6.1 (commit 73bbb94466fd ("kallsyms: support "big" kernel symbols")).
"""

from __future__ import annotations

import re
import struct
from array import array
from collections.abc import Iterable, Iterator
from itertools import accumulate, islice
from typing import Callable, Optional

from drgn import Symbol, SymbolBinding, SymbolKind

from drgn_unaccepted import limits

#: nm(1)'s letters, as in /proc/kallsyms: G and S are for sections that x86 does not have; the build omits N.
_TYPE_LETTERS = "ABDRTVWabdrtvw"

#: Tokens "0" to "9", which stand for themselves, as every kernel has them in names of symbols.
_DIGITS = b"".join(b"%d\0" % digit for digit in range(10))

# Separates the texts in one long string. No token contains it, so that no replacement crosses it.
_END = "\u0100"


class Kallsyms:
    """The symbol table of one kernel.

    :param read: ``read(address, size)`` reads the target's virtual memory; its exceptions pass through
    :param place: tells the addresses of the table's parts and of ``_stext``: :meth:`Vmcoreinfo.symbol`
    :raises ValueError: no table, or one in an unknown format
    """

    def __init__(self, read: Callable[[int, int], bytes], place: Callable[[str], Optional[int]]) -> None:
        self._read = read
        self._place = place
        self._count = int.from_bytes(read(self._known("kallsyms_num_syms"), 4), "little")
        if not 0 < self._count <= limits.KALLSYMS_SYMBOLS:
            raise ValueError(f"kallsyms_num_syms is {self._count}, the limit is {limits.KALLSYMS_SYMBOLS}")
        # The order in memory has always been: names, markers, token table, token index.
        self._tokens = self._read_tokens()
        self._names = self._read_up_to("kallsyms_names", "kallsyms_token_table", limits.KALLSYMS_NAMES_BYTES)

    def find(self, names: Iterable[str]) -> list[Symbol]:
        """All symbols with one of these names, and ``_stext``, in the order of the table."""
        encoded = self._encode({*names, "_stext"})
        found = [(index, encoded[record]) for index, record in enumerate(self._records()) if record in encoded]
        self._address = self._choose_address([index for index, text in found if text[1:] == "_stext"])
        return [self._symbol(index, text) for index, text in found]

    def all(self) -> Iterator[Symbol]:
        """All symbols, in the order of the table."""
        self.find(())
        for index, record in enumerate(self._records()):
            text = "".join([self._tokens[code] for code in record])
            if not 1 < len(text) <= limits.SYMBOL_NAME_BYTES:
                raise ValueError(f"kallsyms symbol {index} has a name of {len(text)} bytes")
            yield self._symbol(index, text)

    def _known(self, name: str) -> int:
        address = self._place(name)
        if address is None:
            raise ValueError(f"VMCOREINFO does not say where kallsyms is: no SYMBOL({name})")
        return address

    def _read_up_to(self, name: str, end: str, most: int) -> bytes:
        start = self._known(name)
        size = self._known(end) - start
        if not 0 < size <= most:
            raise ValueError(f"{name} has {size} bytes, the limit is {most}")
        return self._read(start, size)

    def _read_tokens(self) -> list[str]:
        table = self._read_up_to("kallsyms_token_table", "kallsyms_token_index", limits.KALLSYMS_TOKEN_BYTES)
        tokens = []
        for start in struct.unpack("<256H", self._read(self._known("kallsyms_token_index"), 512)):
            end = table.find(b"\0", start)
            if end < 0:
                raise ValueError(f"kallsyms_token_index points at {start}, beyond the token table")
            if end - start > limits.SYMBOL_NAME_BYTES:
                raise ValueError(f"a kallsyms token is longer than {limits.SYMBOL_NAME_BYTES} bytes")
            tokens.append(table[start:end].decode("latin-1"))
        return tokens

    def _encode(self, names: set[str]) -> dict[bytes, str]:
        """Each name with each type letter, by its code."""
        # A character that is in no symbol has no code of its own; the code with its number may be a longer token.
        own = {chr(code) for code, token in enumerate(self._tokens) if token == chr(code)}
        texts = [letter + name for name in names if own.issuperset(name) for letter in own & set(_TYPE_LETTERS)]
        # One string of all tokens, the last first, and all texts: 256 calls of str.replace() do the whole work.
        text = _END.join(self._tokens[::-1] + texts)
        for code in range(255, -1, -1):
            pair, _, text = text.partition(_END)
            if len(self._tokens[code]) < 2:
                continue  # a character that stands for itself, or a token not needed
            if len(pair) != 2:
                raise ValueError(f"kallsyms token {code} ({self._tokens[code]!r}) is no pair of others")
            text = text.replace(pair, chr(code))
        return {code.encode("latin-1"): name for code, name in zip(text.split(_END), texts)}

    def _records(self) -> Iterator[bytes]:
        names, end = self._names, 0
        for index in range(self._count):
            try:
                start, length = end + 1, names[end]
                if length & 0x80:
                    length = length & 0x7F | names[start] << 7
                    start += 1
            except IndexError:
                raise ValueError(f"kallsyms_names ends inside of symbol {index} of {self._count}") from None
            end = start + length
            yield names[start:end]

    def _symbol(self, index: int, text: str) -> Symbol:
        """The symbol; its size is the bytes to the next one. A per-CPU variable's address before 6.15 is its offset."""
        start, letter = self._address(index), text[0]
        following = range(index + 1, min(index + 1 + limits.KALLSYMS_ALIASES, self._count))
        end = next((self._address(other) for other in following if self._address(other) > start), start)
        binding = SymbolBinding.GLOBAL if letter.isupper() else SymbolBinding.LOCAL
        if letter in "vVwW":
            binding = SymbolBinding.WEAK
        kind = SymbolKind.FUNC if letter in "tT" else SymbolKind.OBJECT
        return Symbol(text[1:], start & (1 << 64) - 1, end - start, binding, kind)

    def _choose_address(self, indexes: list[int]) -> Callable[[int], int]:
        """The function from index to address that gives ``_stext``, at one of ``indexes``, VMCOREINFO's address."""
        offsets_at = self._known("kallsyms_offsets")
        offsets = array("i", self._read(offsets_at, 4 * self._count))
        # Since Linux 7.0 relative to the offset's own place, commit a081b5789255 ("kallsyms: Get rid of kallsyms
        # relative base").
        ways: list[Callable[[int], int]] = [lambda index: offsets_at + 4 * index + offsets[index]]
        base_at = self._place("kallsyms_relative_base")
        if base_at is not None:
            base = int.from_bytes(self._read(base_at, 8), "little")
            # Unsigned from the base; but with CONFIG_KALLSYMS_ABSOLUTE_PERCPU (x86-64 before Linux 6.15) negative
            # offsets are from the base, and others are the value of a per-CPU symbol.
            ways.insert(0, lambda index: base - 1 - offsets[index] if offsets[index] < 0 else offsets[index])
            ways.insert(0, lambda index: base + (offsets[index] & 0xFFFFFFFF))
        stext = self._known("_stext")
        for address in ways:
            if any(address(index) == stext for index in indexes):
                return address
        raise ValueError("kallsyms and VMCOREINFO disagree about _stext")


def find_kallsyms(image: bytes, start: int) -> Optional[dict[str, int]]:
    """Addresses of the parts of the symbol table, in the order of Linux 6.4 and later; None where it is not.

    :param image: kernel memory from address ``start`` on, a page's
    """
    for match in islice(re.finditer(_DIGITS, image), limits.KALLSYMS_TABLES):
        # 48 tokens come before "0", and a byte of zero before them.
        before = image[max(0, match.start() - limits.KALLSYMS_TOKEN_BYTES) : match.start()].rsplit(b"\0", 49)
        tokens_at = match.start() - sum(len(token) + 1 for token in before[1:-1])
        tokens = image[tokens_at : tokens_at + limits.KALLSYMS_TOKEN_BYTES].split(b"\0", 256)[:256]
        *places, end = accumulate((len(token) + 1 for token in tokens), initial=0)
        if len(before) < 50 or len(places) < 256 or end > limits.KALLSYMS_TOKEN_BYTES:
            continue
        index_at = image.find(struct.pack("<256H", *places), tokens_at + end, tokens_at + end + 8 + 512)
        names = None if index_at < 0 else _find_names(image, tokens_at)
        if names is not None:
            num_syms_at, names_at, count = names
            found = {"num_syms": num_syms_at, "names": names_at, "token_table": tokens_at, "token_index": index_at}
            found["offsets"] = index_at + 512
            base_at = found["offsets"] + 4 * count + 7 & ~7
            # A kernel address; since Linux 7.0 there is none.
            if image[base_at + 4 : base_at + 8] == b"\xff" * 4:
                found["relative_base"] = base_at
            return {f"kallsyms_{part}": start + place for part, place in found.items()}
    return None


def _find_names(image: bytes, end: int) -> Optional[tuple[int, int, int]]:
    """Places of kallsyms_num_syms and kallsyms_names, and the number of symbols, before the markers, which end here.

    Markers are the places of every 256th record, the first of which is 0. All parts are aligned to 4 or 8 bytes.
    """
    words = array("I", image[max(0, end - limits.KALLSYMS_SYMBOLS // 64) & ~3 : end & ~3])[::-1]
    if words and not words[0]:
        words, end = words[1:], end - 4  # padding
    full = next((number for number, word in enumerate(words) if not word), 0)
    if not full:
        return None
    last, end = words[0], end - 4 * (full + 1)
    for names_at in range(end - last & ~3, max(8, end - last - 256 * limits.SYMBOL_NAME_BYTES), -4):
        # In 8 bytes with padding, or in 4.
        size, (count,) = 4, struct.unpack_from("<I", image, names_at - 4)
        if not count:
            size, (count,) = 8, struct.unpack_from("<I", image, names_at - 8)
        if 256 * full < count <= 256 * (full + 1):
            at, left = names_at + last, count - 256 * full
            while left and at < end:
                length = image[at]
                at += 2 + (length & 0x7F | image[at + 1] << 7) if length & 0x80 else 1 + length
                left -= 1
            if not left and end - 8 < at <= end:
                return names_at - size, names_at, count
    return None
