# SPDX-License-Identifier: LGPL-2.1-or-later
"""``struct page``: where it is, how it is laid out, what it shows, and which pages have one.

x86-64 has SPARSEMEM_VMEMMAP: the structures of all pages form one virtual array, ``vmemmap``, which is mapped only for
memory sections that exist.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from itertools import takewhile
from typing import NamedTuple, Optional

from drgn import FaultError, Program, sizeof

from drgn_unaccepted import limits
from drgn_unaccepted.kernel.probe import U64_MAX, Entries, ListWalk, column, enumerators, member_offset
from drgn_unaccepted.snapshot import PAGE_SHIFT, PAGE_SIZE, ListedChunks
from drgn_unaccepted.targets.errors import UNREADABLE, Unavailable
from drgn_unaccepted.targets.vmcoreinfo import vmcoreinfo_of

# Flags of struct mem_section.section_mem_map, include/linux/mmzone.h
_SECTION_HAS_MEM_MAP = 1 << 1
_SECTION_IS_EARLY = 1 << 3
# Virtual addresses of the kernel begin here with page tables of four levels, and below with five.
_KERNEL_START_4_LEVELS = 0xFFFF800000000000
# A struct page that page_init_poison() filled: CONFIG_DEBUG_VM, or memory that is offline.
POISON = U64_MAX
_SUBSECTION_PAGES = 1 << (21 - PAGE_SHIFT)  # SUBSECTION_SHIFT


class PageLayout(NamedTuple):
    """``struct page`` as this kernel was built: offsets in bytes."""

    base: int  #: ``vmemmap``: address of the structure of PFN 0.
    size: int  #: ``sizeof(struct page)``.
    flags: int
    lru: int
    #: ``compound_head``, ``compound_info`` from v7.1 on: bit 0 is set in tail pages, whatever the rest means.
    compound: int
    page_type: int
    refcount: int
    private: int
    reserved_flag: int  #: ``1 << PG_reserved``.
    zone_shift: int  #: ZONES_PGSHIFT, and the mask of a zone's number above it.
    zone_mask: int
    zone_device: Optional[int]  #: ``ZONE_DEVICE``; None without CONFIG_ZONE_DEVICE.

    def address(self, pfn: int) -> int:
        return self.base + pfn * self.size & U64_MAX


def page_layout(prog: Program) -> PageLayout:
    """How this kernel lays out ``struct page``. Unavailable: not SPARSEMEM_VMEMMAP, or a structure that cannot be."""
    size = sizeof(prog.type("struct page"))
    if size % 8 or not 56 <= size <= limits.PAGE_STRUCT_BYTES:
        raise Unavailable(f"struct page has {size} bytes: not supported")
    reserved = enumerators(prog, "pageflags")["PG_reserved"]
    if not 0 <= reserved < 64:
        raise Unavailable(f"PG_reserved is {reserved}: no bit of struct page.flags")
    zones = enumerators(prog, "zone_type")
    # ZONES_SHIFT, and NODES_SHIFT by the length of node_data[MAX_NUMNODES], which there is with CONFIG_NUMA.
    zone_bits = _bits(zones["__MAX_NR_ZONES"], limits.ZONES, "__MAX_NR_ZONES is {}: at most {} are possible")
    nodes = vmcoreinfo_of(prog).length("node_data")
    if nodes is None:
        nodes = 1
        with suppress(LookupError):
            nodes = len(prog["node_data"])
    node_bits = _bits(nodes, limits.NODES, "node_data has {} elements: at most {} are possible")
    # Without CONFIG_DYNAMIC_MEMORY_LAYOUT it is a constant of the preprocessor.
    base = vmcoreinfo_of(prog).symbol("vmemmap")
    with suppress(LookupError):
        base = int(prog["vmemmap_base"].value_())
    if base is None:
        raise Unavailable("neither vmemmap_base nor SYMBOL(vmemmap): not SPARSEMEM_VMEMMAP")
    layout = PageLayout(
        base=base,
        size=size,
        # memdesc_flags_t since Linux kernel commit 53fbef56e07d ("mm: introduce memdesc_flags_t") (in v6.18)
        flags=member_offset(prog, "struct page", "flags", size=8),
        lru=member_offset(prog, "struct page", "lru", size=16),
        # Linux kernel commit d50569612c29 ("mm: rename the 'compound_head' field in the 'struct page' to
        # 'compound_info'") (in v7.1)
        compound=member_offset(prog, "struct page", "compound_info", "compound_head", size=8),
        page_type=member_offset(prog, "struct page", "page_type", size=4),
        refcount=member_offset(prog, "struct page", "_refcount", size=4),
        private=member_offset(prog, "struct page", "private", size=8),
        reserved_flag=1 << reserved,
        zone_shift=64 - node_bits - zone_bits,
        zone_mask=(1 << zone_bits) - 1,
        zone_device=zones.get("ZONE_DEVICE"),
    )
    words = layout.flags | layout.lru | layout.compound | layout.private
    if words % 8 or (layout.page_type | layout.refcount) % 4:
        raise Unavailable("struct page has members that are not aligned: not supported")
    return layout


def checked_page_layout(prog: Program) -> PageLayout:
    """The same, for whoever makes PFNs of pointers to ``struct page``, or reads those of PFNs.

    :raises Unavailable: also where ``vmemmap`` is at another address than the memory sections say
    """
    layout, maps = page_layout(prog), set[int]()
    with suppress(*UNREADABLE):
        maps = Sections(prog, layout).maps()
    if maps and layout.base not in maps:
        raise Unavailable(f"vmemmap_base is {layout.base:#x}, and mem_section has the memory map at {min(maps):#x}")
    return layout


def _bits(count: int, most: int, problem: str) -> int:
    """Bits that tell so many apart."""
    if not 0 < count <= most:
        raise Unavailable(problem.format(count, most))
    return (count - 1).bit_length()


class PageStates:
    """The states that pages' own structures show.

    ``page_type`` tells what a page is while it is not mapped. From v6.12 on it is a number in the highest byte (Linux
    kernel commit 4ffca5a96678 ("mm: support only one page_type per page")). Before, each type cleared bits of its own;
    VMCOREINFO exports the values of the free and offline ones. For a kernel that died before it wrote VMCOREINFO they
    are those of include/linux/page-flags.h, whose last kernels before v6.12 have an enumeration of these bits ("mm:
    convert page type macros to enum").
    """

    def __init__(self, prog: Program, layout: PageLayout) -> None:
        self._layout = layout
        #: Pages have few combinations of what tells their states.
        self.state = lru_cache(limits.PAGE_STATES)(self._state)
        types, vmcoreinfo = enumerators(prog, "pagetype"), vmcoreinfo_of(prog)
        self._guard: Optional[int] = None
        self.unaccepted: Optional[int] = None
        self._others = range(0)  #: Of some other type: a slab, a page table, ... Up to PGTY_mapcount_underflow.
        if "PGTY_buddy" in types:
            self.mask, self._others = 0xFF << 24, range(0x80 << 24, 0xFF << 24)
            kinds = (types[f"PGTY_{name}"] << 24 for name in ("buddy", "offline", "guard"))
            self.buddy, self._offline, self._guard = kinds
            if "PGTY_unaccepted" in types:
                self.unaccepted = types["PGTY_unaccepted"] << 24
            return
        self.mask, found = 0xFFFFFFFF, []
        for name, bit in (("buddy", 0x80), ("offline", 0x100)):
            value = vmcoreinfo.number(f"PAGE_{name.upper()}_MAPCOUNT_VALUE")
            found.append((~types.get(f"PG_{name}", bit) if value is None else value) & self.mask)
        self.buddy, self._offline = found

    def _state(self, flags: int, compound: int, page_type: int, refcount: int) -> str:
        """``guard`` is a free block of debug_guardpage_minorder; ``compound`` is 0, 1 for a tail page, or 2."""
        layout = self._layout
        if flags == POISON:
            return "uninitialised"
        if flags & layout.reserved_flag:
            return "reserved"
        if layout.zone_device is not None and flags >> layout.zone_shift & layout.zone_mask == layout.zone_device:
            return "device"
        if compound == 1:
            return "in-use"
        kind = page_type & self.mask
        if kind == self.buddy:
            return "buddy"
        if kind == self._offline:
            return "offline"
        if kind == self.unaccepted:
            return "unaccepted"
        if kind == self._guard:
            return "guard"
        if page_type in self._others:
            # Slabs and others are allocated without a reference in v6.15 and later ("frozen").
            return "in-use"
        if page_type == flags == compound == refcount == 0:
            # An initialised page that nobody has is mapped -1 times, not 0.
            return "uninitialised"
        return "in-use" if refcount else "free"


# By the low byte of section_mem_map: 1 where the section has a memory map, and had it at boot.
_EARLY = _SECTION_HAS_MEM_MAP | _SECTION_IS_EARLY
_IS_EARLY = bytes(flags & _EARLY == _EARLY for flags in range(256))


class Sections:
    """Which pages have a ``struct page``: ``pfn_valid()`` for ranges, with what was read kept."""

    def __init__(self, prog: Program, layout: PageLayout) -> None:
        self._prog = prog
        # struct mem_section **mem_section: SPARSEMEM_EXTREME, as on all of x86-64.
        self._table = prog["mem_section"].value_()
        self._section_size = sizeof(prog.type("struct mem_section"))
        if not 16 <= self._section_size <= PAGE_SIZE:
            raise Unavailable(f"struct mem_section has {self._section_size} bytes: not supported")
        self._map = member_offset(prog, "struct mem_section", "section_mem_map", size=8)
        self._usage = member_offset(prog, "struct mem_section", "usage", size=8)
        # DECLARE_BITMAP(subsection_map, SUBSECTIONS_PER_SECTION)
        subsections = prog.type("struct mem_section_usage").member("subsection_map")
        self._subsection_map = subsections.offset
        self.section_pages = sizeof(subsections.type) * 8 * _SUBSECTION_PAGES
        if not 0 < self.section_pages <= limits.SECTION_PAGES:
            raise Unavailable(f"memory sections of {self.section_pages} pages: at most {limits.SECTION_PAGES}")
        # MAX_PHYSMEM_BITS; vmemmap lies lower with page tables of five levels.
        self._end = 1 << ((46 if layout.base >= _KERNEL_START_4_LEVELS else 52) - PAGE_SHIFT)
        self._roots: dict[int, Optional[bytes]] = {}
        self._looked_up = 0

    def valid(self, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
        """Divide PFNs ``start`` to ``end`` (exclusive) into pieces with and without a ``struct page``.

        :return: start, end (exclusive) and ``pfn_valid()`` of each piece
        :raises Unavailable: a section's description is not in the target, or there are too many sections
        """
        run_start, run_valid = start, False
        pfn = start
        while pfn < end:
            self._looked_up += 1
            if self._looked_up > limits.SECTIONS:
                raise Unavailable(f"more than {limits.SECTIONS} memory sections, from {pfn << PAGE_SHIFT:#x} on")
            try:
                next_pfn, valid = self._piece(pfn)
            except FaultError:
                raise Unavailable(f"struct mem_section of {pfn << PAGE_SHIFT:#x} is not in this target") from None
            if valid != run_valid and pfn > run_start:
                yield run_start, pfn, run_valid
                run_start = pfn
            run_valid = valid
            pfn = min(next_pfn, end)
        if run_start < end:
            yield run_start, end, run_valid

    def _piece(self, pfn: int) -> tuple[int, bool]:
        """Where the state of ``pfn`` may end, and whether it has a ``struct page``."""
        if pfn >= self._end:
            return limits.PHYSICAL_END >> PAGE_SHIFT, False
        number, within = divmod(pfn, self.section_pages)
        section_end = pfn - within + self.section_pages
        per_root = PAGE_SIZE // self._section_size
        index, slot = divmod(number, per_root)
        root = self._root(index)
        if root is None:
            return (index + 1) * per_root * self.section_pages, False
        early = root[self._map : per_root * self._section_size : self._section_size].translate(_IS_EARLY)
        last = early.find(0, slot)
        if last != slot:
            # All sections up to there have had memory since boot, as almost all have.
            return (index * per_root + (per_root if last < 0 else last)) * self.section_pages, True
        entry = slot * self._section_size
        mem_map = int.from_bytes(root[entry + self._map : entry + self._map + 8], "little")
        usage = int.from_bytes(root[entry + self._usage : entry + self._usage + 8], "little")
        if not mem_map & _SECTION_HAS_MEM_MAP or not usage:
            return section_end, False
        subsection = within // _SUBSECTION_PAGES
        byte = self._prog.read_u8(usage + self._subsection_map + subsection // 8 & U64_MAX)
        return pfn - pfn % _SUBSECTION_PAGES + _SUBSECTION_PAGES, bool(byte >> subsection % 8 & 1)

    def maps(self) -> set[int]:
        """Where ``section_mem_map`` of the first sections has ``vmemmap``: all the same (sparse_encode_mem_map())."""
        root, size = self._root(0) or b"", self._section_size
        places = range(self._map, len(root) // size * size, size)
        words = (int.from_bytes(root[at : at + 8], "little") for at in places)
        return {word & -PAGE_SIZE for word in words if word & _SECTION_HAS_MEM_MAP}

    def _root(self, index: int) -> Optional[bytes]:
        """``mem_section[index]``, one page of ``struct mem_section``; None where no section of it exists."""
        if index not in self._roots:
            address = self._prog.read_u64(self._table + 8 * index & U64_MAX)
            if not address and not self._prog.read_u64(self._table):
                # The first section has the first megabyte, which every machine has.
                raise Unavailable("mem_section[0] reads as zeros: not captured")
            root = self._prog.read(address, PAGE_SIZE) if address else None
            if root is not None and not any(root):
                # sparse_index_alloc() makes it for a section that has memory.
                raise Unavailable(f"mem_section[{index}] {address:#x} reads as zeros: not captured")
            self._roots[index] = root
        return self._roots[index]


def walk_page_list(prog: Program, layout: PageLayout, head: int, most: int) -> ListedChunks:
    """Follow a list of pages linked through ``page->lru`` or ``page->buddy_list``, which are at the same place."""
    base, size, pfn_end = layout.base + layout.lru, layout.size, limits.PHYSICAL_END >> PAGE_SHIFT

    def pfns_of(links: array[int]) -> array[int]:
        pfns = [(link - base) // size for link in links]
        # All links are those of pages if the sums are the same.
        if min(pfns) < 0 or max(pfns) >= pfn_end or sum(pfns) * size + len(pfns) * base != sum(links):
            pages = zip(pfns, links)
            pfns = [pfn for pfn, _ in takewhile(lambda p: 0 <= p[0] < pfn_end and p[0] * size + base == p[1], pages)]
        return array("Q", pfns)

    walk = ListWalk(prog, head, Entries(size, layout.lru, pfns_of, "struct page of ", "in no struct page"), most)
    listed = ListedChunks(array("Q"), array("Q"), array("i"), array("I"))
    for pfns, data in walk.blocks():
        listed.pfns.extend(pfns)
        listed.flags.extend(column(array("Q", data), layout.flags, size))
        listed.page_types.extend(column(array("I", data), layout.page_type, size))
        listed.refcounts.extend(column(array("i", data), layout.refcount, size))
    return replace(listed, problems=tuple(walk.problems))
