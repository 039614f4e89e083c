# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the kernel was given at boot: e820 tables, its own memory, and where kexec would copy to."""

from __future__ import annotations

import struct
from typing import Optional

import pytest

from drgn_unaccepted import limits
from drgn_unaccepted.kernel.boot import read_e820, read_kernel_memory, read_kexec_segments

from .allocator_program import said
from .firmware_program import (
    E820_MAX_ENTRIES,
    IMAGE_BYTES,
    IMAGE_PHYS,
    SETUP_E820_EXT,
    SETUP_INDIRECT,
    SETUP_RNG_SEED,
    FirmwareProgram,
)

# --- e820: each table stands alone, and the one of boot_params may go on elsewhere ---

NAMES = {"current": "e820_table", "kexec": "e820_table_kexec", "firmware": "e820_table_firmware"}
# (start, end, type)
FIRMWARE = [
    (0x0, 0xA0000, 1),
    (0x100000, 0x7F000000, 1),
    (0x7F000000, 0x7F800000, 3),
    (0xB0000000, 0xC0000000, 2),
    (0x100000000, 0x1C0000000, 1),
]
CURRENT = [(0x0, 0x1000, 2), (0x1000, 0xA0000, 1), *FIRMWARE[1:]]

Entry = tuple[int, int, int]


def encode(entries: list[Entry]) -> bytes:
    return b"".join(struct.pack("<QQI", start, end - start, type_) for start, end, type_ in entries)


def many(number: int, first: int = 0) -> list[Entry]:
    return [(index << 21, (index << 21) + 0x1000, 1) for index in range(first, first + number)]


def booted() -> FirmwareProgram:
    program = FirmwareProgram()
    for name, entries in (("current", CURRENT), ("kexec", FIRMWARE), ("firmware", FIRMWARE)):
        set_table(program, name, struct.pack("<I", len(entries)) + encode(entries))
    set_boot_params_table(program, FIRMWARE)
    return program


def set_table(program: FirmwareProgram, name: str, data: bytes) -> int:
    """As kmemdup() leaves it: no more than the entries in use."""
    at = program.place(data)
    program.set_pointer(NAMES[name], "e820_table", at)
    return at


def set_boot_params_table(program: FirmwareProgram, entries: list[Entry]) -> None:
    program.set_boot_params(0x1E8, "B", len(entries))
    data = encode(entries)
    program.set_boot_params(0x2D0, f"{len(data)}s", data)


def test_all_four() -> None:
    tables, missing = read_e820(booted().prog)
    assert tables.current is not None and [tuple(entry) for entry in tables.current] == CURRENT
    for table in (tables.kexec, tables.firmware, tables.boot_params):
        assert table is not None and [tuple(entry) for entry in table] == FIRMWARE
    assert missing == {}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (None, "not in this target"),
        (b"", "is NULL"),
        (bytes(104), "reads as zeros, not captured"),
        (struct.pack("<I", 5) + bytes(100), "reads as zeros from entry 0 on"),
        (struct.pack("<I", 5) + encode(FIRMWARE[:3]) + bytes(40), "reads as zeros from entry 3 on"),
        (struct.pack("<I", 5) + encode(FIRMWARE[:3]), "not in this target"),
        (struct.pack("<I", E820_MAX_ENTRIES + 1) + bytes(8192), f"in an array of {E820_MAX_ENTRIES}"),
        (struct.pack("<I", 0xFFFFFFFF) + bytes(8192), "4294967295 entries"),
        (struct.pack("<IQQI", 1, 1 << 63, 1 << 63 | 1, 1), "wrap"),
    ],
)
def test_one_table_that_fails_takes_no_other_with_it(name: str, data: Optional[bytes], reason: str) -> None:
    program = booted()
    if data == b"":
        program.set_pointer(NAMES[name], "e820_table", None)
    elif data is None:
        program.set_pointer(NAMES[name], "e820_table", 0x3000000)
    else:
        set_table(program, name, data)
    tables, missing = read_e820(program.prog)
    assert list(missing) == [f"e820.{name}"]
    assert reason in missing[f"e820.{name}"]
    for other in ("current", "kexec", "firmware", "boot_params"):
        assert (getattr(tables, other) is None) == (other == name)
    assert program.bytes_read < 100_000


