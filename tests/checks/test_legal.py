# SPDX-License-Identifier: LGPL-2.1-or-later
"""What looks wrong and is legal: no rule may warn of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from drgn_unaccepted.checks import run_checks
from drgn_unaccepted.model.e820 import E820Entry
from drgn_unaccepted.snapshot import Accept, AcceptingList, EfiMap, KexecSegment, PageRun, Snapshot, Table, Task

from . import build

Change = Callable[[Snapshot], Snapshot]

LEGAL: list[tuple[str, Change]] = []


def legal(change: Change) -> Change:
    LEGAL.append((change.__doc__ or "", change))
    return change


@legal
def guard_chunk(snapshot: Snapshot) -> Snapshot:
    """A chunk is listed only because of the guard unit behind it: the hole's, before unit 12 was accepted."""
    snapshot = build.with_bits(snapshot, 12, 13, 1)
    snapshot = build.with_page_state(snapshot, 0x101400000, 0x101A00000, "unaccepted")
    return build.with_listed_pfns(snapshot, (0x101400, *build.LISTED))


@legal
def bitless_chunk(snapshot: Snapshot) -> Snapshot:
    """A chunk stays listed after its neighbours' accepts cleared its bits."""
    return build.with_bits(snapshot, 28, 30, 0)


@legal
def half_the_list_without_bits(snapshot: Snapshot) -> Snapshot:
    """Seven of nine chunks have no bits: too few chunks to call it anything."""
    return build.with_bits(snapshot, 13, 25, 0)


@legal
def kexec_accepted_the_list(snapshot: Snapshot) -> Snapshot:
    """A kexec image was loaded into all that is listed, which accepted it (6.15 and later)."""
    snapshot = build.with_bits(snapshot, 0, 32, 0)
    return replace(snapshot, kexec_segments=(KexecSegment("kexec_image", 0x101800000, 0x103C00000),))


@legal
def all_accepted(snapshot: Snapshot) -> Snapshot:
    """Everything was accepted."""
    zone = replace(
        build.the_zone(snapshot), listed=build.listed(()), unaccepted_pages=0, free_pages=5000, buddy_pages=5000
    )
    snapshot = replace(snapshot, zones=(snapshot.zones[0], zone))
    snapshot = build.with_part(snapshot, "counters", unaccepted_pages=0)
    snapshot = build.with_page_state(snapshot, 0x1019FF000, 0x103C00000, "buddy")
    return build.with_bits(snapshot, 0, 32, 0)


@legal
def trimmed(snapshot: Snapshot) -> Snapshot:
    """`mem=` took the upper half of the unaccepted memory away: no RAM, no struct page, on no list."""
    e820 = snapshot.e820
    current = build.with_ram_removed(e820.current, 0x102800000, 0x104000000)
    snapshot = build.with_part(snapshot, "e820", current=current)
    snapshot = build.with_listed_pfns(snapshot, build.LISTED[:4])
    return build.with_page_state(snapshot, 0x102800000, 0x103C00000, "absent")


@legal
def deferred(snapshot: Snapshot) -> Snapshot:
    """Deferred initialisation has not come to the upper chunks yet."""
    snapshot = build.with_part(snapshot, "kernel", system_state="scheduling")
    snapshot = build.with_listed_pfns(snapshot, build.LISTED[:4])
    snapshot = build.with_page_state(snapshot, 0x102800000, 0x103000000, "uninitialised")
    return build.with_page_state(snapshot, 0x103000000, 0x103C00000, "in-use")


@legal
def before_memblock_free_all(snapshot: Snapshot) -> Snapshot:
    """Nothing was given to the page allocator yet, and every struct page has a reference."""
    zones = tuple(
        replace(zone, free_pages=0, buddy_pages=0, unaccepted_pages=0, listed=build.listed(()))
        for zone in snapshot.zones
    )
    snapshot = replace(snapshot, zones=zones)
    snapshot = build.with_part(snapshot, "counters", unaccepted_pages=0, free_pages=0)
    snapshot = build.with_part(snapshot, "kernel", system_state=None)
    return build.with_page_state(snapshot, 0x1019FF000, 0x103C00000, "in-use")


