# SPDX-License-Identifier: LGPL-2.1-or-later
"""``resolve -f``: the states of as many addresses as a file or a pipe has, in bounded memory.

Of each address only its state and whether the bitmap covers it are told; what the maps and lists say of one takes a
hundred times as long.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import partial
from io import BufferedReader
from itertools import repeat
from typing import TYPE_CHECKING, Callable, NamedTuple, Optional, Union

from drgn_unaccepted.answer.document import Document, document
from drgn_unaccepted.answer.resolve import parse_address
from drgn_unaccepted.answer.source import Source
from drgn_unaccepted.answer.state import ACCEPTED, UNACCEPTED, StateMap
from drgn_unaccepted.limits import ADDRESS_TEXT_BYTES, PHYSICAL_END
from drgn_unaccepted.model import bitmap as bits
from drgn_unaccepted.snapshot import Snapshot

if TYPE_CHECKING:
    from drgn_unaccepted.answer.bulk_lines import Lines

#: Bytes of text that are looked at together.
_BLOCK = 1 << 20

#: Bytes of text from which on the import of numpy pays.
_WORTH_NUMPY = 1 << 20

#: Bytes of a block from which on columns pay: of a pipe it may be a line.
_WORTH_COLUMNS = 1 << 12


class Kind(NamedTuple):
    """What is told of an address."""

    state: str
    #: Inside the bitmap; None where its bounds are not known.
    covered: Optional[bool]


class Block(NamedTuple):
    """Addresses one after the other, as parallel columns."""

    #: As they were written.
    words: list[str]
    addresses: list[int]
    #: For each its place in :attr:`Bulk.kinds`.
    kinds: bytes


def bulk_document(snapshot: Snapshot, source: Source) -> Document:
    """What stands before the addresses. ``addresses`` is None: they follow."""
    return {**document(snapshot, source, "resolve"), "addresses": None}


class Bulk:
    """The state of any number of addresses."""

    def __init__(self, snapshot: Snapshot, source: Source) -> None:
        self.kinds: list[Kind] = []
        self.has_table = snapshot.table.state != "absent"
        self._bitmap: Optional[tuple[bits.Geometry, bytes]] = None
        self._starts: list[int] = []
        self._kinds = bytearray()
        if source.name == "bitmap" and source.exact:
            geometry, bitmap = snapshot.table.geometry, snapshot.table.bitmap
            assert geometry is not None and bitmap is not None
            self._bitmap = geometry, bitmap
            self._states = bits.States(geometry, bitmap)
            # In the order of bits.ACCEPTED, UNACCEPTED, UNCOVERED.
            self.kinds = [Kind(ACCEPTED, True), Kind(UNACCEPTED, True), Kind(ACCEPTED, False)]
            return
        for piece in StateMap(snapshot, source).pieces(0, PHYSICAL_END):
            kind = Kind(piece.state, piece.covered)
            if kind not in self.kinds:
                self.kinds.append(kind)
            self._starts.append(piece.start)
            self._kinds.append(self.kinds.index(kind))

    def blocks(self, text: BufferedReader) -> Iterator[Block]:
        """The addresses in ``text``, a block for what can be read at once.

        :raises ValueError: one line that says what is no address, and where
        """
        pieces = _Pieces(text)
        for data in pieces:
            yield self._block(data, pieces.line)
            pieces.line += data.count(b"\n")

    def lines(self, text: BufferedReader, expected: int) -> Iterator[Union[Block, Lines]]:
        """As :meth:`blocks`; by columns, many times as fast, where there is much of it and numpy is installed.

        :param expected: bytes that ``text`` will have, as far as is known
        """
        by_columns: Optional[Callable[[bytes], Optional[Lines]]] = None
        seen = 0
        pieces = _Pieces(text)
        for data in pieces:
            if by_columns is None and max(expected, seen) >= _WORTH_NUMPY:
                by_columns = self._by_columns()
            seen += len(data)
            lines = None if by_columns is None or len(data) < _WORTH_COLUMNS else by_columns(data)
            yield self._block(data, pieces.line) if lines is None else lines
            pieces.line += data.count(b"\n") if lines is None else len(lines.ends)

    def _by_columns(self) -> Callable[[bytes], Optional[Lines]]:
        try:
            import numpy  # noqa: F401
        except ImportError:
            return lambda data: None
        from drgn_unaccepted.answer import bulk_lines

        if self._bitmap is not None:
            look_up = bulk_lines.in_bitmap(*self._bitmap)
        else:
            look_up = bulk_lines.in_pieces(self._starts, bytes(self._kinds))
        return partial(bulk_lines.lines, look_up=look_up)

    def _block(self, data: bytes, line: int) -> Block:
        words, addresses = _numbers(data, line)
        return Block(words, addresses, self._of(addresses))

    def _of(self, addresses: Sequence[int]) -> bytes:
        if self._bitmap is not None:
            return self._states.of(addresses)
        starts, kinds = self._starts, self._kinds
        return bytes([kinds[bisect_right(starts, address) - 1] for address in addresses])


class _Pieces:
    """The text, cut between words."""

    def __init__(self, text: BufferedReader) -> None:
        self._text = text
        #: The line that the next piece begins in, counted on by whoever has taken one.
        self.line = 1

    def __iter__(self) -> Iterator[bytes]:
        rest = b""
        while data := self._text.read1(_BLOCK):
            data = rest + data
            # The last word goes on in the next block, perhaps.
            end = max(data.rfind(b"\n"), data.rfind(b" "), data.rfind(b"\t")) + 1
            if len(data) - end > ADDRESS_TEXT_BYTES:
                line = self.line + data.count(b"\n")
                raise ValueError(f"line {line}: more than {ADDRESS_TEXT_BYTES} characters without a blank")
            data, rest = data[:end], data[end:]
            yield data
        yield rest


def _numbers(data: bytes, line: int) -> tuple[list[str], list[int]]:
    words = data.decode("ascii", "backslashreplace").split()
    # The usual form, 0x and digits, is told by counting; int() takes signs and underscores, too.
    if data.count(b"0x") == len(words) and not any(mark in data for mark in (b"_", b"-", b"+")):
        try:
            addresses = list(map(int, words, repeat(16)))
            if not addresses or (max(addresses) < PHYSICAL_END and max(map(len, words)) <= ADDRESS_TEXT_BYTES):
                return words, addresses
        except ValueError:
            pass
    return words, list(_one_by_one(data, line))


def _one_by_one(data: bytes, line: int) -> Iterator[int]:
    for number, text in enumerate(data.split(b"\n"), line):
        for word in text.decode("ascii", "backslashreplace").split():
            if len(word) > ADDRESS_TEXT_BYTES:
                raise ValueError(f"line {number}: more than {ADDRESS_TEXT_BYTES} characters without a blank")
            try:
                address = parse_address(word)
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from None
            if address >= PHYSICAL_END:
                raise ValueError(f"line {number}: {word}: beyond the last physical address, {PHYSICAL_END - 1:#x}")
            yield address
