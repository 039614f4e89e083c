# SPDX-License-Identifier: LGPL-2.1-or-later
from __future__ import annotations

import struct
from functools import cached_property
from typing import Optional

import pytest
from drgn import sizeof

from drgn_unaccepted import limits
from drgn_unaccepted.kernel.platform import read_kernel_build
from drgn_unaccepted.kernel.zones import read_counters, read_zones
from drgn_unaccepted.snapshot import Counters, ListedChunks, Watermarks, Zone
from tests.kernel.allocator_program import CHUNK_PAGES, UNACCEPTED, ZONE_ID_SHIFT, AllocatorProgram, said
from tests.kernel.live_program import walked_again

NORMAL = 2
START = 0x100000


class Guest(AllocatorProgram):
    """One node with a zone Normal of 64 chunks."""

    @cached_property
    def zone(self) -> int:
        for first in range(START, START + 64 * CHUNK_PAGES, 32768):
            self.add_section(first)
        return self.populate(self.add_node(0), NORMAL, "Normal", START, 64 * CHUNK_PAGES)

    def read(self) -> Zone:
        assert self.zone
        (zone,) = read_zones(self.prog, read_kernel_build(self.prog))
        return zone

    def listed(self) -> ListedChunks:
        listed = self.read().listed
        assert listed is not None
        return listed


def test_a_zone_with_all_that_it_says() -> None:
    guest = Guest()
    zone = guest.zone
    chunks = [START + n * CHUNK_PAGES for n in (5, 9, 7)]
    guest.list_chunks(zone, chunks, flags=NORMAL << ZONE_ID_SHIFT)
    guest.set("page", guest.page(chunks[1]), "_refcount.counter", -1)
    guest.set("zone", zone, "managed_pages.counter", 65000)
    guest.set("zone", zone, "present_pages", 65100)
    for index, value in enumerate((11, 22, 33, 44)):
        guest.set("zone", zone, f"_watermark[{index}]", value)
    guest.set("zone", zone, "watermark_boost", 5)
    guest.set("zone", zone, "vm_stat[0].counter", 4000)
    guest.set("zone", zone, "vm_stat[5].counter", 3072)
    guest.set("zone", zone, "free_area[0].nr_free", 3)
    guest.set("zone", zone, "free_area[10].nr_free", 2)

    found = guest.read()

    assert (found.node, found.name, found.zone_id) == (0, "Normal", NORMAL)
    assert (found.start_pfn, found.spanned_pages) == (START, 65536)
    assert (found.present_pages, found.managed_pages) == (65100, 65000)
    assert found.watermarks == Watermarks(min=11, low=22, high=33, promo=44, boost=5)
    assert (found.free_pages, found.unaccepted_pages, found.buddy_pages) == (4000, 3072, 3 + 2 * 1024)
    assert found.locked is False
    assert found.problems == ()
    assert found.listed is not None
    assert list(found.listed.pfns) == chunks
    assert set(found.listed.flags) == {NORMAL << ZONE_ID_SHIFT}
    assert set(found.listed.page_types) == {UNACCEPTED}
    assert list(found.listed.refcounts) == [0, -1, 0]
    assert found.listed.problems == ()


def test_zones_that_were_never_populated_are_not_walked() -> None:
    guest = Guest()
    guest.list_chunks(guest.zone, [START])
    # Movable of node 0 and the other zones of node 2 have NULL in their lists; node 1 does not exist.
    guest.populate(guest.add_node(2), 1, "DMA32", 0x1000, CHUNK_PAGES)
    zones = read_zones(guest.prog, read_kernel_build(guest.prog))
    assert [(zone.node, zone.name, zone.zone_id) for zone in zones] == [(0, "Normal", 2), (2, "DMA32", 2 << 3 | 1)]


def test_one_node_without_numa() -> None:
    guest = AllocatorProgram()
    pgdat = guest.new("pglist_data")
    guest.globals["contig_page_data"] = ("pglist_data", pgdat)
    del guest.vmcoreinfo["LENGTH(node_data)"]
    guest.populate(pgdat, NORMAL, "Normal", START, CHUNK_PAGES)
    build = read_kernel_build(guest.prog)
    assert [zone.name for zone in read_zones(guest.prog, build)] == ["Normal"]
    # No bits for a node in the flags.
    assert build.zone_id_shift == 64 - 3


