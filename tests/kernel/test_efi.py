# SPDX-License-Identifier: LGPL-2.1-or-later
"""The EFI memory map, source by source."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Optional

import pytest

from drgn_unaccepted import limits
from drgn_unaccepted.kernel.efi import read_efi_map
from drgn_unaccepted.model.ranges import Range
from drgn_unaccepted.targets.vmcore import open_vmcore

from .allocator_program import said
from .firmware_program import SETUP_EFI, SETUP_RNG_SEED, FirmwareProgram
from .printk_writer import install_log

SAMPLES = Path(__file__).parents[2] / "vmcore-samples"

RUNTIME = 1 << 63
MAP_AT = 0x7FB70040
MIB = 1 << 20
GIB = 1 << 30

# (type, start, end, attribute); neighbours of type 15 and of type 4 that the kernel merges, not sorted.
FIRMWARE = [
    (7, 0x0, 0x80000, 0xF),
    (3, 0x80000, 0x9F000, 0xF),
    (4, 0x100000, 0x400000, 0xF),
    (4, 0x400000, 0x500000, 0xF),
    (0, 0x500000, 0x600000, 0x0),
    (9, 0x7F000000, 0x7F800000, 0xF),
    (6, 0x7F800000, 0x7F900000, RUNTIME | 0xF),
    (15, 4 * GIB, 4 * GIB + 3 * MIB, 0xF),
    (15, 4 * GIB + 3 * MIB, 4 * GIB + 6 * MIB, 0xF),
    (15, 4 * GIB + 6 * MIB, 4 * GIB + 64 * MIB, 0xF),
    (11, 0xFFC00000, 0x100000000, RUNTIME | 0x1),
    (7, 5 * GIB, 6 * GIB, 0xF),
]

Entry = tuple[int, int, int, int]


def encode(entries: list[Entry], stride: int = 48) -> bytes:
    """efi_memory_desc_t[] with the given stride."""
    return b"".join(
        struct.pack("<I4xQQQQ", type_, start, 0xFFFFFFFEFFC00000, (end - start) >> 12, attribute)
        + b"\xee" * (stride - 40)
        for type_, start, end, attribute in entries
    )


def merge(entries: list[Entry]) -> list[Entry]:
    """What efi_merge_regions() does to the buffer."""
    edited = [list(entry) for entry in entries]
    keeper: Optional[list[int]] = None
    for entry in edited:
        if keeper is None or (keeper[0], keeper[3]) != (entry[0], entry[3]) or keeper[2] != entry[1]:
            keeper = entry
        else:
            keeper[2] = entry[2]
            entry[0] = entry[3] = 0
    return [(type_, start, end, attribute) for type_, start, end, attribute in edited]


def log_lines(entries: list[Entry]) -> list[str]:
    """The words of efi_print_memmap()."""
    names = {0: "Reserved", 3: "Boot Code", 4: "Boot Data", 6: "Runtime Data", 7: "Conventional"}
    names |= {9: "ACPI Reclaim", 11: "MMIO", 15: "Unaccepted"}
    bits = {"RUN": RUNTIME, "WB": 8, "WT": 4, "WC": 2, "UC": 1}
    columns = ("RUN", "HP", "MR", "CC", "SP", "NV", "XP", "RP", "WP", "RO", "UCE", "WB", "WT", "WC", "UC")
    lines = []
    for index, (type_, start, end, attribute) in enumerate(entries):
        words = "|".join(f"{word if attribute & bits.get(word, 0) else '':>{len(word)}}" for word in columns)
        lines.append(
            f"efi: mem{index:02}: [{names[type_]:<12}|{words}] "
            f"range=[0x{start:016x}-0x{end - 1:016x}] ({end - start >> 20}MB)"
        )
    return lines


def booted(
    entries: Optional[list[Entry]] = None, log: Optional[list[str]] = None, stride: int = 48, count: int = len(FIRMWARE)
) -> FirmwareProgram:
    """A program whose boot_params name a map of ``count`` entries at MAP_AT; ``entries`` are what is captured."""
    program = FirmwareProgram()
    program.set_efi_info(MAP_AT, count * stride, stride)
    if entries is not None:
        program.place(encode(entries, stride), MAP_AT)
    install_log(program, log or ["Linux version 6.12.0"])
    return program


@pytest.mark.parametrize("stride", [40, 48, 56, limits.EFI_DESCRIPTOR_BYTES])
def test_boot_map(stride: int) -> None:
    efi_map = read_efi_map(booted(FIRMWARE, stride=stride).prog)
    assert efi_map.provenance == "boot-map"
    assert efi_map.complete and not efi_map.ambiguous and efi_map.note is None
    assert [tuple(entry) for entry in efi_map.descriptors] == FIRMWARE
    assert efi_map.buffer == Range(MAP_AT, MAP_AT + len(FIRMWARE) * stride)


def test_the_kernels_edits_are_undone_and_named() -> None:
    tagged = [(*entry[:3], entry[3] | RUNTIME) if entry[0] == 3 else entry for entry in FIRMWARE]
    efi_map = read_efi_map(booted(merge(tagged)).prog)
    assert [tuple(entry) for entry in efi_map.descriptors] == FIRMWARE
    assert efi_map.complete and not efi_map.ambiguous
    assert efi_map.note is not None
    assert "5 of 12 entries that efi_merge_regions() changed were restored" in efi_map.note
    assert "1 of 12 entries that efi_reserve_boot_services() changed were restored" in efi_map.note


@pytest.mark.parametrize("zeros", [False, True])
def test_the_log_where_the_buffer_is_not_captured(zeros: bool) -> None:
    program = booted(None, log_lines(FIRMWARE))
    if zeros:
        program.place(bytes(len(FIRMWARE) * 48), MAP_AT)
    efi_map = read_efi_map(program.prog)
    assert efi_map.provenance == "kernel-log"
    assert efi_map.complete and not efi_map.ambiguous
    assert [tuple(entry) for entry in efi_map.descriptors] == FIRMWARE
    assert efi_map.buffer == Range(MAP_AT, MAP_AT + len(FIRMWARE) * 48)


RUNTIME_MAP = [entry for entry in FIRMWARE if entry[3] & RUNTIME]
NOT_CAPTURED = "boot-map: boot_params.efi_info.efi_memmap 0x7fb70040: not in this dump"


@pytest.mark.parametrize(
    ("log", "count", "entries", "note"),
    [
        # What the kernel prints when it has edited the map does not count.
        ([*log_lines(FIRMWARE), "efi: EFI runtime memory map:", *log_lines(RUNTIME_MAP)], 12, FIRMWARE, None),
        (log_lines(FIRMWARE)[3:], 12, FIRMWARE[3:], r".*mem03.*"),
        (
            log_lines(FIRMWARE)[:-1],
            12,
            FIRMWARE[:-1],
            rf"the log has 11 of 12 entries; {NOT_CAPTURED}; runtime-map: .*",
        ),
        (
            ["efi: Removing 2 invalid memory map entries.", *log_lines(FIRMWARE)],
            14,
            FIRMWARE,
            "2 invalid entries of the firmware's map are not in it",
        ),
    ],
)
def test_whether_the_log_has_the_whole_map(
    log: list[str], count: int, entries: list[Entry], note: Optional[str]
) -> None:
    efi_map = read_efi_map(booted(None, log, count=count).prog)
    assert efi_map.provenance == "kernel-log"
    assert [tuple(entry) for entry in efi_map.descriptors] == entries
    assert efi_map.complete == (entries == FIRMWARE)
    assert efi_map.note is None if note is None else re.fullmatch(note, efi_map.note or "")


def test_a_part_of_the_buffer_reads_as_zeros() -> None:
    program = booted(None)
    program.place(encode(FIRMWARE)[: 6 * 48] + bytes(6 * 48), MAP_AT)
    efi_map = read_efi_map(program.prog)
    assert not efi_map.complete
    assert efi_map.note is not None and "6 of 12 descriptors read as zeros" in efi_map.note
    install_log(program, log_lines(FIRMWARE))
    assert read_efi_map(program.prog).provenance == "kernel-log"


@pytest.mark.parametrize("way", ["efi_setup", "setup_data", "no free memory", "no free memory, log"])
def test_a_kernel_that_kexec_started_has_no_whole_map(way: str) -> None:
    if way == "setup_data":
        program = booted(FIRMWARE, log_lines(FIRMWARE))
        program.set_setup_data([(0x11000000, SETUP_RNG_SEED, bytes(32)), (0x11001000, SETUP_EFI, bytes(64))])
    elif way == "no free memory, log":
        program = booted(None, log_lines(RUNTIME_MAP), count=len(RUNTIME_MAP))
    else:
        program = booted(RUNTIME_MAP, count=len(RUNTIME_MAP))
        program.set_number("efi_setup", 0x12345000 if way == "efi_setup" else 0)
    efi_map = read_efi_map(program.prog)
    assert efi_map.provenance == ("kernel-log" if way.endswith("log") else "boot-map") and not efi_map.complete
    assert efi_map.note is not None and "kexec" in efi_map.note


def overlapping() -> list[Entry]:
    """An absorbed entry that does not end where the one that grew does."""
    edited = merge(FIRMWARE)
    grown = edited[7]
    return [*edited[:7], (*grown[:2], grown[2] + MIB, grown[3]), *edited[8:]]


@pytest.mark.parametrize("has_log", [False, True])
def test_merged_entries_that_cannot_be_told_apart(has_log: bool) -> None:
    """The log settles what the buffer leaves open."""
    efi_map = read_efi_map(booted(overlapping(), log_lines(FIRMWARE) if has_log else None).prog)
    assert (efi_map.provenance, efi_map.ambiguous) == (("kernel-log", False) if has_log else ("boot-map", True))
    assert efi_map.complete
    assert has_log or (efi_map.note is not None and "overlap at 0x100300000" in efi_map.note)


def runtime_map(program: FirmwareProgram, entries: list[Entry], address: int = 0x3000000, stride: int = 48) -> None:
    program.place(encode(entries, stride), address)
    memmap = struct.pack("<QQQi4xQQQ", address, 1, 1, len(entries), 1, stride, 1)
    program.set_struct("efi", "efi", bytes(64) + memmap + bytes(80))


def test_the_runtime_map_is_never_whole() -> None:
    program = booted()
    runtime_map(program, RUNTIME_MAP)
    efi_map = read_efi_map(program.prog)
    assert efi_map.provenance == "runtime-map" and not efi_map.complete
    assert [tuple(entry) for entry in efi_map.descriptors] == RUNTIME_MAP


def test_descriptors_larger_than_any() -> None:
    program = booted()
    runtime_map(program, FIRMWARE, stride=limits.EFI_DESCRIPTOR_BYTES)
    assert [tuple(entry) for entry in read_efi_map(program.prog).descriptors] == FIRMWARE
    program = booted(FIRMWARE, stride=257)
    runtime_map(program, FIRMWARE, stride=257)
    assert said(lambda: read_efi_map(program.prog)).split("; ") == [
        "boot-map: boot_params.efi_info.efi_memdesc_size is 257",
        "kernel-log: the log has no efi: mem lines (the kernel prints them with efi=debug)",
        "runtime-map: efi.memmap.desc_size is 257",
    ]


def test_noruntime_leaves_efi_memmap_on_the_boot_map() -> None:
    program = booted()
    runtime_map(program, FIRMWARE, MAP_AT)
    del program.memory[MAP_AT]
    assert "runtime-map: efi.memmap 0x7fb70040 is the boot map" in said(lambda: read_efi_map(program.prog))


def test_no_efi() -> None:
    program = booted(FIRMWARE, log_lines(FIRMWARE))
    program.set_efi_info(0, 0, 0, signature=bytes(4))
    assert "not booted through EFI" in said(lambda: read_efi_map(program.prog))


def test_boot_params_of_zeros() -> None:
    program = booted(FIRMWARE, log_lines(FIRMWARE))
    program.memory[program.boot_params_at] = bytes(4096)
    efi_map = read_efi_map(program.prog)
    assert efi_map.provenance == "kernel-log" and not efi_map.complete
    assert efi_map.note is not None and "the log has no BIOS-e820 lines" in efi_map.note
    assert efi_map.buffer is None


@pytest.mark.parametrize(
    ("size", "stride"),
    [
        *((0xFFFFFFFF, 40), (0xFFFFFFFF, 48), (4800, 0), (4800, 39), (4800, 0xFFFFFFFF)),
        *((0, 48), (limits.EFI_DESCRIPTORS * 48 + 48, 48)),
    ],
)
def test_hostile_sizes(size: int, stride: int) -> None:
    program = FirmwareProgram()
    program.set_efi_info(MAP_AT, size, stride)
    program.place(bytes([7]) * 0x10000, MAP_AT)
    install_log(program, ["Linux version 6.12.0"])
    assert re.search(r"boot-map: .*kernel-log: .*runtime-map: ", said(lambda: read_efi_map(program.prog)))
    assert program.bytes_read < 2 * MIB


def test_an_entry_that_wraps() -> None:
    data = encode(FIRMWARE[:1]) + struct.pack("<I4xQQQQ8x", 7, (1 << 64) - 4096, 0, 2, 0xF)
    program = booted(count=2)
    program.place(data, MAP_AT)
    assert re.search(r"boot-map: .*mem01", said(lambda: read_efi_map(program.prog)))


@pytest.mark.parametrize("name", ["6.12-fill", "7.3-fill"])
@pytest.mark.parametrize(
    ("first", "data", "conflict"),
    [
        (-2, (0x7000000000).to_bytes(8, "little"), "differs from the kernel's log in entries"),
        (0, b"\xff" * 48, "does not decode: EFI memory map: mem00"),
    ],
)
def test_a_damaged_buffer_beside_a_whole_log(name: str, first: int, data: bytes, conflict: str) -> None:
    """The log is taken, and the contradiction is said: whatever was written there may have hit its neighbours."""
    path = str(SAMPLES / name / "vmcore")
    clean = read_efi_map(open_vmcore(path).prog)
    assert clean.conflict is None and clean.buffer is not None
    start = clean.buffer.start + (first % len(clean.descriptors)) * 48
    prog = open_vmcore(path).prog
    # The physical start of a descriptor has the offset 8.
    at = start + (8 if len(data) == 8 else 0)
    prog.add_memory_segment(at, len(data), lambda a, n, offset, p: data[offset : offset + n], physical=True)
    efi_map = read_efi_map(prog)
    assert (efi_map.provenance, efi_map.complete) == ("kernel-log", True)
    assert conflict in (efi_map.conflict or "")
