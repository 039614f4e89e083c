# SPDX-License-Identifier: LGPL-2.1-or-later
"""The parts of a snapshot that rules need, by name, and the reason where one is missing."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Optional

from drgn_unaccepted.answer.allocator import zone_name
from drgn_unaccepted.checks.facts import Facts

#: The reason why something is missing, or None.
Lack = Callable[[Facts], Optional[str]]


class Need(NamedTuple):
    #: A description for --explain.
    what: str
    lack: Lack


def lacking(facts: Facts, *needs: str) -> list[str]:
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
_NO_COUNTER = "this kernel has no NR_UNACCEPTED (no CONFIG_UNACCEPTED_MEMORY)"


def _table(part: Callable[[Facts], object]) -> Lack:
    """A part of the table; the reason is the table's state."""

    def lack(facts: Facts) -> Optional[str]:
        if part(facts) is not None:
            return None
        # Only that: the reason is in table-captured.
        return _TABLE_STATES.get(facts.snapshot.table.state, f"the table is {facts.snapshot.table.state}")

    return lack


def _part(*paths: str, otherwise: str = "not in this snapshot") -> Lack:
    """A part of the snapshot, or a field of a part, such as ``e820.firmware``; or any of several."""

    def lack(facts: Facts) -> Optional[str]:
        for path in paths:
            part, _, field = path.partition(".")
            value = getattr(facts.snapshot, part)
            if value is not None and (not field or getattr(value, field) is not None):
                return None
        missing = facts.snapshot.missing
        return missing.get(paths[0]) or missing.get(paths[0].partition(".")[0]) or otherwise

    return lack


_address = _table(lambda facts: facts.snapshot.table.address)
_header = _table(lambda facts: facts.header)
_geometry = _table(lambda facts: facts.geometry)
_place = _table(lambda facts: facts.evidence.table_range)
_has_bitmap = _table(lambda facts: facts.snapshot.table.bitmap)


def _layout(facts: Facts) -> Optional[str]:
    version = facts.snapshot.table.version
    return _header(facts) or (None if version == 1 else f"the layout of version {version} is unknown")


def _bitmap(facts: Facts) -> Optional[str]:
    nbytes, wanted = len(facts.snapshot.table.bitmap or b""), facts.geometry and facts.geometry.bitmap_bytes
    different = None if nbytes == wanted else f"{nbytes} bytes of bitmap where the header says {wanted}"
    return _has_bitmap(facts) or _geometry(facts) or different


def _bitmap_now(facts: Facts) -> Optional[str]:
    saved = "the bitmap comes from a file, and bits may have been cleared since it was saved"
    return _bitmap(facts) or (saved if facts.snapshot.table.is_saved else None)


def _efi_map(facts: Facts) -> Optional[str]:
    efi_map = facts.snapshot.efi_map
    if efi_map is None or efi_map.complete:
        return _part("efi_map")(facts)
    return f"the map is incomplete ({efi_map.note or efi_map.provenance})"


def _zones(facts: Facts) -> Optional[str]:
    if facts.snapshot.zones == ():
        return "no zone is populated"
    return _part("zones")(facts) or _part("kernel")(facts)


def _lists(facts: Facts) -> Optional[str]:
    missing = facts.snapshot.missing
    without = missing.get("zones.listed") or missing.get("zones") or "not in this snapshot"
    return _zones(facts) or (without if any(zone.listed is None for zone in facts.zones) else None)


def _whole_lists(facts: Facts) -> Optional[str]:
    damaged = (
        f"unaccepted_pages of {zone_name(zone)} could not be followed: {zone.listed.problems[0]}"
        for zone in facts.zones
        if zone.listed is not None and zone.listed.problems
    )
    return _lists(facts) or next(damaged, None)


def _nr_unaccepted(facts: Facts) -> Optional[str]:
    return _zones(facts) or (_NO_COUNTER if any(zone.unaccepted_pages is None for zone in facts.zones) else None)


def _counters(facts: Facts) -> Optional[str]:
    return _part("counters")(facts) or _part("counters.unaccepted_pages", otherwise=_NO_COUNTER)(facts)


def _any_nr_unaccepted(facts: Facts) -> Optional[str]:
    if facts.evidence.nr_unaccepted_bytes is not None or _lists(facts) is None:
        return None
    return _zones(facts) or _counters(facts) or "NR_UNACCEPTED is more than all physical memory"


def _static_key(facts: Facts) -> Optional[str]:
    no_key = "this kernel has no zones_with_unaccepted_pages"
    return _part("kernel")(facts) or _part("kernel.static_key", otherwise=no_key)(facts)


def _unaccepted(facts: Facts, bitmap: Lack = _bitmap) -> Optional[str]:
    reason = bitmap(facts)
    if reason is None or facts.snapshot.table.state == "absent":
        return reason
    known = facts.judgement.name in ("reconstructed", "page-lists") and not facts.judgement.by_bits
    lists = _lists(facts) or facts.evidence.lists_damaged
    return None if known and _lists(facts) is None else f"{reason}; {lists or 'nothing else says what is unaccepted'}"


NEEDS: dict[str, Need] = {
    "table.address": Need("`efi.unaccepted`, the table's physical address", _address),
    "table.header": Need("the table's header", _header),
    "table.layout": Need("the table's header, of version 1", _layout),
    "table.geometry": Need("a valid header", _geometry),
    "table.place": Need("the table's address, and its size by the header or by the EFI memory map", _place),
    "bitmap": Need("the bitmap", _bitmap),
    "bitmap.now": Need("the bitmap, read together with the rest and not from an older file", _bitmap_now),
    "unaccepted": Need("the bitmap, or the lists in its place", _unaccepted),
    "unaccepted.now": Need(
        "the bitmap, or the lists in its place, read together with the rest",
        lambda facts: _unaccepted(facts, _bitmap_now),
    ),
    "efi_map.complete": Need("the complete final EFI memory map", _efi_map),
    "efi_map": Need("the EFI memory map", _part("efi_map")),
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
    "image.banner": Need("the banner in the kernel's image", _part("image.banner")),
    "platform.kind": Need("whether the guest is TDX or SNP", _part("platform.kind")),
    "platform.lazy": Need("`lazy_accept`", _part("platform.lazy")),
    "kernel_memory": Need("the memory that the kernel itself uses", _part("kernel_memory")),
    "kernel.static_key": Need("the static key `zones_with_unaccepted_pages`", _static_key),
    "pages": Need("the states of the struct pages", _part("pages")),
    "kexec_segments": Need("the segments of loaded kexec images", _part("kexec_segments")),
    "reclaiming": Need("the tasks in direct reclaim", _part("reclaiming")),
}
