# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which source an answer comes from: the bitmap, the page lists, the counters, or none.

Best first. Each rung that cannot be used leaves its reason, so that an answer from a lower rung says why.
"""

from __future__ import annotations

from typing import NamedTuple, Optional

from drgn_unaccepted.answer.documents import SourceName
from drgn_unaccepted.answer.evidence import listed_ranges, why_zeros_may_not_hold
from drgn_unaccepted.limits import PHYSICAL_END
from drgn_unaccepted.model import bitmap as bits
from drgn_unaccepted.model import ranges as rng
from drgn_unaccepted.snapshot import PAGE_SIZE, Snapshot
from drgn_unaccepted.words import count, size

SOURCES: tuple[SourceName, ...] = ("bitmap", "page-lists", "counters")


_SAVED = (
    "the table was saved earlier: bits only clear, so it bounds what is unaccepted from above; "
    "the page lists correct it"
)
_SAVED_SOMEWHERE = "the table was saved earlier, and {}: a bit counts only where the page lists confirm it"


class Source(NamedTuple):
    name: SourceName
    #: Whether the answer is exact: the bitmap is; a listed chunk can hold a unit that is accepted already.
    exact: bool
    #: Why no better source was used, or why there is none; ``None`` for the bitmap.
    reason: Optional[str]
    #: It may lack unaccepted memory: its total is not known, and a 0 bit of a bitmap says nothing.
    partial: bool = False


#: Chunks that may be listed without a bit of their own, or be missing on the lists, before that is a contradiction:
#: guards, accepts in flight, memory that kexec accepted.
_FEW_CHUNKS = 8


def choose_source(snapshot: Snapshot, wanted: str = "auto") -> Source:
    """The source that ``wanted`` (``auto`` or one of :data:`SOURCES`) leads to."""
    rungs = [rung for rung in SOURCES if wanted in ("auto", rung)]
    lacking: list[str] = []
    for rung in rungs:
        lack = _lack(snapshot, rung)
        if lack is not None:
            lacking.append(f"{rung}: {lack}")
            # Without a table nothing is listed and nothing is counted: empty lists would prove nothing more.
            if snapshot.table.state == "absent" and wanted == "auto" and not _anything_waits(snapshot):
                break
            continue
        if rung != "bitmap":
            booting = _booting(snapshot)
            reason = "; ".join(lacking if booting is None else [*lacking, f"{rung}: {booting}"])
            return Source(rung, False, reason or None, booting is not None)
        doubt = _doubt(snapshot)
        if doubt is None:
            return Source(rung, True, None) if not snapshot.table.is_saved else Source(rung, False, _saved(snapshot))
        # It answers where it was asked for, and otherwise the lists.
        if wanted == "bitmap":
            return Source(rung, False, doubt, True)
        lacking.append(f"bitmap: {doubt}")
    return Source("none", False, "; ".join(lacking))


def _saved(snapshot: Snapshot) -> str:
    why = why_zeros_may_not_hold(snapshot)
    return f"{_SAVED if why is None else _SAVED_SOMEWHERE.format(why)}; {snapshot.table.reason}"


def _doubt(snapshot: Snapshot) -> Optional[str]:
    """Why a 0 bit is no evidence, or None where it is."""
    table, kernel = snapshot.table, snapshot.kernel
    if table.is_doubted:
        return table.reason
    if not table.is_saved or table.geometry is None or table.bitmap is None or kernel is None:
        return None
    # Bits only ever clear: what is listed now had its bits when the table was saved, the guards' excepted.
    unit = table.geometry.unit_size
    bare = bits.unset_bytes(table.geometry, table.bitmap, rng.trim(listed_ranges(snapshot), unit))
    if bare < _FEW_CHUNKS * max(kernel.chunk_pages * PAGE_SIZE, 2 * unit):
        return None
    return f"the saved table has no bits for {size(bare)} that are listed now ({table.reason})"


def _booting(snapshot: Snapshot) -> Optional[str]:
    """Why the lists and counters need not have all unaccepted memory, or None."""
    kernel = snapshot.kernel
    if kernel is None or not kernel.is_booting:
        return None
    return f"system_state is {kernel.system_state}: the page allocator need not have all memory yet"


def _anything_waits(snapshot: Snapshot) -> bool:
    """Whether something is listed or counted as unaccepted."""
    counters = snapshot.counters
    listed = any(zone.listed is not None and zone.listed.pfns for zone in snapshot.zones or ())
    return listed or (counters is not None and bool(counters.unaccepted_pages))


def _lack(snapshot: Snapshot, rung: str) -> Optional[str]:
    """Why ``rung`` cannot answer, or None where it can."""
    if rung == "bitmap":
        if snapshot.table.bitmap is not None:
            return None
        return f"table {snapshot.table.state}: {snapshot.table.reason}"
    if rung == "page-lists":
        return _lists_lack(snapshot)
    if snapshot.counters is None:
        return snapshot.missing["counters"]
    if snapshot.counters.unaccepted_pages is None:
        return "no NR_UNACCEPTED: kernel without CONFIG_UNACCEPTED_MEMORY"
    if not 0 <= snapshot.counters.unaccepted_pages <= PHYSICAL_END // PAGE_SIZE:
        return f"NR_UNACCEPTED is {snapshot.counters.unaccepted_pages} pages, which cannot be"
    return None


def no_zones(snapshot: Snapshot) -> Optional[str]:
    """Why nothing is known of any zone, or None."""
    if snapshot.zones is None:
        return snapshot.missing["zones"]
    # Every kernel has one.
    return None if snapshot.zones else "no zone is populated, as where node_data reads as zeros"


def _lists_lack(snapshot: Snapshot) -> Optional[str]:
    if not snapshot.zones:
        return no_zones(snapshot)
    for zone in snapshot.zones:
        where = f"unaccepted_pages of node {zone.node} zone {zone.name}"
        if zone.listed is None:
            return "struct zone has no unaccepted_pages: kernel without CONFIG_UNACCEPTED_MEMORY"
        if zone.listed.problems:
            return f"{where} is damaged: {zone.listed.problems[0]}"
        if zone.unaccepted_pages is not None and snapshot.kernel is not None:
            listed, counted = len(zone.listed.pfns), zone.unaccepted_pages // snapshot.kernel.chunk_pages
            # A list head that was overwritten by one of an empty list has no wrong link.
            if counted - listed > max(_FEW_CHUNKS, listed):
                return f"{where} lists {count(listed, 'chunk')} where NR_UNACCEPTED counts {counted}"
    if snapshot.counters is not None and snapshot.counters.unaccepted_pages is not None and snapshot.kernel is not None:
        listed = sum(len(zone.listed.pfns) for zone in snapshot.zones if zone.listed is not None)
        counted = snapshot.counters.unaccepted_pages // snapshot.kernel.chunk_pages
        # A zone whose memory reads as zeros is taken for one that was never populated.
        if _FEW_CHUNKS < counted - listed <= PHYSICAL_END // PAGE_SIZE and counted - listed > listed:
            return f"all zones list {count(listed, 'chunk')} where vm_zone_stat[NR_UNACCEPTED] counts {counted}"
    return None
