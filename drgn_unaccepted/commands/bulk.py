# SPDX-License-Identifier: LGPL-2.1-or-later
"""``resolve -f``: the states of any number of addresses, in bounded memory.

Each address gets its state and whether the bitmap covers it, no more: the columns of the maps take a hundred times as
long.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import suppress
from io import BufferedReader
from itertools import islice, repeat
from typing import Optional

from drgn_unaccepted.answer.judgement import Judgement
from drgn_unaccepted.answer.translation import physical
from drgn_unaccepted.answer.truth import UNACCEPTED
from drgn_unaccepted.limits import ADDRESS_TEXT_BYTES, BULK_PIECES, PHYSICAL_END
from drgn_unaccepted.model.addresses import Query, bounded, parse_address
from drgn_unaccepted.snapshot import Snapshot

#: Bytes of text that are read at once.
_BLOCK = 1 << 20

#: A state, and whether the bitmap covers it (None: its bounds are not known).
_Kind = tuple[str, Optional[bool]]


class Bulk:
    """The state of any number of addresses."""

    def __init__(self, snapshot: Snapshot, judgement: Judgement) -> None:
        self._outside = "(no table)" if judgement.evidence.no_table else "(outside the bitmap)"
        self._snapshot, self._states = snapshot, judgement
        pieces = list(islice(self._states.pieces(0, PHYSICAL_END), BULK_PIECES + 1))
        self._starts: Optional[list[int]] = None
        if len(pieces) <= BULK_PIECES:
            self._starts = [piece.start for piece in pieces]
            self._kinds: list[_Kind] = [(piece.state, piece.covered) for piece in pieces]

    def lines(self, text: BufferedReader, as_json: bool) -> Iterator[str]:
        """Each address as it was written, and its state; many lines at a time.

        In JSON ``{"address": 4294967296, "state": "accepted", "covered": true}``.

        :raises ValueError: one line that says what is no address, and where
        """
        for words, addresses in self._blocks(text):
            kinds = self._of(addresses)
            ends = {kind: self._ending(*kind, as_json) for kind in set(kinds)}
            heads = (f'{{"address": {address}' for address in addresses) if as_json else words
            yield "\n".join([head + ends[kind] for head, kind in zip(heads, kinds)])

    def _ending(self, state: str, covered: Optional[bool], as_json: bool) -> str:
        if as_json:
            return f', "state": "{state}", "covered": {json.dumps(covered)}}}'
        return f"  {state:>{len(UNACCEPTED)}}{f'  {self._outside}' if covered is False else ''}"

    def _of(self, addresses: Sequence[int]) -> list[_Kind]:
        if self._starts is None:
            # A bitmap so scattered that its pieces are not for memory.
            pieces = map(self._states.at, addresses)
            return [(piece.state, piece.covered) for piece in pieces]
        starts, kinds = self._starts, self._kinds
        return [kinds[bisect_right(starts, address) - 1] for address in addresses]

    def _blocks(self, text: BufferedReader) -> Iterator[tuple[list[str], list[int]]]:
        """The addresses in ``text`` as words and as numbers, a block for what can be read at once."""
        rest, line = b"", 1
        while data := text.read1(_BLOCK):
            data = rest + data
            # The last word may continue in the next block.
            end = max(data.rfind(b"\n"), data.rfind(b" "), data.rfind(b"\t")) + 1
            if len(data) - end > ADDRESS_TEXT_BYTES:
                line += data.count(b"\n")
                raise ValueError(f"line {line}: more than {ADDRESS_TEXT_BYTES} characters without a blank")
            block, rest = data[:end], data[end:]
            if not block.isspace() and block:
                yield self._numbers(block, line)
            line += block.count(b"\n")
        if rest.strip():
            yield self._numbers(rest, line)

    def _numbers(self, data: bytes, line: int) -> tuple[list[str], list[int]]:
        words = data.decode("ascii", "backslashreplace").split()
        # The usual form, 0x and digits, shows in a count; int() takes signs and underscores, too.
        if data.count(b"0x") == len(words) and not any(mark in data for mark in (b"_", b"-", b"+")):
            with suppress(ValueError):
                addresses = list(map(int, words, repeat(16)))
                if max(addresses) < PHYSICAL_END and max(map(len, words)) <= ADDRESS_TEXT_BYTES:
                    return words, addresses
        words, addresses = [], []
        for number, text in enumerate(data.split(b"\n"), line):
            for word in text.decode("ascii", "backslashreplace").split():
                try:
                    address = self._address(word)
                except ValueError as error:
                    raise ValueError(f"line {number}: {error}") from None
                words.append(word if parse_address(word) == address else f"{word}={address:#x}")
                addresses.append(address)
        return words, addresses

    def _address(self, word: str) -> int:
        if len(word) > ADDRESS_TEXT_BYTES:
            raise ValueError(f"more than {ADDRESS_TEXT_BYTES} characters without a blank")
        query = bounded(Query(parse_address(word), None, word))
        return physical(self._snapshot, query).start