@legal
def limbo(snapshot: Snapshot) -> Snapshot:
    """Two CPUs took neighbouring chunks off the list, and are not in accept_memory() yet."""
    snapshot = build.with_listed_pfns(snapshot, build.LISTED[2:])
    return build.with_page_state(snapshot, 0x101800000, 0x102000000, "free")


@legal
def accepting_a_chunk(snapshot: Snapshot) -> Snapshot:
    """A CPU is accepting a chunk and its guard: units 12 to 14."""
    entry = Accept(0xFFFFC90000123D80, 12, 15, Task(42, "stress", 1))
    snapshot = replace(snapshot, accepting=AcceptingList((entry,)))
    snapshot = build.with_listed_pfns(snapshot, build.LISTED[1:])
    return build.with_page_state(snapshot, 0x101800000, 0x101C00000, "free")


@legal
def accepts_above_the_bitmap(snapshot: Snapshot) -> Snapshot:
    """accept_memory() of memory above the bitmap registers start >= end == the bitmap's end."""
    tasks = [Task(pid, "kworker", pid) for pid in (1, 2, 3)]
    entries = (Accept(0xA000, 32, 32, tasks[0]), Accept(0xB000, 40, 32, tasks[1]), Accept(0xC000, 10, 32, tasks[2]))
    return replace(snapshot, accepting=AcceptingList(entries))


@legal
def touching_accepts(snapshot: Snapshot) -> Snapshot:
    """Two accepts that touch do not overlap."""
    entries = (Accept(0xA000, 0, 3, Task(1, "a", 0)), Accept(0xB000, 3, 5, Task(2, "b", 1)))
    return replace(snapshot, accepting=AcceptingList(entries))


@legal
def locked_zone(snapshot: Snapshot) -> Snapshot:
    """zone->lock was held by a CPU that changes the counters on a live guest."""
    return build.live(build.counted(build.with_zone(snapshot, locked=True), 1024))


@legal
def torn_counters(snapshot: Snapshot) -> Snapshot:
    """The counters of a live guest changed while they were read."""
    return build.live(build.counted(snapshot, 1024), torn=("counters: NR_UNACCEPTED went from 9216 to 8192 pages",))


@legal
def live_overlap(snapshot: Snapshot) -> Snapshot:
    """Entries of a live guest's accepting_list are read one after the other, and can seem to overlap."""
    entries = (Accept(0xA000, 0, 3, Task(1, "a", 0)), Accept(0xA000, 2, 5, None))
    return build.live(replace(snapshot, accepting=AcceptingList(entries, ("entry 2 leads back to entry 1",))))


@legal
def live_free_pages(snapshot: Snapshot) -> Snapshot:
    """Free pages of a live guest change between two reads."""
    return build.live(build.with_zone(snapshot, free_pages=9216 + 5000))


@legal
def small_skew(snapshot: Snapshot) -> Snapshot:
    """NR_FREE_PAGES is a few pages off what isolated blocks leave."""
    return build.with_zone(snapshot, free_pages=9216 + 2048 + 512)


@legal
def missing_cpu(snapshot: Snapshot) -> Snapshot:
    """The per-CPU differences of NR_FREE_PAGES could not all be read."""
    return build.with_zone(snapshot, free_pages=9216, problems=("per-CPU difference of CPU 3: not in this dump",))


@legal
def old_table_file(snapshot: Snapshot) -> Snapshot:
    """The bitmap was saved before units 14 to 29 were accepted, freed and allocated."""
    snapshot = build.with_table(snapshot, read_through="file")
    snapshot = build.with_listed_pfns(snapshot, build.LISTED[:1])
    return build.with_page_state(snapshot, 0x101C00000, 0x103C00000, "in-use")


@legal
def no_table_no_type_15(snapshot: Snapshot) -> Snapshot:
    """An ordinary machine: no table, no type 15, nothing listed, no confidential platform."""
    snapshot = build.with_part(all_accepted(snapshot), "platform", kind="none")
    return build.without_type_15(build.absent_table(snapshot))


