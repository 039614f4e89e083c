# SPDX-License-Identifier: LGPL-2.1-or-later
"""The EFI stub: which bits it sets for a memory map, and which memory it accepts at once.

The two functions are named after those in drivers/firmware/efi/libstub/unaccepted_memory.c, which is the same in
Linux 6.12 to 7.3. setup_e820() calls process_unaccepted_memory() for each descriptor of type 15 of the final map, in
map order, without merging neighbours. So the map given here must be as it was then.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Optional

from drgn_unaccepted.model.bitmap import Geometry
from drgn_unaccepted.model.efi import UNACCEPTED, EfiDescriptor
from drgn_unaccepted.model.ranges import Range, merge, subtract


def allocate_unaccepted_bitmap(descriptors: Iterable[EfiDescriptor], unit_size: int) -> Optional[Geometry]:
    """The bitmap that the stub allocates for this map, with units of this size; None without type 15: no table.

    The stub allocates it before ExitBootServices(), for a map that is not kept; the final map may have less
    unaccepted memory at the edges. If an earlier stage has installed a table, the stub uses that one unchanged.
    """
    unaccepted = [each for each in descriptors if each.type == UNACCEPTED]
    if not unaccepted:
        return None
    start = min(each.start for each in unaccepted) // unit_size * unit_size
    end = -(-max(each.end for each in unaccepted) // unit_size) * unit_size
    return Geometry(start, -(-(end - start) // (unit_size * 8)), unit_size)


def process_unaccepted_memory(
    descriptors: Iterable[EfiDescriptor], geometry: Geometry
) -> tuple[list[Range], list[Range]]:
    """The memory that has bits in the initial bitmap, and the memory accepted up front.

    A set bit means that the whole unit was unaccepted. The stub accepts parts of a unit at once, and whole
    descriptors smaller than two units. Descriptors that :func:`beyond_bitmap` returns set no bit here.
    """
    unit, waiting, accepted = geometry.unit_size, list[Range](), list[Range]()
    for _, start, end, _ in (each for each in descriptors if each.type == UNACCEPTED):
        whole = Range(max(-(-start // unit) * unit, geometry.phys_base), min(end // unit * unit, geometry.end))
        if end - start < 2 * unit:
            accepted.append(Range(start, end))
        elif whole.start >= whole.end:
            # Of a descriptor above the bitmap, what lies between is accepted, too.
            accepted.append(Range(min(start, geometry.end), end))
        else:
            waiting.append(whole)
            accepted += subtract([Range(start, end)], [whole])
    return merge(waiting), merge(accepted)


def beyond_bitmap(descriptors: Sequence[EfiDescriptor], geometry: Geometry) -> list[EfiDescriptor]:
    """Descriptors that start above the bitmap, for which the stub's arithmetic fails.

    The stub accepts everything from the end of the bitmap to the end of the descriptor. Then its number of bits
    to set is negative, huge for bitmap_set(), and it writes far beyond the bitmap. This takes a table from an
    earlier stage that is too small for this map.
    """
    above = (each for each in descriptors if each.type == UNACCEPTED and each.start > geometry.end)
    return [each for each in above if each.end - each.start >= 2 * geometry.unit_size]
