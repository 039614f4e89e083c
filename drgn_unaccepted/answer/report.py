# SPDX-License-Identifier: LGPL-2.1-or-later
"""``report``: all answers in one document, small enough to travel inside a page.

Bits and ranges are packed: the bitmap compressed, ranges as :func:`pack` has them. Nothing is thinned out.
"""

from __future__ import annotations

import base64
import math
import sys
import zlib
from array import array
from collections.abc import Sequence
from typing import Optional

from drgn_unaccepted import limits
from drgn_unaccepted.answer.allocator import accepting, zones
from drgn_unaccepted.answer.check import check
from drgn_unaccepted.answer.document import Document
from drgn_unaccepted.answer.evidence import listed_ranges, possible_guards
from drgn_unaccepted.answer.firmware_maps import e820, efi
from drgn_unaccepted.answer.map import lanes, memory_of, strays
from drgn_unaccepted.answer.source import Source
from drgn_unaccepted.answer.state import Piece, StateMap
from drgn_unaccepted.answer.summary import summary
from drgn_unaccepted.checks import explain
from drgn_unaccepted.model import ranges as rng
from drgn_unaccepted.model.header import X86_UNIT_SIZE
from drgn_unaccepted.model.ranges import Range
from drgn_unaccepted.snapshot import Snapshot


def report(
    snapshot: Snapshot, source: Source, checks: Optional[Document] = None, history: Optional[Document] = None
) -> Document:
    """What the page of ``report`` is made from; its script answers ``resolve`` for any address out of it.

    :param checks: the answer of ``check``, where it is at hand already
    :param history: a recording that ends with this snapshot, as :func:`~drgn_unaccepted.answer.history.history`
        has it
    """
    table, memory = snapshot.table, memory_of(snapshot)
    geometry = table.geometry
    findings = check(snapshot, source) if checks is None else checks
    zone_list = zones(snapshot, source)
    for zone in zone_list["zones"] or ():
        del zone["listed"]  # type: ignore[misc]  # is below, packed
    efi_map = efi(snapshot, source)
    for descriptor in efi_map["descriptors"] or ():
        # Has 64 bits, of which a script's numbers keep 53.
        if descriptor["attribute"] is not None:
            descriptor["attribute"] = f"{descriptor['attribute']:#x}"  # type: ignore[typeddict-item]
    states, otherwise = ([], None) if source.exact else _states(snapshot, source)
    return {
        **summary(snapshot, source),
        "command": "report",
        "unit_size": X86_UNIT_SIZE if geometry is None else geometry.unit_size,
        "saved": table.is_saved,
        "doubted": table.is_doubted,
        "bitmap": None if table.bitmap is None else _deflated(table.bitmap),
        "states": states,
        "otherwise": otherwise,
        "listed": None if zone_list["zones"] is None else pack(listed_ranges(snapshot)),
        "lists_cut": any(zone.listed is not None and zone.listed.problems for zone in snapshot.zones or ()),
        "guards": pack([] if source.exact else possible_guards(snapshot)),
        "memory_from": memory.provenance,
        "ram": pack(memory.ram),
        "reserved": pack(memory.reserved),
        "filled": pack(rng.merge(memory.ram + strays(snapshot, source, memory.ram))),
        "efi": _own(dict(efi_map), ("provenance", "complete", "note", "descriptors")),
        "e820": _own(dict(e820(snapshot, source)), ("tables", "missing", "differences")),
        "zones": zone_list["zones"],
        "missing": {**snapshot.missing, **({"zones": zone_list["missing"]} if zone_list["missing"] else {})},
        "accepting": _own(dict(accepting(snapshot, source)), ("accepting", "problems", "phys_base_from", "missing")),
        "accepting_ranges": lanes(snapshot)["accepting"],
        "checks": {
            "status": findings["status"],
            "findings": findings["findings"],
            "explain": {
                finding["rule"]: [" ".join(part.split()) for part in explain(finding["rule"]).split("\n\n")[1:]]
                for finding in findings["findings"]
                if finding["status"] not in ("pass", "skip")
            },
        },
        "recording": None if history is None else _recording(history),
    }


def _recording(history: Document) -> Document:
    """The slices of time, with the unaccepted bytes of their bins as little-endian doubles, NaN where unknown."""
    nbytes = array("d")
    for now in history["slices"]:
        bins = now["bins_unaccepted_bytes"] or [None] * len(history["bins"])
        nbytes.extend(math.nan if one is None else one for one in bins)
    if sys.byteorder == "big":
        nbytes.byteswap()
    return {
        **_own(history, ("samples", "elapsed_seconds", "unit_size", "bytes_per_bin", "bins")),
        "slices": [
            {key: value for key, value in now.items() if key != "bins_unaccepted_bytes"} for now in history["slices"]
        ],
        "unaccepted": _deflated(nbytes.tobytes()),
    }


def _own(answer: Document, keys: Sequence[str]) -> Document:
    return {key: answer.get(key) for key in keys}


def _states(snapshot: Snapshot, source: Source) -> tuple[list[Document], Optional[Document]]:
    """The known ranges, by what is said of them; and what is said of all others."""
    groups: dict[tuple[str, Optional[bool], str], list[Range]] = {}
    for piece in StateMap(snapshot, source).pieces(0, limits.PHYSICAL_END):
        groups.setdefault((piece.state, piece.covered, piece.reason), []).append(Range(piece.start, piece.end))
        last = piece
    # What no source knows reaches to the last address, and is what lies between the others too.
    otherwise = groups.pop(_said(last))
    assert otherwise[-1].end == limits.PHYSICAL_END
    return (
        [
            {"state": state, "covered": covered, "reason": reason, "runs": pack(rng.merge(ranges))}
            for (state, covered, reason), ranges in groups.items()
        ],
        dict(zip(("state", "covered", "reason"), _said(last))),
    )


def _said(piece: Piece) -> tuple[str, Optional[bool], str]:
    return piece.state, piece.covered, piece.reason


def pack(ranges: Sequence[Range]) -> Document:
    """Sorted, disjoint ranges as LEB128 pairs (gap since the last end, length), deflated, in base64.

    The numbers are multiples of ``grain``, which makes most of them one byte.
    """
    grain = math.gcd(*(edge for range_ in ranges for edge in range_)) or 1
    packed = bytearray()
    last = 0
    for start, end in ranges:
        for number in ((start - last) // grain, (end - start) // grain):
            while number > 0x7F:
                packed.append(number & 0x7F | 0x80)
                number >>= 7
            packed.append(number)
        last = end
    return {"grain": grain, "count": len(ranges), "data": _deflated(bytes(packed))}


def _deflated(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data, 9 if len(data) < 1 << 24 else 1)).decode("ascii")
