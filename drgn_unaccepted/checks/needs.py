# SPDX-License-Identifier: LGPL-2.1-or-later
"""The parts of a snapshot that rules need, by name, and the reason where one is missing."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Optional

from drgn_unaccepted.checks.facts import Facts, zone_name


class Need(NamedTuple):
    #: A description for --explain.
    what: str
    #: Why it is missing, or None.
    lack: Callable[[Facts], Optional[str]]


def lacking(facts: Facts, needs: tuple[str, ...]) -> list[str]:
    """The missing ones of ``needs`` as ``name: reason``; needs with the same reason share an entry."""
    by_reason: dict[str, list[str]] = {}
    for need in needs:
        reason = NEEDS[need].lack(facts)
        if reason is not None:
            by_reason.setdefault(reason, []).append(need)
    return [f"{', '.join(names)}: {reason}" for reason, names in by_reason.items()]


_TABLE_STATES = {
    "absent": "there is no table",
    "not-captured": "the table was not captured",
    "unsupported": "the table's version is unknown",
    "invalid": "the table's header is invalid",
}


def _of_table(facts: Facts) -> str:
    table = facts.snapshot.table
    state = _TABLE_STATES.get(table.state, f"the table is {table.state}")
    # The first sentence; table-captured has all of it.
    return f"{state} ({table.reason.partition('. ')[0]})" if table.reason else state


def _address(facts: Facts) -> Optional[str]:
    return _of_table(facts) if facts.snapshot.table.address is None else None


def _header(facts: Facts) -> Optional[str]:
    return _of_table(facts) if facts.header is None else None


def _layout(facts: Facts) -> Optional[str]:
    reason = _header(facts)
    if reason is None and facts.snapshot.table.version != 1:
        return f"the layout of version {facts.snapshot.table.version} is unknown"
    return reason


def _geometry(facts: Facts) -> Optional[str]:
    return _of_table(facts) if facts.geometry is None else None


def _bitmap(facts: Facts) -> Optional[str]:
    bitmap = facts.snapshot.table.bitmap
    if bitmap is None or facts.geometry is None:
        return _of_table(facts)
    if len(bitmap) != facts.geometry.bitmap_bytes:
        return f"{len(bitmap)} bytes of bitmap where the header says {facts.geometry.bitmap_bytes}"
    return None


def _bitmap_now(facts: Facts) -> Optional[str]:
    reason = _bitmap(facts)
    if reason is None and facts.snapshot.table.is_saved:
        return "the bitmap comes from a file, and bits may have been cleared since it was saved"
    return reason


def _part(*paths: str) -> Callable[[Facts], Optional[str]]:
    """A part of the snapshot, or a field of a part, such as ``e820.firmware``; or any of several."""

    def lack(facts: Facts) -> Optional[str]:
        for path in paths:
            part, _, field = path.partition(".")
            value = getattr(facts.snapshot, part)
            if value is not None and (not field or getattr(value, field) is not None):
                return None
        missing = facts.snapshot.missing
        return missing.get(paths[0]) or missing.get(paths[0].partition(".")[0]) or "not in this snapshot"

    return lack


def _efi_map(facts: Facts) -> Optional[str]:
    efi_map = facts.snapshot.efi_map
    if efi_map is None or efi_map.complete:
        return _part("efi_map")(facts)
    return f"the map is incomplete ({efi_map.note or efi_map.provenance})"


def _zones(facts: Facts) -> Optional[str]:
    zones, kernel = facts.snapshot.zones, facts.snapshot.kernel
    if zones is not None and not zones:
        return "no zone is populated"
    if zones is None or kernel is None:
        return _part("zones")(facts) or _part("kernel")(facts)
    return None if kernel.chunk_pages > 0 else f"a chunk of {kernel.chunk_pages} pages is impossible"


def _lists(facts: Facts) -> Optional[str]:
    reason = _zones(facts)
    if reason is None and any(zone.listed is None for zone in facts.zones):
        missing = facts.snapshot.missing
        return missing.get("zones.listed") or missing.get("zones") or "not in this snapshot"
    return reason


def _whole_lists(facts: Facts) -> Optional[str]:
    reason = _lists(facts)
    if reason is None:
        for zone in facts.zones:
            if zone.listed is not None and zone.listed.problems:
                return f"unaccepted_pages of {zone_name(zone)} could not be followed: {zone.listed.problems[0]}"
    return reason


_NO_COUNTER = "this kernel has no NR_UNACCEPTED (no CONFIG_UNACCEPTED_MEMORY)"


def _nr_unaccepted(facts: Facts) -> Optional[str]:
    reason = _zones(facts)
    return _NO_COUNTER if reason is None and any(z.unaccepted_pages is None for z in facts.zones) else reason


def _any_nr_unaccepted(facts: Facts) -> Optional[str]:
    if facts.nr_unaccepted_pages is None and _lists(facts) is not None:
        return _zones(facts) or _counters(facts)
    return None


def _counters(facts: Facts) -> Optional[str]:
    counters = facts.snapshot.counters
    return _NO_COUNTER if counters is not None and counters.unaccepted_pages is None else _part("counters")(facts)


def _static_key(facts: Facts) -> Optional[str]:
    kernel = facts.snapshot.kernel
    if kernel is None or kernel.static_key is not None:
        return _part("kernel")(facts)
    return facts.snapshot.missing.get("kernel.static_key", "this kernel has no zones_with_unaccepted_pages")


NEEDS: dict[str, Need] = {
    "table.address": Need("`efi.unaccepted`, the table's physical address", _address),
    "table.header": Need("the table's header", _header),
    "table.layout": Need("the table's header, of version 1", _layout),
    "table.geometry": Need("a valid header", _geometry),
    "bitmap": Need("the bitmap", _bitmap),
    "bitmap.now": Need("the bitmap, read together with the rest and not from an older file", _bitmap_now),
    "efi_map.complete": Need("the complete final EFI memory map", _efi_map),
    "e820.firmware": Need("`e820_table_firmware`", _part("e820.firmware")),
    "e820.current": Need("`e820_table`", _part("e820.current")),
    "e820": Need("`e820_table` or `e820_table_firmware`", _part("e820.current", "e820.firmware")),
    "zones": Need("the zones and their counters", _zones),
    "zones.listed": Need("`zone->unaccepted_pages`", _lists),
    "zones.listed.whole": Need("`zone->unaccepted_pages`, followed to its end", _whole_lists),
    "zones.nr_unaccepted": Need("`zone->vm_stat[NR_UNACCEPTED]`", _nr_unaccepted),
    "nr_unaccepted": Need("the lists, or `NR_UNACCEPTED`", _any_nr_unaccepted),
    "counters": Need("`vm_zone_stat[NR_UNACCEPTED]`", _counters),
    "accepting": Need("`accepting_list`", _part("accepting")),
    "platform.kind": Need("whether the guest is TDX or SNP", _part("platform.kind")),
    "platform.lazy": Need("`lazy_accept`", _part("platform.lazy")),
    "kernel_memory": Need("the memory that the kernel itself uses", _part("kernel_memory")),
    "kernel.static_key": Need("the static key `zones_with_unaccepted_pages`", _static_key),
    "pages": Need("the states of the struct pages", _part("pages")),
    "kexec_segments": Need("the segments of loaded kexec images", _part("kexec_segments")),
    "reclaiming": Need("the tasks in direct reclaim", _part("reclaiming")),
}
