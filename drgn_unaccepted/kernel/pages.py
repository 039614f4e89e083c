# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the pages of physical ranges are used for, from their ``struct page``.

The structures are read in bulk and judged a chunk (1 << MAX_PAGE_ORDER pages) at a time.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain, groupby, islice
from typing import Optional

from drgn import FaultError, Program

from drgn_unaccepted import limits
from drgn_unaccepted.errors import one_line
from drgn_unaccepted.kernel.memmap import POISON, PageStates, Sections, checked_page_layout
from drgn_unaccepted.kernel.probe import column
from drgn_unaccepted.kernel.zones import nodes, per_cpu_pages
from drgn_unaccepted.model import ranges as rng
from drgn_unaccepted.model.header import X86_UNIT_SIZE
from drgn_unaccepted.model.ranges import Range
from drgn_unaccepted.snapshot import GIVEN_STATES, PAGE_SHIFT, PAGE_SIZE, KernelBuild, PageRun, Pages, Zone
from drgn_unaccepted.targets.errors import UNREADABLE, Unavailable

# Chunks whose structures are read at once, and whose units are looked at together.
_READ_CHUNKS, _LOOK_CHUNKS = 16, 64
_UNIT_PAGES = X86_UNIT_SIZE >> PAGE_SHIFT
# What tells of the low byte of the compound word: 0, 1 for a tail page, 2 for anything else.
_COMPOUND = bytes(1 if byte & 1 else 2 * (byte > 0) for byte in range(256))


def read_pages(
    prog: Program, ranges: Iterable[Range], build: KernelBuild, zones: Sequence[Zone] = (), units: Iterable[Range] = ()
) -> Pages:
    """The states of all pages in these physical ranges, widened to whole chunks.

    A block in a free list shows only in the structure of its first page, which lies in the same chunk.

    :param zones: for their listed chunks. Before PGTY_unaccepted (v6.12) nothing but the list marks them. Beyond
        :data:`limits.PAGES_SCANNED` pages their other pages are not read.
    :param units: other ranges, of which it is enough to know which units are accepted: one page that is in a free list
        or in use proves that of its unit, and no other is read
    :raises Unavailable: the kernel does not say where its structures are
    """
    chunk = build.chunk_pages * PAGE_SIZE

    def widened(ranges: Iterable[Range]) -> list[Range]:
        return list(rng.clip(rng.outwards(ranges, chunk), 0, limits.PHYSICAL_END))

    scan = _Scan(prog, build, zones)
    whole = widened(ranges)
    units = scan.present(rng.subtract(widened(units), whole))
    present = scan.present(whole)
    beyond = []
    if rng.total(present) > limits.PAGES_SCANNED * PAGE_SIZE:
        # A listed page that is not the first of a chunk proves nothing about its neighbours.
        runs = chain.from_iterable(rng.chunk_runs(pfns, build.chunk_pages) for pfns in scan.lists)
        beyond = rng.intersect(rng.merge(run for run in runs if not run[0] % chunk), present)
        present = rng.subtract(present, beyond)
        scan.notes.append(
            f"of {rng.total(beyond) // chunk} chunks on zone->unaccepted_pages only the first page was looked at: "
            f"there are more than {limits.PAGES_SCANNED} pages"
        )
    # In ascending order: a block of the buddy allocator shows in its first page.
    for start, end in sorted([*units, *present]):
        judge = scan.look if rng.find(units, start) is not None else scan.judge
        judge(start >> PAGE_SHIFT, end >> PAGE_SHIFT)
    return scan.result(_runs(beyond, "unaccepted"))


def are_zeros(prog: Program, pages: Iterable[int]) -> Iterator[tuple[int, bool]]:
    """Each of these pages (physical addresses) that is in the target, and whether it reads as zeros.

    At most :data:`limits.MASKED_PAGES` of them are read.
    """
    for page in islice(pages, limits.MASKED_PAGES):
        with suppress(FaultError):
            yield page, prog.read(page, PAGE_SIZE, physical=True) == bytes(PAGE_SIZE)


