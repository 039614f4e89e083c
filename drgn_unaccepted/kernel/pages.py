# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the pages of physical ranges are used for, from their ``struct page``.

The structures are read in bulk and judged a chunk (1 << MAX_PAGE_ORDER pages) at a time: almost all chunks that matter
here are wholly unaccepted or wholly free, which shows in a few comparisons of columns.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from itertools import chain, groupby
from typing import Optional

from drgn import FaultError, Program

from drgn_unaccepted import limits
from drgn_unaccepted.kernel.errors import Unavailable
from drgn_unaccepted.kernel.lists import column
from drgn_unaccepted.kernel.memmap import PageLayout, Sections, page_layout
from drgn_unaccepted.kernel.probe import enumerators
from drgn_unaccepted.kernel.vmcoreinfo import vmcoreinfo_of
from drgn_unaccepted.kernel.zones import nodes
from drgn_unaccepted.model.ranges import Range, are_aligned, chunk_ranges, intersect, merge, subtract, total
from drgn_unaccepted.snapshot import PAGE_SHIFT, PAGE_SIZE, KernelBuild, PageRun, Pages, Zone

# A struct page that page_init_poison() filled: CONFIG_DEBUG_VM, or memory that is offline.
_POISON = 0xFFFFFFFFFFFFFFFF
# Structures read at once.
_BLOCK_CHUNKS = 16