def test_a_kernel_without_unaccepted_memory() -> None:
    guest = Guest()
    guest.structs["zone"] = [member for member in guest.structs["zone"] if member[0] != "unaccepted_pages"]
    guest.enums["zone_stat_item"].pop("NR_UNACCEPTED")
    guest.enums["zone_watermarks"] = {"WMARK_MIN": 0, "WMARK_LOW": 1, "WMARK_HIGH": 2}
    zone = guest.read()
    assert (zone.listed, zone.unaccepted_pages, zone.watermarks.promo) == (None, None, None)
    guest.set_global("vm_zone_stat", "atomic_long_t[6]", struct.pack("<6q", 77, 0, 0, 0, 0, 0))
    assert read_counters(guest.prog) == Counters(77, None, None)
    # No kernel that runs has NR_FREE_PAGES and the zones' LRU sizes 0.
    guest.set_global("vm_zone_stat", "atomic_long_t[6]", bytes(48))
    assert "vm_zone_stat reads as zeros" in said(lambda: read_counters(guest.prog))


def test_isolated_blocks_are_not_in_the_buddy_pages() -> None:
    guest = Guest()
    zone = guest.zone
    guest.set("zone", zone, "free_area[3].nr_free", 5)
    head = guest.at("zone", zone, "free_area[3].free_list[2]")
    guest.link(head, [guest.lru(START + 8), guest.lru(START + 24)])
    assert guest.read().buddy_pages == (5 - 2) << 3
    # A list that leads nowhere.
    guest.set("zone", zone, "free_area[3].free_list[2].next", 0)
    found = guest.read()
    assert found.buddy_pages == 5 << 3
    problem = "buddy pages: isolated blocks of order 3: entry 0: the entry before it points to NULL"
    assert found.problems == (problem,)


@pytest.mark.parametrize(
    ("type_name", "members", "set_member", "locked"),
    [
        ("spinlock_t", [("rlock", "raw_spinlock")], ("lock.rlock.raw_lock.val.counter", 0), False),
        ("spinlock_t", [("rlock", "raw_spinlock")], ("lock.rlock.raw_lock.val.counter", 1 << 8), True),
        # PREEMPT_RT
        ("spinlock_t", [("lock", "rt_mutex_base")], ("lock.lock.owner", 0xFFFF888000001000), True),
        # No SMP
        ("raw_spinlock", [("magic", "unsigned int")], ("present_pages", 5), None),
    ],
)
def test_the_lock(
    type_name: str, members: list[tuple[str, str]], set_member: tuple[str, int], locked: Optional[bool]
) -> None:
    guest = Guest()
    guest.structs[type_name] = members
    guest.set("zone", guest.zone, *set_member)
    assert guest.read().locked is locked


# --- damaged lists ---


def chunk(number: int) -> int:
    return START + number * CHUNK_PAGES


def test_the_limit_holds_for_all_lists_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LISTED_CHUNKS", 10)
    guest = AllocatorProgram()
    pgdat = guest.add_node(0)
    guest.add_section(START)
    for index, first in ((1, 0), (NORMAL, 8)):
        zone = guest.populate(pgdat, index, "zone", START, 64 * CHUNK_PAGES)
        guest.list_chunks(zone, [chunk(n) for n in range(first, first + 8)])
    first_list, second_list = (zone.listed for zone in read_zones(guest.prog, read_kernel_build(guest.prog)))
    assert first_list is not None
    assert second_list is not None
    assert (len(first_list.pfns), first_list.problems) == (8, ())
    assert (len(second_list.pfns), second_list.problems) == (2, ("more than 2 entries",))


def test_more_nodes_than_there_can_be() -> None:
    guest = Guest()
    guest.read()
    guest.globals["node_data"] = ("pglist_data*[2000]", guest.globals["node_data"][1])
    assert "node_data has 2000 elements" in said(guest.read)


@pytest.mark.parametrize("beyond", [0, 8])
def test_as_large_a_struct_zone_as_there_can_be(beyond: int) -> None:
    guest = Guest()
    size = sizeof(AllocatorProgram().type("zone"))
    guest.structs["zone"].append(("padding", f"unsigned char[{limits.ZONE_BYTES - size + beyond}]"))
    assert sizeof(guest.type("zone")) == 65536 + beyond
    expected = "struct zone has 65544 bytes: at most 65536 are expected" if beyond else "Normal"
    assert said(lambda: guest.read().name) == expected


def test_of_a_zones_name_no_more_is_read() -> None:
    for name, read in (
        ("0123456789abcde", "0123456789abcde"),
        ("0123456789abcdef", "0123456789abcdef"),
        ("0123456789abcdefg", "0123456789abcdef..."),
    ):
        guest = AllocatorProgram()
        guest.populate(guest.add_node(0), NORMAL, name, START, CHUNK_PAGES)
        (zone,) = read_zones(guest.prog, read_kernel_build(guest.prog))
        assert zone.name == read