def test_the_extension() -> None:
    program = booted()
    set_boot_params_table(program, many(128))
    program.set_setup_data(
        [
            (0x11000000, SETUP_RNG_SEED, bytes(32)),
            # Three bytes over, which the kernel ignores.
            (0x11001000, SETUP_E820_EXT, encode(many(30, 128)) + b"\0\0\0"),
        ]
    )
    tables, missing = read_e820(program.prog)
    assert missing == {}
    assert tables.boot_params is not None
    assert [tuple(entry) for entry in tables.boot_params] == many(158)
    program.memory[0x11001000] = program.memory[0x11001000][:16]
    assert "SETUP_E820_EXT): not in this dump" in read_e820(program.prog)[1]["e820.boot_params"]
    program.memory[0x11001000] += bytes(603)
    assert "reads as zeros from entry 128 on" in read_e820(program.prog)[1]["e820.boot_params"]


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (None, "setup_data 0x11000000: not in this dump"),
        (struct.pack("<QII", 0x11000000, 9, 32), "the chain comes back to it"),
        (struct.pack("<QII", 0, 1, 0xFFFFFFFF), "4294967295 bytes of data are not credible"),
        (struct.pack("<QII", 0, 1, 1 << 24), "16777216 bytes are not credible"),
        (struct.pack("<QII", (1 << 64) - 8, 9, 32), "no physical address"),
        (bytes(16), "reads as zeros"),
    ],
)
def test_a_full_table_whose_chain_cannot_be_followed(header: Optional[bytes], reason: str) -> None:
    program = booted()
    set_boot_params_table(program, many(128))
    program.set_boot_params(0x250, "Q", 0x11000000)
    if header is not None:
        program.place(header + bytes(64), 0x11000000)
    tables, missing = read_e820(program.prog)
    assert tables.boot_params is None and tables.firmware is not None
    assert reason in missing["e820.boot_params"]
    assert program.bytes_read < 100_000


@pytest.mark.parametrize("number", [129, 0])
def test_a_count_that_cannot_be(number: int) -> None:
    program = booted()
    program.set_boot_params(0x1E8, "B", number)
    assert f"e820_entries is {number}" in read_e820(program.prog)[1]["e820.boot_params"]


# --- the kernel's own memory ---

IMAGE = ("kernel image", IMAGE_PHYS, IMAGE_PHYS + IMAGE_BYTES)


def read(program: FirmwareProgram) -> tuple[list[tuple[str, int, int]], dict[str, str]]:
    ranges, missing = read_kernel_memory(program.prog)
    return [(name, start, end) for name, start, end in ranges], missing


def set_initrd(program: FirmwareProgram, start: int, size: int) -> None:
    for offset, value in ((0x218, start), (0x21C, size)):
        program.set_boot_params(offset, "I", value & 0xFFFFFFFF)
    for offset, value in ((0x0C0, start), (0x0C4, size)):
        program.set_boot_params(offset, "I", value >> 32)


def test_everything() -> None:
    program = FirmwareProgram()
    set_initrd(program, 0x1_23400000, 0x1234567)
    program.set_efi_info(0x7FB70040, 6480)
    program.set_setup_data(
        [
            (0x11000000, SETUP_RNG_SEED, bytes(32)),
            (0x11001000, SETUP_E820_EXT, bytes(40)),
            (0x11002000, SETUP_INDIRECT, struct.pack("<IIQQ", 6, 0, 0x3000, 0x22000000)),
            (0x11003000, 77, b"?"),
        ]
    )
    assert read(program) == (
        [
            IMAGE,
            ("initrd", 0x123400000, 0x123400000 + 0x1234567),
            ("EFI memory map", 0x7FB70040, 0x7FB70040 + 6480),
            ("setup_data SETUP_RNG_SEED", 0x11000000, 0x11000030),
            ("setup_data SETUP_E820_EXT", 0x11001000, 0x11001038),
            ("setup_data SETUP_INDIRECT", 0x11002000, 0x11002028),
            ("setup_data SETUP_INDIRECT target", 0x22000000, 0x22003000),
            ("setup_data type 77", 0x11003000, 0x11003011),
        ],
        {},
    )


@pytest.mark.parametrize("beyond", [0, 1])
def test_as_many_setup_data_as_there_can_be(beyond: int) -> None:
    program = FirmwareProgram()
    numbers = range(limits.SETUP_DATA_ENTRIES + beyond)
    program.set_setup_data([(0x11000000 + 0x1000 * n, SETUP_RNG_SEED, b"seed") for n in numbers])
    ranges, missing = read(program)
    assert len(ranges) == 1 + 64
    reason = "setup_data 0x11040000: more than 64 entries"
    assert missing == ({"kernel_memory.setup_data": reason} if beyond else {})


def test_a_broken_chain_keeps_what_came_before() -> None:
    program = FirmwareProgram()
    program.set_setup_data([(0x11000000, SETUP_RNG_SEED, bytes(32)), (0x11001000, 9, bytes(32))])
    del program.memory[0x11001000]
    ranges, missing = read(program)
    assert ranges == [IMAGE, ("setup_data SETUP_RNG_SEED", 0x11000000, 0x11000030)]
    assert missing == {"kernel_memory.setup_data": "setup_data 0x11001000: not in this dump"}


def test_nothing() -> None:
    program = FirmwareProgram()
    del program.vmcoreinfo["NUMBER(phys_base)"]
    program.memory.clear()
    assert "VMCOREINFO has no NUMBER(phys_base); " in said(lambda: read(program))


TEXT = 0xFFFFFFFF81000000


