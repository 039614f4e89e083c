# SPDX-License-Identifier: LGPL-2.1-or-later
"""Worst cases made by hand, which random damage does not reach: each gives an answer, or one line with the reason.

Each runs in a process of its own; a hang, 1 GiB of memory or a traceback is a failure (tests.fuzz.run).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from drgn import Architecture, Program
from drgn import Platform as Machine

from drgn_unaccepted import limits
from drgn_unaccepted.kernel.efi import read_efi_map
from drgn_unaccepted.kernel.memmap import walk_page_list
from drgn_unaccepted.kernel.platform import read_kernel_build
from drgn_unaccepted.kernel.printk import read_log
from drgn_unaccepted.kernel.zones import read_zones
from drgn_unaccepted.model.e820 import E820Entry
from drgn_unaccepted.model.efi import EfiDescriptor
from drgn_unaccepted.snapshot import E820Tables
from drgn_unaccepted.snapshot_file import write
from drgn_unaccepted.targets.btf import Btf, Kind
from drgn_unaccepted.targets.debug_info import find_btf
from drgn_unaccepted.targets.errors import Unavailable
from drgn_unaccepted.targets.vmcore import open_vmcore
from tests.checks import build
from tests.fuzz import run
from tests.fuzz.run import ANSWERED, REFUSED, Outcome, answered, outcome_of
from tests.kernel.firmware_program import FirmwareProgram
from tests.kernel.printk_writer import PrintkWriter
from tests.kernel.test_lists import BASE, HEAD, LAYOUT
from tests.kernel.test_zones import CHUNK_PAGES, NORMAL, START, Guest
from tests.targets import btf_writer as w
from tests.targets.elf_dump import SAMPLES

pytestmark = pytest.mark.long

DUMP = SAMPLES / "6.12-fill" / "vmcore"


# Types

#: Structures that a summary and a check look up.
STRUCTS = """
    accept_range boot_params e820_table efi efi_memory_map free_area kimage list_head mem_section page pglist_data
    printk_info printk_ringbuffer setup_header signal_struct task_struct zone
