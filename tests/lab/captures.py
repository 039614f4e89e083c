# SPDX-License-Identifier: LGPL-2.1-or-later
"""The guest lab's captures and what each guest said of itself. Nothing here uses the package."""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Optional

MIB = 1 << 20
UNIT = 2 * MIB
CHUNK = 4 * MIB
UNACCEPTED = 15
PT_LOAD, PT_NOTE = 1, 4

LAB = Path(os.environ.get("DRGN_UNACCEPTED_LAB", "~/.cache/drgn-unaccepted-lab")).expanduser()
Ranges = Iterable[tuple[int, int]]


def whole_units(ranges: Ranges) -> set[int]:
    """Numbers (address / 2 MiB) of the units that lie in one of the ranges."""
    return {n for start, end in ranges for n in range(-(-start // UNIT), end // UNIT)}


def touched_units(ranges: Ranges) -> set[int]:
    """Numbers of the units of which a range has a part."""
    return {n for start, end in ranges for n in range(start // UNIT, -(-end // UNIT))}


def set_units(base: int, bitmap: bytes) -> set[int]:
    """Numbers of the units whose bits are set in a bitmap that begins at ``base``."""
    return {base // UNIT + bit for bit in range(8 * len(bitmap)) if bitmap[bit >> 3] >> (bit & 7) & 1}


def units(answer: Any, state: str) -> set[int]:
    """Numbers of the whole units in this state, from an answer of ``ranges``, where one can have several reasons."""
    found: list[tuple[int, int]] = []
    for start, end in ((entry["start"], entry["end"]) for entry in answer["ranges"] if entry["state"] == state):
        before = found.pop() if found and found[-1][1] == start else (start, end)
        found.append((before[0], end))
    return whole_units(found)


def logged_table(log: str) -> int:
    """The table's address, which the kernel logged when it found the configuration table."""
    found = re.search(r"efi: .*\bUnaccepted=0x([0-9a-f]+)", log)
    assert found, "the kernel logged no table"
    return int(found[1], 16)


def noted_accepts(text: str) -> list[tuple[int, int]]:
    """The ranges that the lab's arch_accept_memory() noted."""
    lines = (line.split() for line in text.splitlines() if not line.startswith("#"))
    return [(int(start, 16), int(end, 16)) for start, end, *_ in lines]


class Capture(NamedTuple):
    """One scenario of one kernel, captured."""

    path: Path

    @property
    def name(self) -> str:
        return f"{self.path.parent.name}-{self.path.name}"

    @property
    def dump(self) -> Path:
        return self.path / "dump.elf"

    @property
    def has_account(self) -> bool:
        """The guest lived long enough to say something of itself."""
        return (self.path / "guest" / "dmesg").exists()

    @property
    def logs_efi_map(self) -> bool:
        """The kernel printed the map: not without efi=debug, nor without runtime services, as with PREEMPT_RT."""
        return "efi: mem00:" in self.account("dmesg")

    @property
    def vmlinux(self) -> str:
        """The path of its symbols, or "" """
        return str(self.json("scenario.json")["kernel"]["vmlinux"] or "")

    def json(self, name: str) -> Any:
        return json.loads((self.path / name).read_text())

    def account(self, name: str) -> str:
        return (self.path / "guest" / name).read_text(errors="replace")

    def console(self) -> str:
        return (self.path / "serial.log").read_text(errors="replace")

    def table_address(self) -> int:
        return logged_table(self.console())

    def table(self) -> tuple[int, int, int, bytes]:
        """Address, phys_base, unit size and bitmap of the table in the dump of all RAM."""
        address = self.table_address()
        return (address, *read_bitmap(self.dump, address))

    def nr_unaccepted(self) -> int:
        """Bytes, from the guest's /proc/vmstat."""
        found = re.search(r"^nr_unaccepted (\d+)$", self.account("vmstat"), re.M)
        assert found, "the guest has no such counter"
        return int(found[1]) * 4096

    def type15(self) -> list[tuple[int, int]]:
        """The descriptors of type 15 that the loader handed to the kernel, in map order, merged nowhere."""
        return [
            (d["phys_addr"], d["phys_addr"] + d["num_pages"] * 4096)
            for d in self.json("loader.json")["final_map"]["descriptors"]
            if d["type"] == UNACCEPTED
        ]

    def initial_units(self) -> set[int]:
        """Numbers of the units that the stub gave a bit: wholly type 15, and not accepted by the stub at once."""
        stub = self.json("loader.json")["stub_accepted"]
        return whole_units(self.type15()) - touched_units((r["start"], r["end"]) for r in stub)

    def unaccepted_units(self) -> set[int]:
        """Those that the kernel did not accept either, by its record."""
        return self.initial_units() - touched_units(noted_accepts(self.account("lab_accepted")))


@cache
def captures(kernels: str = "captures") -> list[Capture]:
    """All whole captures of the lab's own kernels, or of unmodified ones."""
    found = sorted(LAB.glob(f"{kernels}/*/*/scenario.json"))
    return [Capture(path.parent) for path in found if not path.parent.name.endswith(".partial")]


def all_captures() -> list[Capture]:
    return [*captures(), *captures("unmodified")]


def find(*names: str) -> list[Capture]:
    """The captures of these scenarios, of every kernel."""
    return [capture for capture in captures() if capture.path.name in names]


@cache
def segments(elf: Path, type_: int) -> list[tuple[int, int, int]]:
    """Offset in the file, physical address and size of the segments of an ELF dump."""
    with elf.open("rb") as file:
        phoff, phnum = struct.unpack("<32xQ16xH6x", file.read(64))
        file.seek(phoff)
        headers = struct.iter_unpack("<I4xQ8xQQ16x", file.read(56 * phnum))
    return [header[1:] for header in headers if header[0] == type_]


def read_physical(elf: Path, address: int, size: int) -> bytes:
    """Physical memory out of an ELF dump. Independent of drgn and of the package."""
    # A kdump has the kernel image twice.
    for offset, start, length in reversed(segments(elf, PT_LOAD)):
        if start <= address and address + size <= start + length:
            with elf.open("rb") as file:
                return os.pread(file.fileno(), size, offset + address - start)
    raise LookupError(f"{elf} has no physical {address:#x}")


def note_of(elf: Path) -> Optional[bytes]:
    """The text of an ELF dump's VMCOREINFO note."""
    ((offset, _, size),) = segments(elf, PT_NOTE)
    with elf.open("rb") as file:
        _, found, text = os.pread(file.fileno(), size, offset).partition(b"VMCOREINFO\0")
    return text[text.index(b"OSRELEASE=") :].partition(b"\0")[0] if found else None


def read_bitmap(elf: Path, address: int) -> tuple[int, int, bytes]:
    """phys_base, unit size and bitmap of the table at ``address``."""
    version, unit, base, size = struct.unpack("<IIQQ", read_physical(elf, address, 24))
    assert version == 1
    return base, unit, read_physical(elf, address + 24, size)


def listed_chunks(elf: Path, vmlinux: str) -> set[int]:
    """Addresses of the pages on all zone->unaccepted_pages, walked with DWARF and drgn's own helpers."""
    import drgn
    from drgn.helpers.linux.list import list_for_each_entry
    from drgn.helpers.linux.mm import page_to_phys
    from drgn.helpers.linux.mmzone import for_each_online_pgdat

    prog = drgn.Program()
    prog.set_core_dump(str(elf))
    prog.load_debug_info([vmlinux])
    return {
        page_to_phys(page).value_()
        for node in for_each_online_pgdat(prog)
        for zone in node.node_zones
        if zone.present_pages
        for page in list_for_each_entry("struct page", zone.unaccepted_pages.address_of_(), "lru")
    }
