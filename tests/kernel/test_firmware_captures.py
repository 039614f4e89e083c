# SPDX-License-Identifier: LGPL-2.1-or-later
"""The firmware side on every capture of the lab, by DWARF and by BTF, against what loader and guest said.

The truth is read here with other means than the package's: the loader's map of the moment of ExitBootServices(), the
guest's dmesg, /proc/iomem, /proc/kallsyms and /sys/firmware.
"""

from __future__ import annotations

import re
import struct
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from drgn import Program

from drgn_unaccepted.kernel.boot import read_e820, read_kernel_memory, read_kexec_segments
from drgn_unaccepted.kernel.efi import read_efi_map
from drgn_unaccepted.kernel.printk import read_log, read_log_lines
from drgn_unaccepted.targets.errors import TargetError, Unavailable
from drgn_unaccepted.targets.symbol_files import read_symbol_file
from drgn_unaccepted.targets.vmcore import open_vmcore
from tests.lab.captures import LAB, Capture, captures

DUMPS = ("dump.elf", "kdump.elf", "kdump.z")

# What the kernel calls an e820 type in its log up to 6.x and in 7.x, and in /sys/firmware/memmap.
E820_WORDS = {"usable": 1, "reserved": 2, "ACPI data": 3, "System RAM": 1, "device reserved": 2, "Reserved": 2}
E820_WORDS |= {"ACPI Tables": 3, "ACPI NVS": 4, "ACPI Non-volatile Storage": 4}

pytestmark = pytest.mark.lab


class Guest:
    """What one guest of the lab said of itself."""

    def __init__(self, capture: Capture) -> None:
        self.capture = capture
        self.does: list[str] = capture.json("scenario.json")["do"].split(",")

    @cached_property
    def dmesg(self) -> list[str]:
        """Without level and time stamp."""
        lines = self.capture.account("dmesg").splitlines()
        return [re.sub(r"^(<\d+>)?\[ *\d+\.\d+\] ", "", line) for line in lines]

    @cached_property
    def loader_map(self) -> list[tuple[int, int, int, int]]:
        """The final map: (type, start, end, attribute)."""
        found = self.capture.json("loader.json")["final_map"]["descriptors"]
        entries = [(each["type"], each["phys_addr"], each["num_pages"] * 4096, each["attribute"]) for each in found]
        return [(type_, start, start + size, attribute) for type_, start, size, attribute in entries]

    @cached_property
    def printed_map(self) -> list[tuple[int, int]]:
        """The first (start, end) that the kernel printed for each memNN."""
        found: dict[int, tuple[int, int]] = {}
        for line in self.dmesg:
            match = re.match(r"efi: mem(\d+): .* range=\[0x(\w+)-0x(\w+)\]", line)
            if match:
                found.setdefault(int(match[1]), (int(match[2], 16), int(match[3], 16) + 1))
        return [found[index] for index in sorted(found)]

    @cached_property
    def iomem(self) -> list[tuple[int, int, str]]:
        """(start, end, name), nested ones included."""
        rows = (re.match(r" *(\w+)-(\w+) : (.*)", line) for line in self.capture.account("iomem").splitlines())
        return [(int(row[1], 16), int(row[2], 16) + 1, row[3]) for row in rows if row]

    @cached_property
    def boot_params(self) -> bytes:
        """/sys/kernel/boot_params/data"""
        return (self.capture.path / "guest" / "boot_params").read_bytes()

    @cached_property
    def provided_e820(self) -> list[tuple[int, int, int]]:
        """The map as the kernel was given it, out of its log; ``extended`` where boot_params had no room for it."""
        tables: dict[str, list[tuple[int, int, int]]] = {"BIOS-e820": [], "extended": []}
        for line in self.dmesg:
            match = re.match(r"(BIOS-e820|extended): \[mem 0x(\w+)-0x(\w+)\] +(.*)", line)
            if match:
                tables[match[1]].append((int(match[2], 16), int(match[3], 16) + 1, E820_WORDS[match[4]]))
        return tables["extended"] or tables["BIOS-e820"]

    @cached_property
    def sysfs_e820(self) -> list[tuple[int, int, int]]:
        """/sys/firmware/memmap"""
        rows = (line.split(maxsplit=2) for line in self.capture.account("firmware-memmap").splitlines())
        return [(int(start, 16), int(last, 16) + 1, E820_WORDS[name]) for start, last, name in rows]

    def symbol(self, name: str) -> int:
        match = re.search(rf"^(\w+) \w {name}$", self.capture.account("kallsyms"), re.MULTILINE)
        assert match is not None
        return int(match[1], 16)


class Case(NamedTuple):
    guest: Guest
    dump: str
    prog: Program


def _cases() -> list[Any]:
    found = [
        pytest.param((capture, dump, debug_info), id=f"{capture.name}-{dump}-{debug_info}")
        for capture in captures()
        for dump in DUMPS
        # A guest that died early left no account.
        if (capture.path / dump).exists() and (capture.path / "guest" / "dmesg").exists()
        for debug_info in ("btf", "dwarf")
    ]
    return found or pytest.skip(f"no captures under {LAB}: scripts/lab all makes them", allow_module_level=True)


