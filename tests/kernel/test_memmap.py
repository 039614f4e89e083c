# SPDX-License-Identifier: LGPL-2.1-or-later
from __future__ import annotations

import pytest
from drgn import offsetof, sizeof

from drgn_unaccepted import limits
from drgn_unaccepted.kernel import probe
from drgn_unaccepted.kernel.memmap import Sections, page_layout
from drgn_unaccepted.kernel.platform import read_kernel_build
from drgn_unaccepted.kernel.zones import read_zones
from drgn_unaccepted.snapshot import PageRun
from tests.kernel.allocator_program import CHUNK_PAGES, PAGE, SECTION_PAGES, SUBSECTION_PAGES, AllocatorProgram, said
from tests.kernel.pages_guest import END, START, Guest, make


def test_no_section() -> None:
    pages = make().read(START - SECTION_PAGES, END + 3 * SECTION_PAGES)
    assert pages.runs == (
        PageRun(START - SECTION_PAGES, START, "absent"),
        PageRun(START, END, "free"),
        PageRun(END, END + 3 * SECTION_PAGES, "absent"),
    )
    assert pages.limited is None


def test_levels_of_page_tables() -> None:
    """With four there are 46 bits of physical address, with five 52."""
    first = 1 << (46 - 12)
    assert make().read(first, first + CHUNK_PAGES).runs == (PageRun(first, first + CHUNK_PAGES, "absent"),)
    guest = Guest()
    guest.vmemmap = 0xFFD4000000000000
    guest.set_global("vmemmap_base", "unsigned long", guest.vmemmap.to_bytes(8, "little"))
    guest.mem_section = guest.place(8 * 4096)
    guest.set_global("mem_section", "mem_section**", guest.mem_section.to_bytes(8, "little"))
    assert guest.pgdat
    guest.add_section(first)
    assert guest.read(first, first + CHUNK_PAGES).runs == (PageRun(first, first + CHUNK_PAGES, "free"),)


def test_hot_plugged_parts_of_a_section() -> None:
    guest = make()
    guest.add_section(END, subsections=0b1_0110)
    part = SUBSECTION_PAGES
    assert guest.read(END, END + 8 * part).runs == (
        PageRun(END, END + part, "absent"),
        PageRun(END + part, END + 3 * part, "free"),
        PageRun(END + 3 * part, END + 4 * part, "absent"),
        PageRun(END + 4 * part, END + 5 * part, "free"),
        PageRun(END + 5 * part, END + 8 * part, "absent"),
    )


@pytest.mark.parametrize(
    ("name", "member", "reason"),
    [
        ("mem_section_usage", ("subsection_map", "unsigned long[1000]"), "memory sections of 32768000 pages"),
        ("mem_section", ("page_ext", "unsigned char[5000]"), "struct mem_section has 5016 bytes"),
    ],
)
def test_sections_that_cannot_be(name: str, member: tuple[str, str], reason: str) -> None:
    guest = Guest()
    guest.structs[name] = [m for m in guest.structs[name] if m[0] != member[0]] + [member]
    guest.pgdat = guest.add_node(0, START, SECTION_PAGES)
    assert reason in said(guest.read)


def test_a_section_that_is_not_captured() -> None:
    guest = make()
    guest.write(guest.mem_section, (0xFFFF900000000000).to_bytes(8, "little"))
    pages = guest.read()
    assert not pages.runs
    assert not pages.scanned
    assert pages.limited == f"0x100000000-0x108000000: struct mem_section of {START * PAGE:#x} is not in this target"


@pytest.mark.parametrize(("words", "size"), [(32, 256), (33, 264)])
def test_as_large_a_struct_page_as_there_can_be(words: int, size: int) -> None:
    guest = AllocatorProgram()
    guest.add_node(0)
    guest.structs["page"].append(("kmsan", f"unsigned long[{words - 8}]"))
    expected = "struct page has 264 bytes: not supported" if size > limits.PAGE_STRUCT_BYTES else size
    assert said(lambda: page_layout(guest.prog).size) == expected


def put(member: str, offset: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The member is said to be there in its structure."""
    monkeypatch.setattr(probe, "offsetof", lambda type_, name: offset if name == member else offsetof(type_, name))


@pytest.mark.parametrize(
    ("structure", "member", "bytes_read"),
    [
        ("page", "private", 8),
        ("page", "flags", 8),
        ("page", "lru", 16),
        ("page", "page_type", 4),
        ("page", "_refcount", 4),
        ("mem_section", "section_mem_map", 8),
        ("mem_section", "usage", 8),
    ],
)
def test_members_lie_in_their_structure(
    structure: str, member: str, bytes_read: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where they did not, one page would be judged by what the next one says."""
    guest = AllocatorProgram()
    guest.add_node(0)
    size = sizeof(guest.prog.type(f"struct {structure}"))
    last = size - bytes_read
    put(member, last, monkeypatch)
    Sections(guest.prog, page_layout(guest.prog))
    beyond = min(bytes_read, 8)
    put(member, last + beyond, monkeypatch)
    expected = f"{structure} has {size} bytes and members up to {size + beyond}: not supported"
    assert said(lambda: Sections(guest.prog, page_layout(guest.prog))) == f"struct {expected}"


@pytest.mark.parametrize("bit", range(12, 47))
def test_a_vmemmap_base_that_the_sections_contradict(bit: int) -> None:
    """All PFNs on the lists would be others: plausible ones, for some of the bits."""
    guest = make()
    guest.add_section(0)
    build = read_kernel_build(guest.prog)
    assert guest.zone and read_zones(guest.prog, build)
    guest.set_global("vmemmap_base", "unsigned long", (guest.vmemmap ^ 1 << bit).to_bytes(8, "little"))
    reason = f"vmemmap_base is {guest.vmemmap ^ 1 << bit:#x}, and mem_section has the memory map at {guest.vmemmap:#x}"
    assert said(lambda: read_zones(guest.prog, build)) == said(guest.read) == reason


def test_more_sections_than_are_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SECTIONS", 2)
    pages = make().read(START, END + 5 * SECTION_PAGES)
    assert pages.limited is not None
    assert "more than 2 memory sections" in pages.limited
