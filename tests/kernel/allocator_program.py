# SPDX-License-Identifier: LGPL-2.1-or-later
"""A drgn program without a kernel: a page allocator, CPUs and tasks, put into memory one structure at a time.

Members are those of Linux 6.12's headers, at offsets of our own: what is read must be found through the types.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, Optional

import drgn
from drgn import Object, Program, Type, TypeMember, offsetof, sizeof

from drgn_unaccepted.targets.errors import Unavailable

PAGE = 4096
#: Where everything virtual lies.
KERNEL_START = 0xFF00000000000000
VMEMMAP = 0xFFFFEA0000000000
HEAP = 0xFFFF888000000000
#: Pages of one memory section, and of the part of one that hot-plugged memory comes in.
SECTION_PAGES, SUBSECTION_PAGES = 32768, 512
CHUNK_PAGES = 1024
NO_TYPE = 0xFFFFFFFF
ULONG_MAX = (1 << 64) - 1
THREAD_SIZE = 16384
IRQ_STACK_SIZE = 16384
#: node_data[] has 4 elements here (NODES_SHIFT 2), enum zone_type has 5 zones (ZONES_SHIFT 3).
NODES, ZONE_BITS = 4, 3
ZONE_ID_SHIFT = 64 - 2 - ZONE_BITS
#: From enum pageflags.
PG_RESERVED = 1 << 13

BUDDY, OFFLINE, TABLE, GUARD, SLAB, UNACCEPTED = (kind << 24 for kind in (0xF0, 0xF1, 0xF2, 0xF3, 0xF5, 0xF7))
# Before v6.12: ~PG_buddy, ~PG_offline.
OLD_BUDDY, OLD_OFFLINE = 0xFFFFFF7F, 0xFFFFFEFF

_ENUMS = """
zone_stat_item: NR_FREE_PAGES, NR_ZONE_LRU_BASE, NR_UNACCEPTED=5, NR_VM_ZONE_STAT_ITEMS
zone_watermarks: WMARK_MIN, WMARK_LOW, WMARK_HIGH, WMARK_PROMO, NR_WMARK
migratetype: MIGRATE_UNMOVABLE, MIGRATE_MOVABLE, MIGRATE_ISOLATE, MIGRATE_TYPES
pageflags: PG_locked, PG_reserved=13
zone_type: ZONE_DMA, ZONE_DMA32, ZONE_NORMAL, ZONE_MOVABLE, ZONE_DEVICE, __MAX_NR_ZONES
pagetype: PGTY_buddy=0xf0, PGTY_offline, PGTY_table, PGTY_guard, PGTY_slab=0xf5, PGTY_unaccepted=0xf7
cc_vendor: CC_VENDOR_NONE, CC_VENDOR_AMD, CC_VENDOR_INTEL
system_states: SYSTEM_BOOTING, SYSTEM_SCHEDULING, SYSTEM_FREEING_INITMEM, SYSTEM_RUNNING
"""

_STRUCTS = """
list_head: list_head* next, list_head* prev
atomic_t: int counter
atomic_long_t: long counter
memdesc_flags_t: unsigned long f
qspinlock: atomic_t val
raw_spinlock: qspinlock raw_lock
spinlock_t: raw_spinlock rlock
rt_mutex_base: long wait_lock, void* owner
free_area: list_head[3] free_list, unsigned long nr_free
per_cpu_zonestat: signed char stat_threshold, signed char[6] vm_stat_diff
per_cpu_pages: int count, list_head[12] lists
zone: unsigned long[4] _watermark, unsigned long watermark_boost, per_cpu_zonestat* per_cpu_zonestats, unsigned long
  zone_start_pfn, atomic_long_t managed_pages, unsigned long spanned_pages, unsigned long present_pages, char* name,
  free_area[11] free_area, list_head unaccepted_pages, spinlock_t lock, atomic_long_t[6] vm_stat,
  per_cpu_pages* per_cpu_pageset
