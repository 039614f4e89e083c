# SPDX-License-Identifier: LGPL-2.1-or-later
"""Physical addresses of the fields that the program reads, in a sample: what to damage.

They are found with drgn's types and the package's own finders on the undamaged dump.
"""

from __future__ import annotations

import contextlib
import struct
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import drgn

from drgn_unaccepted.kernel.btf import Btf, Kind
from drgn_unaccepted.kernel.page_tables import PageTables, kernel_page_tables
from drgn_unaccepted.kernel.target import open_vmcore
from drgn_unaccepted.kernel.vmcoreinfo import parse_vmcoreinfo
from tests.fuzz.case import clean, sample, truth

PAGE = 4096
U64 = (1 << 64) - 1


class Place(NamedTuple):
    name: str
    #: Physical address.
    address: int
    #: Bytes.
    size: int


Places = dict[str, list[Place]]

#: Types whose BTF is damaged.
STRUCTS = """
    accept_range boot_params cpuinfo_x86 cpumask e820_table efi efi_info efi_memory_map free_area kimage list_head
    mem_section mem_section_usage page per_cpu_zonestat pglist_data prb_data_ring prb_desc prb_desc_ring printk_info
    printk_ringbuffer qspinlock setup_header signal_struct spinlock task_struct thread_info zone
""".split()
ENUMS = "migratetype pageflags pagetype system_states zone_stat_item zone_type zone_watermarks".split()
TASK_FIELDS = "pid comm flags stack reclaim_state signal tasks thread_node thread_info".split()
PAGE_FIELDS = "flags lru page_type _refcount private compound_head compound_info".split()
ZONE_FIELDS = """
    _watermark name zone_start_pfn spanned_pages present_pages managed_pages vm_stat unaccepted_pages
    per_cpu_zonestats lock free_area
""".split()
PLATFORM = """
    cc_vendor sev_status lazy_accept system_state page_offset_base vmemmap_base zones_with_unaccepted_pages
""".split()
GROUPS = """
    table efi boot_params efi_map e820 zones lists pages sections percpu log accepting tasks platform kallsyms btf
""".split()