@pytest.fixture(scope="module", params=_cases())
def case(request: pytest.FixtureRequest) -> Case:
    capture, dump, debug_info = request.param
    if debug_info == "dwarf" and not Path(capture.vmlinux).exists():
        pytest.skip(f"no {capture.vmlinux}")
    symbols = [read_symbol_file(capture.vmlinux, debug_info)] if debug_info == "dwarf" else []
    try:
        prog = open_vmcore(str(capture.path / dump), symbols, debug_info).prog
    except TargetError as error:
        if "QEMU dump without a VMCOREINFO note" in str(error):
            pytest.skip(str(error))
        raise
    return Case(Guest(capture), dump, prog)


def test_efi_map(case: Case) -> None:
    efi_map = read_efi_map(case.prog)
    entries = [tuple(entry) for entry in efi_map.descriptors]
    if "kexec" in case.guest.does:
        assert not efi_map.complete and "kexec" in (efi_map.note or "")
        assert [entry[1:3] for entry in entries] == case.guest.printed_map
        return
    whole_ram = case.dump == "dump.elf"
    if whole_ram or case.guest.printed_map:
        assert efi_map.provenance == ("boot-map" if whole_ram else "kernel-log")
        assert efi_map.complete and not efi_map.ambiguous
        assert entries == case.guest.loader_map
    else:
        assert efi_map.provenance == "runtime-map" and not efi_map.complete
        assert "efi=debug" in (efi_map.note or "")
        runtime = [entry for entry in case.guest.loader_map if entry[3] >> 63]
        assert {entry[:3] for entry in runtime} <= {entry[:3] for entry in entries}
        assert not any(entry[0] in (7, 15) for entry in entries)


def test_e820(case: Case) -> None:
    tables, missing = read_e820(case.prog)
    guest = case.guest
    assert filtered(case, missing) or missing == {}
    for name, expected in (("firmware", guest.provided_e820), ("kexec", guest.sysfs_e820)):
        table = getattr(tables, name)
        assert f"e820.{name}" in missing if table is None else [tuple(entry) for entry in table] == expected
    if tables.boot_params is not None:
        # As the stub wrote it, in the order of the EFI map; the kernel's own tables are sorted.
        entries, raw = [tuple(entry) for entry in tables.boot_params], guest.boot_params
        # boot_params.e820_table, boot_params.e820_entries of it
        own = struct.iter_unpack("<QQI", raw[0x2D0 : 0x2D0 + 20 * raw[0x1E8]])
        assert entries[: raw[0x1E8]] == [(start, start + size, type_) for start, size, type_ in own]
        assert sorted(entries) == guest.provided_e820
    if tables.current is not None:
        # Up to 6.x type 128 (E820_TYPE_RESERVED_KERN) is System RAM too.
        ram = [(entry.start, entry.end) for entry in tables.current if entry.type in (1, 128)]
        assert ram == [(start, end) for start, end, name in guest.iomem if name == "System RAM"]


def filtered(case: Case, missing: dict[str, str]) -> bool:
    """Whether something is missing because makedumpfile 1.7.2 left pages out: slab of 7.x kernels, setup_data."""
    return case.dump == "kdump.z" and all("not in this " in reason for reason in missing.values())


def test_kernel_memory(case: Case) -> None:
    ranges, missing = read_kernel_memory(case.prog)
    assert filtered(case, missing) or missing == {}
    guest = case.guest
    named = {name: (start, end) for name, start, end in ranges}

    code = next(start for start, _end, name in guest.iomem if name == "Kernel code")
    assert named["kernel image"] == (code, code + guest.symbol("_end") - guest.symbol("_text"))
    bss = next(end for _start, end, name in guest.iomem if name == "Kernel bss")
    assert bss <= named["kernel image"][1]

    # The kernel prints the initrd rounded up to pages.
    rows = (re.match(r"RAMDISK: \[mem 0x(\w+)-0x(\w+)\]", line) for line in guest.dmesg)
    printed = next((int(row[1], 16), int(row[2], 16) + 1) for row in rows if row)
    assert named["initrd"][0] == printed[0]
    assert named["initrd"][1] + 4095 & ~4095 == printed[1]

    low, size, _systab_hi, high = struct.unpack_from("<IIII", guest.boot_params, 0x1D0)
    assert named["EFI memory map"] == (low | high << 32, (low | high << 32) + size)
    if not missing:
        assert ("setup_data SETUP_EFI" in named) == ("kexec" in guest.does)
        assert ("setup_data SETUP_E820_EXT" in named) == (len(guest.provided_e820) > 128)


def test_kexec_segments(case: Case) -> None:
    crash = next(((start, end) for start, end, name in case.guest.iomem if name == "Crash kernel"), None)
    loaded = "kdump" in case.guest.does
    try:
        segments = read_kexec_segments(case.prog)
    except Unavailable as error:
        # A kimage lies in slab memory, which makedumpfile 1.7.2 leaves out for 7.x kernels.
        assert case.dump == "kdump.z" and "not in this target" in str(error)
        return
    assert bool(segments) == loaded
    for image, start, end in segments:
        assert image == "kexec_crash_image"
        assert crash is not None and crash[0] <= start < end <= crash[1]


def test_log(case: Case) -> None:
    lines = read_log_lines(case.prog)
    told = case.guest.dmesg
    assert len(told) > 100
    assert lines[: len(told)] == told


def test_panic(case: Case) -> None:
    # A whole-RAM dump is taken before the crash, but for a guest that dies by itself.
    died = case.dump != "dump.elf" or "fail" in case.guest.does
    text = (case.guest.capture.path / "serial.log").read_text(errors="replace")
    panics = re.findall(r"\] Kernel panic - not syncing: (.*?)\r?$", text, re.MULTILINE)
    assert read_log(case.prog).panic == (panics[-1] if died else "")