pglist_data: zone[5] node_zones, unsigned long node_start_pfn, unsigned long node_spanned_pages, unsigned long
  first_deferred_pfn
page: unsigned long flags, list_head lru, void* mapping, unsigned long index, unsigned long private, unsigned int
  page_type, atomic_t _refcount, unsigned long memcg_data
mem_section: unsigned long section_mem_map, mem_section_usage* usage
mem_section_usage: void* rcu, unsigned long[1] subsection_map
accept_range: list_head list, unsigned long start, unsigned long end
cpumask: unsigned long[1] bits
irq_stack: unsigned char[16384] stack
thread_info: unsigned long flags, unsigned int cpu
signal_struct: long sigcnt, list_head thread_head
task_struct: thread_info thread_info, void* stack, unsigned int flags, list_head tasks, int pid, list_head
  thread_node, char[16] comm, signal_struct* signal, void* reclaim_state
cpuinfo_x86: unsigned int x86, unsigned int[22] x86_capability
static_key: atomic_t enabled
static_key_false: static_key key
"""

_PAGE = struct.Struct("<QQQQQQIIQ")
_SIZES = {"char": 1, "signed char": 1, "unsigned char": 1, "u8": 1, "u16": 2}
_SIZES |= dict.fromkeys(("int", "unsigned int", "s32", "u32"), 4)


def _declared(text: str) -> dict[str, list[str]]:
    """The members by name of what has them; a line that is indented goes on with the one before it."""
    lines = text.strip().replace("\n ", "").splitlines()
    return {name: members.split(", ") for name, _, members in (line.partition(": ") for line in lines)}


def _enumerators(constants: list[str]) -> dict[str, int]:
    """``NAME=value``; without a value it is one more than the last."""
    values: dict[str, int] = {}
    for number, constant in enumerate(constants):
        name, _, value = constant.partition("=")
        values[name] = int(value, 0) if value else [-1, *values.values()][number] + 1
    return values


ENUMS = {name: _enumerators(constants) for name, constants in _declared(_ENUMS).items()}
#: Name and type of each member.
STRUCTS = {
    name: [declaration.rpartition(" ")[::-2] for declaration in members]
    for name, members in _declared(_STRUCTS).items()
}


@lru_cache(64)
def _free_chunk(lru: int) -> bytes:
    """``struct page`` of a chunk as __init_single_page() and the free path leave them, on no list."""
    return b"".join(_PAGE.pack(0, lru + at, lru + at, 0, 0, 0, NO_TYPE, 0, 0) for at in range(0, 64 * CHUNK_PAGES, 64))


class MadeProgram:
    """A drgn program with these types, globals and symbols; a subclass gives it memory."""

    def __init__(self) -> None:
        self.prog = Program(drgn.Platform(drgn.Architecture.X86_64))
        self.vmcoreinfo = {"OSRELEASE": "6.12.0"}
        self.symbols: dict[str, int] = {}
        #: Type and address.
        self.globals: dict[str, tuple[str, int]] = {}
        self.structs: dict[str, Any] = {}
        self.enums: dict[str, dict[str, int]] = {}
        self._types: dict[str, Type] = {}
        self.prog.register_type_finder("test", self._find_type, enable_index=0)
        self.prog.register_object_finder("test", self._find_object, enable_index=0)
        self.prog.register_symbol_finder("test", self._find_symbol, enable_index=0)

    def type(self, name: str) -> Type:
        """A type by its C name without ``struct``; ``x*`` and ``x[n]``, the length last."""
        if name not in self._types:
            self._types[name] = self._make(name)
        return self._types[name]

    def _make_struct(self, name: str, members: Any) -> Type:
        raise NotImplementedError

    def _make(self, name: str) -> Type:
        prog = self.prog
        array = re.fullmatch(r"(.*)\[(\d+)\]", name)
        if array:
            return prog.array_type(self.type(array[1]), int(array[2]))
        if name.endswith("*"):
            target = name[:-1]
            # A structure may point to itself.
            if target in self.structs and target not in self._types:
                return prog.pointer_type(prog.struct_type(target))
            return prog.pointer_type(self.type(target))
        if name in self.structs:
            return self._make_struct(name, self.structs[name])
        if name.startswith("enum "):
            constants = [drgn.TypeEnumerator(*item) for item in self.enums[name[5:]].items()]
            return prog.enum_type(name[5:], prog.int_type("unsigned int", 4, False), constants)
        if name == "void":
            return prog.void_type()
        if name == "bool":
            return prog.bool_type("_Bool", 1)
        return prog.int_type(name, _SIZES.get(name, 8), not name.startswith("u"))

    def _find_type(self, prog: Program, kinds: Any, name: str, filename: Optional[str]) -> Optional[Type]:
        if drgn.TypeKind.ENUM in kinds:
            return self.type(f"enum {name}") if name in self.enums else None
        return self.type(name) if name in self.structs and drgn.TypeKind.STRUCT in kinds else None

    def _find_object(
        self, prog: Program, name: str, flags: drgn.FindObjectFlags, filename: Optional[str]
    ) -> Optional[Object]:
        if name == "VMCOREINFO":
            text = "".join(f"{key}={value}\n" for key, value in self.vmcoreinfo.items()).encode()
            return Object(prog, prog.array_type(self.type("char"), len(text)), text)
        if name not in self.globals:
            return None
        type_name, address = self.globals[name]
        return Object(prog, self.type(type_name), address=address)

    def _find_symbol(self, prog: Program, name: Optional[str], address: Optional[int], one: bool) -> list[drgn.Symbol]:
        if name not in self.symbols:
            return []
        return [drgn.Symbol(name, self.symbols[name], 0, drgn.SymbolBinding.GLOBAL, drgn.SymbolKind.OBJECT)]


class AllocatorProgram(MadeProgram):
    """Put things into memory with the methods, then use :attr:`prog`. Nothing else is in the target."""

    def __init__(self) -> None:
        super().__init__()
        self.structs = {name: list(members) for name, members in STRUCTS.items()}
        self.enums = {name: dict(values) for name, values in ENUMS.items()}
        self.vmcoreinfo["LENGTH(node_data)"] = str(NODES)
        self.vmemmap = VMEMMAP
        self._pages: dict[int, bytearray] = {}
        self._physical: dict[int, bytes] = {}
        self._next = HEAP
        self._roots: dict[int, int] = {}
        self.prog.add_memory_segment(KERNEL_START, (1 << 64) - KERNEL_START, self._read)
        self.prog.add_memory_segment(0, 1 << 52, self._read_physical, physical=True)
        self.set_global("vmemmap_base", "unsigned long", struct.pack("<Q", VMEMMAP))
        self.mem_section = self.place(8 * 2048)
        self.set_global("mem_section", "mem_section**", struct.pack("<Q", self.mem_section))

    def place(self, size: int, align: int = PAGE) -> int:
        address = -(-self._next // align) * align
        self._next = address + size
        self.write(address, bytes(size))
        return address

    def write(self, address: int, data: bytes) -> None:
        done = 0
        while done < len(data):
            number, offset = divmod(address + done, PAGE)
            count = min(PAGE - offset, len(data) - done)
            page = self._pages.setdefault(number, bytearray(PAGE))
            page[offset : offset + count] = data[done : done + count]
            done += count

    def drop(self, address: int) -> None:
        del self._pages[address // PAGE]

    def write_physical(self, pfn: int, data: bytes) -> None:
        self._physical[pfn] = data

    def _read(self, address: int, count: int, offset: int, physical: bool) -> bytes:
        data = bytearray()
        while len(data) < count:
            number, start = divmod(address + len(data), PAGE)
            if number not in self._pages:
                raise drgn.FaultError("not in this dump", number * PAGE)
            data += self._pages[number][start : start + count - len(data)]
        return bytes(data)

    def _read_physical(self, address: int, count: int, offset: int, physical: bool) -> bytes:
        pfn = address // PAGE
        if pfn not in self._physical:
            raise drgn.FaultError("not in this dump", address)
        return self._physical[pfn][address % PAGE :][:count]

    def new(self, type_name: str, **members: int) -> int:
        address = self.place(sizeof(self.type(type_name)), 64)
        for name, value in members.items():
            self.set(type_name, address, name, value)
        return address

    def set(self, type_name: str, address: int, member: str, value: int) -> None:
        size = sizeof(Object(self.prog, self.type(type_name), address=address).subobject_(member))
        self.write(self.at(type_name, address, member), (value & ULONG_MAX).to_bytes(8, "little")[:size])

    def at(self, type_name: str, address: int, member: str) -> int:
        return address + int(offsetof(self.type(type_name), member))

    def set_global(self, name: str, type_name: str, data: bytes) -> int:
        address = self.place(len(data), 64)
        self.write(address, data)
        self.globals[name] = (type_name, address)
        self.symbols[name] = address
        return address

    def link(self, head: int, entries: Sequence[int]) -> None:
        ring = [head, *entries]
        for index, address in enumerate(ring):
            self.write(address, struct.pack("<QQ", ring[(index + 1) % len(ring)], ring[index - 1]))

    def page(self, pfn: int) -> int:
        return self.vmemmap + pfn * 64

    def lru(self, pfn: int) -> int:
        return self.page(pfn) + 8

    def add_section(self, pfn: int, subsections: Optional[int] = None) -> None:
        """A memory section, of memory present since boot unless there is a map of its parts. Its pages are free."""
        number = pfn // SECTION_PAGES
        root, slot = divmod(number, PAGE // 16)
        if root not in self._roots:
            self._roots[root] = self.place(PAGE)
            self.write(self.mem_section + 8 * root, struct.pack("<Q", self._roots[root]))
        usage, flags = 0, self.vmemmap | 0b1011
        if subsections is not None:
            usage = self.new("mem_section_usage")
            self.set("mem_section_usage", usage, "subsection_map[0]", subsections)
            flags &= ~0b1000
        self.write(self._roots[root] + 16 * slot, struct.pack("<QQ", flags, usage))
        for chunk in range(number * SECTION_PAGES, (number + 1) * SECTION_PAGES, CHUNK_PAGES):
            self.write(self.page(chunk), _free_chunk(self.lru(chunk)))

    def set_page(self, pfn: int, **members: int) -> None:
        self.write(self.page(pfn), self._page(pfn, **members))

    def _page(
        self,
        pfn: int,
        flags: int = 0,
        compound: Optional[int] = None,
        private: int = 0,
        page_type: int = NO_TYPE,
        refcount: int = 0,
    ) -> bytes:
        lru = self.lru(pfn)
        return _PAGE.pack(flags, lru if compound is None else compound, lru, 0, 0, private, page_type, refcount, 0)

    def add_node(self, number: int, start_pfn: int = 0, spanned_pages: int = 0) -> int:
        """A ``struct pglist_data``; the lists of its zones are NULL as in a zone that was never populated."""
        pgdat = self.new("pglist_data", node_start_pfn=start_pfn, node_spanned_pages=spanned_pages)
        self.set("pglist_data", pgdat, "first_deferred_pfn", ULONG_MAX)
        if "node_data" not in self.globals:
            self.set_global("node_data", f"pglist_data*[{NODES}]", bytes(8 * NODES))
        self.write(self.globals["node_data"][1] + 8 * number, struct.pack("<Q", pgdat))
        return pgdat

    def populate(self, pgdat: int, index: int, name: str, start_pfn: int, pages: int) -> int:
        """A zone of a node, with empty lists. Returns the address of the ``struct zone``."""
        zone = self.at("pglist_data", pgdat, f"node_zones[{index}]")
        text = self.place(len(name) + 1, 1)
        self.write(text, name.encode())
        for member, value in {
            "zone_start_pfn": start_pfn,
            "spanned_pages": pages,
            "present_pages": pages,
            "managed_pages.counter": pages,
            "name": text,
        }.items():
            self.set("zone", zone, member, value)
        for order in range(11):
            for migratetype in range(3):
                head = self.at("zone", zone, f"free_area[{order}].free_list[{migratetype}]")
                self.link(head, [])
        if any(member == "unaccepted_pages" for member, _type in self.structs["zone"]):
            self.link(self.at("zone", zone, "unaccepted_pages"), [])
        return zone

    def list_chunks(self, zone: int, pfns: Iterable[int], flags: int = 0) -> None:
        """Put chunks on ``zone->unaccepted_pages``, with their page type."""
        pfns = list(pfns)
        page_type = UNACCEPTED if "PGTY_unaccepted" in self.enums.get("pagetype", {}) else NO_TYPE
        for pfn in pfns:
            self.set_page(pfn, flags=flags, page_type=page_type)
        self.link(self.at("zone", zone, "unaccepted_pages"), [self.lru(pfn) for pfn in pfns])

    def add_cpus(self, offsets: Sequence[int], possible: Optional[int] = None) -> None:
        mask = (1 << len(offsets)) - 1 if possible is None else possible
        data = struct.pack("<64Q", *offsets, *bytes(64 - len(offsets)))
        self.set_global("__per_cpu_offset", "unsigned long[64]", data)
        for name in ("__cpu_possible_mask", "__cpu_present_mask"):
            self.set_global(name, "cpumask", struct.pack("<Q", mask))

    def add_task(self, pid: int, comm: str, *, cpu: int, stack: int = 0) -> int:
        """A task on no list; it is its own process until :meth:`link_tasks` says otherwise."""
        task = self.new("task_struct", pid=pid)
        self.set("task_struct", task, "thread_info.cpu", cpu)
        self.set("task_struct", task, "stack", stack or self.place(THREAD_SIZE))
        self.write(self.at("task_struct", task, "comm"), comm.encode())
        return task

    def link_tasks(self, processes: Sequence[Sequence[int]]) -> None:
        """Lists of threads: the first is ``init_task``'s own, the first of each list its leader."""
        self.globals["init_task"] = ("task_struct", processes[0][0])
        tasks = [self.at("task_struct", threads[0], "tasks") for threads in processes]
        self.link(tasks[0], tasks[1:])
        for threads in processes:
            signal = self.new("signal_struct")
            for thread in threads:
                self.set("task_struct", thread, "signal", signal)
            head = self.at("signal_struct", signal, "thread_head")
            self.link(head, [self.at("task_struct", thread, "thread_node") for thread in threads])

    def _make_struct(self, name: str, members: list[tuple[str, str]]) -> Type:
        offset = 0
        made = []
        for member, type_name in members:
            type_ = self.type(type_name)
            align = self._align(type_name)
            offset = -(-offset // align) * align
            made.append(TypeMember(type_, member, offset * 8))
            offset += sizeof(type_)
        if name == "page":
            # Its bit 0 marks a tail page.
            made.append(TypeMember(self.type("unsigned long"), "compound_head", 64))
        align = self._align(name)
        return self.prog.struct_type(name, -(-offset // align) * align, made)

    def _align(self, name: str) -> int:
        name = name.split("[")[0]
        if name in self.structs:
            return max(self._align(type_name) for _member, type_name in self.structs[name])
        return int(sizeof(self.type(name)))


def said(read: Callable[[], Any]) -> Any:
    """What it returns, or why there is nothing."""
    try:
        return read()
    except Unavailable as error:
        return str(error)
