# SPDX-License-Identifier: LGPL-2.1-or-later
"""``struct zone``: counters, watermarks and the list of unaccepted chunks.

Linux keeps unaccepted memory in chunks of MAX_PAGE_ORDER on ``zone->unaccepted_pages`` (Linux kernel commit
dcdfdd40fa82 ("mm: Add support for unaccepted memory") (in v6.5)). They count as free, but are on no ``free_area``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import Optional

from drgn import FaultError, Object, Program, offsetof, sizeof

from drgn_unaccepted import limits
from drgn_unaccepted.kernel.memmap import PageLayout, checked_page_layout, walk_page_list
from drgn_unaccepted.kernel.probe import U64_MAX, enumerators, possible_cpus, read_string, settled
from drgn_unaccepted.model.ranges import chunk_runs, total
from drgn_unaccepted.snapshot import PAGE_SIZE, Counters, KernelBuild, ListedChunks, Watermarks, Zone
from drgn_unaccepted.targets.errors import Unavailable


def nodes(prog: Program) -> Iterator[tuple[int, Object]]:
    """``struct pglist_data *`` of each node that has one, with the node's number."""
    try:
        node_data = prog["node_data"]
    except LookupError:  # without CONFIG_NUMA there is one node
        yield 0, prog["contig_page_data"].address_of_()
        return
    if len(node_data) > limits.NODES:
        raise Unavailable(f"node_data has {len(node_data)} elements: at most {limits.NODES} are possible")
    for number, pgdat in enumerate(node_data.read_()):
        if pgdat:
            yield number, pgdat


def populated_zones(prog: Program) -> Iterator[tuple[int, int, Object]]:
    """``struct zone`` of each populated zone, read whole, with the node's number and the zone's place in the node.

    The list heads of a zone that was never populated are NULL: there is nothing to walk.
    """
    size = sizeof(prog.type("struct zone"))
    if size > limits.ZONE_BYTES:
        raise Unavailable(f"struct zone has {size} bytes: at most {limits.ZONE_BYTES} are expected")
    for node, pgdat in nodes(prog):
        if len(pgdat.node_zones) > limits.ZONES:
            raise Unavailable(f"pgdat->node_zones has {len(pgdat.node_zones)} elements: at most {limits.ZONES}")
        for index, zone in enumerate(pgdat.node_zones):
            if zone.present_pages:
                yield node, index, zone


def read_zones(prog: Program, build: KernelBuild) -> tuple[Zone, ...]:
    """All populated zones, in the kernel's order, with the chunks on their ``unaccepted_pages``."""
    reader = _ZoneReader(prog, build)
    return tuple(reader.read(*found) for found in populated_zones(prog))


