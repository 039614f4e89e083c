# SPDX-License-Identifier: LGPL-2.1-or-later
"""Faults planted in dumps of real kernels: the rule that should find each does, and no unrelated one does.

A fault is a few bytes of the dump seen otherwise: a memory segment over the program that the dump was opened as.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import drgn
import pytest

from drgn_unaccepted.checks import run_checks
from drgn_unaccepted.kernel.capture import capture
from drgn_unaccepted.kernel.target import Opened, open_vmcore
from drgn_unaccepted.snapshot import ALL_MEMORY, ALL_PARTS, Wanted
from tests.lab.asking import NEEDS_CAPTURES, ids
from tests.lab.captures import CHUNK, MIB, UNIT, Capture, find, read_bitmap

pytestmark = NEEDS_CAPTURES

PAGE = 4096
FAILED = ("warning", "critical")


@dataclass
class Target:
    """An opened dump and where things lie in it."""

    capture: Capture
    opened: Opened

    @property
    def prog(self) -> drgn.Program:
        return self.opened.prog

    def write(self, address: int, data: bytes, physical: bool = False) -> None:
        """See ``data`` at an address from now on."""

        def read(at: int, count: int, offset: int, is_physical: bool) -> bytes:
            return data[offset : offset + count]

        self.prog.add_memory_segment(address, len(data), read, physical=physical)

    def patch(self, obj: drgn.Object, value: int) -> None:
        self.write(obj.address_, value.to_bytes(drgn.sizeof(obj), "little"))

    def header(self, version: int = 1, unit: int = UNIT, base: int | None = None, size: int | None = None) -> None:
        address = self.capture.table_address()
        real_base, _, bitmap = read_bitmap(self.capture.dump, address)
        fields = (version, unit, real_base if base is None else base, len(bitmap) if size is None else size)
        self.write(address, struct.pack("<IIQQ", *fields), physical=True)

    def set_bit(self, physical: int) -> None:
        address = self.capture.table_address()
        base, unit, bitmap = read_bitmap(self.capture.dump, address)
        index = (physical - base) // unit
        byte = bitmap[index >> 3] | 1 << (index & 7)
        self.write(address + 24 + (index >> 3), bytes([byte]), physical=True)

    def zone(self) -> drgn.Object:
        """The zone with the longest list."""
        nodes = self.prog["node_data"]
        zones = [zone for node in nodes if node for zone in node.node_zones if zone.present_pages]
        counter = self.prog.constant("NR_UNACCEPTED")
        return max(zones, key=lambda zone: int(zone.vm_stat[counter].counter.value_()))

    def listed(self, number: int) -> drgn.Object:
        """The page of that number on the longest list."""
        entry = self.zone().unaccepted_pages
        for _ in range(number + 1):
            entry = entry.next[0] if entry.type_.kind != drgn.TypeKind.POINTER else entry[0].next[0]
        offset = drgn.offsetof(self.prog.type("struct page"), "lru")
        return drgn.Object(self.prog, "struct page", address=entry.address_ - offset)

    def page(self, physical: int) -> drgn.Object:
        size = drgn.sizeof(self.prog.type("struct page"))
        address = self.prog["vmemmap_base"].value_() + physical // PAGE * size
        return drgn.Object(self.prog, "struct page", address=address)

    def unaccepted(self) -> int:
        """A unit in the middle of a listed run, at a chunk's start."""
        units = self.capture.unaccepted_units()
        return next(n for n in sorted(units) if n % 2 == 0 and {n - 2, n - 1, n + 1, n + 2, n + 3} <= units) * UNIT

    def accepted(self) -> int:
        """A type 15 unit that was accepted, amid accepted ones."""
        start, _ = self.capture.type15()[0]
        units = self.capture.unaccepted_units()
        first = -(-start // CHUNK) * CHUNK + 8 * CHUNK
        assert not set(range(first // UNIT - 2, first // UNIT + 4)) & units
        return first


Plant = Callable[[Target], None]


def findings(target: Target) -> dict[str, str]:
    """Rules that speak up, with their status."""
    report = run_checks(capture(target.opened, Wanted(ALL_PARTS, ALL_MEMORY)))
    return {f.rule: f.status for f in report.findings if f.status in FAILED and not f.rule.startswith("advisory-")}


def open_target(capture_: Capture) -> Target:
    return Target(capture_, open_vmcore(str(capture_.dump)))


def counter_off_by_a_chunk(target: Target) -> None:
    stat = target.zone().vm_stat[target.prog.constant("NR_UNACCEPTED")].counter
    target.patch(stat, int(stat.value_()) + CHUNK // PAGE)


def cycle(target: Target) -> None:
    third = target.listed(3)
    target.patch(third.lru.next, target.listed(1).lru.address_ or 0)


def null_pointer(target: Target) -> None:
    target.patch(target.listed(3).lru.next, 0)


def pointer_into_nowhere(target: Target) -> None:
    target.patch(target.listed(3).lru.next, 0xFFFF_8000_DEAD_B000)


def other_page_type(target: Target) -> None:
    target.patch(target.listed(2).page_type, 0xF0000000)


def reserved_on_the_list(target: Target) -> None:
    page = target.listed(2)
    flags = page.flags.f if page.flags.type_.unaliased_kind() == drgn.TypeKind.STRUCT else page.flags
    target.patch(flags, int(flags.value_()) | 1 << int(target.prog.constant("PG_reserved").value_()))


def bit_under_pages_in_use(target: Target) -> None:
    target.set_bit(target.accepted())


def table_page_not_reserved(target: Target) -> None:
    """The reservation one page short, as 8dbe33956d96 had it: the second page of the table belongs to nobody."""
    page = target.page(target.capture.table_address() + PAGE)
    flags = page.flags.f if page.flags.type_.unaliased_kind() == drgn.TypeKind.STRUCT else page.flags
    target.patch(flags, int(flags.value_()) & ~(1 << int(target.prog.constant("PG_reserved").value_())))


def allocated_page_in_a_listed_chunk(target: Target) -> None:
    target.patch(target.page(target.unaccepted() + 5 * PAGE)._refcount.counter, 1)


def eager_with_lists(target: Target) -> None:
    target.patch(target.prog["lazy_accept"], 0)


def bit_over_the_kernel_image(target: Target) -> None:
    """The same table based at 0, so that it covers the kernel image wherever KASLR put it, and a bit there."""
    address = target.capture.table_address()
    base, unit, bitmap = read_bitmap(target.capture.dump, address)
    symbols = dict(re.findall(r"^([0-9a-f]+) T (_text)$", target.capture.account("kallsyms"), re.M))
    phys_base = re.search(rb"NUMBER\(phys_base\)=(-?\d+)", target.prog["VMCOREINFO"].string_())
    assert phys_base
    image = int(next(iter(symbols)), 16) - 0xFFFFFFFF80000000 + int(phys_base[1]) + unit
    bits = int.from_bytes(bitmap, "little") << (base // unit) | 1 << (image // unit)
    size = max(base // unit // 8 + len(bitmap), image // unit // 8 + 1)
    target.header(base=0, size=size)
    target.write(address + 24, bits.to_bytes(size, "little"), physical=True)


def padding_bit(target: Target) -> None:
    """A byte more of bitmap than type 15 memory needs, with its last bit set."""
    address = target.capture.table_address()
    _, _, bitmap = read_bitmap(target.capture.dump, address)
    target.header(size=len(bitmap) + 1)
    target.write(address + 24 + len(bitmap), b"\x80", physical=True)


def global_counter(target: Target) -> None:
    stat = target.prog["vm_zone_stat"][target.prog.constant("NR_UNACCEPTED")].counter
    target.patch(stat, int(stat.value_()) + CHUNK // PAGE)


def header_fields(**fields: int) -> Plant:
    return lambda target: target.header(**fields)


#: Rules that a bit under memory in use also breaks, and rightly: its pages are in use and the map says what it was.
IN_USE = {"buddy-pages-accepted", "allocated-pages-accepted"}

#: Scenario, fault, the rule that has to find it as what, and rules that are broken by the same bytes too.
PLANTED: list[tuple[str, str, Plant, str, str, set[str]]] = [
    ("fill", "version 2", header_fields(version=2), "header-version", "critical", set()),
    ("fill", "unit_size 0", header_fields(unit=0), "unit-size-valid", "critical", set()),
    ("fill", "unit_size 3", header_fields(unit=3), "unit-size-valid", "critical", set()),
    ("fill", "size 2^60", header_fields(size=1 << 60), "bitmap-geometry", "critical", set()),
    ("fill", "size 0", header_fields(size=0), "bitmap-geometry", "critical", set()),
    ("fill", "phys_base unaligned", header_fields(base=(4 << 30) + MIB), "bitmap-geometry", "critical", set()),
    ("fill", "bit under pages in use", bit_under_pages_in_use, "allocated-pages-accepted", "critical",
     IN_USE | {"guard-unit-accepted", "orphan-bits"}),
    ("fill", "bit over the kernel image", bit_over_the_kernel_image, "kernel-memory-accepted", "critical",
     IN_USE | {"padding-bits-clear", "bits-within-initial-map", "guard-unit-accepted", "orphan-bits"}),
    ("fill", "zone counter off by a chunk", counter_off_by_a_chunk, "zone-counter-matches-list", "critical",
     {"global-counter-matches-zones", "free-pages-include-unaccepted"}),
    ("fill", "global counter off by a chunk", global_counter, "global-counter-matches-zones", "critical", set()),
    ("fill", "list with a cycle", cycle, "list-entries-sane", "critical", {"zone-counter-matches-list"}),
    ("fill", "list with a NULL", null_pointer, "list-entries-sane", "critical", {"zone-counter-matches-list"}),
    ("fill", "list into nowhere", pointer_into_nowhere, "list-entries-sane", "critical", {"zone-counter-matches-list"}),
    ("fill", "reserved page on the list", reserved_on_the_list, "list-entries-sane", "critical", set()),
    ("fill", "another page type on the list", other_page_type, "list-page-type", "critical",
     {"buddy-pages-accepted", "list-entries-sane"}),
    ("fill", "allocated page in a listed chunk", allocated_page_in_a_listed_chunk, "allocated-pages-accepted",
     "critical", {"list-entries-sane", "guard-unit-accepted"}),
    ("fill", "eager with lists", eager_with_lists, "eager-means-empty", "critical", set()),
    ("big", "table's second page not reserved", table_page_not_reserved, "table-reserved", "critical", set()),
    ("fill", "padding bit", padding_bit, "padding-bits-clear", "warning",
     IN_USE | {"bits-within-initial-map", "guard-unit-accepted", "orphan-bits"}),
]  # fmt: skip


def cases() -> Iterator[tuple[Capture, Plant, str, str, set[str], str]]:
    for scenario, name, plant, rule, status, also in PLANTED:
        for capture_ in find(scenario):
            yield capture_, plant, rule, status, also, f"{capture_.name}: {name}"


@pytest.mark.parametrize("case", list(cases()), ids=lambda case: str(case[-1]))
def test_a_planted_fault_is_found(case: tuple[Capture, Plant, str, str, set[str], str]) -> None:
    capture_, plant, rule, status, also, _ = case
    clean = findings(open_target(capture_))
    assert rule not in clean
    target = open_target(capture_)
    plant(target)
    found = findings(target)
    assert found.get(rule) == status, found
    # A fault that contradicts the table makes it doubted, and with it the evidence that accepts succeeded.
    doubted = {"table-captured", "platform-can-accept"} if "table-captured" in found else set()
    assert set(found) - set(clean) - ((also | doubted) - {rule}) == {rule}


@pytest.mark.parametrize("capture_", find("big"), ids=ids)
def test_an_unmapped_page_of_the_table_is_seen(capture_: Capture) -> None:
    """The other face of the short reservation: the last page has no direct-map address, and the kernel oopses."""
    target = open_target(capture_)
    second = capture_.table_address() // PAGE * PAGE + PAGE

    def fault(at: int, count: int, offset: int, is_physical: bool) -> bytes:
        raise drgn.FaultError("address is not mapped", at)

    target.prog.add_memory_segment(target.prog["page_offset_base"].value_() + second, PAGE, fault)
    snapshot = capture(target.opened, Wanted(ALL_PARTS))
    assert snapshot.table.unmapped == ((second, second + PAGE),)
    assert findings(target)["table-reserved"] == "critical"