def read_pages(prog: Program, ranges: Iterable[Range], build: KernelBuild, zones: Sequence[Zone] = ()) -> Pages:
    """The states of all pages in these physical ranges, widened to whole chunks.

    A block in a free list shows only in the structure of its first page, which lies in the same chunk.

    :param zones: for their listed chunks, which carry no mark of their own before PGTY_unaccepted (v6.12), and whose
        other pages are not looked at where there are more than :data:`limits.PAGES_SCANNED` pages
    :raises Unavailable: the kernel does not say where its structures are
    :raises drgn.FaultError: what says so is not in the target
    """
    chunk = build.chunk_pages * PAGE_SIZE
    wanted = merge(
        (start // chunk * chunk, min(-(-end // chunk) * chunk, limits.PHYSICAL_END)) for start, end in ranges
    )
    listed = sorted(chain.from_iterable(zone.listed.pfns for zone in zones if zone.listed is not None))
    scan = _Scan(prog, build, listed)
    present = scan.present(wanted)
    beyond = []
    if total(present) > limits.PAGES_SCANNED * PAGE_SIZE:
        # What is no whole chunk in its place is looked at.
        whole = listed
        if not are_aligned(array("Q", listed), build.chunk_pages):
            whole = [pfn for pfn in listed if not pfn % build.chunk_pages]
        beyond = intersect(chunk_ranges(whole, build.chunk_pages), present)
        present = subtract(present, beyond)
        scan.notes.append(
            f"of {total(beyond) // chunk} chunks on zone->unaccepted_pages only the first page was looked at: "
            f"there are more than {limits.PAGES_SCANNED} pages"
        )
        rest = total(present) - limits.PAGES_SCANNED * PAGE_SIZE
        if rest > 0:
            scan.notes.append(f"{rest // PAGE_SIZE} pages were not looked at: more than {limits.PAGES_SCANNED}")
            present = _first_bytes(present, limits.PAGES_SCANNED * PAGE_SIZE)
    for start, end in present:
        scan.judge(start >> PAGE_SHIFT, end >> PAGE_SHIFT)
    return scan.result([PageRun(start >> PAGE_SHIFT, end >> PAGE_SHIFT, "unaccepted") for start, end in beyond])


def masked_pages(prog: Program, pfns: Iterable[int]) -> tuple[int, ...]:
    """Those of these pages that read as zeros, up to :data:`limits.MASKED_PAGES` of them looked at.

    ``/proc/kcore`` and ``/proc/vmcore`` return zeros for the last page before an unaccepted unit, whatever is in it:
    ``pfn_is_unaccepted_memory()`` looks at the guard unit too (Linux kernel commits e538a5820978 and 7cd34dd3c9bf
    (in v6.7)). A page that is not in the target is not among them.
    """
    zeros = bytes(PAGE_SIZE)
    masked = []
    for count, pfn in enumerate(pfns):
        if count == limits.MASKED_PAGES:
            break
        try:
            if prog.read(pfn << PAGE_SHIFT, PAGE_SIZE, physical=True) == zeros:
                masked.append(pfn)
        except FaultError:
            continue
    return tuple(masked)


def _first_bytes(ranges: Sequence[Range], size: int) -> list[Range]:
    first = []
    for start, end in ranges:
        if size <= 0:
            break
        first.append(Range(start, min(end, start + size)))
        size -= end - start
    return first


class _PageTypes:
    """``page_type``, which tells what a page is when it is not mapped.

    From v6.12 on it is a number in the highest byte (Linux kernel commit 4ffca5a96678 ("mm: support only one page_type
    per page")). Before, each type cleared bits of its own; VMCOREINFO exports the values of the free and offline ones.
    """

    def __init__(self, prog: Program) -> None:
        types = enumerators(prog, "pagetype")
        self.has_numbers = "PGTY_buddy" in types
        self.unaccepted: Optional[int] = None
        self.guard: Optional[int] = None
        if self.has_numbers:
            self.buddy = types["PGTY_buddy"] << 24
            self.offline = types["PGTY_offline"] << 24
            self.guard = types["PGTY_guard"] << 24
            if "PGTY_unaccepted" in types:
                self.unaccepted = types["PGTY_unaccepted"] << 24
            self.mask = 0xFF << 24
        else:
            vmcoreinfo = vmcoreinfo_of(prog)
            buddy = vmcoreinfo.number("PAGE_BUDDY_MAPCOUNT_VALUE")
            offline = vmcoreinfo.number("PAGE_OFFLINE_MAPCOUNT_VALUE")
            if buddy is None or offline is None:
                raise Unavailable("neither PGTY_buddy nor PAGE_BUDDY_MAPCOUNT_VALUE: free pages cannot be told")
            self.mask = 0xFFFFFFFF
            self.buddy, self.offline = buddy & self.mask, offline & self.mask

    def is_other(self, page_type: int) -> bool:
        """Whether it is some other type: a slab, a page table, ..."""
        # PGTY_mapcount_underflow
        return self.has_numbers and 0x80 << 24 <= page_type < 0xFF << 24


class _Scan:
    """Judges structures in ascending order and keeps the runs."""

    def __init__(self, prog: Program, build: KernelBuild, listed: Sequence[int]) -> None:
        self._prog = prog
        self._layout: PageLayout = page_layout(prog)
        self._types = _PageTypes(prog)
        self._states = _States(self._layout, self._types)
        self._sections = Sections(prog, self._layout)
        self._chunk_pages = build.chunk_pages
        self._max_order = build.chunk_pages.bit_length() - 1
        # Before PGTY_unaccepted a listed chunk can be told by nothing but the list.
        self._listed = frozenset(listed) if self._types.unaccepted is None else frozenset()
        self._deferred = _deferred(prog)
        chunk_bytes = build.chunk_pages * self._layout.size
        self._all_zeros, self._all_ones = bytes(chunk_bytes), b"\xff" * chunk_bytes
        # Where the free block ends whose first page was seen last, and the unaccepted chunk.
        self._block_end, self._block_state = 0, ""
        self._unaccepted_end = 0
        self._runs: list[PageRun] = []
        self._looked_at: list[Range] = []
        # Physical ranges of pages whose structures exist and are not in the target.
        self._lost: list[Range] = []
        #: Why less than all was looked at.
        self.notes: list[str] = []

    def present(self, wanted: Sequence[Range]) -> list[Range]:
        """The pages that have an initialised ``struct page``; those that have none are judged here."""
        present = []
        other: list[PageRun] = []
        for start, end in wanted:
            try:
                for piece in self._sections.valid(start >> PAGE_SHIFT, end >> PAGE_SHIFT):
                    if piece.valid:
                        present.append(Range(piece.start << PAGE_SHIFT, piece.end << PAGE_SHIFT))
                    else:
                        other.append(PageRun(piece.start, piece.end, "absent"))
            except Unavailable as error:
                self.notes.append(f"{start:#x}-{end:#x}: {error}")
        deferred = intersect(present, self._deferred)
        other += [PageRun(start >> PAGE_SHIFT, end >> PAGE_SHIFT, "uninitialised") for start, end in deferred]
        self._runs += other
        self._looked_at += [Range(run.start_pfn << PAGE_SHIFT, run.end_pfn << PAGE_SHIFT) for run in other]
        return subtract(present, deferred)

    def result(self, more: Iterable[PageRun]) -> Pages:
        """All runs, sorted and joined, and what was looked at."""
        if self._lost:
            lost = merge(self._lost)
            pages = total(lost) // PAGE_SIZE
            self.notes.append(f"struct page of {pages} pages is not in this target, the first at {lost[0].start:#x}")
        runs: list[PageRun] = []
        for run in sorted([*self._runs, *more]):
            if runs and runs[-1].end_pfn == run.start_pfn and runs[-1].state == run.state:
                run = PageRun(runs.pop().start_pfn, run.end_pfn, run.state)
            runs.append(run)
        return Pages(tuple(runs), tuple(merge(self._looked_at)), "; ".join(self.notes) or None)

    def judge(self, start: int, end: int) -> None:
        """Read and judge structures that exist, from PFN ``start`` to ``end``."""
        step = self._chunk_pages * _BLOCK_CHUNKS
        page = max(1, PAGE_SIZE // self._layout.size)
        for pfn in range(start, end, step):
            if len(self._runs) > limits.PAGE_RUNS:
                self.notes.append(f"from {pfn << PAGE_SHIFT:#x} on: more than {limits.PAGE_RUNS} runs of pages")
                return
            self._read(pfn, min(pfn + step, end), (self._chunk_pages, page))

    def _read(self, start: int, end: int, smaller: tuple[int, ...]) -> None:
        """Read structures, in smaller and smaller parts where a part is not in the target."""
        size = self._layout.size
        try:
            data = self._prog.read(self._layout.address(start), (end - start) * size)
        except FaultError:
            if not smaller:
                self._lost.append(Range(start << PAGE_SHIFT, end << PAGE_SHIFT))
                return
            for pfn in range(start, end, smaller[0]):
                self._read(pfn, min(pfn + smaller[0], end), smaller[1:])
            return
        self._looked_at.append(Range(start << PAGE_SHIFT, end << PAGE_SHIFT))
        # Up to the next boundary between chunks, then whole chunks.
        pfn = start
        while pfn < end:
            upto = min(end, pfn - pfn % self._chunk_pages + self._chunk_pages)
            self._judge_chunk(pfn, data[(pfn - start) * size : (upto - start) * size])
            pfn = upto

    def _emit(self, start: int, end: int, state: str) -> None:
        if start == end:
            return
        if self._runs:
            last = self._runs[-1]
            if last.end_pfn == start and last.state == state:
                self._runs[-1] = PageRun(last.start_pfn, end, state)
                return
        self._runs.append(PageRun(start, end, state))

    def _judge_chunk(self, pfn: int, data: bytes) -> None:
        """Judge the structures of one chunk, or of a part of one, from ``pfn`` on."""
        if len(data) == len(self._all_zeros):
            state = self._whole(pfn, data)
            if state is not None:
                self._emit(pfn, pfn + self._chunk_pages, state)
                return
        self._one_by_one(pfn, data)

    def _whole(self, pfn: int, data: bytes) -> Optional[str]:
        """The state of a chunk whose pages are all alike, or None."""
        if data in (self._all_zeros, self._all_ones):
            return "uninitialised"
        layout, types = self._layout, self._types
        page_type = int.from_bytes(data[layout.page_type : layout.page_type + 4], "little")
        if page_type & types.mask == types.buddy:
            order = int.from_bytes(data[layout.private : layout.private + 8], "little")
            return "buddy" if order == self._max_order else None
        if not self._is_unaccepted(pfn, page_type):
            return None
        size, pages = layout.size, self._chunk_pages
        page_types = column(array("I", data), layout.page_type, size)
        refcounts = column(array("I", data), layout.refcount, size)
        if page_types[1:].tobytes() != self._all_ones[: 4 * (pages - 1)]:
            return None
        if refcounts.tobytes() != self._all_zeros[: 4 * pages]:
            return None
        reserved_byte, reserved_bit = divmod(layout.reserved_flag.bit_length() - 1, 8)
        if any(value >> reserved_bit & 1 for value in set(data[layout.flags + reserved_byte :: size])):
            return None
        if any(value & 1 for value in set(data[layout.compound :: size])):
            return None
        return "unaccepted"

    def _is_unaccepted(self, pfn: int, page_type: int) -> bool:
        if pfn % self._chunk_pages:
            return False
        if self._types.unaccepted is None:
            return pfn in self._listed
        return page_type & self._types.mask == self._types.unaccepted

    def _one_by_one(self, start: int, data: bytes) -> None:
        layout, size = self._layout, self._layout.size
        states = map(
            self._states.__getitem__,
            zip(
                column(array("Q", data), layout.flags, size),
                data[layout.compound :: size],
                column(array("I", data), layout.page_type, size),
                column(array("I", data), layout.refcount, size),
            ),
        )
        end = start + len(data) // size
        if start in self._listed and start % self._chunk_pages == 0:
            self._unaccepted_end = end
        pfn = group_end = start
        for state, group in groupby(states):
            group_end += len(list(group))
            while pfn < group_end:
                if pfn < self._block_end:
                    upto = min(self._block_end, end)
                    self._emit(pfn, upto, self._block_state)
                elif state in ("buddy", "guard"):
                    upto = pfn
                    order = int.from_bytes(data[(pfn - start) * size + layout.private :][:8], "little")
                    if order <= self._max_order and pfn % (1 << order) == 0:
                        self._block_end = pfn + (1 << order)
                        self._block_state = "buddy" if state == "buddy" else "free"
                    else:
                        # On its way into or out of a free list.
                        upto += 1
                        self._emit(pfn, upto, "free")
                elif state == "unaccepted":
                    upto = pfn + 1
                    self._unaccepted_end = pfn + self._chunk_pages
                    self._emit(pfn, upto, "unaccepted")
                elif state == "free" and pfn < self._unaccepted_end:
                    upto = min(self._unaccepted_end, group_end)
                    self._emit(pfn, upto, "unaccepted")
                else:
                    upto = group_end
                    self._emit(pfn, upto, state)
                pfn = upto


class _States(dict[tuple[int, int, int, int], str]):
    """The state that a page's own structure shows, by flags, low byte of the compound word, page_type and _refcount.

    ``guard`` is a free block of debug_guardpage_minorder. Pages have few combinations of these, so that almost every
    page is one look-up.
    """

    def __init__(self, layout: PageLayout, types: _PageTypes) -> None:
        super().__init__()
        self._layout = layout
        self._types = types

    def __missing__(self, key: tuple[int, int, int, int]) -> str:
        if len(self) >= limits.PAGE_STATES:
            self.clear()
        state = self[key] = self._state(*key)
        return state

    def _state(self, flags: int, compound: int, page_type: int, refcount: int) -> str:
        layout, types = self._layout, self._types
        if flags == _POISON:
            return "uninitialised"
        if flags & layout.reserved_flag:
            return "reserved"
        if layout.zone_device is not None and flags >> layout.zone_shift & layout.zone_mask == layout.zone_device:
            return "device"
        if compound & 1:
            return "in-use"
        kind = page_type & types.mask
        if kind == types.buddy:
            return "buddy"
        if kind == types.offline:
            return "offline"
        if kind == types.unaccepted:
            return "unaccepted"
        if kind == types.guard:
            return "guard"
        if types.is_other(page_type):
            # Slabs and others are allocated without a reference in v6.15 and later ("frozen").
            return "in-use"
        if page_type == flags == compound == refcount == 0:
            # An initialised page that nobody has is mapped -1 times, not 0.
            return "uninitialised"
        return "in-use" if refcount else "free"


def _deferred(prog: Program) -> list[Range]:
    """Memory whose structures CONFIG_DEFERRED_STRUCT_PAGE_INIT has not initialised yet.

    ``first_deferred_pfn`` is ULONG_MAX from the moment on when a kernel thread starts to initialise the rest.
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