@pytest.mark.parametrize(
    ("text", "size", "start"),
    [
        *((TEXT, 0, None), (TEXT, -0x1000000, None), (0x1000, 0x1000, None)),
        *((TEXT, limits.KERNEL_IMAGE_BYTES, 0x800000), (TEXT, limits.KERNEL_IMAGE_BYTES + 1, None)),
    ],
)
def test_as_large_an_image_as_there_can_be(text: int, size: int, start: Optional[int]) -> None:
    """Without KASLR _text is at 16 MiB of the mapping; the image was placed below that, so that phys_base < 0."""
    program = FirmwareProgram()
    program.vmcoreinfo["NUMBER(phys_base)"] = "-8388608"
    program.symbols = {"_text": text, "_end": text + size}
    set_initrd(program, 0x1000000, 0x1000)
    ranges, missing = read(program)
    assert ranges[:-1] == ([] if start is None else [("kernel image", start, start + size)])
    assert ("not credible" in missing.get("kernel_memory.image", "")) is (start is None)


INITRD, EFI_MAP = limits.INITRD_BYTES, limits.EFI_DESCRIPTORS * limits.EFI_DESCRIPTOR_BYTES


@pytest.mark.parametrize(
    ("name", "start", "size", "is_possible"),
    [
        ("initrd", 0x1000000, INITRD, True),
        ("initrd", 0x1000000, INITRD + 1, False),
        ("initrd", 0x1000000, (1 << 64) - 1, False),
        ("EFI memory map", 0x7F000000, EFI_MAP, True),
        ("EFI memory map", 0x7F000000, EFI_MAP + 1, False),
        ("EFI memory map", (1 << 64) - 4096, 4096, False),
    ],
)
def test_as_large_as_there_can_be(name: str, start: int, size: int, is_possible: bool) -> None:
    program = FirmwareProgram()
    (set_initrd if name == "initrd" else FirmwareProgram.set_efi_info)(program, start, size)
    if is_possible:
        assert read(program) == ([IMAGE, (name, start, start + size)], {})
    else:
        reason = f"{name} of {size} bytes at {start:#x}: not credible"
        assert read(program) == ([IMAGE], {"kernel_memory.boot_params": reason})


@pytest.mark.parametrize(
    ("length", "start"),
    [(0, 0x1000), (1 << 60, 0x1000), (4096, (1 << 64) - 1), (limits.SETUP_DATA_BYTES + 1, 0x22000000)],
)
def test_an_indirect_target_that_cannot_be(length: int, start: int) -> None:
    program = FirmwareProgram()
    program.set_setup_data([(0x11000000, SETUP_INDIRECT, struct.pack("<IIQQ", 6, 0, length, start))])
    ranges, missing = read(program)
    assert len(ranges) == 2
    reason = f"setup_data SETUP_INDIRECT target of {length} bytes at {start:#x}: not credible"
    assert missing == {"kernel_memory.setup_data": reason}


# --- kexec ---


def kimage(segments: list[tuple[int, int]], nr_segments: Optional[int] = None) -> bytes:
    """struct kimage: nr_segments, then segment[] of buf, bufsz, mem, memsz."""
    data = bytes(56) + struct.pack("<Q", len(segments) if nr_segments is None else nr_segments)
    data += b"".join(struct.pack("<QQQQ", 0xDEAD, 1, start, size) for start, size in segments)
    return data.ljust(1024, b"\0")


def loaded(kexec: Optional[bytes], crash: Optional[bytes]) -> FirmwareProgram:
    program = FirmwareProgram()
    for name, data in (("kexec_image", kexec), ("kexec_crash_image", crash)):
        program.set_pointer(name, "kimage", None if data is None else program.place(data))
    return program


def test_both() -> None:
    program = loaded(kimage([(0x100000000, 0x2000)]), kimage([(0x3000000, 0x1000), (0xEFFE000, 0x5000)]))
    assert [tuple(segment) for segment in read_kexec_segments(program.prog)] == [
        ("kexec_image", 0x100000000, 0x100002000),
        ("kexec_crash_image", 0x3000000, 0x3001000),
        ("kexec_crash_image", 0xEFFE000, 0xF003000),
    ]


@pytest.mark.parametrize("number", [17, 1 << 63])
def test_more_segments_than_there_are(number: int) -> None:
    segments = [(0x1000 * n, 0x1000) for n in range(limits.KEXEC_SEGMENTS)]
    assert len(read_kexec_segments(loaded(kimage(segments), None).prog)) == limits.KEXEC_SEGMENTS
    reason = said(lambda: read_kexec_segments(loaded(None, kimage([], number)).prog))
    assert reason == f"kexec_crash_image->nr_segments is {number}: at most 16 are possible"


@pytest.mark.parametrize("segment", [((1 << 64) - 4096, 8192), (0, 1 << 60), (1 << 52, 4096)])
def test_a_segment_that_cannot_be(segment: tuple[int, int]) -> None:
    assert "no physical range" in said(lambda: read_kexec_segments(loaded(kimage([segment]), None).prog))


def test_an_image_that_is_not_captured() -> None:
    program = loaded(None, None)
    assert read_kexec_segments(program.prog) == ()
    program.set_pointer("kexec_image", "kimage", 0x3000000)
    assert said(lambda: read_kexec_segments(program.prog)) == "kexec_image 0xffff888003000000: not in this target"