""".split()


@cache
def real_btf() -> bytes:
    return find_btf(open_vmcore(str(DUMP)).prog)


class Patched(w.BtfWriter):
    """The kernel's own BTF, to which tests add types and whose structures they change."""

    def __init__(self) -> None:
        super().__init__()
        data = real_btf()
        self.btf = Btf(Program(), data)
        _, _, _, header, type_off, type_len, str_off, str_len = struct.unpack_from("<HBBIIIII", data)
        self.types = bytearray(data[header + type_off :][:type_len])
        self.strings = bytearray(data[header + str_off :][:str_len])
        with pytest.raises(ValueError, match="there are only") as beyond:
            self.btf.record(1 << 30)
        self.count = int(str(beyond.value).split()[-1])

    def struct_at(self, name: str) -> tuple[int, int]:
        """Offset of a structure's members in the type section, and their number."""
        number = self.btf.find(name, (Kind.STRUCT,))
        assert number is not None, name
        found = self.btf.record(number)
        return found.data, found.vlen

    def members(self, name: str) -> bytes:
        at, vlen = self.struct_at(name)
        return bytes(self.types[at : at + 12 * vlen])

    def change_members(self, to: int) -> None:
        """Give every member of all structures this type."""
        for name in STRUCTS:
            at, vlen = self.struct_at(name)
            for index in range(vlen):
                struct.pack_into("<I", self.types, at + 12 * index + 4, to)

    def replace(self, name: str, members: bytes) -> None:
        """Put another structure in the place of the one of this name."""
        at, _ = self.struct_at(name)
        number_of_name, _, size = struct.unpack_from("<III", self.types, at - 12)
        struct.pack_into("<I", self.types, at - 12, 0)
        self.compound_of(number_of_name, size, members)

    def extend(self, name: str, members: bytes) -> None:
        self.replace(name, self.members(name) + members)

    def compound_of(self, name_off: int, size: int, members: bytes) -> int:
        self.types += struct.pack("<III", name_off, w.STRUCT << 24 | len(members) // 12, size) + members
        self.count += 1
        return self.count

    def chain(self, kind: int, length: int, last: int = 1) -> int:
        name = self.string("t") if kind == w.TYPEDEF else 0
        records = (struct.pack("<III", name, kind << 24, self.count + n if n else last) for n in range(length))
        self.types += b"".join(records)
        self.count += length
        return self.count


def member(type_: int, name: int = 0) -> bytes:
    return struct.pack("<III", name, type_, 0)


def many_members(b: Patched) -> None:
    name = b.string("x" * 500)
    for structure in STRUCTS:
        b.extend(structure, member(1, name) * 65_000)


def many_members_below_each_other(b: Patched) -> None:
    """Each structure has 65,000 members without a name, with many qualifiers, and then the previous structure."""
    last = qualified = b.chain(w.CONST, 62)
    for _ in range(30):
        last = b.compound_of(0, 4, member(qualified) * 65_000 + member(last))
    for structure in STRUCTS:
        b.extend(structure, member(last))


def steps_without_a_name(b: Patched) -> None:
    """Each member without a name is a pointer to the previous one, in short steps: no single chain is too long."""
    last, members = 1, b""
    for _ in range(2_000):
        last = b.chain(w.PTR, 50, last)
        members += member(last)
    for structure in STRUCTS:
        own = struct.iter_unpack("<III", b.members(structure))
        b.replace(structure, members + b"".join(struct.pack("<III", name, last, at) for name, _, at in own))


def one_name_everywhere(b: Patched) -> None:
    """A million matches for each of several names, which are names of parameters and not the constants sought."""
    for name in ("NR_FREE_PAGES", "NR_UNACCEPTED", "WMARK_MIN", "PGTY_unaccepted", "PG_reserved", "zone", "page"):
        word = struct.pack("<I", b.string(name))
        for _ in range(7):
            b.types += struct.pack("<III", 0, w.FUNC_PROTO << 24 | 0xFFFF, 1) + word * (2 * 0xFFFF)
            b.count += 1


TYPES: dict[str, Callable[[Patched], None]] = {
    "typedefs nested 100000 deep": lambda b: b.change_members(b.chain(w.TYPEDEF, 100_000)),
    "pointers nested 100000 deep": lambda b: b.change_members(b.chain(w.PTR, 100_000)),
    "qualifiers nested 100000 deep": lambda b: b.change_members(b.chain(w.VOLATILE, 100_000)),
    "65000 members": many_members,
    "65000 members below each other": many_members_below_each_other,
    "pointers without a name, each to the one before": steps_without_a_name,
    "a name everywhere": one_name_everywhere,
}


@pytest.mark.parametrize("name", TYPES)
def test_types(name: str, tmp_path: Path) -> None:
    patched = Patched()
    TYPES[name](patched)
    path = tmp_path / "btf"
    path.write_bytes(patched.data())
    outcome = outcome_of(lambda: answered("-c", DUMP, "-s", path, "--debug-info", "btf", "check"))
    assert outcome.peak_bytes < 600 << 20


def test_types_that_were_not_changed(tmp_path: Path) -> None:
    """The refusals above come from the changes."""
    path = tmp_path / "btf"
    path.write_bytes(Patched().data())
    assert path.read_bytes()[24:] == real_btf()[24:]
    status, out, _ = run.command("-c", DUMP, "-s", path, "--debug-info", "btf", "summary")
    assert status == 0 and "bitmap" in out


# The kernel log


def log_of(text: bytes) -> PrintkWriter:
    """The largest ring that is read, full of records of the maximum length with this text."""
    writer = PrintkWriter(count_bits=10, size_bits=25)
    record = (b"efi: " + text * (65_528 // len(text) + 1))[:65_528]
    for _ in range(limits.LOG_BYTES // 65_536):
        writer.write(record)
    assert len(writer.kept) > 500
    return writer


@pytest.mark.parametrize(
    "text",
    (
        b"\xff\n",
        b"efi: \xff\n",
        b"efi: mem00: [" + b" " * 65_000,
        b"efi: mem00: [" + b"[type=" * 1_000,
        b"Kernel panic - not syncing: " + b"\x1b[31m" * 13_000,
    ),
    ids=("short lines", "short lines of EFI", "spaces", "brackets", "a panic of escapes"),
)
def test_log(text: bytes) -> None:
    program = FirmwareProgram()
    # Not captured, so the map comes from the log.
    program.set_efi_info(0x7FB70040, 48 * 10)
    log_of(text).install(program)

    def check() -> Outcome:
        try:
            read_log(program.prog)
            read_efi_map(program.prog)
        except Unavailable as error:
            return Outcome(REFUSED, str(error))
        return Outcome(ANSWERED, "")

    outcome_of(check)


# Maps


TOP = limits.PHYSICAL_END

#: Descriptors of the EFI map, and ranges of each e820 table.
MAPS: dict[str, tuple[list[EfiDescriptor], list[tuple[int, int]]]] = {
    "as many as can be, each in the one before": (
        [EfiDescriptor(15 if n % 2 else 7, n * 4096, TOP - n * 4096, 0xF) for n in range(limits.EFI_DESCRIPTORS)],
        [(n * 4096, TOP - n * 4096) for n in range(limits.E820_ENTRIES)],
    ),
    "all the same, beyond all addresses": (
        [EfiDescriptor(15, 0, 1 << 64, 0xF)] * limits.EFI_DESCRIPTORS,
        [((1 << 64) - 4096, (1 << 65) - 1)] * limits.E820_ENTRIES,
    ),
}


@pytest.mark.parametrize("name", MAPS)
def test_maps(name: str, tmp_path: Path) -> None:
    path = tmp_path / "snapshot"
    descriptors, ranges = MAPS[name]
    clean = build.clean()
    table = tuple(E820Entry(start, end, number % 20) for number, (start, end) in enumerate(ranges))
    efi_map = replace(clean.efi_map, descriptors=tuple(descriptors))
    write(replace(clean, efi_map=efi_map, e820=E820Tables(table, table, table, table)), str(path))
    for words in (("map",), ("efi",), ("resolve", "0-4096T"), ("check",)):
        outcome_of(lambda words=words: answered("--snapshot", path, *words))  # type: ignore[misc]


# Page lists


def test_a_list_that_leads_back_into_itself_after_a_million_pages() -> None:
    """In an order that cannot be guessed; the first 1,000 entries are not in the cycle."""
    begin, period = 1_000, 1_000_003
    pages = bytearray(64 * (begin + period))

    def pfn(number: int) -> int:
        # The period is prime, so 617 reaches every place of the cycle.
        return number if number < begin else begin + (number - begin) * 617 % period

    for number in range(begin + period):
        following = number + 1 if number + 1 < begin + period else begin
        before = number - 1
        links = (BASE + 64 * pfn(following) + 8, BASE + 64 * pfn(before) + 8 if before >= 0 else HEAD)
        struct.pack_into("<QQ", pages, 64 * pfn(number) + 8, *links)
    head = struct.pack("<QQ", BASE + 8 + 64 * pfn(0), 0)
    prog = Program(Machine(Architecture.X86_64))
    prog.add_memory_segment(HEAD, 16, lambda _address, count, offset, _physical: head[offset : offset + count])
    prog.add_memory_segment(BASE, len(pages), lambda _address, count, offset, _physical: pages[offset : offset + count])

    def check() -> Outcome:
        listed = walk_page_list(prog, LAYOUT, HEAD, limits.LISTED_CHUNKS)
        assert len(listed.pfns) == begin + period and len(set(listed.pfns)) == begin + period
        return Outcome(ANSWERED, listed.problems[-1])

    assert outcome_of(check, ANSWERED).text.endswith("a cycle")


@pytest.mark.parametrize("way", ("a list", "the head of the other zone"))
def test_two_zones_that_share(way: str) -> None:
    """The second head leads into the first one's list, which never comes back to it."""
    guest = Guest()
    first = guest.zone
    second = guest.populate(guest.add_node(1), NORMAL, "Normal", START + 64 * CHUNK_PAGES, 64 * CHUNK_PAGES)
    pfns = [START + n * CHUNK_PAGES for n in (1, 2, 3)]
    guest.list_chunks(first, pfns)
    other = guest.at("zone", first, "unaccepted_pages")
    link = guest.lru(pfns[1]) if way == "a list" else other
    guest.write(guest.at("zone", second, "unaccepted_pages"), struct.pack("<QQ", link, guest.lru(pfns[2])))
    zones = read_zones(guest.prog, read_kernel_build(guest.prog))
    one, two = (zone.listed for zone in zones)
    assert (list(one.pfns), one.problems) == (pfns, ())
    assert list(two.pfns) == (pfns[1:] if way == "a list" else [])
    assert f"{other:#x}, which is in no struct page" in two.problems[-1]
