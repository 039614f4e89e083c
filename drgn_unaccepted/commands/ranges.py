# SPDX-License-Identifier: LGPL-2.1-or-later
"""``ranges``: which memory is unaccepted and which is accepted, by physical address."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Optional, Union

from drgn_unaccepted.answer.documents import RangesAnswer, StateRange
from drgn_unaccepted.answer.head import head
from drgn_unaccepted.answer.judgement import Judgement
from drgn_unaccepted.answer.truth import NO_RAM, UNKNOWN, Piece
from drgn_unaccepted.commands import lines
from drgn_unaccepted.commands.base import STATE, Arguments, Question
from drgn_unaccepted.commands.tables import table
from drgn_unaccepted.errors import CommandError
from drgn_unaccepted.limits import DOCUMENT_RANGES, PHYSICAL_END
from drgn_unaccepted.snapshot import Snapshot
from drgn_unaccepted.words import size


class Ranges(Question[RangesAnswer]):
    parts = STATE | {"efi_map"}

    def answer(self, snapshot: Snapshot, judgement: Judgement, args: Arguments) -> RangesAnswer:
        return ranges(snapshot, judgement)

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
        yield from table(rows, [*headers, "note"] if guards else headers)


def ranges(snapshot: Snapshot, judgement: Judgement) -> RangesAnswer:
    """The known ranges; None where the source knows no addresses.

    From the bitmap and a reconstruction they tile what the bitmap covers, from page lists they are what is known.
    ``possible_guards`` are the units of listed chunks that may be accepted already; only page lists have any.

    :raises CommandError: there are more than :data:`limits.DOCUMENT_RANGES`
    """
    found: Optional[list[StateRange]] = None
    if judgement.name not in ("counters", "none") or snapshot.table.state == "absent":
        first = list(islice(_joined(_pieces(judgement)), DOCUMENT_RANGES + 1))
        if len(first) > DOCUMENT_RANGES:
            raise CommandError(f"more than {DOCUMENT_RANGES} ranges: ask for a part with resolve START-END, or see map")
        found = [{"start": p.start, "end": p.end, "state": p.state, "reason": p.reason} for p in first]
    shared = head(snapshot, judgement, "ranges")
    return {**shared, "ranges": found, "possible_guards": [list(guard) for guard in judgement.guards]}


def _pieces(judgement: Judgement) -> Iterator[Piece]:
    geometry = judgement.geometry
    if judgement.name in ("bitmap", "reconstructed") and geometry is not None:
        return judgement.pieces(geometry.phys_base, geometry.end)
    return (piece for piece in judgement.pieces(0, PHYSICAL_END) if piece.state not in (UNKNOWN, NO_RAM))


def _joined(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """Neighbours of one state and one reason as one."""
    last: Optional[Piece] = None
    for piece in pieces:
        if last is not None and last.end == piece.start and (last.state, last.reason) == (piece.state, piece.reason):
            last = last._replace(end=piece.end)
            continue
        if last is not None:
            yield last
        last = piece
    if last is not None:
        yield last


COMMAND = Ranges()
