# SPDX-License-Identifier: LGPL-2.1-or-later
"""The EFI stub: which bits it sets for a memory map, and which memory it accepts at once.

The two functions are named after those in drivers/firmware/efi/libstub/unaccepted_memory.c, which is the same in
Linux 6.12 to 7.3. setup_e820() calls process_unaccepted_memory() for each descriptor of type 15 of the final map, in
map order, without merging neighbours. So the map given here must be as it was then.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Optional

from drgn_unaccepted.model.bitmap import Geometry, from_runs
from drgn_unaccepted.model.efi import UNACCEPTED, EfiDescriptor
from drgn_unaccepted.model.ranges import Range, merge, subtract


def allocate_unaccepted_bitmap(descriptors: Iterable[EfiDescriptor], unit_size: int) -> Optional[Geometry]:
    """The bitmap that the stub allocates for this map. None without type 15: then there is no table.

    The stub allocates it before ExitBootServices(), for a map that is not kept; the final map may have less
    unaccepted memory at the edges. If an earlier stage has installed a table, the stub uses that one unchanged.

    :param unit_size: ``EFI_UNACCEPTED_UNIT_SIZE``, bytes, a power of two (2 MiB on x86)
    """
    unaccepted = [descriptor for descriptor in descriptors if descriptor.type == UNACCEPTED]
    if not unaccepted:
        return None
    start = min(descriptor.start for descriptor in unaccepted) // unit_size * unit_size
    end = -(-max(descriptor.end for descriptor in unaccepted) // unit_size) * unit_size
    return Geometry(start, -(-(end - start) // (unit_size * 8)), unit_size)


def process_unaccepted_memory(descriptors: Iterable[EfiDescriptor], geometry: Geometry) -> tuple[bytes, list[Range]]:
    """The initial bitmap, and the ranges accepted up front (merged).

    A set bit means that the whole unit was unaccepted. The stub accepts parts of a unit at once, and whole
    descriptors smaller than two units. Descriptors that :func:`beyond_bitmap` returns set no bit here.

    :param descriptors: the final memory map, in map order; types other than 15 are skipped
    :param geometry: of the table; ``phys_base`` is a multiple of ``unit_size``
    """
    runs = []
    accepted = []
    for descriptor in descriptors:
        if descriptor.type != UNACCEPTED:
            continue
        now, rest = _split(descriptor.start, descriptor.end, geometry)
        accepted += now
        if rest:
            first, end = ((address - geometry.phys_base) // geometry.unit_size for address in rest)
            runs.append((first, end))
    return from_runs(runs, geometry.bitmap_bytes), merge(accepted)


def beyond_bitmap(descriptors: Sequence[EfiDescriptor], geometry: Geometry) -> list[EfiDescriptor]:
    """Descriptors that start above the bitmap, for which the stub's arithmetic fails.

    The stub accepts everything from the end of the bitmap to the end of the descriptor. Then its number of bits
    to set is negative, huge for bitmap_set(), and it writes far beyond the bitmap. This takes a table from an
    earlier stage that is too small for this map.
    """
    return [
        descriptor
        for descriptor in descriptors
        if descriptor.type == UNACCEPTED
        and descriptor.end - descriptor.start >= 2 * geometry.unit_size
        and descriptor.start > geometry.end
    ]


def _split(start: int, end: int, geometry: Geometry) -> tuple[list[Range], Optional[Range]]:
    """Split a descriptor's range into what is accepted at once and the whole units that get a bit."""
    unit_size = geometry.unit_size
    if end - start < 2 * unit_size:
        return [Range(start, end)], None
    whole = Range(
        max(-(-start // unit_size) * unit_size, geometry.phys_base), min(end // unit_size * unit_size, geometry.end)
    )
    if whole.start >= whole.end:
        # Of a descriptor above the bitmap, what lies between is accepted, too.
        return [Range(min(start, geometry.end), end)], None
    return subtract([Range(start, end)], [whole]), whole
