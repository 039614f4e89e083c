# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the pages of physical ranges are used for, from their ``struct page``.

The structures are read in bulk and judged a chunk (1 << MAX_PAGE_ORDER pages) at a time.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, groupby, islice
from typing import Optional

from drgn import FaultError, Program

from drgn_unaccepted import limits
from drgn_unaccepted.errors import one_line
from drgn_unaccepted.kernel.errors import UNREADABLE, Unavailable
from drgn_unaccepted.kernel.lists import column
from drgn_unaccepted.kernel.memmap import POISON, PageStates, PageTypes, Sections, checked_page_layout
from drgn_unaccepted.kernel.zones import nodes, per_cpu_pages
from drgn_unaccepted.model.header import X86_UNIT_SIZE
from drgn_unaccepted.model.ranges import (
    Range,
    chunk_ranges,
    chunk_runs,
    clip,
    find,
    intersect,
    merge,
    outwards,
    subtract,
    total,
)
from drgn_unaccepted.snapshot import PAGE_SHIFT, PAGE_SIZE, KernelBuild, PageRun, Pages, Zone

# Chunks whose structures are read at once.
_READ_CHUNKS = 16
_UNIT_PAGES = X86_UNIT_SIZE >> PAGE_SHIFT


def read_pages(
    prog: Program,
    ranges: Iterable[Range],
    build: KernelBuild,
    zones: Sequence[Zone] = (),
    units: Iterable[Range] = (),
) -> Pages:
    """The states of all pages in these physical ranges, widened to whole chunks.

    A block in a free list shows only in the structure of its first page, which lies in the same chunk.

    :param zones: for their listed chunks. Before PGTY_unaccepted (v6.12) nothing but the list marks them. Beyond
        :data:`limits.PAGES_SCANNED` pages their other pages are not read.
    :param units: other ranges, of which it is enough to know which units are accepted: one page that is in a free list
        or in use proves that of its unit, and no other is read
    :raises Unavailable: the kernel does not say where its structures are
    :raises drgn.FaultError: what says so is not in the target
    """
    chunk = build.chunk_pages * PAGE_SIZE

    def widened(ranges: Iterable[Range]) -> list[Range]:
        return list(clip(outwards(ranges, chunk), 0, limits.PHYSICAL_END))

    lists = [zone.listed.pfns for zone in zones if zone.listed is not None]
    scan = _Scan(prog, build, lists, zones)
    whole = widened(ranges)
    units = scan.present(subtract(widened(units), whole))
    present = scan.present(whole)
    beyond = []
    if total(present) > limits.PAGES_SCANNED * PAGE_SIZE:
        # A listed page that is not the first of a chunk proves nothing about its neighbours.
        runs = chain.from_iterable(chunk_runs(pfns, build.chunk_pages) for pfns in lists)
        beyond = intersect(merge(run for run in runs if not run[0] % chunk), present)
        present = subtract(present, beyond)
        scan.notes.append(
            f"of {total(beyond) // chunk} chunks on zone->unaccepted_pages only the first page was looked at: "
            f"there are more than {limits.PAGES_SCANNED} pages"
        )
    # In ascending order: a block of the buddy allocator shows in its first page.
    for start, end in sorted([*units, *present]):
        judge = scan.look if find(units, start) is not None else scan.judge
        judge(start >> PAGE_SHIFT, end >> PAGE_SHIFT)
    return scan.result([PageRun(start >> PAGE_SHIFT, end >> PAGE_SHIFT, "unaccepted") for start, end in beyond])


def masked_pages(prog: Program, pfns: Iterable[int]) -> tuple[int, ...]:
    """Those of these pages that read as zeros; at most :data:`limits.MASKED_PAGES` of them are read.

    ``/proc/kcore`` and ``/proc/vmcore`` return zeros for the last page before an unaccepted unit, whatever is in it:
    ``pfn_is_unaccepted_memory()`` looks at the guard unit too (Linux kernel commits e538a5820978 and 7cd34dd3c9bf
    (in v6.7)). A page that is not in the target is not among them.
    """
    return tuple(page >> PAGE_SHIFT for page, zeros in _are_zeros(prog, (pfn << PAGE_SHIFT for pfn in pfns)) if zeros)


