# SPDX-License-Identifier: LGPL-2.1-or-later
"""Kernel virtual addresses, for example out of an oops, to physical ones."""

from __future__ import annotations

from drgn_unaccepted.limits import PHYSICAL_END
from drgn_unaccepted.model.addresses import START_KERNEL_MAP, Query
from drgn_unaccepted.snapshot import Snapshot


def physical(snapshot: Snapshot, query: Query) -> Query:
    """The query in physical addresses: the same, unless it is virtual.

    :raises ValueError: it cannot be translated; the reason
    """
    if not query.is_virtual:
        return query
    start, mapping = translate(snapshot, query.start, query.text)
    end = None if query.end is None else start + query.end - query.start
    if end is not None and translate(snapshot, query.range.end - 1, query.text) != (end - 1, mapping):
        raise ValueError(f"{query.text}: not one range of physical memory: give single addresses")
    return Query(start, end, query.text, query.start, mapping)


def translate(snapshot: Snapshot, address: int, text: str) -> tuple[int, str]:
    """The physical address, and the mapping of the kernel that ``address`` lies in.

    The direct map and the kernel image are linear. Anything else needs page tables, which the capture followed for the
    addresses in :attr:`Snapshot.translations`.

    :param text: the address as it was written
    :raises ValueError: it cannot be translated; the reason
    """
    kernel, base, end = snapshot.kernel, None, None
    if kernel is not None:
        base, end = kernel.page_offset_base, kernel.vmalloc_base
        if base is not None and end is not None and base <= address < min(end, base + PHYSICAL_END):
            return address - base, "direct map"
        if kernel.phys_base is not None and address >= START_KERNEL_MAP:
            found = address - START_KERNEL_MAP + kernel.phys_base
            images = (memory for memory in snapshot.kernel_memory or () if memory.name == "kernel image")
            if any(image.start <= found < image.end for image in images):
                return found, "kernel image"
    for known in snapshot.translations:
        if known.virtual == address:
            if known.physical is None:
                raise ValueError(f"{text}: {known.reason}")
            return known.physical, "page tables"
    if base is None and snapshot.target.snapshot_path is not None:
        raise ValueError(
            f"{text}: this snapshot does not say where the direct map is (an earlier version wrote it): give the "
            "physical address"
        )
    raise ValueError(
        f"{text}: neither in the direct map nor in the kernel image, and there are no page tables here: a dump or a "
        "running kernel has them, for single addresses"
    )
