# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the pages of physical ranges are used for, from their ``struct page``.

The structures are read in bulk and judged a chunk (1 << MAX_PAGE_ORDER pages) at a time: almost all chunks that matter
here are wholly unaccepted or wholly free, which shows in a few comparisons of columns.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Optional

from drgn import FaultError, Program

from drgn_unaccepted import limits
from drgn_unaccepted.kernel.errors import Unavailable
from drgn_unaccepted.kernel.memmap import PageLayout, Sections, page_layout
from drgn_unaccepted.kernel.probe import enumerators, vmcoreinfo_number
from drgn_unaccepted.kernel.zones import nodes
from drgn_unaccepted.model.ranges import Range, intersect, merge, subtract, total
from drgn_unaccepted.snapshot import PAGE_SHIFT, PAGE_SIZE, KernelBuild, PageRun, Pages, Zone

# page_type of a page without a type that is mapped nowhere: _mapcount is -1.
_NO_TYPE = 0xFFFFFFFF
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
    listed = sorted(pfn for zone in zones if zone.listed is not None for pfn in zone.listed.pfns)
    scan = _Scan(prog, build, listed)
    notes = []
    beyond = []
    if total(wanted) > limits.PAGES_SCANNED * PAGE_SIZE:
        beyond = intersect(_chunk_ranges(listed, build.chunk_pages), wanted)
        wanted = subtract(wanted, beyond)
        notes.append(
            f"of {total(beyond) // chunk} chunks on zone->unaccepted_pages only the first page was looked at: "
            f"there are more than {limits.PAGES_SCANNED} pages"
        )
        rest = total(wanted) - limits.PAGES_SCANNED * PAGE_SIZE
        if rest > 0:
            notes.append(f"{rest // PAGE_SIZE} pages were not looked at: more than {limits.PAGES_SCANNED}")
            wanted = _first_bytes(wanted, limits.PAGES_SCANNED * PAGE_SIZE)
    for start, end in wanted:
        if not scan.range(start >> PAGE_SHIFT, end >> PAGE_SHIFT):
            notes.append(f"more than {limits.PAGE_RUNS} runs of pages, up to {end:#x}")
            break
    if scan.lost:
        lost = merge(scan.lost)
        notes.append(
            f"struct pages of {total(lost) // PAGE_SIZE} pages are not in this target, the first at {lost[0].start:#x}"
        )
    runs = scan.runs
    if beyond:
        runs += [PageRun(start >> PAGE_SHIFT, end >> PAGE_SHIFT, "unaccepted") for start, end in beyond]
        runs.sort()
    return Pages(tuple(runs), tuple(merge(scan.scanned)), "; ".join(notes) or None)


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


def _chunk_ranges(pfns: Sequence[int], chunk_pages: int) -> list[Range]:
    """Sorted PFNs of chunks as merged physical ranges; what is no whole chunk in its place is left out."""
    ranges: list[Range] = []
    start = end = -1
    for pfn in pfns:
        if pfn % chunk_pages:
            continue
        if pfn != end:
            if end > start:
                ranges.append(Range(start << PAGE_SHIFT, end << PAGE_SHIFT))
            start = pfn
        end = pfn + chunk_pages
    if end > start:
        ranges.append(Range(start << PAGE_SHIFT, end << PAGE_SHIFT))
    return ranges


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
            buddy = vmcoreinfo_number(prog, "NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)")
            offline = vmcoreinfo_number(prog, "NUMBER(PAGE_OFFLINE_MAPCOUNT_VALUE)")
            if buddy is None or offline is None:
                raise Unavailable("neither PGTY_buddy nor PAGE_BUDDY_MAPCOUNT_VALUE: free pages cannot be told")
            self.mask = 0xFFFFFFFF
            self.buddy, self.offline = buddy & self.mask, offline & self.mask

    def is_type(self, page_type: int) -> bool:
        """Whether it is a type of which we only know that it is one: a slab, a page table, ..."""
        # PGTY_mapcount_underflow
        return self.has_numbers and 0x80 << 24 <= page_type < 0xFF << 24