@pytest.mark.parametrize("broken", [limits.LIVE_ATTEMPTS - 1, limits.LIVE_ATTEMPTS])
def test_a_list_of_a_running_kernel_is_read_again(broken: int) -> None:
    """So many walks find the list broken, as if the entry that they stood on had been accepted."""
    guest = Guest()
    guest.list_chunks(guest.zone, map(chunk, range(4)))
    guest.set("page", guest.page(chunk(2)), "lru.next", 0)
    (zone,) = walked_again(
        guest.prog,
        guest.at("zone", guest.zone, "unaccepted_pages"),
        broken,
        lambda: guest.set("page", guest.page(chunk(2)), "lru.next", guest.lru(chunk(3))),
        lambda prog: read_zones(prog, read_kernel_build(guest.prog)),
    )
    problems = () if broken < limits.LIVE_ATTEMPTS else ("entry 3: the entry before it points to NULL",)
    assert (len(zone.listed.pfns), zone.listed.problems) == (3 if problems else 4, problems)


# --- counters ---


def set_diff(guest: AllocatorProgram, zone: int, diff: int) -> None:
    """What the CPUs with offset 0 have not yet folded into NR_FREE_PAGES."""
    stats = guest.new("per_cpu_zonestat")
    guest.set("per_cpu_zonestat", stats, "vm_stat_diff[0]", diff)
    guest.set("zone", zone, "per_cpu_zonestats", stats)


def test_per_cpu_differences_are_added() -> None:
    guest = Guest()
    zone = guest.zone
    stats = guest.place(4096)
    guest.set("zone", zone, "per_cpu_zonestats", stats)
    guest.set("zone", zone, "vm_stat[0].counter", 1000)
    # CPU 1 is not possible; its offset leads nowhere.
    guest.add_cpus([0, 0x123456789000, 0x40], possible=0b101)
    guest.set("per_cpu_zonestat", stats, "vm_stat_diff[0]", 100)
    guest.set("per_cpu_zonestat", stats + 0x40, "vm_stat_diff[0]", -128)
    guest.set("per_cpu_zonestat", stats + 0x40, "vm_stat_diff[5]", 7)
    guest.set_global("vm_zone_stat", "atomic_long_t[6]", struct.pack("<6q", 1000, 0, 0, 0, 0, 4096))

    assert guest.read().free_pages == 1000 + 100 - 128
    counters = read_counters(guest.prog)
    assert (counters.free_pages, counters.unaccepted_pages, counters.unaccepted_diff) == (1000, 4096, 7)


def test_a_cpu_that_is_not_captured() -> None:
    guest = Guest()
    set_diff(guest, guest.zone, 5)
    guest.add_cpus([0, 0x123456789000])
    guest.set_global("vm_zone_stat", "atomic_long_t[6]", struct.pack("<6q", 1000, 0, 0, 0, 0, 0))
    found = guest.read()
    assert found.free_pages == 5
    assert found.problems == ("free pages: per-CPU counters of 1 CPUs are not in this target (first CPU 1)",)
    assert read_counters(guest.prog).unaccepted_diff is None


@pytest.mark.parametrize("items", [limits.ZONE_STATS, limits.ZONE_STATS + 1])
def test_as_many_counters_as_a_zone_can_have(items: int) -> None:
    guest = Guest()
    guest.structs["per_cpu_zonestat"] = [("stat_threshold", "signed char"), ("vm_stat_diff", f"signed char[{items}]")]
    set_diff(guest, guest.zone, 5)
    guest.add_cpus([0])
    expected = "vm_stat_diff has 257 bytes: at most 256 are expected" if items > limits.ZONE_STATS else 5
    assert said(lambda: guest.read().free_pages) == expected


def test_as_many_per_cpu_counters_as_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two zones, three CPUs."""
    guest = AllocatorProgram()
    pgdat = guest.add_node(0)
    for index, diff in ((1, 5), (NORMAL, 7)):
        zone = guest.populate(pgdat, index, "zone", START, CHUNK_PAGES)
        set_diff(guest, zone, diff)
    guest.add_cpus([0, 0, 0])
    build = read_kernel_build(guest.prog)
    monkeypatch.setattr(limits, "PER_CPU_READS", 6)
    assert [zone.free_pages for zone in read_zones(guest.prog, build)] == [15, 21]
    monkeypatch.setattr(limits, "PER_CPU_READS", 5)
    assert said(lambda: read_zones(guest.prog, build)) == "per-CPU counters of zones times CPUs: more than 5"


@pytest.mark.parametrize("runs", [3, 4])
def test_a_list_of_more_runs_than_any_kernel_has_is_cut_and_says_so(runs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LISTED_RUNS", 3)
    guest = Guest()
    # Pairs of neighbours, each pair a run.
    chunks = [START + (3 * run + n) * CHUNK_PAGES for run in range(runs) for n in range(2)]
    guest.list_chunks(guest.zone, chunks)
    listed = guest.listed()
    assert list(listed.pfns) == chunks[:6]
    assert len(listed.flags) == len(listed.refcounts) == len(listed.page_types) == 6
    told = () if runs == 3 else ("more than 3 runs of chunks: what follows entry 6 is left out",)
    assert listed.problems == told