@cache
def places(name: str) -> Places:
    """All places of a sample by what they belong to."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "dump"
        path.write_bytes(clean(name, "elf").data)
        found = _Finder(name, open_vmcore(str(path)).prog).all()
    pages = sample(name).pages
    here = {group: [place for place in there if place.address // PAGE in pages] for group, there in found.items()}
    return {group: there for group, there in here.items() if there}


class _Finder:
    def __init__(self, name: str, prog: drgn.Program) -> None:
        self.name = name
        self.prog = prog
        self.sample = sample(name)
        tables = kernel_page_tables(self._read_physical, parse_vmcoreinfo(self.sample.vmcoreinfo))
        self.tables: PageTables = tables
        #: Physical addresses of page-table entries that lead to any field.
        self.entries: set[int] = set()

    def _read_physical(self, address: int, size: int) -> bytes:
        try:
            return self.sample.read(address, size)
        except KeyError:
            raise drgn.FaultError("not in the sample", address) from None

    def physical(self, virtual: int) -> int:
        table = self.sample.physical("swapper_pg_dir")
        for shift in (39, 30, 21, 12):
            at = table + 8 * (virtual >> shift & 511)
            self.entries.add(at)
            (entry,) = struct.unpack("<Q", self._read_physical(at, 8))
            if not entry & 1 or entry & 128:
                break
            table = entry & 0xFFFFFFFFFF000
        return self.tables.translate(virtual & U64).start

    def all(self) -> Places:
        places: Places = {}
        for group in GROUPS:
            places[group] = []
            # A kdump lacks the table and more.
            with contextlib.suppress(LookupError, drgn.FaultError, AttributeError):
                places[group].extend(getattr(self, group)())
        places["page_tables"] = [Place("entry", at, 8) for at in sorted(self.entries)]
        return places

    def fields(self, of: drgn.Object, *names: str) -> Iterator[Place]:
        """The scalars in these members of an object, or in all of it."""
        for name in names:
            try:
                member = of
                for part in name.split("."):
                    member = member.member_(part)
            except LookupError:
                continue
            yield from self.scalars(member, name)
        if not names:
            yield from self.scalars(of, "")

    def scalars(self, of: drgn.Object, name: str, most: int = 8) -> Iterator[Place]:
        kind = of.type_.unaliased_kind()
        if kind in (drgn.TypeKind.STRUCT, drgn.TypeKind.UNION):
            type_ = of.type_
            while type_.kind == drgn.TypeKind.TYPEDEF:
                type_ = type_.type
            for member in type_.members or ():
                if member.name:
                    yield from self.scalars(of.member_(member.name), f"{name}.{member.name}", most)
        elif kind == drgn.TypeKind.ARRAY:
            length = len(of) if of.type_.length is not None else 0
            for index in [*range(min(most, length)), *([length - 1] if length > most else [])]:
                yield from self.scalars(of[index], f"{name}[{index}]", most)
        elif kind != drgn.TypeKind.FUNCTION and of.bit_offset_ in (0, None) and not of.bit_field_size_:
            address = of.address_
            if address is not None:
                yield Place(name, self.physical(address), drgn.sizeof(of))

    # Groups

    def table(self) -> Iterator[Place]:
        address = truth(self.name)["table_address"]
        self._read_physical(address, 24)
        for name, offset, size in (("version", 0, 4), ("unit_size", 4, 4), ("phys_base", 8, 8), ("size", 16, 8)):
            yield Place(name, address + offset, size)
        yield Place("bitmap", address + 24, int.from_bytes(self._read_physical(address + 16, 8), "little"))

    def efi(self) -> Iterator[Place]:
        yield from self.fields(self.prog["efi"], "unaccepted", "memmap", "flags")
        yield from self.fields(self.prog["efi_setup"])

    def boot_params(self) -> Iterator[Place]:
        params = self.prog["boot_params"]
        yield from self.fields(params, "efi_info", "e820_entries", "e820_table")
        yield from self.fields(params, "ext_ramdisk_image", "ext_ramdisk_size")
        yield from self.fields(params.hdr, "setup_data", "ramdisk_image", "ramdisk_size")
        chain = params.hdr.setup_data.value_()
        while chain:
            yield from (Place("next", chain, 8), Place("type", chain + 8, 4), Place("len", chain + 12, 4))
            chain = int.from_bytes(self._read_physical(chain, 8), "little")
        for name in ("kexec_image", "kexec_crash_image"):
            pointer = self.prog[name]
            yield from self.fields(pointer)
            if pointer:
                yield from self.fields(pointer[0], "nr_segments", "segment")

    def efi_map(self) -> Iterator[Place]:
        info = self.prog["boot_params"].efi_info
        start, stride = info.efi_memmap.value_(), info.efi_memdesc_size.value_()
        for at in range(start, start + info.efi_memmap_size.value_(), stride):
            self._read_physical(at, 40)
            for name, offset, size in (("type", 0, 4), ("phys_addr", 8, 8), ("virt_addr", 16, 8), ("num_pages", 24, 8)):
                yield Place(name, at + offset, size)

    def e820(self) -> Iterator[Place]:
        for name in ("e820_table", "e820_table_kexec", "e820_table_firmware"):
            yield from self.fields(self.prog[name])
            yield from self.fields(self.prog[name][0], "nr_entries", "entries")

    def zones(self) -> Iterator[Place]:
        for index, node in enumerate(self.prog["node_data"]):
            if index < 4:
                yield from self.fields(node)
            if not node:
                continue
            yield from self.fields(node[0], "node_start_pfn", "node_spanned_pages", "first_deferred_pfn")
            for zone in node.node_zones:
                yield from self.fields(zone, *ZONE_FIELDS)
        yield from self.fields(self.prog["vm_zone_stat"])

    def _listed(self) -> Iterator[drgn.Object]:
        offset = drgn.offsetof(self.prog.type("struct page"), "lru")
        for node in self.prog["node_data"]:
            for zone in node.node_zones if node else ():
                if not zone.present_pages:
                    continue
                head = zone.unaccepted_pages.address_
                entry = zone.unaccepted_pages.next
                while entry.value_() != head:
                    yield drgn.Object(self.prog, "struct page", address=entry.value_() - offset)
                    entry = entry.next

    def lists(self) -> Iterator[Place]:
        for page in self._listed():
            yield from self.fields(page, *PAGE_FIELDS)

    def pages(self) -> Iterator[Place]:
        """Structures of pages, a few of each 16 MiB that have some."""
        base, size = self.prog["vmemmap_base"].value_(), drgn.sizeof(self.prog.type("struct page"))
        end = max(self.sample.pages) + (1 << 18)
        for pfn in range(0, end, 4096):
            try:
                self.tables.translate(base + pfn * size)
                for index in (0, 1, 7, PAGE // size - 1):
                    page = drgn.Object(self.prog, "struct page", address=base + (pfn + index) * size)
                    yield from self.fields(page, *PAGE_FIELDS)
            except drgn.FaultError:
                continue

    def sections(self) -> Iterator[Place]:
        table = self.prog["mem_section"]
        yield from self.fields(table)
        for index in range(8):
            yield from self.fields(table[index])
            if table[index]:
                for number in range(4096 // drgn.sizeof(self.prog.type("struct mem_section"))):
                    section = table[index][number]
                    if section.section_mem_map:
                        yield from self.fields(section)

    def percpu(self) -> Iterator[Place]:
        yield from self.fields(self.prog["__per_cpu_offset"])
        for name in ("__cpu_possible_mask", "__cpu_present_mask"):
            mask = drgn.Object(self.prog, "struct cpumask", address=self.prog.symbol(name).address)
            yield from self.scalars(mask, name)
        for name in ("hardirq_stack_ptr", "pcpu_hot", "current_task"):
            try:
                address = self.prog.symbol(name).address
            except LookupError:
                continue
            for offset in self.prog["__per_cpu_offset"]:
                for at in range(0, 32, 8):
                    yield Place(name, self.physical(address + offset.value_() + at & U64), 8)

    def log(self) -> Iterator[Place]:
        ring = self.prog["prb"]
        yield from self.fields(ring)
        yield from self.fields(ring[0])
        descriptors, infos = ring.desc_ring.descs, ring.desc_ring.infos
        for index in range(1 << ring.desc_ring.count_bits.value_()):
            if descriptors[index].state_var.counter:
                yield from self.fields(descriptors[index])
                yield from self.fields(infos[index], "text_len")
        text = ring.text_data_ring.data.value_()
        for offset in range(0, 1 << ring.text_data_ring.size_bits.value_(), 512):
            yield Place("text", self.physical(text + offset), 16)

    def accepting(self) -> Iterator[Place]:
        head = self.prog["accepting_list"]
        yield from self.fields(head)
        entry = head.next
        while entry.value_() != head.address_:
            item = drgn.Object(self.prog, "struct accept_range", address=entry.value_())
            yield from self.fields(item)
            entry = entry.next

    def tasks(self) -> Iterator[Place]:
        init = self.prog["init_task"]
        task, offset = init, drgn.offsetof(self.prog.type("struct task_struct"), "tasks")
        for _ in range(24):
            yield from self.fields(task, *TASK_FIELDS)
            yield from self.fields(task.signal[0], "thread_head")
            task = drgn.Object(self.prog, "struct task_struct", address=task.tasks.next.value_() - offset)

    def platform(self) -> Iterator[Place]:
        yield from self.fields(self.prog["boot_cpu_data"], "x86_capability")
        for name in PLATFORM:
            with contextlib.suppress(LookupError):
                yield from self.fields(self.prog[name])

    def kallsyms(self) -> Iterator[Place]:
        sizes = {"num_syms": 8, "offsets": 4096, "names": 4096, "token_table": 512, "token_index": 512}
        for name, size in {**sizes, "relative_base": 8}.items():
            with contextlib.suppress(AssertionError):
                start = self.sample.number(f"SYMBOL(kallsyms_{name})", 16)
                for at in range(start, start + size, 8):
                    yield Place(name, self.physical(at), 8)

    def btf(self) -> Iterator[Place]:
        start, stop = (self.prog.symbol(name).address for name in ("__start_BTF", "__stop_BTF"))
        for at in range(0, 24, 4):
            yield Place(f"header+{at}", self.physical(start + at), 4)
        data = self.prog.read(start, stop - start)
        btf = Btf(self.prog, data)
        header, type_off = struct.unpack_from("<4xII", data)
        base = start + header + type_off
        for kinds, names, element in (((Kind.STRUCT,), STRUCTS, 12), ((Kind.ENUM,), ENUMS, 8)):
            for name in names:
                number = btf.find(name, kinds)
                if number is None:
                    continue
                record = btf.record(number)
                for word in range(3):
                    yield Place(f"{name} record", self.physical(base + record.data - 12 + 4 * word), 4)
                for at in range(0, record.vlen * element, 4):
                    yield Place(f"{name} member", self.physical(base + record.data + at), 4)
                for member, type_id, *_ in btf.members(record) if element == 12 else ():
                    data_at = btf.record(type_id).data
                    for at in range(-12, 12, 4):
                        yield Place(f"{name}.{member} type", self.physical(base + data_at + at), 4)