class _Scan:
    """Judges structures in ascending order and keeps the runs."""

    def __init__(self, prog: Program, build: KernelBuild, listed: Sequence[int]) -> None:
        self._prog = prog
        self._layout: PageLayout = page_layout(prog)
        self._types = _PageTypes(prog)
        self._sections = Sections(prog)
        self._chunk_pages = build.chunk_pages
        self._max_order = build.chunk_pages.bit_length() - 1
        # Before PGTY_unaccepted a listed chunk can be told by nothing but the list.
        self._listed = frozenset(listed) if self._types.unaccepted is None else frozenset()
        self._deferred = list(_deferred(prog))
        chunk_bytes = build.chunk_pages * self._layout.size
        self._all_zeros, self._all_ones = bytes(chunk_bytes), b"\xff" * chunk_bytes
        # The block whose first page was seen last: a free block, or an unaccepted chunk.
        self._block_end, self._block_state = 0, ""
        self.runs: list[PageRun] = []
        self.scanned: list[Range] = []
        #: Physical ranges of pages whose structures exist and are not in the target.
        self.lost: list[Range] = []

    def range(self, start: int, end: int) -> bool:
        """Judge the pages from PFN ``start`` to ``end``; False when there are too many runs."""
        try:
            for piece_start, piece_end, valid in self._pieces(start, end):
                if valid:
                    self._blocks(piece_start, piece_end)
                else:
                    self._emit(piece_start, piece_end, "absent")
                    self._looked_at(piece_start, piece_end)
                if len(self.runs) > limits.PAGE_RUNS:
                    return False
        except FaultError:
            # struct mem_section, which says whether there are structures at all.
            self.lost.append(Range(start << PAGE_SHIFT, end << PAGE_SHIFT))
        return True

    def _pieces(self, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
        """Runs with and without structures, without those that deferred initialisation has not reached."""
        for piece_start, piece_end, valid in self._sections.valid(start, end):
            if not valid:
                yield piece_start, piece_end, False
                continue
            for deferred_start, deferred_end in self._deferred:
                first, last = max(piece_start, deferred_start), min(piece_end, deferred_end)
                if first < last:
                    yield piece_start, first, True
                    self._emit(first, last, "uninitialised")
                    self._looked_at(first, last)
                    piece_start = last
            yield piece_start, piece_end, True

    def _blocks(self, start: int, end: int) -> None:
        """Read and judge structures that exist."""
        step = self._chunk_pages * _BLOCK_CHUNKS
        for pfn in range(start, end, step):
            self._read(pfn, min(pfn + step, end), (self._chunk_pages, PAGE_SIZE // self._layout.size or 1))

    def _read(self, start: int, end: int, smaller: tuple[int, ...]) -> None:
        """Read structures, in smaller and smaller parts where a part is not in the target."""
        size = self._layout.size
        try:
            data = self._prog.read(self._layout.address(start), (end - start) * size)
        except FaultError:
            if not smaller:
                self.lost.append(Range(start << PAGE_SHIFT, end << PAGE_SHIFT))
                return
            for pfn in range(start, end, smaller[0]):
                self._read(pfn, min(pfn + smaller[0], end), smaller[1:])
            return
        self._looked_at(start, end)
        # Up to the next boundary between chunks, then whole chunks.
        pfn = start
        while pfn < end:
            upto = min(end, pfn - pfn % self._chunk_pages + self._chunk_pages)
            self._judge(pfn, data[(pfn - start) * size : (upto - start) * size])
            pfn = upto

    def _looked_at(self, start: int, end: int) -> None:
        if self.scanned and self.scanned[-1].end == start << PAGE_SHIFT:
            start = self.scanned.pop().start >> PAGE_SHIFT
        self.scanned.append(Range(start << PAGE_SHIFT, end << PAGE_SHIFT))

    def _emit(self, start: int, end: int, state: str) -> None:
        if start == end:
            return
        if self.runs:
            last = self.runs[-1]
            if last.end_pfn == start and last.state == state:
                self.runs[-1] = PageRun(last.start_pfn, end, state)
                return
        self.runs.append(PageRun(start, end, state))

    def _judge(self, pfn: int, data: bytes) -> None:
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
        page_types = _column("I", data, layout.page_type, size)
        refcounts = _column("I", data, layout.refcount, size)
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
        flags = _column("Q", data, layout.flags, size)
        compounds = _column("Q", data, layout.compound, size)
        page_types = _column("I", data, layout.page_type, size)
        refcounts = _column("I", data, layout.refcount, size)
        privates = _column("Q", data, layout.private, size)
        count = len(flags)
        index = 0
        while index < count:
            pfn = start + index
            if pfn < self._block_end and self._block_state != "unaccepted":
                end = min(self._block_end - start, count)
                self._emit(pfn, start + end, self._block_state)
                index = end
                continue
            page_type = page_types[index]
            state = self._state(flags[index], compounds[index], page_type, refcounts[index])
            if state in ("buddy", "guard"):
                order = privates[index]
                if order <= self._max_order and pfn % (1 << order) == 0:
                    self._block_end = pfn + (1 << order)
                    self._block_state = "buddy" if state == "buddy" else "free"
                    continue
                # On its way into or out of a free list.
                state = "free"
            elif state == "unaccepted" or (state == "free" and self._is_unaccepted(pfn, page_type)):
                self._block_end, self._block_state = pfn + self._chunk_pages, "unaccepted"
                state = "unaccepted"
            elif state == "free" and pfn < self._block_end:
                state = self._block_state
            self._emit(pfn, pfn + 1, state)
            index += 1

    def _state(self, flags: int, compound: int, page_type: int, refcount: int) -> str:
        """The state of one page by its own structure; ``guard`` is a free block of debug_guardpage_minorder."""
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
        if page_type != _NO_TYPE:
            if kind == types.buddy:
                return "buddy"
            if kind == types.offline:
                return "offline"
            if types.unaccepted is not None and kind == types.unaccepted:
                return "unaccepted"
            if types.guard is not None and kind == types.guard:
                return "guard"
            if types.is_type(page_type):
                # Slabs and others are allocated without a reference from v6.15 on ("frozen").
                return "in-use"
            if not page_type and not refcount and not flags and not compound:
                # An initialised page that nobody has is mapped -1 times, not 0.
                return "uninitialised"
        return "in-use" if refcount else "free"


def _column(code: str, data: bytes, offset: int, size: int) -> array[int]:
    """One member of each structure in ``data``."""
    words = array(code, data)
    column = words[offset // words.itemsize :: size // words.itemsize]
    if sys.byteorder == "big":
        column.byteswap()
    return column


def _deferred(prog: Program) -> Iterator[tuple[int, int]]:
    """PFNs whose structures CONFIG_DEFERRED_STRUCT_PAGE_INIT has not initialised yet.

    ``first_deferred_pfn`` is ULONG_MAX from the moment on when a kernel thread starts to initialise the rest.
    """
    for _node, pgdat in nodes(prog):
        try:
            first = pgdat.first_deferred_pfn.value_()
        except AttributeError:
            return
        start = pgdat.node_start_pfn.value_()
        end = start + pgdat.node_spanned_pages.value_()
        if first < end:
            yield max(first, start), end
