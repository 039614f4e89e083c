# SPDX-License-Identifier: LGPL-2.1-or-later
"""``resolve -f``: the states of any number of addresses, in bounded memory.

Each address gets its state and whether the bitmap covers it, no more: the columns of the maps take a hundred times as
long.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from io import BufferedReader
from itertools import islice, repeat
from typing import Optional

from drgn_unaccepted.answer.judgement import Judgement
from drgn_unaccepted.answer.translation import physical
from drgn_unaccepted.answer.truth import UNACCEPTED, UNKNOWN
from drgn_unaccepted.limits import ADDRESS_TEXT_BYTES, BULK_PIECES, PHYSICAL_END
from drgn_unaccepted.model.addresses import Query, bounded, parse_address
from drgn_unaccepted.snapshot import Snapshot

_BLOCK = 1 << 20  #: Bytes of text that are read at once.

#: A state, and whether the bitmap covers it (None: its bounds are not known).
_Kind = tuple[str, Optional[bool]]


_TOO_LONG = f"more than {ADDRESS_TEXT_BYTES} characters without a blank"


class Bulk:
    """The state of any number of addresses."""

    def __init__(self, snapshot: Snapshot, judgement: Judgement, as_json: bool) -> None:
        self._snapshot, self._judgement, self._as_json = snapshot, judgement, as_json
        self._outside = "(no table)" if judgement.evidence.no_table else "(outside the bitmap)"
        pieces = list(islice(judgement.pieces(0, PHYSICAL_END), BULK_PIECES + 1))
        # A bitmap so scattered that its pieces are not for memory is asked for each address.
        self._starts = [piece.start for piece in pieces] if len(pieces) <= BULK_PIECES else None
        self._kinds: list[_Kind] = [(piece.state, piece.covered) for piece in pieces]

    def lines(self, text: BufferedReader) -> Iterator[str]:
        """Each address as it was written, and its state; many lines at a time.

        In JSON ``{"address": 4294967296, "state": "accepted", "covered": true}``.

        :raises ValueError: one line that says what is no address, and where
        """
        for data, line in _blocks(text):
            block = data.decode("ascii", "backslashreplace")
            words = block.split()
            addresses = _plain(data, words)
            if addresses is not None:
                yield "\n".join(self._lines(words, addresses))
                continue
            for number, row in enumerate(block.split("\n"), line):
                for word in row.split():
                    yield self._line(word, number)

    def _lines(self, words: Sequence[str], addresses: Sequence[int]) -> list[str]:
        if self._starts is None:
            kinds: list[_Kind] = [(piece.state, piece.covered) for piece in map(self._judgement.at, addresses)]
        else:
            starts, known = self._starts, self._kinds
            kinds = [known[bisect_right(starts, address) - 1] for address in addresses]
        ends = {kind: self._ending(*kind) for kind in set(kinds)}
        heads = (f'{{"address": {address}' for address in addresses) if self._as_json else words
        return [head + ends[kind] for head, kind in zip(heads, kinds)]

    def _ending(self, state: str, covered: Optional[bool]) -> str:
        if self._as_json:
            return f', "state": "{state}", "covered": {json.dumps(covered)}}}'
        return f"  {state:>{len(UNACCEPTED)}}{f'  {self._outside}' if covered is False else ''}"

    def _line(self, word: str, number: int) -> str:
        try:
            if len(word) > ADDRESS_TEXT_BYTES:
                raise ValueError(_TOO_LONG)
            query = bounded(Query(parse_address(word), None, word))
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
        try:
            address = physical(self._snapshot, query).start
        except ValueError as error:
            reason = str(error).removeprefix(f"{word}: ")
            if not self._as_json:
                return f"{word}{self._ending(UNKNOWN, None)}  ({reason})"
            nothing = {"address": None, "state": UNKNOWN, "covered": None}
            return json.dumps({**nothing, "asked": word, "reason": reason})
        return self._lines([f"{word}={address:#x}" if query.is_virtual else word], [address])[0]


def _blocks(text: BufferedReader) -> Iterator[tuple[bytes, int]]:
    """Whole words for as much as can be read at once, and the number of their first line."""
    rest, line = b"", 1
    while data := text.read1(_BLOCK):
        data = rest + data
        # The last word may continue in the next block.
        end = max(data.rfind(b"\n"), data.rfind(b" "), data.rfind(b"\t")) + 1
        if len(data) - end > ADDRESS_TEXT_BYTES:
            line += data.count(b"\n")
            raise ValueError(f"line {line}: {_TOO_LONG}")
        yield data[:end], line
        rest, line = data[end:], line + data.count(b"\n", 0, end)
    yield rest, line


def _plain(data: bytes, words: Sequence[str]) -> Optional[list[int]]:
    """Physical addresses in the usual form, 0x and digits; None where one is in another."""
    # int() takes signs and underscores, too.
    if not words or data.count(b"0x") != len(words) or any(mark in data for mark in (b"_", b"-", b"+")):
        return None
    try:
        addresses = list(map(int, words, repeat(16)))
    except ValueError:
        return None
    return addresses if max(addresses) < PHYSICAL_END and max(map(len, words)) <= ADDRESS_TEXT_BYTES else None
