# SPDX-License-Identifier: LGPL-2.1-or-later
"""What rules need of a snapshot, by name, and how to say that it is not there."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Optional

from drgn_unaccepted.checks.facts import Facts
from drgn_unaccepted.snapshot import Snapshot


class Need(NamedTuple):
    #: What it is, for documents.
    what: str
    #: Why it is lacking, or None where it is there.
    lack: Callable[[Facts], Optional[str]]


def lacking(facts: Facts, needs: tuple[str, ...]) -> list[str]:
    """What of ``needs`` is not there, as ``name: reason``, those of one reason together."""
    by_reason: dict[str, list[str]] = {}
    for need in needs:
        reason = NEEDS[need].lack(facts)
        if reason is not None:
            by_reason.setdefault(reason, []).append(need)
    return [f"{', '.join(names)}: {reason}" for reason, names in by_reason.items()]


def _why_missing(snapshot: Snapshot, part: str) -> str:
    """The snapshot's own reason for a missing part, or for the part that it belongs to."""
    missing = snapshot.missing
    reason = missing.get(part) or missing.get(part.partition(".")[0])
    return reason or "not in this snapshot"


def _of_table(facts: Facts) -> str:
    table = facts.snapshot.table
    state = {
        "absent": "there is no table",
        "not-captured": "the table was not captured",
        "unsupported": "the table's version is not known",
        "invalid": "the table's header is invalid",
    }.get(table.state, f"the table is {table.state}")
    # The first sentence; table-captured has all of it.
    return f"{state} ({table.reason.partition('. ')[0]})" if table.reason else state


def _address(facts: Facts) -> Optional[str]:
    return _of_table(facts) if facts.snapshot.table.address is None else None


def _header(facts: Facts) -> Optional[str]:
    table = facts.snapshot.table
    fields = (table.version, table.unit_size, table.phys_base, table.bitmap_bytes)
    return _of_table(facts) if None in fields else None


def _layout(facts: Facts) -> Optional[str]:
    reason = _header(facts)
    if reason is None and facts.snapshot.table.version != 1:
        return f"the layout of version {facts.snapshot.table.version} is not known"
    return reason


def _geometry(facts: Facts) -> Optional[str]:
    return _of_table(facts) if facts.geometry is None else None


def _bitmap(facts: Facts) -> Optional[str]:
    table = facts.snapshot.table
    if table.bitmap is None or facts.geometry is None:
        return _of_table(facts)
    if len(table.bitmap) != facts.geometry.bitmap_bytes:
        return f"{len(table.bitmap)} bytes of bitmap where the header says {facts.geometry.bitmap_bytes}"
    return None


def _bitmap_now(facts: Facts) -> Optional[str]:
    reason = _bitmap(facts)
    if reason is None and facts.snapshot.table.read_through == "file":
        return "the bitmap comes from a file, and bits may have been cleared since it was saved"
    return reason


def _efi_map(facts: Facts) -> Optional[str]:
    efi_map = facts.snapshot.efi_map
    if efi_map is None:
        return _why_missing(facts.snapshot, "efi_map")
    if not efi_map.complete:
        return f"the map is not complete ({efi_map.note or efi_map.provenance})"
    return None


def _e820(table: str) -> Callable[[Facts], Optional[str]]:
    def lack(facts: Facts) -> Optional[str]:
        e820 = facts.snapshot.e820
        if e820 is None or getattr(e820, table) is None:
            return _why_missing(facts.snapshot, f"e820.{table}")
        return None

    return lack


def _e820_any(facts: Facts) -> Optional[str]:
    lacks = [_e820(table)(facts) for table in ("current", "firmware")]
    return lacks[0] if None not in lacks else None


def _zones(facts: Facts) -> Optional[str]:
    if facts.snapshot.zones is None:
        return _why_missing(facts.snapshot, "zones")
    if not facts.snapshot.zones:
        return "no zone is populated"
    if facts.snapshot.kernel is None:
        return _why_missing(facts.snapshot, "kernel")
    if facts.snapshot.kernel.chunk_pages < 1:
        return f"a chunk of {facts.snapshot.kernel.chunk_pages} pages cannot be"
    return None


