# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the EFI stub makes of the memory map: which bits it sets, and what it accepts at once.

The two functions carry the names of drivers/firmware/efi/libstub/unaccepted_memory.c, which is the same in
Linux 6.12 to 7.3. The kernel calls process_unaccepted_memory() from setup_e820() for each descriptor of type
15 of the final map, in map order, without joining neighbours; the map given here has to be as it was then.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Optional

from drgn_unaccepted.model.bitmap import Geometry, from_runs
from drgn_unaccepted.model.efi import UNACCEPTED, EfiDescriptor
from drgn_unaccepted.model.ranges import Range, merge


def allocate_unaccepted_bitmap(descriptors: Iterable[EfiDescriptor], unit_size: int) -> Optional[Geometry]:
    """The bitmap that the stub allocates for this map, or None if it has no type 15: then there is no table.

    The stub does this before ExitBootServices(), on a map that is not kept; the final map may have less
    unaccepted memory at the edges. And it takes a table that an earlier stage installed as it is.

    :param unit_size: ``EFI_UNACCEPTED_UNIT_SIZE``, bytes, a power of two (2 MiB on x86)
    """
    unaccepted = [descriptor for descriptor in descriptors if descriptor.type == UNACCEPTED]
    if not unaccepted:
        return None
    start = _round_down(min(descriptor.start for descriptor in unaccepted), unit_size)
    end = _round_up(max(descriptor.end for descriptor in unaccepted), unit_size)
    return Geometry(start, -(-(end - start) // (unit_size * 8)), unit_size)


def process_unaccepted_memory(descriptors: Iterable[EfiDescriptor], geometry: Geometry) -> tuple[bytes, list[Range]]:
    """The initial bitmap, and the ranges accepted up front (merged).

    A set bit means that the whole unit was unaccepted: what does not fill a unit is accepted at once, and so
    is a descriptor of less than two units, even if it holds a whole one.

    The descriptors that :func:`beyond_bitmap` returns set no bit here.

    :param descriptors: the final memory map, in map order; other types than 15 are passed over
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
            runs.append(
                (
                    (rest.start - geometry.phys_base) // geometry.unit_size,
                    (rest.end - geometry.phys_base) // geometry.unit_size,
                )
            )
    return from_runs(runs, geometry.bitmap_bytes), merge(accepted)


def beyond_bitmap(descriptors: Sequence[EfiDescriptor], geometry: Geometry) -> list[EfiDescriptor]:
    """Descriptors on which the stub's own arithmetic fails: they start above all that the bitmap covers.

    The stub accepts from the end of the bitmap to the end of the descriptor, and whatever lies between; then
    its count of bits to set is below zero, a huge one to bitmap_set(), and it writes far beyond the bitmap.
    It takes a table from an earlier stage, too small for this map, to get there.
    """
    return [
        descriptor
        for descriptor in descriptors
        if descriptor.type == UNACCEPTED
        and descriptor.end - descriptor.start >= 2 * geometry.unit_size
        and descriptor.start > geometry.end
    ]


def _split(start: int, end: int, geometry: Geometry) -> tuple[list[Range], Optional[Range]]:
    """One descriptor's range into what is accepted now and the whole units that get a bit."""
    unit_size, phys_base, top = geometry.unit_size, geometry.phys_base, geometry.end
    if end - start < 2 * unit_size:
        return [Range(start, end)], None
    accepted = []
    if start % unit_size:
        accepted.append(Range(start, _round_up(start, unit_size)))
        start = _round_up(start, unit_size)
    if end % unit_size:
        accepted.append(Range(_round_down(end, unit_size), end))
        end = _round_down(end, unit_size)
    if start < phys_base:
        accepted.append(Range(start, min(phys_base, end)))
        start = phys_base
    if end > top:
        accepted.append(Range(top, end))
        end = top
    return accepted, Range(start, end) if start < end else None


def _round_down(address: int, unit_size: int) -> int:
    return address & ~(unit_size - 1)


def _round_up(address: int, unit_size: int) -> int:
    return _round_down(address + unit_size - 1, unit_size)