class _Scan:
    """Judges structures in ascending order and keeps the runs."""

    def __init__(self, prog: Program, build: KernelBuild, zones: Sequence[Zone]) -> None:
        self._prog = prog
        self._zones = zones
        self.lists = [zone.listed.pfns for zone in zones if zone.listed is not None]
        self._layout = checked_page_layout(prog)
        self._states = PageStates(prog, self._layout)
        self._chunk_pages = build.chunk_pages
        # Before PGTY_unaccepted only the list tells a listed chunk.
        self._listed = frozenset(chain.from_iterable(self.lists)) if self._states.unaccepted is None else frozenset()
        # The bits of node and zone in the lowest byte of flags that has some.
        self._of_zone = bytes(byte >> self._layout.zone_shift % 8 for byte in range(256))
        # Structures in one page of the memmap.
        self._together = max(1, PAGE_SIZE // self._layout.size)
        # What _told() read, by its first PFN. libkdumpfile searches the list of its cache slower after each hit.
        self._first_pages: dict[int, bytes] = {}
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
        deferred = []
        with suppress(AttributeError):  # CONFIG_DEFERRED_STRUCT_PAGE_INIT
            for _node, pgdat in nodes(self._prog):
                low = pgdat.node_start_pfn.value_()
                high = min(low + pgdat.node_spanned_pages.value_(), limits.PHYSICAL_END >> PAGE_SHIFT)
                # ULONG_MAX as soon as a kernel thread initialises the rest.
                low = min(max(pgdat.first_deferred_pfn.value_(), low), high)
                deferred.append(Range(low << PAGE_SHIFT, high << PAGE_SHIFT))
        deferred = rng.intersect(present, rng.merge(deferred))
        self._runs += _runs(deferred, "uninitialised")
        self._looked_at += self._runs
        return rng.subtract(present, deferred)

    def result(self, more: Iterable[PageRun]) -> Pages:
        if self._not_looked_at:
            self.notes.append(f"{self._not_looked_at} pages were not looked at: more than {limits.PAGES_SCANNED}")
        if self._lost:
            lost = _memory(self._lost)
            pages = rng.total(lost) // PAGE_SIZE
            self.notes.append(f"struct page of {pages} pages is not in this target, the first at {lost[0].start:#x}")
        # Free pages on zone->per_cpu_pageset are told apart: those were freed once.
        free = _memory(run for run in self._runs if run.state == "free")
        of_cpus: list[Range] = []
        if free:
            try:
                of_cpus = rng.intersect(free, rng.chunk_ranges(1, per_cpu_pages(self._prog, self._layout)))
            except UNREADABLE as error:
                self.notes.append(f"zone->per_cpu_pageset: {one_line(error)}")
        others = [run for run in self._runs if run.state != "free"]
        runs: list[PageRun] = []
        for run in sorted([*others, *_runs(rng.subtract(free, of_cpus), "free"), *_runs(of_cpus, "per-cpu"), *more]):
            _append(runs, run)
        return Pages(tuple(runs), tuple(_memory(self._looked_at)), "; ".join(self.notes) or None)

    def look(self, start: int, end: int) -> None:
        """Look at the first page of each unit from PFN ``start`` to ``end``, at the others where it tells nothing."""
        step = self._chunk_pages * _LOOK_CHUNKS
        for pfn in range(start - start % step, end, step):
            if self._is_full(pfn):
                return
            self._look(max(pfn, start), min(pfn + step, end))

    def _look(self, start: int, end: int) -> None:
        chunk, unit = self._chunk_pages, _UNIT_PAGES
        units = range(-(-start // unit) * unit, end - unit + 1, unit)
        self._first_pages.clear()
        told = self._told([pfn for pfn in units if pfn % chunk == 0])
        told |= self._told([pfn for pfn in units if pfn % chunk and pfn not in told])
        told &= {*units}
        pfn = start
        while pfn < end:
            upto = min(pfn - pfn % unit + unit, end)
            if pfn in told:
                while upto in told:
                    upto += unit
                _append(self._looked_at, PageRun(pfn, upto, ""))
                found = [PageRun(pfn, upto, "given")]
            else:
                before, self._runs = self._runs, []
                self.judge(pfn, upto)
                found, self._runs = self._runs, before
                states = {run.state for run in found}
                if states & {*GIVEN_STATES} and states <= {*GIVEN_STATES, "free"}:
                    # The other pages are of no interest where one of them proves the unit.
                    found = [PageRun(pfn, upto, "given")]
            for run in found:
                _append(self._runs, run)
            pfn = upto

    def _told(self, pfns: Sequence[int]) -> set[int]:
        """Those of the units with these first pages of which that page is in use or in a free list, and their chunks'.

        The structures beside it show whether this page of the memmap is damaged.
        """
        layout, told, size = self._layout, set[int](), self._layout.size
        lost, or_fault = bytes(size * self._together), suppress(FaultError)
        for pfn in pfns:
            with or_fault:
                self._first_pages[pfn] = self._prog.read(layout.address(pfn), len(lost))
        pages = [self._first_pages.get(pfn, lost) for pfn in pfns]
        are_sane = not pfns or self._may_be(pfns[0], pfns[-1] + self._together, b"".join(pages))
        columns, orders = self._columns(b"".join([page[:size] for page in pages]))
        states = map(self._states.state, *columns)
        for pfn, page, state, order in zip(pfns, pages, states, orders):
            block = 1 << min(order, 64) if state == "buddy" else 1
            if state not in ("buddy", "in-use") or block > self._chunk_pages or pfn % block:
                continue
            if block == self._chunk_pages:
                told.update(range(pfn, pfn + block, _UNIT_PAGES))
            elif are_sane or not any(self._damaged(pfn, column(array("Q", page), layout.flags, size))):
                told.add(pfn)
        return told

    def _columns(self, data: bytes) -> tuple[tuple[Sequence[int], ...], Sequence[int]]:
        """What tells the states of the structures in ``data``, by member, and their ``private``."""
        layout, size = self._layout, self._layout.size
        words, halves = array("Q", data), array("I", data)
        compounds = data[layout.compound :: size].translate(_COMPOUND)
        types, refcounts = (column(halves, at, size) for at in (layout.page_type, layout.refcount))
        return (column(words, layout.flags, size), compounds, types, refcounts), column(words, layout.private, size)

    def _is_full(self, pfn: int) -> bool:
        if len(self._runs) <= limits.PAGE_RUNS:
            return False
        self.notes.append(f"from {pfn << PAGE_SHIFT:#x} on: more than {limits.PAGE_RUNS} runs of pages")
        return True

    def judge(self, start: int, end: int) -> None:
        """Read and judge structures that exist, from PFN ``start`` to ``end``."""
        step = self._chunk_pages * _READ_CHUNKS
        upto = min(end, start + self._pages_left)
        self._pages_left -= upto - start
        self._not_looked_at += end - upto
        for pfn in range(start, upto, step):
            if self._is_full(pfn):
                return
            self._read(pfn, min(pfn + step, upto), (self._chunk_pages, self._together))

    def _read(self, start: int, end: int, smaller: tuple[int, ...]) -> None:
        """Read structures, in smaller and smaller parts where a part is not in the target."""
        size, chunk = self._layout.size, self._chunk_pages
        data = self._first_pages.get(start, b"")[: (end - start) * size]
        try:
            data += self._prog.read(self._layout.address(start) + len(data), (end - start) * size - len(data))
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
        size = self._layout.size
        end = start + len(data) // size
        columns, orders = self._columns(data)
        is_whole = end - start == self._chunk_pages == 1 << min(orders[0], 64)
        if is_whole and columns[2][0] & self._states.mask == self._states.buddy:
            _append(self._runs, PageRun(start, end, "buddy"))
            return
        if start in self._listed and start % self._chunk_pages == 0:
            self._unaccepted_end = end
        # In most chunks all pages but the first are alike.
        alike = all(each[1:-1] == each[2:] for each in columns)
        states = list(islice(map(self._states.state, *columns), 2 if alike else None))
        states += states[-1:] * (end - start - len(states))
        if not self._may_be(start, end, data[: 2 * size] if alike else data):
            for at in self._damaged(start, columns[0]):
                states[at] = "damaged"
        pfn = group_end = start
        for state, group in groupby(states):
            group_end += len(list(group))
            while pfn < group_end:
                run = self._run(pfn, group_end, state, orders[pfn - start])
                pfn = min(run.end_pfn, end)
                _append(self._runs, run._replace(end_pfn=pfn))

    def _over(self, start: int, end: int) -> list[tuple[Optional[int], int, int]]:
        """Node and zone, first PFN and end of the zones that have pages from PFN ``start`` to ``end``."""
        spans = ((zone.zone_id, zone.start_pfn, zone.start_pfn + zone.spanned_pages) for zone in self._zones)
        return [span for span in spans if span[1] < end and start < span[2]]

    def _may_be(self, start: int, end: int, data: bytes) -> bool:
        """Whether all pages from PFN ``start`` to ``end`` are in one zone, and these structures of theirs say so."""
        over, at, size, shift = self._over(start, end), self._layout.flags, self._layout.size, self._layout.zone_shift
        # Mostly the bytes with node and zone are all alike.
        low, *tops = (data[at + byte :: size] for byte in range(shift // 8, 8))
        alike = all(top == top[:1] * len(top) for top in (low.translate(self._of_zone), *tops))
        flags = {int.from_bytes(data[at : at + 8], "little")} - {0, POISON} if alike else set()
        flags = flags or {*column(array("Q", data), at, size)} - {0, POISON}
        ids = {flag >> shift for flag in flags}
        return not over or (len(over) == 1 and ids <= {over[0][0]} and over[0][1] <= start and end <= over[0][2])

    def _damaged(self, start: int, flags: Sequence[int]) -> Iterator[int]:
        """Places of structures in a page of the memmap with one whose node and zone cannot be those of its page."""
        shift, over = self._layout.zone_shift, self._over(start, start + len(flags))
        for at in range(0, len(flags), self._together):
            together = range(at, min(at + self._together, len(flags)))
            for place in together:
                pfn, flag = start + place, flags[place]
                here = [id_ for id_, low, high in over if low <= pfn < high]
                zone = flag >> shift & self._layout.zone_mask
                if flag not in (0, POISON) and here and flag >> shift not in here and zone != self._layout.zone_device:
                    yield from together
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


def _append(runs: list[PageRun], run: PageRun) -> None:
    """Append a run, joined to the last one if it continues that."""
    if runs and runs[-1].end_pfn == run.start_pfn and runs[-1].state == run.state:
        run = PageRun(runs.pop().start_pfn, run.end_pfn, run.state)
    runs.append(run)


def _runs(ranges: Iterable[Range], state: str) -> list[PageRun]:
    return [PageRun(start >> PAGE_SHIFT, end >> PAGE_SHIFT, state) for start, end in ranges]


def _memory(runs: Iterable[PageRun]) -> list[Range]:
    return rng.merge((run.start_pfn << PAGE_SHIFT, run.end_pfn << PAGE_SHIFT) for run in runs)
