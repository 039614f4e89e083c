# SPDX-License-Identifier: LGPL-2.1-or-later
"""The table of truth: which facts prove which state of memory, and which fact wins.

The table of truth, strongest first. The first fact that knows an address decides it, so that no fact which says
unaccepted is ever answered with accepted; what no fact decides is unknown, with the reason.

| fact | state |
|---|---|
| a bit of the table is 1, whatever contradicts it | unaccepted |
| a bit of a table that nothing contradicts is 0, in RAM | accepted |
| an accept of the unit or of the one before it is in flight | unknown |
| on ``zone->unaccepted_pages``, initial bit 1, not the first unit of its chunk | unaccepted |
| the same, first unit, and the memory before it is listed too, or is no RAM | unaccepted |
| the same, first unit, behind a page of unaccepted or Conventional memory that was given to the allocator | accepted |
| the same, first unit, otherwise | unknown |
| initial bit 1, a page of the unit was given to the buddy allocator, or is not all zeros in /proc/vmcore | accepted |
| initial bit 1, not in RAM of e820_table (``mem=``, ``memmap=``) | unaccepted |
| RAM of another EFI type, or accepted by the stub | accepted |
| memory that the kernel itself used from the start | accepted |
| listed, where the initial bits are not known | unaccepted (perhaps accepted as a guard) |
| hot-added memory | unknown |
| in no memory map | no-ram |

Zeros prove nothing: a table that reads as zeros where lists, pages or counters say otherwise is doubted as a whole.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Callable, NamedTuple, Optional

from drgn_unaccepted import limits
from drgn_unaccepted.answer.documents import State
from drgn_unaccepted.answer.evidence import Evidence, Fact, Initial
from drgn_unaccepted.field_types import hexadecimal
from drgn_unaccepted.model import bitmap as bits
from drgn_unaccepted.model import ranges as rng
from drgn_unaccepted.model.bitmap import Geometry
from drgn_unaccepted.model.ranges import Range
from drgn_unaccepted.snapshot import PAGE_SIZE

UNACCEPTED: State = "unaccepted"
ACCEPTED: State = "accepted"
UNKNOWN: State = "unknown"
NO_RAM: State = "no-ram"

#: The proof of a set bit.
BIT = "its bit is 1"
_OUTSIDE = "outside the bitmap: the kernel takes it as accepted"
_LISTED = "on zone->unaccepted_pages"
_IN_FLIGHT = "an accept of it, or of the unit before it, is in flight"
_DISPUTED = "on zone->unaccepted_pages, and its bit was 0 in the saved table"
_EDGE = "on zone->unaccepted_pages, at the edge of a run: perhaps accepted, as a guard"
HOT_ADDED = "hot-added memory: the kernel takes it as accepted, and nobody accepted it"


@hexadecimal
class Piece(NamedTuple):
    """Consecutive addresses of one state."""

    start: int
    end: int
    state: State
    covered: Optional[bool]  #: Inside the bitmap; None where its bounds are not known.
    reason: str  #: The proof in one phrase, or why there is none.

    @property
    def range(self) -> Range:
        return Range(self.start, self.end)

    def part(self, start: int, end: int) -> Piece:
        return Piece(start, end, *self[2:])


Layers = list[tuple[State, list[Fact]]]


def _facts(ranges: Sequence[Range], proof: str) -> list[Fact]:
    return [Fact(start, end, proof) for start, end in ranges]


def of_bitmap(geometry: Geometry, bitmap: bytes, start: int, end: int) -> Iterator[Piece]:
    """What a table that nothing contradicts says of ``[start, end)``."""
    units = bits.units_of(geometry, start, end)
    runs = bits.runs(bitmap, units.start, units.stop)
    found = (Range(geometry.unit(first).start, geometry.unit(stop - 1).end) for first, stop in runs)
    pieces = (Piece(max(low, start), min(high, end), UNACCEPTED, True, BIT) for low, high in found)
    return filled(pieces, start, end, partial(_zeros, geometry))


def _zeros(geometry: Geometry, start: int, end: int) -> Iterator[Piece]:
    base, top = geometry.phys_base, geometry.end
    if start < base:
        yield Piece(start, min(end, base), ACCEPTED, False, _OUTSIDE)
    if max(start, base) < min(end, top):
        yield Piece(max(start, base), min(end, top), ACCEPTED, True, "its bit is 0")
    if top < end:
        yield Piece(max(start, top), end, ACCEPTED, False, _OUTSIDE)


def clipped(pieces: Sequence[Piece], start: int, end: int) -> Iterator[Piece]:
    """The parts of sorted pieces in [start, end)."""
    # A one-element tuple sorts before every piece that starts at its value.
    for index in range(max(0, bisect_left(pieces, (start + 1,)) - 1), len(pieces)):
        piece = pieces[index]
        if piece.start >= end:
            return
        if piece.end > start:
            yield piece.part(max(start, piece.start), min(end, piece.end))


def filled(
    pieces: Iterable[Piece], start: int, end: int, between: Callable[[int, int], Iterable[Piece]]
) -> Iterator[Piece]:
    """The pieces, and what is ``between`` them, from ``start`` to ``end``."""
    at = start
    for piece in pieces:
        if at < piece.start:
            yield from between(at, piece.start)
        yield piece
        at = piece.end
    if at < end:
        yield from between(at, end)


def ones(evidence: Evidence) -> list[Fact]:
    """Set bits of the table itself, of which no more are looked at than the checks do."""
    table = evidence.snapshot.table
    if table.bitmap is None or table.geometry is None or table.is_saved:
        return []
    facts = _facts(evidence.set_bits, BIT)
    if len(facts) > limits.CHECKED_RANGES:
        facts[-1] = Fact(facts[-1].start, table.geometry.end, f"perhaps its bit is 1: more than {len(facts) - 1} runs")
    return facts


def maps(evidence: Evidence) -> Layers:
    """What the maps alone say."""
    initial = evidence.initial
    accepted = [] if isinstance(initial, str) else initial.accepted
    return [(ACCEPTED, accepted), (NO_RAM, _facts(evidence.no_ram, "no RAM here"))]


def reconstructed(evidence: Evidence, initial: Initial, bare: bool = False) -> Layers:
    """What was unaccepted at boot, corrected by lists and pages; ``bare``: without the bits of the table itself."""
    if evidence.no_table:
        lost = _facts(initial.unaccepted, "EFI type 15, and no table: nobody accepts it")
        return [(UNACCEPTED, lost), *maps(evidence)]
    sound = evidence.lists_damaged is None
    base, listed = initial.unaccepted, evidence.listed
    inner = [Range(start + evidence.unit, end) for start, end in listed if start + evidence.unit < end]
    firsts = [Range(start, min(start + evidence.unit, end)) for start, end in listed]
    pages = evidence.snapshot.pages
    # /proc/vmcore shows unaccepted pages as zeros.
    accepted = [*(evidence.given if sound else ()), *(() if pages is None else pages.written)]
    free = rng.subtract(rng.intersect(evidence.whole_units(accepted), base), listed)
    trimmed: list[Range] = []
    if sound and evidence.used_ram is not None and not _is_ram_lost(evidence):
        trimmed = rng.subtract(rng.subtract(base, listed), evidence.used_ram)
    # A saved bit of 0 beside a list: the end of a run that is listed for its guard, or a damaged table.
    disputed = rng.subtract(inner, base) if isinstance(evidence.replayed, str) else []
    used = _kernel_memory(evidence) if sound else []
    kernel = rng.intersect(evidence.whole_units((fact.start, fact.end) for fact in used), base)
    layers: Layers = [
        (UNACCEPTED, [] if bare else ones(evidence)),
        (UNKNOWN, _facts(evidence.in_flight, _IN_FLIGHT)),
        (UNACCEPTED, _facts(rng.intersect(inner, base), _LISTED)),
        (UNKNOWN, _facts(disputed, _DISPUTED)),
        *_first_units(evidence, initial, rng.intersect(firsts, base)).items(),
        (ACCEPTED, _facts(free, "its pages are in use or in a free list")),
        (ACCEPTED, _facts(kernel, "the kernel's own memory")),
        (UNACCEPTED, _facts(trimmed, "not in e820_table: as it was at boot")),
    ]
    if evidence.no_lists is not None:
        since = f"unaccepted at boot; nothing tells what was accepted since: {evidence.no_lists}"
        layers.append((UNKNOWN, _facts(base, since)))
    return [*layers, *maps(evidence)]


def _is_ram_lost(evidence: Evidence) -> bool:
    """Whether the zones have more memory than ``e820_table`` has RAM: an entry of it is damaged."""
    present = sum(zone.present_pages for zone in evidence.snapshot.zones or ()) * PAGE_SIZE
    known = [*rng.clip(evidence.used_ram or [], 0, limits.PHYSICAL_END), *evidence.hot_added]
    return present > rng.total(known)


def _first_units(evidence: Evidence, initial: Initial, firsts: Sequence[Range]) -> dict[State, list[Fact]]:
    """First units of runs of listed chunks, which may have been accepted as the guard of the memory before.

    accept_memory() of a range that ends on a unit boundary accepts the next unit too, and its chunk stays listed.
    Memory that was reserved at boot and freed later (free_reserved_page(): initrd, init sections, boot services) is
    freed without an accept, and pulls no guard.
    """
    found: dict[State, list[Fact]] = {UNACCEPTED: [], ACCEPTED: [], UNKNOWN: []}
    # Those that were looked at one by one.
    given = rng.subtract(evidence.given, evidence.pages("given"))
    freed = rng.subtract(initial.conventional, rng.merge((used.start, used.end) for used in evidence.kernel_memory))
    for start, end in firsts:
        before = start - PAGE_SIZE
        if rng.find(evidence.firmware_ram, before) is None:
            state, why = UNACCEPTED, f"{_LISTED}, and no RAM lies before it"
        elif rng.find(given, before) is None:
            state, why = UNKNOWN, f"{_LISTED}, behind memory whose use is not known: a guard or not"
        elif rng.find(initial.unaccepted, before) is not None or rng.find(freed, before) is not None:
            state, why = ACCEPTED if evidence.lists_damaged is None else UNKNOWN, "guard of a page in use"
        else:
            state, why = UNKNOWN, f"{_LISTED}, behind memory that was reserved at boot: a guard or not"
        found[state].append(Fact(start, end, why))
    return found


def _kernel_memory(evidence: Evidence) -> list[Fact]:
    """What the kernel used from the start; nothing of it can be listed."""
    return [
        fact for fact in evidence.kernel_memory if not rng.intersect([Range(fact.start, fact.end)], evidence.listed)
    ]


def lists(evidence: Evidence, disputed: Sequence[Range], bare: bool = False) -> Layers:
    """Listed chunks are unaccepted and pages in use accepted, where the initial bits are not known; ``bare``: no maps.

    Another source calls ``disputed`` memory accepted.
    """
    guards = possible_guards(evidence)
    edges, inner = rng.subtract(guards, disputed), rng.subtract(rng.subtract(evidence.listed, guards), disputed)
    layers: Layers = [
        (UNACCEPTED, [] if bare else ones(evidence)),
        (UNACCEPTED, _facts(edges, _EDGE)),
        (UNACCEPTED, _facts(inner, _LISTED)),
        (UNKNOWN, _facts(disputed, _DISPUTED)),
        (UNKNOWN, _facts(evidence.in_flight, _IN_FLIGHT)),
    ]
    if evidence.lists_damaged is None:
        given = rng.subtract(evidence.whole_units(evidence.given), evidence.listed)
        used = _facts(given, "its pages are in use or in a free list")
        layers += [(ACCEPTED, used), (ACCEPTED, [] if bare else _kernel_memory(evidence))]
    return layers if bare else [*layers, *maps(evidence)]


def possible_guards(evidence: Evidence) -> list[Range]:
    """The first and the last unit of each run of listed chunks, which can be accepted already.

    An accept of the memory before a run takes its first unit as a guard, and the chunk stays listed. The last one can
    be listed for its guard alone.
    """
    edges: list[Range] = []
    for start, end in evidence.listed:
        edges += [Range(start, min(start + evidence.unit, end)), Range(max(start, end - evidence.unit), end)]
    return rng.merge(edges)


def is_covered(evidence: Evidence, geometry: Optional[Geometry], where: Range) -> Optional[bool]:
    if geometry is None:
        return False if evidence.no_table else None
    return geometry.phys_base <= where.start and where.end <= geometry.end


def overlay(evidence: Evidence, geometry: Optional[Geometry], layers: Layers) -> list[Piece]:
    """The layers as pieces in order; where two overlap, the earlier one counts."""
    pieces: list[Piece] = []
    taken: list[Range] = []
    hot = _facts(evidence.hot_added, HOT_ADDED)
    for state, facts in (*layers, (UNKNOWN, hot)):
        last = 0
        for start, end, proof in sorted(facts):
            start, end = max(start, last), min(end, limits.PHYSICAL_END)
            if start >= end:
                continue
            last = end
            for rest in rng.subtract([Range(start, end)], list(rng.clip(taken, start, end))):
                pieces.append(Piece(*rest, state, is_covered(evidence, geometry, rest), proof))
        taken = rng.merge([*taken, *((fact.start, fact.end) for fact in facts if fact.start < fact.end)])
    return sorted(pieces)
