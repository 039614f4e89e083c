# SPDX-License-Identifier: LGPL-2.1-or-later
"""Faults planted in dumps of real kernels: the rule that should find each does, and no unrelated one does.

A fault is a few bytes of the dump seen otherwise: a memory segment over the program that the dump was opened as.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import NamedTuple

import drgn
import pytest

from drgn_unaccepted.checks import run_checks
from drgn_unaccepted.kernel.capture import capture
from drgn_unaccepted.snapshot import ALL_MEMORY, ALL_PARTS, Wanted
from drgn_unaccepted.targets.opened import Opened
from drgn_unaccepted.targets.vmcore import open_vmcore
from tests.lab.asking import NEEDS_CAPTURES
from tests.lab.captures import CHUNK, MIB, UNIT, Capture, find

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

    def chunk_more(self, stats: drgn.Object) -> None:
        counter = stats[self.prog.constant("NR_UNACCEPTED")].counter
        self.patch(counter, int(counter.value_()) + CHUNK // PAGE)

    def lead_third_to(self, address: int) -> None:
        """On the longest list."""
        self.patch(self.listed(3).lru.next, address)

    def reserve(self, page: drgn.Object, reserved: bool) -> None:
        flags = page.flags.f if page.flags.type_.unaliased_kind() == drgn.TypeKind.STRUCT else page.flags
        bit = 1 << int(self.prog.constant("PG_reserved").value_())
        self.patch(flags, int(flags.value_()) & ~bit | bit * reserved)

    def header(self, version: int = 1, unit: int = UNIT, base: int | None = None, size: int | None = None) -> None:
        address, real_base, _, bitmap = self.capture.table()
        fields = (version, unit, real_base if base is None else base, len(bitmap) if size is None else size)
        self.write(address, struct.pack("<IIQQ", *fields), physical=True)

    def set_bit(self, physical: int) -> None:
        address, base, unit, bitmap = self.capture.table()
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


def findings(target: Target) -> dict[str, str]:
    """Rules that speak up, with their status."""
    report = run_checks(capture(target.opened, Wanted(ALL_PARTS, ALL_MEMORY)))
    return {f.rule: f.status for f in report.findings if f.status in FAILED and not f.rule.startswith("advisory-")}


def open_target(capture_: Capture) -> Target:
    return Target(capture_, open_vmcore(str(capture_.dump)))


def bit_over_the_kernel_image(target: Target) -> None:
    """The same table based at 0, so that it covers the kernel image wherever KASLR put it, and a bit there."""
    address, base, unit, bitmap = target.capture.table()
    text = re.search(r"^([0-9a-f]+) T _text$", target.capture.account("kallsyms"), re.M)
    phys_base = re.search(rb"NUMBER\(phys_base\)=(-?\d+)", target.prog["VMCOREINFO"].string_())
    assert text and phys_base
    image = int(text[1], 16) - 0xFFFFFFFF80000000 + int(phys_base[1]) + unit
    bits = int.from_bytes(bitmap, "little") << (base // unit) | 1 << (image // unit)
    size = max(base // unit // 8 + len(bitmap), image // unit // 8 + 1)
    target.header(base=0, size=size)
    target.write(address + 24, bits.to_bytes(size, "little"), physical=True)


def padding_bit(target: Target) -> None:
    """A byte more of bitmap than type 15 memory needs, with its last bit set."""
    address, _, _, bitmap = target.capture.table()
    target.header(size=len(bitmap) + 1)
    target.write(address + 24 + len(bitmap), b"\x80", physical=True)


class Fault(NamedTuple):
    name: str
    plant: Callable[[Target], None]
    #: The rule that has to find it.
    rule: str
    #: Rules that the same bytes break, too.
    also: Collection[str] = ()
    status: str = "critical"
    scenario: str = "fill"


#: A bit under memory in use: its pages are in use, and the map says what it was.
IN_USE = ("buddy-pages-accepted", "allocated-pages-accepted", "guard-unit-accepted", "orphan-bits")
NOT_AT_BOOT = (*IN_USE, "bits-within-initial-map")
LIST, COUNT = "list-entries-sane", "zone-counter-matches-list"
FAULTS = (
    Fault("version 2", lambda t: t.header(version=2), "header-version"),
    Fault("unit_size 0", lambda t: t.header(unit=0), "unit-size-valid"),
    Fault("unit_size 3", lambda t: t.header(unit=3), "unit-size-valid"),
    Fault("size 2^60", lambda t: t.header(size=1 << 60), "bitmap-geometry"),
    Fault("size 0", lambda t: t.header(size=0), "bitmap-geometry"),
    Fault("phys_base unaligned", lambda t: t.header(base=(4 << 30) + MIB), "bitmap-geometry"),
    Fault("bit under pages in use", lambda t: t.set_bit(t.accepted()), "allocated-pages-accepted", IN_USE),
    Fault("bit over the kernel image", bit_over_the_kernel_image, "kernel-memory-accepted",
          (*NOT_AT_BOOT, "padding-bits-clear")),
    Fault("zone counter off by a chunk", lambda t: t.chunk_more(t.zone().vm_stat), COUNT,
          ("global-counter-matches-zones", "free-pages-include-unaccepted")),
    Fault("global counter off by a chunk", lambda t: t.chunk_more(t.prog["vm_zone_stat"]),
          "global-counter-matches-zones"),
    Fault("list with a cycle", lambda t: t.lead_third_to(t.listed(1).lru.address_ or 0), LIST, [COUNT]),
    Fault("list with a NULL", lambda t: t.lead_third_to(0), LIST, [COUNT]),
    Fault("list into nowhere", lambda t: t.lead_third_to(0xFFFF_8000_DEAD_B000), LIST, [COUNT]),
    Fault("reserved page on the list", lambda t: t.reserve(t.listed(2), True), LIST),
    Fault("another page type on the list", lambda t: t.patch(t.listed(2).page_type, 0xF0000000), "list-page-type",
          ("buddy-pages-accepted", LIST)),
    Fault("allocated page in a listed chunk", lambda t: t.patch(t.page(t.unaccepted() + 5 * PAGE)._refcount.counter, 1),
          "allocated-pages-accepted", (LIST, "guard-unit-accepted")),
    Fault("eager with lists", lambda t: t.patch(t.prog["lazy_accept"], 0), "eager-means-empty"),
    # The reservation one page short, as 8dbe33956d96 had it: the second page of the table belongs to nobody.
    Fault("table's second page not reserved", lambda t: t.reserve(t.page(t.capture.table_address() + PAGE), False),
          "table-reserved", scenario="big"),
    Fault("padding bit", padding_bit, "padding-bits-clear", NOT_AT_BOOT, "warning"),
)  # fmt: skip
CASES = [
    pytest.param(capture_, fault, id=f"{capture_.name}: {fault.name}")
    for fault in FAULTS
    for capture_ in find(fault.scenario)
]


@pytest.mark.parametrize(("capture_", "fault"), CASES)
def test_a_planted_fault_is_found(capture_: Capture, fault: Fault) -> None:
    clean = findings(open_target(capture_))
    assert fault.rule not in clean
    target = open_target(capture_)
    fault.plant(target)
    found = findings(target)
    assert found.get(fault.rule) == fault.status, found
    # A fault that contradicts the table makes it doubted, and with it the evidence that accepts succeeded.
    doubted = {"table-captured", "platform-can-accept"} if "table-captured" in found else set()
    assert set(found) - set(clean) - ({*fault.also, *doubted} - {fault.rule}) == {fault.rule}
