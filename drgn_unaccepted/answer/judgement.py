# SPDX-License-Identifier: LGPL-2.1-or-later
"""The state of every physical address, out of all the evidence, by the source that :mod:`best_source` believes.

``bitmap``: the table itself, where nothing contradicts it. ``reconstructed``: the bits that the EFI stub set at boot,
or those of a table saved earlier in the boot, corrected by lists and struct pages. ``page-lists``: the listed chunks,
where the initial bits are not known. ``counters``: no addresses.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Optional

from drgn_unaccepted.answer import truth
from drgn_unaccepted.answer.documents import SourceName
from drgn_unaccepted.answer.doubt import doubt_of_table
from drgn_unaccepted.answer.evidence import Evidence, Initial
from drgn_unaccepted.answer.truth import ACCEPTED, BIT, UNACCEPTED, UNKNOWN, Piece
from drgn_unaccepted.model import bitmap as bits
from drgn_unaccepted.model import ranges as rng
from drgn_unaccepted.model.bitmap import Geometry
from drgn_unaccepted.model.ranges import Range
from drgn_unaccepted.snapshot import Snapshot, Table


@dataclass(eq=False)
class Judgement:
    """What is known of memory, and by which source."""

    evidence: Evidence
    name: SourceName  #: Where the states come from.
    reason: Optional[str]  #: Why no better source was used, or why the answer is not exact; None for the table itself.
    known: Optional[list[Piece]]  #: All pieces that are not unknown, in order; None where the bitmap decides.
    geometry: Optional[Geometry]
    partial: bool = False  #: It may lack unaccepted memory: its total is not known.

    @property
    def snapshot(self) -> Snapshot:
        return self.evidence.snapshot

    @cached_property
    def exact(self) -> bool:
        """Whether every unit is proven."""
        doubtful = self.name != "reconstructed" or self.partial or self.undecided or self._alleged
        return self.by_bits or not doubtful

    @property
    def by_bits(self) -> bool:
        """Whether the bits of the table itself are the states."""
        return self.known is None

    @cached_property
    def doubt(self) -> Optional[str]:
        """Why a bitmap that was read, or its absence, is not believed; None where it is, or there is none."""
        table = self.snapshot.table
        if self.evidence.no_table is None:
            return f"{table.reason}; but memory waits to be accepted, or EFI type 15 is RAM"
        if self.by_bits or table.bitmap is None or table.is_saved:
            return None
        return doubt_of_table(self.evidence)

    def again(self, table: Table, where: Iterable[Range]) -> Optional[Judgement]:
        """The same by its table read once more; None where all has to be read and judged once more.

        Of a dump the table must be the same. Of a running kernel bits may have been cleared, which no rule contradicts,
        and memory may have been added outside the bitmap.
        """
        old, geometry = self.snapshot.table, self.geometry
        if not self.by_bits or geometry is None or replace(old, bitmap=table.bitmap, unmapped=table.unmapped) != table:
            return None
        if not self.snapshot.target.is_running:
            return self if table.bitmap == old.bitmap else None
        before, now = (int.from_bytes(each.bitmap or b"", "little") for each in (old, table))
        if now & ~before or any(start < geometry.phys_base or geometry.end < end for start, end in where):
            return None
        return Judgement(Evidence(replace(self.snapshot, table=table)), self.name, None, None, geometry)

    @property
    def guards(self) -> list[Range]:
        """Units of listed chunks that may be accepted already, where nothing decides them."""
        return truth.possible_guards(self.evidence) if self.name == "page-lists" else []

    # States

    def at(self, address: int) -> Piece:
        """The piece that holds ``address``; from the bitmap it is the unit."""
        return next(self.pieces(address, address + 1))

    def pieces(self, start: int, end: int) -> Iterator[Piece]:
        """The pieces of ``[start, end)``, without gaps."""
        if self.by_bits:
            assert self.geometry is not None and self.snapshot.table.bitmap is not None
            return self._with_ram(truth.of_bitmap(self.geometry, self.snapshot.table.bitmap, start, end))
        return truth.filled(truth.clipped(self.known or (), start, end), start, end, self._unknown)

    def _with_ram(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        """The same, where accepted memory has to be memory, and not hot-added."""
        for piece in pieces:
            beside = truth.clipped(self._outside if piece.state == ACCEPTED else (), piece.start, piece.end)
            known = (each._replace(covered=piece.covered) for each in beside)
            yield from truth.filled(known, piece.start, piece.end, lambda *gap, piece=piece: [piece.part(*gap)])

    @cached_property
    def _outside(self) -> list[Piece]:
        """Addresses without RAM, and hot-added memory."""
        return truth.overlay(self.evidence, None, truth.maps(self.evidence)[1:])

    def _unknown(self, start: int, end: int) -> Iterable[Piece]:
        """The pieces of a range that no fact decides, with the reason for each."""
        evidence, pages = self.evidence, self.snapshot.pages
        if self.name in ("counters", "none"):
            reason = "counters know no addresses" if self.name == "counters" else str(self.reason)
            return [self._unknown_piece(Range(start, end), reason)]
        lists = "on no list of unaccepted memory"
        if evidence.lists_damaged is not None:
            lists += f" (but {evidence.lists_damaged})"
        proves_nothing = f"{lists}, and no page of its unit is in use or in a free list"
        if evidence.no_table is not False:
            proves_nothing = f"{lists}; without a table pages in use prove nothing"
        why = "no struct page of it was looked at"
        if pages is not None:
            why = pages.limited or "its pages were not looked at"
        scanned = rng.clip([] if pages is None else rng.merge(pages.scanned), start, end)
        looked_at = (self._unknown_piece(run, proves_nothing) for run in scanned)
        return truth.filled(looked_at, start, end, lambda *gap: [self._unknown_piece(Range(*gap), f"{lists}; {why}")])

    def _unknown_piece(self, where: Range, reason: str) -> Piece:
        return Piece(*where, UNKNOWN, truth.is_covered(self.evidence, self.geometry, where), reason)

    # Totals

    @cached_property
    def _alleged(self) -> list[Range]:
        """Memory that nothing but the bits of a doubted table calls unaccepted."""
        evidence, proven = self.evidence, self.evidence.listed
        said = rng.merge(piece.range for piece in self._unaccepted if piece.reason == BIT)
        if said and self.doubt is not None and isinstance(evidence.initial, Initial):
            without = truth.overlay(evidence, self.geometry, truth.reconstructed(evidence, evidence.initial, bare=True))
            proven = rng.merge(piece.range for piece in without if piece.state == UNACCEPTED)
        return rng.subtract(said, proven)

    @cached_property
    def _unaccepted(self) -> list[Piece]:
        return [piece for piece in self.known or () if piece.state == UNACCEPTED]

    @cached_property
    def undecided(self) -> list[Piece]:
        """Memory that may be unaccepted and is not decided."""
        if self.by_bits:
            return []
        initial, where = self.evidence.initial, rng.subtract(self.evidence.firmware_ram, self.evidence.hot_added)
        if isinstance(initial, Initial):
            where = rng.merge([*initial.unaccepted, *self.evidence.listed])
        return [piece for start, end in where for piece in self.pieces(start, end) if piece.state == UNKNOWN]

    @cached_property
    def unaccepted_bytes(self) -> Optional[int]:
        """Memory that is proven or listed to be unaccepted; None where some may be missing."""
        if self.partial:
            return None
        if self.by_bits:
            bitmap = self.snapshot.table.bitmap
            assert bitmap is not None and self.geometry is not None
            return bits.count(bitmap) * self.geometry.unit_size
        if self.name == "counters":
            return self.evidence.nr_unaccepted_bytes
        return None if self.name == "none" else _bytes(self._unaccepted)

    @cached_property
    def bounds(self) -> tuple[Optional[int], Optional[int]]:
        """The least and the most bytes that can be unaccepted, as far as the evidence goes."""
        total = self.unaccepted_bytes
        if self.exact:
            return total, total
        if self.name == "reconstructed":
            known = _bytes(self._unaccepted)
            return known - rng.total(self._alleged), known + _bytes(self.undecided)
        if self.name == "page-lists" and self.evidence.lists_damaged is None:
            # One unit, its own or its guard, explains two chunks that follow each other. Where a unit is larger than a
            # chunk, an accept takes one chunk off its list, and the others stay.
            unit, chunk = self.evidence.unit, self.evidence.chunk
            least = sum((end - start) // chunk // 2 * unit for start, end in self.evidence.listed if unit <= chunk)
            return least, _bytes([*self.undecided, *self._unaccepted]) if self.evidence.firmware_ram else None
        return None, None

    @property
    def initially_unaccepted_bytes(self) -> Optional[int]:
        initial = self.evidence.initial
        if not isinstance(initial, Initial) or self.snapshot.table.is_saved:
            return None
        return rng.total(initial.unaccepted)


def _bytes(pieces: Iterable[Piece]) -> int:
    return sum(piece.end - piece.start for piece in pieces)