@legal
def kernel_without_the_feature(snapshot: Snapshot) -> Snapshot:
    """A kernel without CONFIG_UNACCEPTED_MEMORY: no lists, no counters, no accepting_list."""
    snapshot = no_table_no_type_15(snapshot)
    zones = tuple(replace(zone, listed=None, unaccepted_pages=None) for zone in snapshot.zones or ())
    snapshot = build.without(replace(snapshot, zones=zones), "accepting", "no accepting_list")
    snapshot = build.with_part(snapshot, "kernel", unaccepted_memory=False, unaccepted_page_type=None)
    return build.with_part(snapshot, "counters", unaccepted_pages=None, unaccepted_diff=None)


@legal
def runtime_map_only(snapshot: Snapshot) -> Snapshot:
    """Only the runtime map is left, which has no type 15."""
    return replace(snapshot, efi_map=EfiMap("runtime-map", False, "runtime entries only", ()))


@legal
def reserved_under_bits(snapshot: Snapshot) -> Snapshot:
    """A reserved and never touched chunk is unaccepted."""
    snapshot = build.with_listed_pfns(snapshot, build.LISTED[:-1])
    return build.with_page_state(snapshot, 0x103800000, 0x103C00000, "reserved")


@legal
def reserved_kern(snapshot: Snapshot) -> Snapshot:
    """Linux before 7.2 marks RAM under setup_data as E820_TYPE_RESERVED_KERN."""
    e820 = snapshot.e820
    left = build.with_ram_removed(e820.current, 0x101A00000, 0x101A01000)
    return build.with_part(snapshot, "e820", current=(*left, E820Entry(0x101A00000, 0x101A01000, 128)))


@legal
def table_in_ram_of_6_5(snapshot: Snapshot) -> Snapshot:
    """Linux 6.5 has the table in RAM."""
    ram = (E820Entry(0x100000, 0x7FC00000, 1), E820Entry(0x100000000, 0x104000000, 1))
    return build.with_part(build.of_release(snapshot, "6.5.9-custom"), "e820", firmware=ram)


@legal
def old_kernel(snapshot: Snapshot) -> Snapshot:
    """Linux 6.5 to 6.11 have no PageUnaccepted: listed pages have no type. The static key is on."""
    snapshot = build.with_part(snapshot, "kernel", unaccepted_page_type=None, static_key=1)
    listed = build.the_zone(snapshot).listed
    types = listed.page_types[:]
    for index in range(len(types)):
        types[index] = 0xFFFFFFFF
    return build.with_list(snapshot, page_types=types)


@legal
def static_key_still_on(snapshot: Snapshot) -> Snapshot:
    """The static key is switched off only after the last chunk was accepted."""
    return build.with_part(all_accepted(snapshot), "kernel", static_key=1)


@legal
def pages_limited(snapshot: Snapshot) -> Snapshot:
    """Only the first unaccepted unit's pages were looked at."""
    pages = snapshot.pages
    first = PageRun(0x1019FF, 0x101C00, "unaccepted")
    scanned = (pages.scanned[0], pages.scanned[1]._replace(end=0x101C00000))
    return build.with_part(snapshot, "pages", runs=(pages.runs[0], first), scanned=scanned, limited="too many pages")


@legal
def not_captured(snapshot: Snapshot) -> Snapshot:
    """The table is not in the dump, as in every kdump since 6.6."""
    return build.not_captured(snapshot)


@legal
def nothing_but_the_table(snapshot: Snapshot) -> Snapshot:
    """Nothing was read but the table."""
    return Snapshot(target=snapshot.target, table=snapshot.table)


@legal
def busy_reclaim(snapshot: Snapshot) -> Snapshot:
    """A reclaiming task while no zone has unaccepted memory under its watermark."""
    return replace(snapshot, reclaiming=(Task(9, "cc1", 0),))


@legal
def kernel_before_6_5(snapshot: Snapshot) -> Snapshot:
    """A kernel before 6.5 has no field for the table."""
    return replace(no_table_no_type_15(snapshot), table=Table("absent", "struct efi has no unaccepted"))


@pytest.mark.parametrize("change", [change for _, change in LEGAL], ids=[text for text, _ in LEGAL])
def test_what_is_legal_raises_no_alarm(change: Change) -> None:
    report = run_checks(change(build.clean()))
    alarms = [finding for finding in report.findings if finding.status in ("warning", "critical")]
    assert alarms == []
    assert report.status == "ok"
