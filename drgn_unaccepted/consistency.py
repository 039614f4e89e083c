# SPDX-License-Identifier: LGPL-2.1-or-later
"""What holds between the parts of every captured snapshot, so that all answers can rely on it.

The bounds of single values are annotations in :mod:`~drgn_unaccepted.snapshot`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import islice
from typing import Optional

from drgn_unaccepted import limits
from drgn_unaccepted.codec import COLUMNS
from drgn_unaccepted.model.header import PRESENT, Header, judge_header
from drgn_unaccepted.model.ranges import chunk_runs
from drgn_unaccepted.snapshot import ALL_PARTS, PAGE_SHIFT, ListedChunks, Snapshot, Table


def contradiction(snapshot: Snapshot) -> Optional[str]:
    """The first contradiction, or None."""
    return next(_contradictions(snapshot), None)


def _contradictions(snapshot: Snapshot) -> Iterator[str]:
    try:
        clock = datetime.fromisoformat(snapshot.target.taken_at).tzinfo
    except ValueError:
        clock = None
    if clock is None:
        yield "target.taken_at is no time with its zone in ISO 8601"
    yield from _of_table(snapshot.table)
    absent = {part for part in ALL_PARTS if getattr(snapshot, part) is None}
    if snapshot.e820 is not None:
        absent |= {f"e820.{name}" for name, entries in vars(snapshot.e820).items() if entries is None}
    for part in sorted(absent - snapshot.missing.keys()):
        yield f"{part} is null, and missing does not say why"
    if snapshot.zones is not None and snapshot.kernel is None:
        yield "zones without kernel, which has the size of a chunk"
    for what, ranges in _ranges(snapshot):
        for start, end in ranges:
            if end < start:
                yield f"{what} ends before it starts: {start:#x}-{end:#x}"
    yield from _of_lists(snapshot)


def _of_table(table: Table) -> Iterator[str]:
    if table.state != PRESENT and table.reason is None:
        yield f"table is {table.state} without a reason"
    if (table.state == PRESENT) != (table.bitmap is not None):
        yield f"table is {table.state} {'without' if table.bitmap is None else 'with'} a bitmap"
    fields = (table.version, table.unit_size, table.phys_base, table.bitmap_bytes)
    if fields.count(None) not in (0, len(fields)):
        yield "table has a part of a header"
    version, unit_size, phys_base, bitmap_bytes = fields
    if version is None or unit_size is None or phys_base is None or bitmap_bytes is None:
        if table.state == PRESENT:
            yield "table is present without a header"
        return
    if table.address is None:
        yield "table has a header and no address"
        return
    state, reason = judge_header(Header(version, unit_size, phys_base, bitmap_bytes), table.address)
    if table.state in (PRESENT, "not-captured") and state != PRESENT:
        yield f"table is {table.state}, and its header is {state}: {reason}"
    if table.bitmap is not None and len(table.bitmap) != bitmap_bytes:
        yield f"table has a bitmap of {len(table.bitmap)} bytes and a header that says {bitmap_bytes}"


def _of_lists(snapshot: Snapshot) -> Iterator[str]:
    chunks = 0
    for zone in snapshot.zones or ():
        if zone.listed is None:
            continue
        if len({len(getattr(zone.listed, name)) for name in COLUMNS}) != 1:
            yield f"the list of zone {zone.name} has columns of different lengths"
        chunks += len(zone.listed.pfns)
        if max(zone.listed.pfns, default=0) >= limits.PHYSICAL_END >> PAGE_SHIFT:
            yield f"a chunk of zone {zone.name} is beyond the last physical address"
        if snapshot.kernel is not None and _is_scattered(zone.listed, snapshot.kernel.chunk_pages):
            yield f"the list of zone {zone.name} has more than {limits.LISTED_RUNS} runs of chunks"
    if chunks > limits.LISTED_CHUNKS:
        yield f"{chunks} listed chunks, more than {limits.LISTED_CHUNKS}"


def _is_scattered(listed: ListedChunks, chunk_pages: int) -> bool:
    if len(listed.pfns) <= limits.LISTED_RUNS:
        return False
    return next(islice(chunk_runs(listed.pfns, chunk_pages), limits.LISTED_RUNS, None), None) is not None


def _ranges(snapshot: Snapshot) -> Iterator[tuple[str, Iterable[tuple[int, int]]]]:
    yield "table.unmapped", snapshot.table.unmapped or ()
    if snapshot.efi_map is not None:
        yield "an EFI memory descriptor", ((each.start, each.end) for each in snapshot.efi_map.descriptors)
        if snapshot.efi_map.buffer is not None:
            yield "efi_map.buffer", (snapshot.efi_map.buffer,)
    if snapshot.e820 is not None:
        for entries in vars(snapshot.e820).values():
            yield "an e820 entry", ((entry.start, entry.end) for entry in entries or ())
    yield "memory of the kernel", ((each.start, each.end) for each in snapshot.kernel_memory or ())
    yield "a kexec segment", ((each.start, each.end) for each in snapshot.kexec_segments or ())
    if snapshot.pages is not None:
        yield "a run of pages", ((run.start_pfn, run.end_pfn) for run in snapshot.pages.runs)
        yield "pages.scanned", snapshot.pages.scanned
