# SPDX-License-Identifier: LGPL-2.1-or-later
"""Kernel virtual addresses, for example out of an oops, to physical ones."""

from __future__ import annotations

from drgn_unaccepted.limits import PHYSICAL_END
from drgn_unaccepted.model.addresses import START_KERNEL_MAP, Query
from drgn_unaccepted.snapshot import Snapshot


def physical(snapshot: Snapshot, query: Query) -> Query:
    """The query in physical addresses: the same, unless it is virtual.

    The direct map and the kernel image are linear. Anything else needs page tables, which the capture followed for the
    addresses in :attr:`Snapshot.translations`.

    :raises ValueError: it cannot be translated; the reason
    """
    if not query.is_virtual:
        return query
    start, mapping = _translate(snapshot, query.start, query.text)
    end = None if query.end is None else start + query.end - query.start
    if end is not None and _translate(snapshot, query.range.end - 1, query.text) != (end - 1, mapping):
        raise ValueError(f"{query.text}: not one range of physical memory: give single addresses")
    if (end or start + 1) > PHYSICAL_END:
        raise ValueError(f"{query.text}: translated to {start:#x}, which is no physical address")
    return Query(start, end, query.text, query.start, mapping)


def _translate(snapshot: Snapshot, address: int, text: str) -> tuple[int, str]:
    kernel = snapshot.kernel
    base, end, phys_base = (kernel.page_offset_base, kernel.vmalloc_base, kernel.phys_base) if kernel else [None] * 3
    if base is not None and end is not None and base <= address < min(end, base + PHYSICAL_END):
        return address - base, "direct map"
    in_image = address - START_KERNEL_MAP + (phys_base or 0)
    for name, *image in snapshot.kernel_memory or ():
        if name == "kernel image" and phys_base is not None and image[0] <= in_image < image[1]:
            return in_image, "kernel image"
    for known in (each for each in snapshot.translations if each.virtual == address):
        if known.physical is None:
            raise ValueError(f"{text}: {known.reason}")
        return known.physical, "page tables"
    if base is None and snapshot.target.snapshot_path is not None:
        raise ValueError(f"{text}: this snapshot does not have the place of the direct map")
    raise ValueError(f"{text}: neither in the direct map nor in the kernel image, and no page tables at hand")
