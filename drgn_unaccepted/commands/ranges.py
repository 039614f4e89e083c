# SPDX-License-Identifier: LGPL-2.1-or-later
"""``ranges``: which memory is unaccepted and which is accepted, by physical address."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Optional, Union

from drgn_unaccepted.answer.documents import RangesAnswer, State, StateRange
from drgn_unaccepted.answer.evidence import possible_guards
from drgn_unaccepted.answer.head import head
from drgn_unaccepted.answer.source import Source
from drgn_unaccepted.answer.state import UNKNOWN, Piece, StateMap
from drgn_unaccepted.commands import lines
from drgn_unaccepted.commands.base import STATE, Arguments, Question
from drgn_unaccepted.errors import CommandError
from drgn_unaccepted.limits import DOCUMENT_RANGES, PHYSICAL_END
from drgn_unaccepted.model.ranges import Range
from drgn_unaccepted.snapshot import ALL_MEMORY, Snapshot
from drgn_unaccepted.words import size


class Ranges(Question[RangesAnswer]):
    parts = STATE | {"efi_map"}

    def where(self, args: Arguments) -> tuple[Range, ...]:
        return ALL_MEMORY

    def answer(self, snapshot: Snapshot, source: Source, args: Arguments) -> RangesAnswer:
        return ranges(snapshot, source)

    def lack(self, answer: RangesAnswer) -> Optional[str]:
        return lines.no_addresses(answer) if answer["ranges"] is None else None

    def text(self, answer: RangesAnswer, args: Arguments) -> Iterator[str]:
        yield from lines.preface(answer)
        if not answer["ranges"]:
            return
        headers = ["start", "end", "size", "state"]
        guards = {start for start, _ in answer["possible_guards"]}
        rows: list[list[Union[str, int]]] = []
        for entry in answer["ranges"]:
            start, end = entry["start"], entry["end"]
            rows.append([f"{start:#x}", f"{end:#x}", size(end - start), entry["state"]])
            if guards:
                rows[-1].append("its first and last unit may be accepted already" if start in guards else "")
        yield from lines.table(rows, [*headers, "note"] if guards else headers)


def ranges(snapshot: Snapshot, source: Source) -> RangesAnswer:
    """The known ranges: from the bitmap they tile the covered range; None where the source knows no addresses.

    ``possible_guards`` are the units of listed chunks that may be accepted already; only page lists have any.

    :raises CommandError: there are more than :data:`limits.DOCUMENT_RANGES`
    """
    states = state_ranges(snapshot, source)
    found: Optional[list[StateRange]] = None
    if states is not None:
        first = islice(states, DOCUMENT_RANGES + 1)
        found = [{"start": start, "end": end, "state": state} for start, end, state in first]
        if len(found) > DOCUMENT_RANGES:
            raise CommandError(f"more than {DOCUMENT_RANGES} ranges: ask for a part with resolve START-END, or see map")
    guards = possible_guards(snapshot) if source.name == "page-lists" else []
    shared = head(snapshot, source, "ranges")
    return {**shared, "ranges": found, "possible_guards": [list(guard) for guard in guards]}


def state_ranges(snapshot: Snapshot, source: Source) -> Optional[Iterator[tuple[int, int, State]]]:
    """``(start, end, state)`` in order, neighbours of one state joined; None where the source knows no addresses."""
    if source.name == "bitmap":
        geometry = snapshot.table.geometry
        assert geometry is not None
        pieces = StateMap(snapshot, source).pieces(geometry.phys_base, geometry.end)
        # Bits alternate, so there is nothing to join unless the lists corrected them.
        return _joined(pieces) if snapshot.table.is_saved else ((p.start, p.end, p.state) for p in pieces)
    if source.name == "page-lists":
        pieces = StateMap(snapshot, source).pieces(0, PHYSICAL_END)
        return _joined(piece for piece in pieces if piece.state != UNKNOWN)
    if snapshot.table.state == "absent":
        return iter(())
    return None


def _joined(pieces: Iterable[Piece]) -> Iterator[tuple[int, int, State]]:
    last: Optional[tuple[int, int, State]] = None
    for piece in pieces:
        if last is not None and last[1] == piece.start and last[2] == piece.state:
            last = (last[0], piece.end, piece.state)
            continue
        if last is not None:
            yield last
        last = (piece.start, piece.end, piece.state)
    if last is not None:
        yield last


COMMAND = Ranges()
