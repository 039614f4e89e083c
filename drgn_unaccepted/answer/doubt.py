# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether a table that was read can be believed: its zeros say "accepted", and zeros are no evidence.

A page that was not captured reads as zeros, and an overwritten one as anything. So the bits are compared with all that
bounds them: the bits that the EFI stub set, RAM, the kernel's own memory, the lists, the counters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Optional

from drgn_unaccepted import limits
from drgn_unaccepted.answer.allocator import FEW_CHUNKS
from drgn_unaccepted.answer.evidence import Evidence, Initial
from drgn_unaccepted.model import bitmap as bits
from drgn_unaccepted.model import ranges as rng
from drgn_unaccepted.model.bitmap import Geometry
from drgn_unaccepted.model.header import HEADER
from drgn_unaccepted.model.ranges import Range
from drgn_unaccepted.snapshot import NOT_ASKED, PAGE_SIZE
from drgn_unaccepted.words import size, span


def doubt_of_table(evidence: Evidence) -> Optional[str]:
    """Why the table was not read as the kernel had it, or None: then its zeros are accepted memory."""
    table = evidence.snapshot.table
    if table.is_doubted:
        return table.reason
    assert table.bitmap is not None and table.geometry is not None
    doubt = next(_misplaced(evidence, table.geometry), None)
    # The lists and counters of a running kernel change while they are read.
    if doubt is None and not evidence.snapshot.target.is_running:
        doubt = next(_unlike_lists(evidence, table.geometry, table.bitmap), None)
    return doubt


def _misplaced(evidence: Evidence, geometry: Geometry) -> Iterator[str]:
    """Bits where none can be, and a table that cannot lie where it does."""
    initial, ones, address = evidence.initial, evidence.set_bits, evidence.snapshot.table.address or 0
    if address % 8:
        yield f"efi.unaccepted is {address:#x}, not a multiple of 8"
    if evidence.table_taken:
        yield f"its page at {evidence.table_taken[0].start:#x} is not PageReserved, and has another owner"
    outside = rng.subtract(evidence.type_15, [Range(geometry.phys_base, geometry.end)])
    if outside:
        yield f"EFI type 15 at {span(*outside[0])} is outside the bitmap"
    for bound, what in (
        (initial.unaccepted if isinstance(initial, Initial) else None, "that the EFI stub did not set"),
        (evidence.memory, "where no RAM is"),
        (evidence.stub_ram, "where e820_table_firmware has no RAM"),
    ):
        stray = [] if bound is None else rng.subtract(ones, bound)
        if stray:
            yield f"bits are set {what}, the first at {stray[0].start:#x}"
    for start, end, proof in evidence.kernel_memory:
        if rng.intersect([Range(start, end)], ones):
            yield f"bits are set under {proof.partition(': ')[2]} at {span(start, end)}"
    # Pages are read before the bitmap, and bits only clear.
    used = rng.intersect(evidence.given, ones)
    if used:
        yield f"bits are set under pages in use or in a free list, the first at {used[0].start:#x}"


def _unlike_lists(evidence: Evidence, geometry: Geometry, bitmap: bytes) -> Iterator[str]:
    snapshot, kernel, ones = evidence.snapshot, evidence.snapshot.kernel, evidence.set_bits
    bare = evidence.listed_without_bit(ones, evidence.initial)
    if len(ones) > limits.CHECKED_RANGES:
        bare = list(rng.clip(bare, 0, ones[-1].start))
    if bare:
        yield f"{size(rng.total(bare))} on zone->unaccepted_pages have no bit set, the first at {bare[0].start:#x}"
    yield from _unlisted(evidence)
    yield from _counted(evidence, geometry, bitmap)
    damaged = evidence.lists_damaged
    if damaged is None:
        return
    if _has_zero_page(snapshot.table.address or 0, bitmap):
        yield f"a page of its bitmap is all zeros, and nothing tells whether it was captured: {damaged}"
    unasked = kernel is None or snapshot.missing.get("zones", NOT_ASKED) == NOT_ASKED
    if unasked and snapshot.zones is None and snapshot.counters is None:
        return
    if not (kernel is not None and kernel.is_booting) and not _as_many_chunks(evidence, ones):
        yield f"nothing confirms its zeros: {damaged}"


