# SPDX-License-Identifier: LGPL-2.1-or-later
"""A real guest, grown: a bundled sample with any amount of memory behind its own, unaccepted and listed.

Memory segments over the opened sample change the table, a zone, its counters, ``mem_section``, the e820 tables, the
EFI memory map, and the ``struct page`` of the new memory, which are made when they are read. All else, with types and
symbols, is the sample's own. A user's loop and the program read the same.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Optional, Union

import drgn

from benchmarks.measure import SAMPLE
from drgn_unaccepted.kernel.memmap import page_layout
from drgn_unaccepted.kernel.probe import enumerators
from drgn_unaccepted.model.bitmap import from_runs
from drgn_unaccepted.targets.opened import Opened
from drgn_unaccepted.targets.vmcore import open_vmcore

PAGE = 4096
MIB, GIB, TIB = 1 << 20, 1 << 30, 1 << 40
UNIT = 2 * MIB
CHUNK = 4 * MIB
CHUNK_PAGES = CHUNK // PAGE
SECTION = 128 * MIB
#: The sample has memory up to 5 GiB; what is added begins there.
BASE, ADDED = 4 * GIB, 5 * GIB
#: A kernel with page tables of four levels has no struct page for more; its vmemmap ends here.
PAGES_END = 64 * TIB
#: Nothing of a kernel lies there.
FAKE_ROOT = 0xFFFFFFFFF0000000


class Grown:
    """The sample with ``size`` bytes of memory from 4 GiB on.

    :param size: whole units
    :param listed: what of it is unaccepted and on the list; all that was added, unless it is said. The rest has been
        accepted, and is in the bitmap and the maps alone.
    """

    def __init__(self, size: int, listed: Optional[int] = None, sample: Path = SAMPLE) -> None:
        self.size = size
        #: End of what is listed, and of the zone.
        self.end = BASE + (size if listed is None else listed)
        if size % UNIT or size < GIB or not ADDED <= self.end <= min(BASE + size, PAGES_END):
            raise ValueError(f"{size:#x} bytes, listed up to {self.end:#x}, are no guest that this can grow to")
        self.opened: Opened = open_vmcore(str(sample))
        self.prog: drgn.Program = self.opened.prog
        self._layout = page_layout(self.prog)
        self._grow_bitmap()
        if self.chunks:
            self._grow_zone()
            self._grow_sections()
        if size > GIB:
            self._grow_maps()

    @property
    def chunks(self) -> int:
        """Listed chunks that were added."""
        return (self.end - ADDED) // CHUNK

    @property
    def list_head(self) -> drgn.Object:
        """``struct list_head *`` of the zone's unaccepted_pages."""
        return self.zone.unaccepted_pages.address_of_()

    @property
    def zone(self) -> drgn.Object:
        """``struct zone`` Normal of node 0."""
        zones = self.prog["node_data"][0].node_zones
        return next(zone for zone in zones if zone.name.string_() == b"Normal")

    def _grow_bitmap(self) -> None:
        address = self.prog["efi"].unaccepted.value_()
        version, unit, base, old = struct.unpack("<IIQQ", self.prog.read(address, 24, physical=True))
        assert (unit, base) == (UNIT, BASE)
        units = self.size // UNIT
        # Filled in place: with a bitmap of 256 MiB each copy counts in the memory of who measures.
        bitmap = bytearray(max(old, (units + 7) // 8))
        bitmap[:old] = self.prog.read(address + 24, old, physical=True)
        if self.chunks:
            first, last = (ADDED - BASE) // UNIT, (self.end - BASE) // UNIT
            assert first % 8 == 0 and old <= first // 8
            bitmap[first // 8 : -(-last // 8)] = from_runs([(0, last - first)], -(-last // 8) - first // 8)
        self.bitmap = memoryview(bitmap).toreadonly()
        self._put(address, struct.pack("<IIQQ", version, unit, base, len(bitmap)), physical=True)
        self._put(address + 24, self.bitmap, physical=True)

    def _grow_zone(self) -> None:
        prog, zone = self.prog, self.zone
        pages = (self.end - ADDED) // PAGE
        items = enumerators(prog, "zone_stat_item")
        for word in (
            *(zone.spanned_pages, zone.present_pages, zone.managed_pages.counter),
            *(zone.vm_stat[items[name]].counter for name in ("NR_FREE_PAGES", "NR_UNACCEPTED")),
            *(prog["vm_zone_stat"][items[name]].counter for name in ("NR_FREE_PAGES", "NR_UNACCEPTED")),
        ):
            self._put(word.address_, struct.pack("<Q", word.value_() + pages))
        node = prog["node_data"][0]
        for word in (node.node_spanned_pages, node.node_present_pages):
            self._put(word.address_, struct.pack("<Q", word.value_() + pages))
        self._grow_list(zone)

    def _grow_list(self, zone: drgn.Object) -> None:
        """The added chunks behind the sample's own, in order of address as the kernel lists them."""
        layout = self._layout
        head = zone.unaccepted_pages.address_
        last = zone.unaccepted_pages.prev.value_()
        chunk_bytes = CHUNK_PAGES * layout.size
        start, end = layout.address(ADDED // PAGE), layout.address(self.end // PAGE)
        assert layout.size == 64 and layout.lru == 8
        template = bytearray(self.prog.read(last - layout.lru, chunk_bytes))
        page_struct = struct.Struct("<8sQQ40s")
        assert chunk_bytes == 1 << 16 and page_struct.size == layout.size
        flags, _, _, rest = page_struct.unpack_from(template)
        pack = page_struct.pack

        def read(address: int, count: int, offset: int, physical: bool) -> bytes:
            within = offset & 0xFFFF
            page = address - within
            if within + count <= 64:
                # What a walk reads; half of the time of a walk is spent here, for whoever walks.
                return pack(flags, page + 0x10008, page - 0xFFF8, rest)[within : within + count]
            chunks = -(-(within + count) // chunk_bytes)
            data = bytearray(bytes(template) * chunks)
            for at in range(0, chunks * chunk_bytes, chunk_bytes):
                page_struct.pack_into(data, at, flags, page + at + 0x10008, page + at - 0xFFF8, rest)
            return bytes(data[within : within + count])

        self.prog.add_memory_segment(start, end - start, read)
        final = end - chunk_bytes
        for link, target in (
            *((last, start + 8), (start + 16, last)),
            *((final + 8, head), (head + 8, final + 8)),
        ):
            self._put(link, struct.pack("<Q", target))

    def _grow_sections(self) -> None:
        """``mem_section``: all further sections have memory, and one page of descriptions for all of them."""
        prog = self.prog
        table = prog["mem_section"].value_()
        size = drgn.sizeof(prog.type("struct mem_section"))
        per_root = PAGE // size
        root = prog["mem_section"][0].value_()
        own = prog.read(root, PAGE)
        first = (BASE // SECTION) % per_root
        entry = own[first * size : (first + 1) * size]
        filled = ADDED // SECTION
        self._put(root + filled * size, entry * (per_root - filled))
        self._put(FAKE_ROOT, entry * per_root)
        roots = -(-(self.end // SECTION) // per_root)
        if roots > 1:
            self._put(table + 8, struct.pack("<Q", FAKE_ROOT) * (roots - 1))

    def _grow_maps(self) -> None:
        """The e820 tables' last RAM gets longer; the EFI map's last descriptor becomes the added memory, of type 15."""
        prog = self.prog
        for name in ("e820_table", "e820_table_kexec", "e820_table_firmware"):
            entries = prog[name].entries
            for index in range(prog[name].nr_entries.value_()):
                if entries[index].addr.value_() == BASE:
                    self._put(entries[index].size.address_, struct.pack("<Q", self.size))
        info = prog["boot_params"].efi_info
        memmap = info.efi_memmap.value_() | info.efi_memmap_hi.value_() << 32
        size, stride = info.efi_memmap_size.value_(), info.efi_memdesc_size.value_()
        at = memmap + size - stride
        added = struct.pack("<IIQQQQ", 15, 0, ADDED, 0, (self.end - ADDED) // PAGE, 0xF)
        self._put(at, added, physical=True)

    def _put(self, address: int, data: Union[bytes, memoryview], physical: bool = False) -> None:
        self.prog.add_memory_segment(address, len(data), _from(data), physical)


def _from(data: Union[bytes, memoryview]) -> Callable[[int, int, int, bool], memoryview]:
    view = memoryview(data)
    return lambda address, count, offset, physical: view[offset : offset + count]