def written_pages(prog: Program, pages: Iterable[int]) -> tuple[Range, ...]:
    """Those of these pages (physical addresses) that are not all zeros; of :data:`limits.MASKED_PAGES` at most."""
    return tuple(merge((page, page + PAGE_SIZE) for page, zeros in _are_zeros(prog, pages) if not zeros))


def _are_zeros(prog: Program, pages: Iterable[int]) -> Iterator[tuple[int, bool]]:
    """Each of these pages (physical addresses) that is in the target, and whether it reads as zeros."""
    for page in islice(pages, limits.MASKED_PAGES):
        try:
            data = prog.read(page, PAGE_SIZE, physical=True)
        except FaultError:
            continue
        yield page, data == bytes(PAGE_SIZE)


class _Scan:
    """Judges structures in ascending order and keeps the runs."""

    def __init__(
        self, prog: Program, build: KernelBuild, lists: Sequence[Sequence[int]], zones: Sequence[Zone]
    ) -> None:
        self._prog = prog
        self._zones = [zone for zone in zones if zone.zone_id is not None]
        self._layout = checked_page_layout(prog)
        self._types = PageTypes(prog)
        self._states = PageStates(self._layout, self._types)
        self._chunk_pages = build.chunk_pages
        # Before PGTY_unaccepted only the list tells a listed chunk.
        self._listed = frozenset(chain.from_iterable(lists)) if self._types.unaccepted is None else frozenset()
        chunk_bytes = build.chunk_pages * self._layout.size
        self._uninitialised = (bytes(chunk_bytes), b"\xff" * chunk_bytes)
        # Ends of the free block and of the unaccepted chunk whose first page was seen last.
        self._block_end, self._block_state = 0, ""
        self._unaccepted_end = 0
        self._runs: list[PageRun] = []
        self._looked_at: list[PageRun] = []
        # Pages whose structures exist and are not in the target.
        self._lost: list[PageRun] = []
        self._pages_left, self._not_looked_at = limits.PAGES_SCANNED, 0
        self.notes: list[str] = []  #: Why less than all was looked at.

    def present(self, wanted: Sequence[Range]) -> list[Range]:
        """The pages that have an initialised ``struct page``; those that have none are judged here."""
        present = []
        sections = Sections(self._prog, self._layout)
        for start, end in wanted:
            try:
                for first, after, valid in sections.valid(start >> PAGE_SHIFT, end >> PAGE_SHIFT):
                    if valid:
                        present.append(Range(first << PAGE_SHIFT, after << PAGE_SHIFT))
                    else:
                        self._runs.append(PageRun(first, after, "absent"))
            except Unavailable as error:
                self.notes.append(f"{start:#x}-{end:#x}: {error}")
        deferred = intersect(present, _deferred(self._prog))
        self._runs += [PageRun(start >> PAGE_SHIFT, end >> PAGE_SHIFT, "uninitialised") for start, end in deferred]
        self._looked_at += self._runs
        return subtract(present, deferred)

    def result(self, more: Iterable[PageRun]) -> Pages:
        if self._not_looked_at:
            self.notes.append(f"{self._not_looked_at} pages were not looked at: more than {limits.PAGES_SCANNED}")
        if self._lost:
            lost = _memory(self._lost)
            pages = total(lost) // PAGE_SIZE
            self.notes.append(f"struct page of {pages} pages is not in this target, the first at {lost[0].start:#x}")
        runs: list[PageRun] = []
        for run in sorted([*self._with_per_cpu_lists(self._runs), *more]):
            _append(runs, run)
        return Pages(tuple(runs), tuple(_memory(self._looked_at)), "; ".join(self.notes) or None)

    def _with_per_cpu_lists(self, runs: Sequence[PageRun]) -> Iterator[PageRun]:
        """The runs, with free pages told apart that are on ``zone->per_cpu_pageset``: those were freed once."""
        listed: list[Range] = []
        if any(run.state == "free" for run in runs):
            try:
                listed = chunk_ranges(1, per_cpu_pages(self._prog, self._layout))
            except UNREADABLE as error:
                self.notes.append(f"zone->per_cpu_pageset: {one_line(error)}")
        for run in runs:
            if run.state != "free":
                yield run
                continue
            whole = Range(run.start_pfn << PAGE_SHIFT, run.end_pfn << PAGE_SHIFT)
            of_cpus = list(clip(listed, *whole))
            for ranges, state in ((of_cpus, "per-cpu"), (subtract([whole], of_cpus), "free")):
                for start, end in ranges:
                    yield PageRun(start >> PAGE_SHIFT, end >> PAGE_SHIFT, state)

    def look(self, start: int, end: int) -> None:
        """Look at the first page of each unit from PFN ``start`` to ``end``, at the others where it tells nothing."""
        pfn = start
        while pfn < end:
            upto = min(pfn - pfn % _UNIT_PAGES + _UNIT_PAGES, end)
            run = self._first_look(pfn) if upto - pfn == _UNIT_PAGES else None
            if run is None or run.end_pfn > end:
                self.judge(pfn, upto)
                pfn = upto
            else:
                _append(self._runs, run)
                _append(self._looked_at, PageRun(pfn, run.end_pfn, ""))
                pfn = run.end_pfn

    def _first_look(self, pfn: int) -> Optional[PageRun]:
        """What the first page of a unit tells of the whole unit, or of its chunk; None if nothing."""
        layout = self._layout
        size = layout.size
        try:
            # Its neighbours too: they show whether this page of the memmap is damaged.
            data = self._prog.read(layout.address(pfn), max(1, PAGE_SIZE // size) * size)
        except FaultError:
            return None
        flags, private = (_int(data, at, 8) for at in (layout.flags, layout.private))
        page_type, refcount = (_int(data, at, 4) for at in (layout.page_type, layout.refcount))
        state = self._states[flags, data[layout.compound], page_type, refcount]
        if state == "buddy":
            pages = 1 << min(private, 64)
            if pages > self._chunk_pages or pfn % pages:
                return None
            if pages == self._chunk_pages:
                return PageRun(pfn, pfn + pages, state)
        elif state != "in-use":
            return None
        if any(self._damaged(pfn, column(array("Q", data), layout.flags, size))):
            return None
        return PageRun(pfn, pfn + _UNIT_PAGES, "given")

    def judge(self, start: int, end: int) -> None:
        """Read and judge structures that exist, from PFN ``start`` to ``end``."""
        step = self._chunk_pages * _READ_CHUNKS
        page = max(1, PAGE_SIZE // self._layout.size)
        upto = min(end, start + self._pages_left)
        self._pages_left -= upto - start
        self._not_looked_at += end - upto
        for pfn in range(start, upto, step):
            if len(self._runs) > limits.PAGE_RUNS:
                self.notes.append(f"from {pfn << PAGE_SHIFT:#x} on: more than {limits.PAGE_RUNS} runs of pages")
                return
            self._read(pfn, min(pfn + step, upto), (self._chunk_pages, page))

    def _read(self, start: int, end: int, smaller: tuple[int, ...]) -> None:
        """Read structures, in smaller and smaller parts where a part is not in the target."""
        size, chunk = self._layout.size, self._chunk_pages
        try:
            data = self._prog.read(self._layout.address(start), (end - start) * size)
        except FaultError:
            if not smaller:
                self._lost.append(PageRun(start, end, ""))
                return
            for pfn in range(start, end, smaller[0]):
                self._read(pfn, min(pfn + smaller[0], end), smaller[1:])
            return
        _append(self._looked_at, PageRun(start, end, ""))
        # Up to the next boundary between chunks, then whole chunks.
        bounds = [start, *range(start - start % chunk + chunk, end, chunk), end]
        for pfn, upto in zip(bounds, bounds[1:]):
            self._judge_chunk(pfn, data[(pfn - start) * size : (upto - start) * size])

    def _judge_chunk(self, start: int, data: bytes) -> None:
        """Judge the structures of one chunk, or of a part of one, from PFN ``start`` on."""
        layout, size = self._layout, self._layout.size
        end = start + len(data) // size
        if data in self._uninitialised:
            _append(self._runs, PageRun(start, end, "uninitialised"))
            return
        page_types = column(array("I", data), layout.page_type, size)
        orders = column(array("Q", data), layout.private, size)
        is_whole = end - start == self._chunk_pages == 1 << min(orders[0], 64)
        if is_whole and page_types[0] & self._types.mask == self._types.buddy:
            _append(self._runs, PageRun(start, end, "buddy"))
            return
        if start in self._listed and start % self._chunk_pages == 0:
            self._unaccepted_end = end
        flags = column(array("Q", data), layout.flags, size)
        refcounts = column(array("I", data), layout.refcount, size)
        states = list(map(self._states.__getitem__, zip(flags, data[layout.compound :: size], page_types, refcounts)))
        for at in self._damaged(start, flags):
            states[at] = "damaged"
        pfn = group_end = start
        for state, group in groupby(states):
            group_end += len(list(group))
            while pfn < group_end:
                run = self._run(pfn, group_end, state, orders[pfn - start])
                run = run._replace(end_pfn=min(run.end_pfn, end))
                _append(self._runs, run)
                pfn = run.end_pfn

    def _damaged(self, start: int, flags: Sequence[int]) -> Iterable[int]:
        """Places of structures in a page of the memmap with one whose node and zone cannot be those of its page."""
        shift, end, step = self._layout.zone_shift, start + len(flags), max(1, PAGE_SIZE // self._layout.size)
        spans = [(zone, zone.start_pfn, zone.start_pfn + zone.spanned_pages) for zone in self._zones]
        over = [(zone.zone_id, low, high) for zone, low, high in spans if low < end and start < high]
        ids = {flag >> shift for flag in set(flags) - {0, POISON}}
        if not over or (len(over) == 1 and ids <= {over[0][0]} and over[0][1] <= start and end <= over[0][2]):
            return
        for at in range(0, len(flags), step):
            for place in range(at, min(at + step, len(flags))):
                pfn, flag = start + place, flags[place]
                here = [id_ for id_, low, high in over if low <= pfn < high]
                zone = flag >> shift & self._layout.zone_mask
                if flag not in (0, POISON) and here and flag >> shift not in here and zone != self._layout.zone_device:
                    yield from range(at, min(at + step, len(flags)))
                    break

    def _run(self, pfn: int, end: int, state: str, order: int) -> PageRun:
        """The run from ``pfn`` on, where pages up to ``end`` show ``state``, and ``order`` is ``page->private``."""
        if state in ("buddy", "guard") and pfn >= self._block_end:
            if 1 << min(order, 64) > self._chunk_pages or pfn % (1 << order):
                return PageRun(pfn, pfn + 1, "free")  # on its way into or out of a free list
            self._block_end = pfn + (1 << order)
            self._block_state = "buddy" if state == "buddy" else "free"
        if pfn < self._block_end:
            return PageRun(pfn, self._block_end, self._block_state)
        if state == "unaccepted":
            self._unaccepted_end = pfn + self._chunk_pages
            return PageRun(pfn, pfn + 1, "unaccepted")
        if state == "free" and pfn < self._unaccepted_end:
            return PageRun(pfn, min(self._unaccepted_end, end), "unaccepted")
        return PageRun(pfn, end, state)


def _int(data: bytes, at: int, size: int) -> int:
    return int.from_bytes(data[at : at + size], "little")


def _append(runs: list[PageRun], run: PageRun) -> None:
    """Append a run, joined to the last one if it continues that."""
    if runs and runs[-1].end_pfn == run.start_pfn and runs[-1].state == run.state:
        run = PageRun(runs.pop().start_pfn, run.end_pfn, run.state)
    runs.append(run)


def _memory(runs: Iterable[PageRun]) -> list[Range]:
    return merge((run.start_pfn << PAGE_SHIFT, run.end_pfn << PAGE_SHIFT) for run in runs)


def _deferred(prog: Program) -> list[Range]:
    """Memory whose structures CONFIG_DEFERRED_STRUCT_PAGE_INIT has not initialised yet.

    ``first_deferred_pfn`` is ULONG_MAX as soon as a kernel thread initialises the rest.
    """
    deferred = []
    for _node, pgdat in nodes(prog):
        try:
            first = pgdat.first_deferred_pfn.value_()
        except AttributeError:
            return []
        start = pgdat.node_start_pfn.value_()
        end = min(start + pgdat.node_spanned_pages.value_(), limits.PHYSICAL_END >> PAGE_SHIFT)
        if first < end:
            deferred.append(Range(max(first, start) << PAGE_SHIFT, end << PAGE_SHIFT))
    return merge(deferred)