def _lists(facts: Facts) -> Optional[str]:
    reason = _zones(facts)
    if reason is None and any(zone.listed is None for zone in facts.zones):
        return _why_missing(facts.snapshot, "zones.listed")
    return reason


def _whole_lists(facts: Facts) -> Optional[str]:
    reason = _lists(facts)
    if reason is None:
        for zone in facts.zones:
            if zone.listed is not None and zone.listed.problems:
                return f"unaccepted_pages of {facts.zone_name(zone)} could not be followed: {zone.listed.problems[0]}"
    return reason


def _nr_unaccepted(facts: Facts) -> Optional[str]:
    reason = _zones(facts)
    if reason is None and any(zone.unaccepted_pages is None for zone in facts.zones):
        return "this kernel has no NR_UNACCEPTED (no CONFIG_UNACCEPTED_MEMORY)"
    return reason


def _any_nr_unaccepted(facts: Facts) -> Optional[str]:
    if facts.nr_unaccepted_pages is None and _lists(facts) is not None:
        return _zones(facts) or _counters(facts)
    return None


def _counters(facts: Facts) -> Optional[str]:
    counters = facts.snapshot.counters
    if counters is None:
        return _why_missing(facts.snapshot, "counters")
    if counters.unaccepted_pages is None:
        return "this kernel has no NR_UNACCEPTED (no CONFIG_UNACCEPTED_MEMORY)"
    return None


def _platform(field: str) -> Callable[[Facts], Optional[str]]:
    def lack(facts: Facts) -> Optional[str]:
        platform = facts.snapshot.platform
        if platform is None or getattr(platform, field) is None:
            return _why_missing(facts.snapshot, f"platform.{field}")
        return None

    return lack


def _part(name: str) -> Callable[[Facts], Optional[str]]:
    def lack(facts: Facts) -> Optional[str]:
        return _why_missing(facts.snapshot, name) if getattr(facts.snapshot, name) is None else None

    return lack


def _static_key(facts: Facts) -> Optional[str]:
    kernel = facts.snapshot.kernel
    if kernel is None:
        return _why_missing(facts.snapshot, "kernel")
    if kernel.static_key is None:
        return facts.snapshot.missing.get("kernel.static_key", "this kernel has no zones_with_unaccepted_pages")
    return None


NEEDS: dict[str, Need] = {
    "table.address": Need("`efi.unaccepted`, the table's physical address", _address),
    "table.header": Need("the table's header", _header),
    "table.layout": Need("the table's header, of version 1", _layout),
    "table.geometry": Need("a sane header: what the bitmap covers", _geometry),
    "bitmap": Need("the bitmap", _bitmap),
    "bitmap.now": Need("the bitmap, read together with the rest and not from an older file", _bitmap_now),
    "efi_map.complete": Need("the whole final EFI memory map", _efi_map),
    "e820.firmware": Need("`e820_table_firmware`", _e820("firmware")),
    "e820.current": Need("`e820_table`", _e820("current")),
    "e820": Need("`e820_table` or `e820_table_firmware`", _e820_any),
    "zones": Need("the zones and their counters", _zones),
    "zones.listed": Need("`zone->unaccepted_pages`", _lists),
    "zones.listed.whole": Need("`zone->unaccepted_pages`, followed to its end", _whole_lists),
    "zones.nr_unaccepted": Need("`zone->vm_stat[NR_UNACCEPTED]`", _nr_unaccepted),
    "nr_unaccepted": Need("the lists, or `NR_UNACCEPTED`", _any_nr_unaccepted),
    "counters": Need("`vm_zone_stat[NR_UNACCEPTED]`", _counters),
    "accepting": Need("`accepting_list`", _part("accepting")),
    "platform.kind": Need("whether it is a TDX or an SNP guest", _platform("kind")),
    "platform.lazy": Need("`lazy_accept`", _platform("lazy")),
    "kernel_memory": Need("what memory the kernel itself uses", _part("kernel_memory")),
    "kernel.static_key": Need("the static key `zones_with_unaccepted_pages`", _static_key),
    "pages": Need("the states of the struct pages", _part("pages")),
    "kexec_segments": Need("the segments of loaded kexec images", _part("kexec_segments")),
    "reclaiming": Need("the tasks in direct reclaim", _part("reclaiming")),
}
