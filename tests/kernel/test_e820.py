# SPDX-License-Identifier: LGPL-2.1-or-later
"""The e820 tables: each stands alone, and the one of boot_params may go on elsewhere."""

from __future__ import annotations

import struct

import pytest

from drgn_unaccepted.kernel.boot import read_e820
from drgn_unaccepted.kernel.errors import Unavailable

from .firmware_program import (
    E820_MAX_ENTRIES,
    SETUP_E820_EXT,
    SETUP_RNG_SEED,
    FirmwareProgram,
)

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
    ("data", "said"),
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
def test_one_table_that_fails_takes_no_other_with_it(name: str, data: bytes | None, said: str) -> None:
    program = booted()
    if data == b"":
        program.set_pointer(NAMES[name], "e820_table", None)
    elif data is None:
        program.set_pointer(NAMES[name], "e820_table", 0x3000000)
    else:
        set_table(program, name, data)
    tables, missing = read_e820(program.prog)
    assert list(missing) == [f"e820.{name}"]
    assert said in missing[f"e820.{name}"]
    for other in ("current", "kexec", "firmware", "boot_params"):
        assert (getattr(tables, other) is None) == (other == name)
    assert program.bytes_read < 100_000


def test_no_global() -> None:
    program = FirmwareProgram()
    set_boot_params_table(program, FIRMWARE)
    tables, missing = read_e820(program.prog)
    assert tables.boot_params is not None
    assert sorted(missing) == ["e820.current", "e820.firmware", "e820.kexec"]
    assert "e820_table_firmware" in missing["e820.firmware"]


def test_none_at_all() -> None:
    program = FirmwareProgram()
    program.memory[program.boot_params_at] = bytes(4096)
    with pytest.raises(Unavailable, match="boot_params reads as zeros") as raised:
        read_e820(program.prog)
    assert "\n" not in str(raised.value)


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


def test_a_full_table_whose_chain_cannot_be_read() -> None:
    program = booted()
    set_boot_params_table(program, many(128))
    program.set_boot_params(0x250, "Q", 0x11000000)
    tables, missing = read_e820(program.prog)
    assert tables.boot_params is None and tables.firmware is not None
    assert "setup_data 0x11000000: not in this dump" in missing["e820.boot_params"]


def test_a_table_with_room_needs_no_chain() -> None:
    program = booted()
    program.set_boot_params(0x250, "Q", 0x11000000)
    tables, missing = read_e820(program.prog)
    assert tables.boot_params is not None and missing == {}


def test_an_extension_whose_entries_are_not_captured() -> None:
    program = booted()
    set_boot_params_table(program, many(128))
    program.set_setup_data([(0x11001000, SETUP_E820_EXT, encode(many(30, 128)))])
    program.memory[0x11001000] = program.memory[0x11001000][:16]
    assert "SETUP_E820_EXT): not in this dump" in read_e820(program.prog)[1]["e820.boot_params"]
    program.memory[0x11001000] += bytes(600)
    assert "reads as zeros from entry 128 on" in read_e820(program.prog)[1]["e820.boot_params"]


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (struct.pack("<QII", 0x11000000, 9, 32), "the chain comes back to it"),
        (struct.pack("<QII", 0, 1, 0xFFFFFFFF), "4294967295 bytes of data are not credible"),
        (struct.pack("<QII", 0, 1, 1 << 24), "16777216 bytes are not credible"),
        (struct.pack("<QII", (1 << 64) - 8, 9, 32), "no physical address"),
        (bytes(16), "reads as zeros"),
    ],
)
def test_hostile_chains(header: bytes, said: str) -> None:
    program = booted()
    set_boot_params_table(program, many(128))
    program.set_boot_params(0x250, "Q", 0x11000000)
    program.place(header + bytes(64), 0x11000000)
    assert said in read_e820(program.prog)[1]["e820.boot_params"]
    assert program.bytes_read < 100_000


def test_a_chain_without_end() -> None:
    program = booted()
    set_boot_params_table(program, many(128))
    program.set_setup_data([(0x11000000 + index * 64, 9, bytes(32)) for index in range(1000)])
    assert "more than 64 entries" in read_e820(program.prog)[1]["e820.boot_params"]


@pytest.mark.parametrize(("number", "said"), [(129, "the array has 128"), (0, "e820_entries is 0")])
def test_a_count_that_cannot_be(number: int, said: str) -> None:
    program = booted()
    program.set_boot_params(0x1E8, "B", number)
    tables, missing = read_e820(program.prog)
    assert tables.boot_params is None
    assert said in missing["e820.boot_params"]
