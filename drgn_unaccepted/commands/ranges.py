# SPDX-License-Identifier: LGPL-2.1-or-later
"""``ranges``: which memory is unaccepted and which is accepted, by physical address."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Optional

from drgn_unaccepted.answer.documents import RangesAnswer, StateRange, document
from drgn_unaccepted.answer.head import head, joined, known
from drgn_unaccepted.answer.judgement import Judgement
from drgn_unaccepted.answer.truth import UNKNOWN, Piece
from drgn_unaccepted.commands import Arguments, Question
from drgn_unaccepted.errors import CommandError
from drgn_unaccepted.limits import DOCUMENT_RANGES
from drgn_unaccepted.snapshot import Snapshot
from drgn_unaccepted.views import lines
from drgn_unaccepted.views.tabular import columns
from drgn_unaccepted.words import safe, span, together, wrap


class Ranges(Question[RangesAnswer]):
    has_long_list = True

    def lack(self, answer: RangesAnswer) -> Optional[str]:
        return lines.no_addresses(answer) if answer["ranges"] is None else None

    def text(self, answer: RangesAnswer, args: Arguments) -> Iterator[str]:
        yield from lines.preface(answer)
        found = answer["ranges"] or []
        # Neighbours of one state differ in their reason, which JSON has.
        parts = joined(Piece(r["start"], r["end"], r["state"], None, "") for r in found)
        rows = [(*lines.extent({"start": p.start, "end": p.end}), p.state) for p in parts]
        if rows:
            yield from columns(rows, ("start", "end", "size", "state"), args.all)
        for reason in sorted({r["reason"] for r in found if r["state"] == UNKNOWN}):
            yield from wrap(f"unknown: {safe(reason)}")
        guards = answer["possible_guards"]
        if guards:
            few = guards[: None if args.all else 4]
            more = f" and {len(guards) - len(few)} more: --all" if few != guards else ""
            yield from wrap(f"perhaps accepted already, as guards: {together(span(*guard) for guard in few)}{more}")


def ranges(snapshot: Snapshot, judgement: Judgement) -> RangesAnswer:
    """The known ranges, which tile what the bitmap covers if that is known; None if the source knows no addresses.

    :raises CommandError: there are more than :data:`limits.DOCUMENT_RANGES`
    """
    found: Optional[list[StateRange]] = None
    if judgement.name not in ("counters", "none") or snapshot.table.state == "absent":
        first = list(islice(joined(known(judgement)), DOCUMENT_RANGES + 1))
        if len(first) > DOCUMENT_RANGES:
            raise CommandError(f"more than {DOCUMENT_RANGES} ranges: ask for a part with resolve START-END, or see map")
        found = [document(StateRange, piece) for piece in first]
    shared = head(snapshot, judgement, "ranges")
    return {**shared, "ranges": found, "possible_guards": [list(guard) for guard in judgement.guards]}


COMMAND = Ranges(ranges)