def per_cpu_pages(prog: Program, layout: PageLayout) -> list[int]:
    """PFNs on ``zone->per_cpu_pageset->lists[]`` of all zones and CPUs: free pages that were given to the allocator.

    Of a block the first page. Lists that are damaged or not in the target are left out.
    """
    lists = prog.type("struct per_cpu_pages").member("lists")
    offset, count, size = lists.offset, lists.type.length or 0, sizeof(lists.type)
    pfns: list[int] = []
    for _node, _index, zone in populated_zones(prog):
        base = zone.per_cpu_pageset.value_() + offset
        for cpu_offset in possible_cpus(prog).values():
            for number in range(min(count, limits.PER_CPU_LISTS)):
                head = base + cpu_offset + number * (size // count) & U64_MAX
                listed = walk_page_list(prog, layout, head, limits.PER_CPU_PAGES - len(pfns))
                if not listed.problems:
                    pfns += listed.pfns
    return pfns


def read_counters(prog: Program) -> Counters:
    """``vm_zone_stat[]`` and what the per-CPU counters have not yet been folded into it.

    The kernel adds and takes whole chunks, more than any ``stat_threshold``, so that nothing of NR_UNACCEPTED stays in
    a per-CPU counter.

    :raises Unavailable: all counters read as zeros, which is no evidence: NR_FREE_PAGES is one of them
    """
    items = enumerators(prog, "zone_stat_item")
    totals = [each.counter.value_() for each in prog["vm_zone_stat"].read_()]
    if not any(totals):
        raise Unavailable("vm_zone_stat reads as zeros: not captured, or the kernel had no memory yet")
    unaccepted = items.get("NR_UNACCEPTED")
    diff: Optional[int] = None
    if unaccepted is not None:
        diffs = _PerCpuDiffs(prog)
        sums = [diffs.sum(zone, unaccepted) for _node, _index, zone in populated_zones(prog)]
        if not any(problem for _value, problem in sums):
            diff = sum(value for value, _problem in sums)
    return Counters(totals[items["NR_FREE_PAGES"]], None if unaccepted is None else totals[unaccepted], diff)


class _PerCpuDiffs:
    """``zone->per_cpu_zonestats->vm_stat_diff[]``, summed over all CPUs."""

    def __init__(self, prog: Program) -> None:
        self._prog = prog
        self._cpus: dict[int, int] = {}
        self._reads = 0

    def sum(self, zone: Object, item: int) -> tuple[int, Optional[str]]:
        """The sum of one item's differences, and why CPUs are missing in it."""
        structure = self._prog.type("struct per_cpu_zonestat")
        base = zone.per_cpu_zonestats.value_()
        if not base or not structure.has_member("vm_stat_diff"):
            return 0, None  # without CONFIG_SMP counters are changed in place
        size = sizeof(structure.member("vm_stat_diff").type)
        if not item < size <= limits.ZONE_STATS:
            raise Unavailable(f"vm_stat_diff has {size} bytes: at most {limits.ZONE_STATS} are expected")
        self._cpus = self._cpus or possible_cpus(self._prog)
        self._reads += len(self._cpus)
        if self._reads > limits.PER_CPU_READS:
            raise Unavailable(f"per-CPU counters of zones times CPUs: more than {limits.PER_CPU_READS}")
        address = base + offsetof(structure, "vm_stat_diff") + item
        diff = 0
        lost: list[int] = []
        for number, cpu_offset in self._cpus.items():
            try:
                # s8 vm_stat_diff[]
                diff += (self._prog.read_u8(address + cpu_offset & U64_MAX) ^ 0x80) - 0x80
            except FaultError:
                lost.append(number)
        problem = f"per-CPU counters of {len(lost)} CPUs are not in this target (first CPU {lost[0]})" if lost else None
        return diff, problem


class _ZoneReader:
    def __init__(self, prog: Program, build: KernelBuild) -> None:
        self._prog = prog
        self._build = build
        self._layout = checked_page_layout(prog)
        self._diffs = _PerCpuDiffs(prog)
        self._items = enumerators(prog, "zone_stat_item")
        marks = enumerators(prog, "zone_watermarks")
        self._marks = sorted(marks, key=marks.__getitem__)
        self._isolate = enumerators(prog, "migratetype").get("MIGRATE_ISOLATE")
        self._budget = limits.LISTED_CHUNKS  #: Entries that may still be read, all lists together.

    def read(self, node: int, index: int, zone: Object) -> Zone:
        """One populated zone. ``zone`` is a reference into the target."""
        copy = zone.read_()
        name = read_string(copy.prog_, copy.name.value_(), limits.ZONE_NAME_BYTES + 1)
        name = name[: limits.ZONE_NAME_BYTES] + b"..." * (len(name) > limits.ZONE_NAME_BYTES)
        item = self._items["NR_FREE_PAGES"]  # as zone_page_state_snapshot()
        diff, problem = self._diffs.sum(copy, item)
        buddy, isolate_problem = self._buddy_pages(zone, copy)
        unaccepted = self._items.get("NR_UNACCEPTED")
        marks = {name: mark.value_() for name, mark in zip(self._marks, copy._watermark)}
        # Linux kernel commit c574bbe91703 ("NUMA balancing: optimize page placement for memory tiering system") (in
        # v5.18) added WMARK_PROMO.
        min_, low, high = (marks[f"WMARK_{name}"] for name in ("MIN", "LOW", "HIGH"))
        locked = listed = None
        with suppress(AttributeError):
            locked = bool(copy.lock.rlock.raw_lock.val.counter.value_())  # struct qspinlock; without SMP there is none
        with suppress(AttributeError):
            locked = bool(copy.lock.lock.owner.value_())  # CONFIG_PREEMPT_RT: struct rt_mutex_base
        if self._build.unaccepted_memory:
            head = zone.unaccepted_pages.address_of_().value_()
            # One more than the zone has room for is enough to see that there are too many.
            most = copy.spanned_pages.value_() // self._build.chunk_pages + 1
            # Accepting takes chunks off the list's head and can lead a walk away.
            listed = settled(self._prog, lambda: self._walk(head, most), lambda listed: listed.problems)
        return Zone(
            node=node,
            name=name.decode("ascii", "backslashreplace"),
            start_pfn=copy.zone_start_pfn.value_(),
            spanned_pages=copy.spanned_pages.value_(),
            present_pages=copy.present_pages.value_(),
            managed_pages=copy.managed_pages.counter.value_(),
            free_pages=copy.vm_stat[item].counter.value_() + diff,
            unaccepted_pages=None if unaccepted is None else copy.vm_stat[unaccepted].counter.value_(),
            buddy_pages=buddy,
            watermarks=Watermarks(min_, low, high, marks.get("WMARK_PROMO"), copy.watermark_boost.value_()),
            locked=locked,
            listed=listed,
            zone_id=node << self._layout.zone_mask.bit_length() | index,
            problems=tuple(filter(None, (problem and f"free pages: {problem}", isolate_problem))),
        )

    def _buddy_pages(self, zone: Object, copy: Object) -> tuple[int, Optional[str]]:
        """Pages on ``free_area[]``. ``nr_free`` counts the isolated blocks too, NR_FREE_PAGES does not."""
        pages = 0
        problem = None
        for order, area in enumerate(copy.free_area):
            pages += area.nr_free.value_() << order
            if self._isolate is None:
                continue
            head = zone.free_area[order].free_list[self._isolate].address_of_().value_()
            if area.free_list[self._isolate].next.value_() == head:
                continue
            listed = self._walk(head, int(area.nr_free))
            pages -= len(listed.pfns) << order
            if listed.problems:
                problem = f"buddy pages: isolated blocks of order {order}: {listed.problems[0]}"
        return pages, problem

    def _walk(self, head: int, most: int) -> ListedChunks:
        listed = walk_page_list(self._prog, self._layout, head, min(most, self._budget))
        self._budget -= len(listed.pfns)
        if len(listed.pfns) <= limits.LISTED_RUNS:
            return listed
        # As far as it has no more runs than are looked at one by one.
        runs = chunk_runs(listed.pfns, self._build.chunk_pages)
        kept = total(islice(runs, limits.LISTED_RUNS)) // (self._build.chunk_pages * PAGE_SIZE)
        if next(runs, None) is None:
            return listed
        problem = f"more than {limits.LISTED_RUNS} runs of chunks: what follows entry {kept} is left out"
        columns = {name: getattr(listed, name)[:kept] for name in ("pfns", "flags", "refcounts", "page_types")}
        return ListedChunks(**columns, problems=(*listed.problems, problem))
