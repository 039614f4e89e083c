# SPDX-License-Identifier: LGPL-2.1-or-later
"""The state of every physical address, from one source: unaccepted, accepted or unknown, and why.

From the bitmap a unit's bit decides, and memory outside the bitmap is what the kernel takes it for, accepted. From
the page lists a listed chunk is unaccepted (although a unit of it can be accepted already, as a guard), a unit
with a page that is allocated or in a buddy list is accepted, because acceptance comes before freeing and goes by
whole units, and all else is unknown. Zero is not evidence.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Optional

from drgn_unaccepted.answer.documents import State
from drgn_unaccepted.answer.evidence import (
    accepted_by_pages,
    listed_ranges,
    possible_guards,
    unit_size,
    why_zeros_may_not_hold,
)
from drgn_unaccepted.answer.source import Source
from drgn_unaccepted.limits import PHYSICAL_END
from drgn_unaccepted.model import bitmap as bits
from drgn_unaccepted.model import ranges as rng
from drgn_unaccepted.model.efi import UNACCEPTED as EFI_UNACCEPTED_MEMORY
from drgn_unaccepted.model.ranges import Range
from drgn_unaccepted.snapshot import Snapshot

UNACCEPTED: State = "unaccepted"
ACCEPTED: State = "accepted"
UNKNOWN: State = "unknown"


class Piece(NamedTuple):
    """Consecutive addresses of one state."""

    start: int
    end: int
    state: State
    #: Inside the bitmap; None where its bounds are not known.
    covered: Optional[bool]
    reason: str


class StateMap:
    """The state of every physical address below 2^52, in order of address."""

    def __init__(self, snapshot: Snapshot, source: Source) -> None:
        self._snapshot = snapshot
        self._source = source
        self._known: list[Piece] = []
        if source.name == "page-lists" or (source.name == "bitmap" and snapshot.table.is_saved):
            self._known = list(_from_page_lists(snapshot))
        elif source.name == "none" and snapshot.table.state == "absent":
            self._known = list(_without_table(snapshot))
        self._starts = [piece.start for piece in self._known]
        self._scanned = [] if snapshot.pages is None else rng.merge(snapshot.pages.scanned)
        #: Listed chunks; of a table of this boot without the edges, which can be accepted as guards. Only what a saved
        #: table calls accepted is held against them.
        self._listed: list[Range] = []
        self._zeros_of_then = why_zeros_may_not_hold(snapshot)
        if snapshot.table.is_saved:
            self._listed = listed_ranges(snapshot)
            if self._zeros_of_then is None:
                self._listed = list(rng.trim(self._listed, unit_size(snapshot)))

    def at(self, address: int) -> Piece:
        """The piece that holds ``address``; from the bitmap it is the unit."""
        return next(self.pieces(address, address + 1))

    def pieces(self, start: int, end: int) -> Iterator[Piece]:
        """What ``[start, end)`` is made of, without gaps, neighbours of one state joined."""
        if self._source.name != "bitmap":
            yield from self._known_pieces(start, end)
        elif self._source.partial:
            yield from self._doubted_pieces(start, end)
        elif self._snapshot.table.is_saved:
            yield from self._saved_pieces(start, end)
        else:
            yield from self._bitmap_pieces(start, end)

    def _bitmap_pieces(self, start: int, end: int) -> Iterator[Piece]:
        geometry, bitmap = self._snapshot.table.geometry, self._snapshot.table.bitmap
        assert geometry is not None and bitmap is not None
        outside = "outside the bitmap: the kernel takes it as accepted"
        if start < geometry.phys_base:
            yield Piece(start, min(end, geometry.phys_base), ACCEPTED, False, outside)
        inner = Range(max(start, geometry.phys_base), min(end, geometry.end))
        if inner.start < inner.end:
            units = bits.units_of(geometry, *inner)
            at = inner.start
            for run_first, run_end in bits.runs(bitmap, units.start, units.stop):
                run = Range(geometry.unit(run_first).start, geometry.unit(run_end - 1).end)
                if at < run.start:
                    yield Piece(at, run.start, ACCEPTED, True, "its bit is 0")
                yield Piece(max(at, run.start), min(inner.end, run.end), UNACCEPTED, True, "its bit is 1")
                at = min(inner.end, run.end)
            if at < inner.end:
                yield Piece(at, inner.end, ACCEPTED, True, "its bit is 0")
        if geometry.end < end:
            yield Piece(max(start, geometry.end), end, ACCEPTED, False, outside)

    def _doubted_pieces(self, start: int, end: int) -> Iterator[Piece]:
        """From a bitmap whose zeros are not to be believed."""
        for piece in self._bitmap_pieces(start, end):
            if piece.state == ACCEPTED and piece.covered:
                piece = piece._replace(state=UNKNOWN, reason=f"its bit reads as 0, but: {self._source.reason}")
            yield piece

    def _saved_pieces(self, start: int, end: int) -> Iterator[Piece]:
        """From a bitmap saved earlier: bits only clear, so a 0 holds, and a 1 has to be confirmed by the lists.

        Where even a 0 may not hold (:func:`why_zeros_may_not_hold`), pages have to confirm it too.
        """
        for piece in self._bitmap_pieces(start, end):
            if piece.state == ACCEPTED:
                reason = "its bit was 0 when the table was saved" if piece.covered else piece.reason
                for then in self._if_it_holds(piece._replace(reason=reason)):
                    yield from self._unless_listed(then) if then.state == ACCEPTED else (then,)
                continue
            for now in self._known_pieces(piece.start, piece.end):
                lists = "no list was read" if self._snapshot.zones is None else now.reason
                yield now._replace(covered=True, reason=f"its bit was 1 when the table was saved; now {lists}")

    def _if_it_holds(self, piece: Piece) -> Iterator[Piece]:
        """What was accepted when the table was saved, as far as that says something of now."""
        if self._zeros_of_then is None:
            yield piece
            return
        for now in self._known_pieces(piece.start, piece.end):
            if now.state == ACCEPTED:
                yield piece._replace(start=now.start, end=now.end, reason=f"{piece.reason}; now {now.reason}")
            else:
                reason = f"{piece.reason}, but {self._zeros_of_then}; now {now.reason}"
                yield Piece(now.start, now.end, UNKNOWN, piece.covered, reason)

    def _unless_listed(self, piece: Piece) -> Iterator[Piece]:
        """What was accepted when the table was saved, if it is not amid listed chunks now."""
        at = piece.start
        for start, end in rng.clip(self._listed, piece.start, piece.end):
            if at < start:
                yield piece._replace(start=at, end=start)
            yield Piece(start, end, UNKNOWN, piece.covered, f"{piece.reason}; now it is amid listed chunks")
            at = end
        if at < piece.end:
            yield piece._replace(start=at)

    def _known_pieces(self, start: int, end: int) -> Iterator[Piece]:
        covered = False if self._snapshot.table.state == "absent" else None
        at = start
        for index in range(max(0, bisect_right(self._starts, start) - 1), len(self._known)):
            piece = self._known[index]
            if piece.end <= at:
                continue
            if piece.start >= end:
                break
            if at < piece.start:
                yield from self._unknown_pieces(at, piece.start, covered)
            yield piece._replace(start=max(at, piece.start), end=min(end, piece.end))
            at = min(end, piece.end)
        if at < end:
            yield from self._unknown_pieces(at, end, covered)

    def _unknown_pieces(self, start: int, end: int, covered: Optional[bool]) -> Iterator[Piece]:
        """Of what was looked at and proved nothing, and of what was not, each says so."""
        at = start
        for run in rng.clip(self._scanned, start, end):
            if at < run.start:
                yield Piece(at, run.start, UNKNOWN, covered, self._unknown_reason(False))
            yield Piece(*run, UNKNOWN, covered, self._unknown_reason(True))
            at = run.end
        if at < end:
            yield Piece(at, end, UNKNOWN, covered, self._unknown_reason(False))

    def _unknown_reason(self, scanned: bool) -> str:
        if self._source.name in ("page-lists", "bitmap"):
            pages = self._snapshot.pages
            lists = "in no listed chunk"
            if any(zone.listed is not None and zone.listed.problems for zone in self._snapshot.zones or ()):
                lists = "in no listed chunk as far as the lists could be followed"
            if self._snapshot.table.state == "absent":
                return f"{lists}; without a table the kernel accepts nothing, and pages in use prove nothing"
            if pages is None:
                return f"{lists}; pages not looked at: {self._snapshot.missing['pages']}"
            if scanned:
                return f"{lists}, and no page of its unit is allocated or in a buddy list"
            return f"{lists}; {pages.limited or 'no struct page of it was looked at'}"
        if self._source.name == "counters":
            return "counters know no addresses"
        if self._snapshot.table.state == "absent":
            return "no table: the kernel takes all memory as accepted, nothing captured proves it"
        assert self._source.reason is not None
        return self._source.reason


def _from_page_lists(snapshot: Snapshot) -> Iterator[Piece]:
    pieces = []
    boundary = "in a listed chunk, at the edge of its run: may be accepted already, as the guard of what lies before"
    guards = possible_guards(snapshot)
    pieces += [Piece(start, end, UNACCEPTED, None, boundary) for start, end in guards]
    for start, end in rng.subtract(listed_ranges(snapshot), guards):
        pieces.append(Piece(start, end, UNACCEPTED, None, "in a listed chunk"))
    for start, end in accepted_by_pages(snapshot):
        pieces.append(Piece(start, end, ACCEPTED, None, "pages of its unit are allocated or in a buddy list"))
    return iter(sorted(pieces))


def _without_table(snapshot: Snapshot) -> Iterator[Piece]:
    """No table: what the firmware did not report as unaccepted is accepted, if its whole map is at hand."""
    efi_map = snapshot.efi_map
    if efi_map is None or not efi_map.complete:
        return
    described: Sequence[Range] = rng.merge((d.start, d.end) for d in efi_map.descriptors)
    unaccepted = rng.merge(
        (d.start, d.end) for d in efi_map.descriptors if d.type == EFI_UNACCEPTED_MEMORY and d.start < d.end
    )
    for start, end in rng.subtract(described, unaccepted):
        if start < PHYSICAL_END:
            yield Piece(start, end, ACCEPTED, False, "no table, and the EFI memory map has no type 15 here")
