# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which source an answer comes from: the bitmap, the page lists, the counters, or none.

Best first. Each rung that cannot be used leaves its reason, so that an answer from a lower rung says why.
"""

from __future__ import annotations

from typing import NamedTuple, Optional

from drgn_unaccepted.snapshot import Snapshot

SOURCES = ("bitmap", "page-lists", "counters")


_SAVED = (
    "the table was saved earlier: bits only clear, so it bounds what is unaccepted from above; "
    "the page lists correct it"
)


class Source(NamedTuple):
    #: ``bitmap``, ``page-lists``, ``counters`` or ``none``.
    name: str
    #: Whether the answer is exact: the bitmap is; a listed chunk can hold a unit that is accepted already.
    exact: bool
    #: Why no better source was used, or why there is none; ``None`` for the bitmap.
    reason: Optional[str]


def choose_source(snapshot: Snapshot, wanted: str = "auto") -> Source:
    """The source that ``wanted`` (``auto`` or one of :data:`SOURCES`) leads to.

    :raises ValueError: ``wanted`` is none of these
    """
    if wanted != "auto" and wanted not in SOURCES:
        raise ValueError(f"no such source: {wanted}")
    rungs = SOURCES if wanted == "auto" else (wanted,)
    lacking: list[str] = []
    for rung in rungs:
        lack = _lack(snapshot, rung)
        if lack is None:
            if rung == "bitmap" and snapshot.table.is_saved:
                return Source(rung, False, f"{_SAVED}; {snapshot.table.reason}")
            if rung == "bitmap" and snapshot.table.is_doubted:
                # It answers where it was asked for, and otherwise the lists.
                if wanted == "bitmap":
                    return Source(rung, False, snapshot.table.reason)
                lacking.append(f"bitmap: {snapshot.table.reason}")
                continue
            return Source(rung, rung == "bitmap", "; ".join(lacking) or None)
        lacking.append(f"{rung}: {lack}")
        # Without a table nothing is listed and nothing is counted: empty lists would prove nothing more.
        if snapshot.table.state == "absent" and wanted == "auto":
            break
    return Source("none", False, "; ".join(lacking))


def _lack(snapshot: Snapshot, rung: str) -> Optional[str]:
    """Why ``rung`` cannot answer, or None where it can."""
    if rung == "bitmap":
        if snapshot.table.bitmap is not None:
            return None
        return f"table {snapshot.table.state}: {snapshot.table.reason}"
    if rung == "page-lists":
        if snapshot.zones is None:
            return snapshot.missing["zones"]
        if any(zone.listed is None for zone in snapshot.zones):
            return "struct zone has no unaccepted_pages: kernel without CONFIG_UNACCEPTED_MEMORY"
        broken = [zone for zone in snapshot.zones if zone.listed is not None and zone.listed.problems]
        if broken:
            assert broken[0].listed is not None
            return (
                f"unaccepted_pages of node {broken[0].node} zone {broken[0].name} is damaged: "
                f"{broken[0].listed.problems[0]}"
            )
        return None
    if snapshot.counters is None:
        return snapshot.missing["counters"]
    if snapshot.counters.unaccepted_pages is None:
        return "no NR_UNACCEPTED: kernel without CONFIG_UNACCEPTED_MEMORY"
    return None
