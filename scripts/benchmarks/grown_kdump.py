# SPDX-License-Identifier: LGPL-2.1-or-later
"""The kdump of a real guest, grown: a kdump-compressed file with any amount of memory behind the guest's own.

All is in the file, as makedumpfile would write it: the pages of the added memory's ``struct page``, the page tables
that map them, ``mem_section``, the zone with its list, the counters, the e820 tables, and the EFI memory map in the
kernel log. Pages that are alike share their compressed bytes; each is read and decompressed by itself all the same.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import drgn

from benchmarks.grown import ADDED, CHUNK, CHUNK_PAGES, PAGE, SECTION
from drgn_unaccepted.kernel.memmap import page_layout
from drgn_unaccepted.kernel.probe import enumerators
from drgn_unaccepted.targets.page_tables import kernel_page_tables
from drgn_unaccepted.targets.vmcore import open_vmcore
from drgn_unaccepted.targets.vmcoreinfo import vmcoreinfo_of

_DESCRIPTOR = struct.Struct("<QIIQ")  # offset, size, flags, page_flags of page_desc_t
_ZLIB = 1
#: What a page table entry of the kernel has beside the address: present, writable, accessed, dirty, global, NX; PS.
_TABLE, _LARGE = 0x67, 0x80000000000001E3
_PMD = 2 << 20


class _Base:
    """The pages of a kdump-compressed file, as they are in it."""

    def __init__(self, path: Path) -> None:
        self.data = path.read_bytes()
        self.block, self.sub, bitmaps = struct.unpack_from("<IiI", self.data, 428)
        assert self.block == PAGE
        start = (1 + self.sub) * PAGE
        half = bitmaps * PAGE // 2
        bits = self.data[start + half : start + 2 * half]
        self.places = {}
        at = start + 2 * half
        for number, byte in enumerate(bits):
            for bit in range(8) if byte else ():
                if byte >> bit & 1:
                    self.places[8 * number + bit] = _DESCRIPTOR.unpack_from(self.data, at)
                    at += _DESCRIPTOR.size

    def page(self, pfn: int) -> bytearray:
        offset, size, flags, _ = self.places[pfn]
        data = self.data[offset : offset + size]
        assert flags in (0, _ZLIB)
        return bytearray(zlib.decompress(data) if flags else data)


class GrownKdump:
    """A guest with ``added`` bytes behind its own memory, of which the last tenth is unaccepted and listed."""

    def __init__(self, base: Path, added: int) -> None:
        assert added % (1 << 30) == 0
        self._base = _Base(base)
        self._prog = open_vmcore(str(base)).prog
        self._layout = page_layout(self._prog)
        assert (self._layout.size, self._layout.lru) == (64, 8)
        tables = kernel_page_tables(self._prog)
        assert tables is not None
        self._tables = tables
        self._changed: dict[int, bytearray] = {}
        self.end = ADDED + added
        self.unaccepted = self.end - added // 10 // CHUNK * CHUNK
        #: Where the added memory's struct pages lie: at its beginning, and the page tables behind them.
        self._memmap = ADDED
        self._free = ADDED + added // PAGE * self._layout.size
        self.nr_chunks = (self.end - self.unaccepted) // CHUNK
        self._grow_sections()
        self._grow_tables()
        self._grow_zone()
        self._grow_maps()

    # Memory of the guest itself

    def _read_physical(self, address: int, size: int) -> bytes:
        return bytes(self._prog.read(address, size, physical=True))

    def _put(self, address: int, data: bytes, physical: bool = False) -> None:
        """Change bytes within one page."""
        place = address if physical else self._tables.translate(address).start
        pfn, at = divmod(place, PAGE)
        if pfn not in self._changed:
            self._changed[pfn] = self._base.page(pfn) if pfn in self._base.places else bytearray(PAGE)
        self._changed[pfn][at : at + len(data)] = data

    def _add(self, word: drgn.Object, number: int) -> None:
        assert word.address_ is not None
        self._put(word.address_, struct.pack("<Q", word.value_() + number))

    # What is changed

    def _grow_sections(self) -> None:
        prog = self._prog
        table, size = prog["mem_section"].value_(), drgn.sizeof(prog.type("struct mem_section"))
        per_root = PAGE // size
        root = prog["mem_section"][0].value_()
        first = (4 << 30) // SECTION * size
        entry = prog.read(root + first, size)
        for section in range(ADDED // SECTION, min(self.end // SECTION, per_root)):
            self._put(root + section * size, entry)
        # One page of descriptions for all further roots, in a page that the dump leaves out.
        direct = prog["page_offset_base"].value_()
        spare = next(pfn for pfn in range((4 << 30) // PAGE, ADDED // PAGE) if pfn not in self._base.places)
        self._put(spare * PAGE, entry * per_root, physical=True)
        for index in range(1, -(-(self.end // SECTION) // per_root)):
            self._put(table + 8 * index, struct.pack("<Q", direct + spare * PAGE))

    def _grow_tables(self) -> None:
        """Map the added memory's struct pages, 2 MiB at a time as vmemmap_populate_hugepages() does."""
        layout = self._layout
        start, end = layout.address(ADDED // PAGE), layout.address(self.end // PAGE)
        for address in range(start, end, _PMD):
            table = self._tables.root
            for shift in range(12 + 9 * (self._tables.levels - 1), 21, -9):
                at = table + (address >> shift & 511) * 8
                entry = int.from_bytes(self._now(at), "little")
                if not entry:
                    entry = self._free | _TABLE
                    self._put(at, struct.pack("<Q", entry), physical=True)
                    self._put(self._free, b"", physical=True)
                    self._free += PAGE
                table = entry & 0xFFFFFFFFFF000
            place = self._memmap + address - start
            self._put(table + (address >> 21 & 511) * 8, struct.pack("<Q", place | _LARGE), physical=True)

    def _now(self, address: int) -> bytes:
        pfn, at = divmod(address, PAGE)
        changed = self._changed.get(pfn)
        return self._read_physical(address, 8) if changed is None else bytes(changed[at : at + 8])

    def _grow_zone(self) -> None:
        prog = self._prog
        zone = self.zone
        pages, listed = (self.end - ADDED) // PAGE, self.nr_chunks * CHUNK_PAGES
        items = enumerators(prog, "zone_stat_item")
        for word in (zone.spanned_pages, zone.present_pages, zone.managed_pages.counter):
            self._add(word, pages)
        for stats in (zone.vm_stat, prog["vm_zone_stat"]):
            self._add(stats[items["NR_UNACCEPTED"]].counter, listed)
            self._add(stats[items["NR_FREE_PAGES"]].counter, listed)
        node = prog["node_data"][0]
        for word in (node.node_spanned_pages, node.node_present_pages):
            self._add(word, pages)
        # The added chunks behind the guest's own.
        head, last = zone.unaccepted_pages.address_, zone.unaccepted_pages.prev.value_()
        assert head is not None
        self._template = prog.read(last - self._layout.lru, 64)
        self._links = (last, *(self._link(number) for number in range(self.nr_chunks)), head)
        self._put(last, struct.pack("<Q", self._links[1]))
        self._put(head + 8, struct.pack("<Q", self._links[-2]))

    def _link(self, number: int) -> int:
        return self._layout.address(self.unaccepted // PAGE + number * CHUNK_PAGES) + self._layout.lru

    @property
    def zone(self) -> drgn.Object:
        zones = self._prog["node_data"][0].node_zones
        return next(zone for zone in zones if zone.name.string_() == b"Normal")

    def _grow_maps(self) -> None:
        prog = self._prog
        for name in ("e820_table", "e820_table_kexec", "e820_table_firmware"):
            entries = prog[name].entries
            for index in range(prog[name].nr_entries.value_()):
                if entries[index].addr.value_() == 4 << 30:
                    self._add(entries[index].size, self.end - ADDED)
        # In the log, the map's last entry, of MMIO, becomes the added memory.
        ring = prog["prb"].text_data_ring
        start, size = ring.data.value_(), 1 << ring.size_bits.value_()
        text = prog.read(start, size)
        old = b"[MMIO        |RUN|"
        at = text.index(old)
        self._put_text(start + at, b"[Unaccepted  |   |")
        at = text.index(b"range=[0x", at) + len(b"range=[")
        self._put_text(start + at, b"0x%016x-0x%016x" % (ADDED, self.end - 1))

    def _put_text(self, address: int, text: bytes) -> None:
        for at, byte in enumerate(text):
            self._put(address + at, bytes([byte]))

    # The file

    def _memmap_pages(self) -> Iterator[tuple[int, bytes]]:
        """Pages of the memmap in order: how often, and the bytes."""
        flags = self._template[:8]
        page = struct.Struct("<8s32sQIIQ")  # flags, lru to index, private, page_type, _refcount, memcg_data

        def pages(page_type: int, refcount: int, private: int = 0, reserved: bool = False) -> bytes:
            word = int.from_bytes(flags, "little") | self._layout.reserved_flag * reserved
            links = struct.pack("<QQQQ", 0xDEAD000000000100, 0xDEAD000000000122, 0, 0)
            return page.pack(word.to_bytes(8, "little"), links, private, page_type, refcount, 0)

        none, buddy = 0xFFFFFFFF, 0xF0000000
        free = pages(none, 0)
        used = pages(none, 1) * 64
        chunk = CHUNK_PAGES * self._layout.size // PAGE
        own = -(-(self._free - ADDED) // CHUNK)
        reserved = -(-(self._free - ADDED) // (2 << 20)) * chunk // 2
        yield reserved, pages(none, 1, reserved=True) * 64
        yield own * chunk - reserved, used
        accepted = (self.unaccepted - ADDED) // CHUNK - own
        for _ in range(accepted // 2):
            yield chunk, used
            yield 1, pages(buddy, 0, private=10) + free * 63
            yield chunk - 1, free * 64
        if accepted % 2:
            yield chunk, used
        for number in range(1, self.nr_chunks + 1):
            head = bytearray(self._template)
            struct.pack_into("<QQ", head, 8, self._links[number + 1], self._links[number - 1])
            yield 1, bytes(head) + free * 63
            yield chunk - 1, free * 64

    def write(self, path: Path) -> None:
        base, data = self._base, bytearray()
        most = self.end // PAGE
        half = -(-most // 8 // PAGE) * PAGE
        bitmap = bytearray(half)
        old = base.places.keys() | {pfn for pfn in self._changed if pfn < self._memmap // PAGE}
        for pfn in old:
            bitmap[pfn >> 3] |= 1 << (pfn & 7)
        first, last = self._memmap // PAGE, self._free // PAGE
        assert max(old) < first and first % 8 == 0
        bitmap[first >> 3 : last >> 3] = b"\xff" * ((last >> 3) - (first >> 3))
        for pfn in range(last & ~7, last):
            bitmap[pfn >> 3] |= 1 << (pfn & 7)
        header = bytearray(base.data[: (1 + base.sub) * PAGE])
        struct.pack_into("<II", header, 436, 2 * half // PAGE, min(most, 0xFFFFFFFF))
        struct.pack_into("<Q", header, PAGE + 96, most)
        number = len(old) + last - first
        start = len(header) + 2 * half + number * _DESCRIPTOR.size
        places: dict[bytes, bytes] = {}

        def place(page: bytes) -> bytes:
            found = places.get(page)
            if found is None:
                packed = zlib.compress(page, 1)
                found = places[page] = _DESCRIPTOR.pack(start + len(data), len(packed), _ZLIB, 0)
                data.extend(packed)
            return found

        with path.open("wb") as file:
            file.write(header)
            file.write(bitmap)
            file.write(bitmap)
            kept: dict[int, bytes] = {}
            for pfn in sorted(old):
                if pfn in self._changed:
                    file.write(place(bytes(self._changed[pfn])))
                    continue
                offset, size, flags, _ = base.places[pfn]
                if offset not in kept:
                    kept[offset] = _DESCRIPTOR.pack(start + len(data), size, flags, 0)
                    data += base.data[offset : offset + size]
                file.write(kept[offset])
            written = 0
            for count, page in self._memmap_pages():
                file.write(place(page) * count)
                written += count
            assert self._memmap + written * PAGE == ADDED + (self.end - ADDED) // PAGE * self._layout.size
            for pfn in range(self._memmap // PAGE + written, last):
                file.write(place(bytes(self._changed[pfn])))
            file.write(data)


def write_large_table(base: Path, path: Path, bitmap: bytes) -> None:
    """A whole dump, as ELF, of the guest in ``base``, whose table has this bitmap and lies above all of its memory."""
    prog = open_vmcore(str(base)).prog
    tables = kernel_page_tables(prog)
    unaccepted = prog["efi"].unaccepted
    assert tables is not None and unaccepted.address_ is not None
    header, address = bytearray(prog.read(unaccepted.value_(), 24, physical=True)), 16 << 40
    struct.pack_into("<QQ", header, 8, 0, len(bitmap))  # no physical address is beyond 4 PiB
    pages = {pfn: bytearray(prog.read(pfn * PAGE, PAGE, physical=True)) for pfn in sorted(_Base(base).places)}
    pfn, at = divmod(tables.translate(unaccepted.address_).start, PAGE)
    struct.pack_into("<Q", pages[pfn], at, address)
    note = vmcoreinfo_of(prog).text
    notes = struct.pack("<III12s", 11, len(note), 0, b"VMCOREINFO") + note.ljust(-(-len(note) // 4) * 4, b"\0")
    count = len(pages) + 2
    offset = -(-(64 + 56 * count + len(notes)) // PAGE) * PAGE
    segment = struct.Struct("<IIQQQQQQ")
    headers = [segment.pack(4, 0, 64 + 56 * count, 0, 0, len(notes), len(notes), 4)]
    for number, pfn in enumerate(pages):
        headers.append(segment.pack(1, 7, offset + number * PAGE, 0, pfn * PAGE, PAGE, PAGE, 0))
    size = len(header) + len(bitmap)
    headers.append(segment.pack(1, 7, offset + len(pages) * PAGE, 0, address, size, size, 0))
    ehdr = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 4, 62, 1, 0, 64, 0, 0, 64, 56, count, 0, 0, 0)
    with path.open("wb") as file:
        file.write(b"".join((ehdr, *headers, notes)).ljust(offset, b"\0"))
        for page in (*pages.values(), header, bitmap):
            file.write(page)
