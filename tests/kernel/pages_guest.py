# SPDX-License-Identifier: LGPL-2.1-or-later
"""A guest whose struct pages the tests set."""

from __future__ import annotations

from functools import cached_property
from typing import Optional

from drgn import Program

from drgn_unaccepted.kernel.pages import read_pages
from drgn_unaccepted.kernel.platform import read_kernel_build
from drgn_unaccepted.kernel.zones import read_zones
from drgn_unaccepted.model.ranges import Range
from drgn_unaccepted.snapshot import Pages
from tests.kernel.allocator_program import PAGE, SECTION_PAGES, AllocatorProgram

START = 0x100000
END = START + SECTION_PAGES
UNIT_PAGES = (2 << 20) // PAGE


class Guest(AllocatorProgram):
    """One node with one section of memory, whose pages are all free and on no list."""

    @cached_property
    def pgdat(self) -> int:
        self.add_section(START)
        return self.add_node(0, START, SECTION_PAGES)

    @cached_property
    def zone(self) -> int:
        return self.populate(self.pgdat, 2, "Normal", START, SECTION_PAGES)

    def read(self, start_pfn: int = START, end_pfn: int = END, with_lists: bool = False) -> Pages:
        assert self.pgdat
        build = read_kernel_build(self.prog)
        zones = read_zones(self.prog, build) if with_lists else ()
        return read_pages(self.prog, [Range(start_pfn * PAGE, end_pfn * PAGE)], build, zones)

    def look(self, *pages: Range, prog: Optional[Program] = None) -> Pages:
        """One look a unit, but at all of these pages (PFNs)."""
        build = read_kernel_build(self.prog)
        exact = [Range(start * PAGE, end * PAGE) for start, end in pages]
        return read_pages(
            prog or self.prog, exact, build, read_zones(self.prog, build), [Range(START * PAGE, END * PAGE)]
        )


def make() -> Guest:
    guest = Guest()
    assert guest.pgdat
    return guest


def old() -> Guest:
    """Linux 6.5: a page type clears a bit of its own, and a listed chunk has none."""
    guest = Guest()
    del guest.enums["pagetype"]
    # As printed: VMCOREINFO_NUMBER() takes a long.
    guest.vmcoreinfo["NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)"] = "-129"
    guest.vmcoreinfo["NUMBER(PAGE_OFFLINE_MAPCOUNT_VALUE)"] = "-257"
    assert guest.pgdat
    return guest
