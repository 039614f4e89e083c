# SPDX-License-Identifier: LGPL-2.1-or-later
"""Snapshots of one guest, one after the other, for tests of what is made of them."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Optional

from drgn_unaccepted.record.file import Writer
from drgn_unaccepted.snapshot import ListedChunks, Snapshot
from tests.checks.build import BITMAP, LISTED, clean


def listed(pfns: Iterable[int], problems: tuple[str, ...] = (), flags: int = 0) -> ListedChunks:
    pfns = array("Q", pfns)
    n = len(pfns)
    return ListedChunks(pfns, array("Q", [flags] * n), array("i", [0] * n), array("I", [0xF7000000] * n), problems)


def write_recording(path: Path, snapshots: Sequence[Snapshot]) -> Path:
    with Writer(str(path), 1.0) as writer:
        for number, snapshot in enumerate(snapshots):
            writer.add(snapshot, float(number), 0.25)
    return path


def with_list(snapshot: Snapshot, chunks: Optional[ListedChunks]) -> Snapshot:
    assert snapshot.zones is not None
    *others, normal = snapshot.zones
    return replace(snapshot, zones=(*others, replace(normal, listed=chunks)))


def with_bitmap(snapshot: Snapshot, bitmap: bytes) -> Snapshot:
    return replace(snapshot, table=replace(snapshot.table, bitmap=bitmap, bitmap_bytes=len(bitmap)))


def series(count: int) -> list[Snapshot]:
    """A guest that accepts a chunk from time to time, from the lowest address up."""
    taken = []
    for number in range(count):
        chunks = LISTED[min(number // 2, 9) :]
        bitmap = int.from_bytes(BITMAP, "little") >> 2 * (number // 2) << 2 * (number // 2)
        snapshot = with_list(with_bitmap(clean(), bitmap.to_bytes(4, "little")), listed(chunks))
        taken_at = f"2026-01-01T00:00:{number:02}.000+00:00"
        taken.append(replace(snapshot, target=replace(snapshot.target, taken_at=taken_at)))
    return taken