def _unlisted(evidence: Evidence) -> Iterator[str]:
    """RAM that the page allocator got has bits only in listed chunks, and where accepts are under way.

    A chunk leaves its list before its accept is in flight: one for each CPU, of which no page is in a free list or in
    use. Without e820_table each zone tells how much of what it spans is memory.
    """
    kernel, stray = evidence.snapshot.kernel, evidence.unlisted
    amount, most = rng.total(stray), min(FEW_CHUNKS, (kernel and kernel.cpus) or FEW_CHUNKS) * evidence.chunk
    if evidence.used_ram is None:
        amount = 0
        for zone in evidence.snapshot.zones or ():
            start, spanned = zone.start_pfn * PAGE_SIZE, zone.spanned_pages * PAGE_SIZE
            inside = rng.total(rng.clip(stray, start, start + spanned))
            amount += max(0, inside - spanned + zone.present_pages * PAGE_SIZE)
    elif rng.subtract(stray, evidence.pages("free")):
        most = 0
    if stray and amount > most:
        yield f"{size(amount)} have bits and are on no list, the first at {stray[0].start:#x}"


def _counted(evidence: Evidence, geometry: Geometry, bitmap: bytes) -> Iterator[str]:
    """More is counted than has bits. At each end of a run of bits a chunk may own just one of them, or its guard."""
    counted = evidence.nr_unaccepted_bytes
    found = bits.count(bitmap) * geometry.unit_size
    if counted is None or counted <= found:
        return
    edges = bits.extent(bitmap)
    slack = (FEW_CHUNKS + (0 if edges is None else 2 * edges.runs)) * max(evidence.chunk, 2 * geometry.unit_size)
    # kexec accepts the destinations of its segments, and their chunks stay listed and counted (Linux 6.15).
    slack += rng.total(rng.intersect(evidence.kexec_segments, evidence.listed))
    if counted >= found + slack:
        yield f"NR_UNACCEPTED counts {size(counted)}, and the bits {size(found)}"


def _as_many_chunks(evidence: Evidence, ones: Sequence[Range]) -> bool:
    """Whether NR_UNACCEPTED counts the chunks that have bits, and each of those lacks none but that of its guard.

    Of a chunk that waits, only the first unit can be accepted, with the chunk before it. A chunk is counted without a
    bit of its own if it lies before the memory that was unaccepted at boot, or has the last unit of it.
    """
    counted, initial, chunk = evidence.nr_unaccepted_bytes, evidence.initial, evidence.chunk
    if counted is None or not isinstance(initial, Initial):
        return False
    own = rng.outwards(ones, chunk)
    firsts = [Range(start, start + evidence.unit) for start, _ in own]
    if rng.subtract(rng.intersect(own, initial.unaccepted), rng.merge([*ones, *firsts])):
        return False
    edges = sum(
        (start % chunk == 0 and rng.find(evidence.firmware_ram, start - 1) is not None) + (end % chunk != 0)
        for start, end in initial.unaccepted
    )
    segments = rng.outwards(((start, end + evidence.unit) for start, end in evidence.kexec_segments), chunk)
    kept = rng.subtract(rng.intersect(segments, rng.outwards(initial.unaccepted, chunk)), own)
    return -FEW_CHUNKS * chunk <= counted - rng.total(own) <= edges * chunk + rng.total(kept)


def _has_zero_page(address: int, bitmap: bytes) -> bool:
    """Whether a page that holds nothing but bits has none set."""
    pages = range(-(address + HEADER.size) % PAGE_SIZE, len(bitmap), PAGE_SIZE)
    return any(bitmap.count(0, at, at + PAGE_SIZE) == min(PAGE_SIZE, len(bitmap) - at) for at in pages)
