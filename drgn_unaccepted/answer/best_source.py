# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which source is believed: the best of bitmap, reconstruction, page lists and counters that nothing contradicts."""

from __future__ import annotations

from typing import Optional, Union

from drgn_unaccepted.answer import truth
from drgn_unaccepted.answer.documents import SourceName
from drgn_unaccepted.answer.doubt import doubt_of_table
from drgn_unaccepted.answer.evidence import Evidence, Initial
from drgn_unaccepted.answer.judgement import Judgement
from drgn_unaccepted.answer.truth import UNACCEPTED
from drgn_unaccepted.model import ranges as rng
from drgn_unaccepted.model.bitmap import Geometry
from drgn_unaccepted.model.header import X86_UNIT_SIZE
from drgn_unaccepted.snapshot import Snapshot
from drgn_unaccepted.words import size

SOURCES: tuple[SourceName, ...] = ("bitmap", "reconstructed", "page-lists", "counters")


def judge(snapshot: Snapshot, wanted: str = "auto") -> Judgement:
    """The judgement from the source that ``wanted`` (``auto`` or one of :data:`SOURCES`) leads to."""
    evidence = Evidence(snapshot)
    lacking: list[str] = []
    for name, by in zip(SOURCES, (_by_bitmap, _by_reconstruction, _by_lists, _by_counters)):
        absent = wanted == "auto" and evidence.no_table and by in (_by_lists, _by_counters)
        if absent or wanted not in ("auto", name):
            continue
        found = by(evidence, wanted)
        if isinstance(found, Judgement):
            found.reason = "; ".join([*lacking, *([found.reason] if found.reason else ())]) or None
            return found
        lacking.append(f"{name}: {found}")
    layers = [(UNACCEPTED, truth.ones(evidence)), *truth.maps(evidence)] if wanted == "auto" else []
    known = truth.overlay(evidence, None, layers)
    return Judgement(evidence, "none", "; ".join(lacking), known, None, partial=True)


# Each returns the judgement, or why it cannot.


def _by_bitmap(evidence: Evidence, wanted: str) -> Union[Judgement, str]:
    table = evidence.snapshot.table
    if table.bitmap is None or table.geometry is None:
        return f"table {table.state}: {table.reason}"
    if table.is_saved:
        doubt = evidence.saved_doubt
        if table.same_boot or (wanted == "auto" and (doubt is not None or isinstance(evidence.initial, Initial))):
            # Of this boot it is the initial state; of an unknown one it proves less than the EFI memory map.
            return str(doubt or table.reason)
        reason = (
            "the table was saved earlier, and that may have been another boot: its bits count only where lists and "
            f"pages confirm them; {table.reason}"
        )
        disputed = rng.subtract(evidence.listed, evidence.set_bits)
        known = truth.overlay(evidence, table.geometry, truth.lists(evidence, disputed))
        return Judgement(evidence, "bitmap", reason, known, table.geometry, evidence.lists_damaged is not None)
    doubt = doubt_of_table(evidence)
    if doubt is None:
        return Judgement(evidence, "bitmap", None, None, table.geometry)
    if wanted == "auto":
        return doubt
    known = truth.overlay(evidence, table.geometry, [(UNACCEPTED, truth.ones(evidence)), *truth.maps(evidence)])
    return Judgement(evidence, "bitmap", doubt, known, table.geometry, partial=True)


def _by_reconstruction(evidence: Evidence, wanted: str) -> Union[Judgement, str]:
    kernel, initial = evidence.snapshot.kernel, evidence.initial
    if isinstance(initial, str):
        return initial
    if evidence.unit != X86_UNIT_SIZE or (kernel is not None and evidence.chunk != 2 * X86_UNIT_SIZE):
        return f"units of {size(evidence.unit)} in chunks of {size(evidence.chunk)} are not known here"
    if evidence.no_table is None:
        return "memory waits to be accepted, or EFI type 15 is RAM, and there is no table"
    if evidence.no_table and evidence.no_zones is not None:
        return f"nothing tells whether there was a table: {evidence.no_zones}"
    stray = rng.subtract(evidence.listed, evidence.listable(initial.unaccepted))
    if stray:
        where = f"the first at {stray[0].start:#x}"
        return f"{size(rng.total(stray))} are listed as unaccepted and were not at boot, {where}"
    geometry = initial.geometry if initial.geometry.units else None
    known = truth.overlay(evidence, geometry, truth.reconstructed(evidence, initial))
    damaged = None if evidence.no_table else evidence.lists_damaged
    return Judgement(evidence, "reconstructed", damaged, known, geometry, partial=damaged is not None)


def _by_lists(evidence: Evidence, wanted: str) -> Union[Judgement, str]:
    kernel, lack, damaged = evidence.snapshot.kernel, evidence.lists_lack, evidence.lists_damaged
    if lack is not None or kernel is None:
        return lack or "how the kernel was built is not known"
    if damaged is not None and not kernel.is_booting:
        return damaged
    reason = f"page-lists: {damaged}" if kernel.is_booting else None
    geometry = _geometry(evidence)
    known = truth.overlay(evidence, geometry, truth.lists(evidence, [], bare=wanted == "page-lists"))
    return Judgement(evidence, "page-lists", reason, known, geometry, partial=bool(kernel.is_booting))


def _by_counters(evidence: Evidence, wanted: str) -> Union[Judgement, str]:
    snapshot, counters, damaged = evidence.snapshot, evidence.snapshot.counters, evidence.lists_damaged
    if evidence.nr_unaccepted_bytes is None:
        if counters is not None and counters.unaccepted_pages is not None:
            return f"NR_UNACCEPTED is {counters.unaccepted_pages} pages"
        return snapshot.missing.get("counters", "no NR_UNACCEPTED: kernel without CONFIG_UNACCEPTED_MEMORY")
    booting = bool(snapshot.kernel is not None and snapshot.kernel.is_booting)
    reason = f"counters: {damaged}" if booting and damaged is not None else None
    return Judgement(evidence, "counters", reason, [], _geometry(evidence), partial=booting)


def _geometry(evidence: Evidence) -> Optional[Geometry]:
    """What the table covers, unless the table is doubted."""
    table = evidence.snapshot.table
    own = table.bitmap is not None and table.geometry is not None and not table.is_saved
    return None if own and doubt_of_table(evidence) is not None else table.geometry
