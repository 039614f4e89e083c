# SPDX-License-Identifier: LGPL-2.1-or-later
"""Memory that the kernel is known to use."""

from __future__ import annotations

import struct

import pytest

from drgn_unaccepted import limits
from drgn_unaccepted.kernel.boot import read_kernel_memory
from drgn_unaccepted.kernel.errors import Unavailable

from .firmware_program import (
    IMAGE_BYTES,
    IMAGE_PHYS,
    SETUP_E820_EXT,
    SETUP_INDIRECT,
    SETUP_RNG_SEED,
    FirmwareProgram,
)

IMAGE = ("kernel image", IMAGE_PHYS, IMAGE_PHYS + IMAGE_BYTES)


def read(program: FirmwareProgram) -> tuple[list[tuple[str, int, int]], dict[str, str]]:
    ranges, missing = read_kernel_memory(program.prog)
    return [(name, start, end) for name, start, end in ranges], missing


def set_initrd(program: FirmwareProgram, start: int, size: int) -> None:
    for offset, value in ((0x218, start), (0x21C, size)):
        program.set_boot_params(offset, "I", value & 0xFFFFFFFF)
    for offset, value in ((0x0C0, start), (0x0C4, size)):
        program.set_boot_params(offset, "I", value >> 32)


def test_the_image_alone() -> None:
    assert read(FirmwareProgram()) == ([IMAGE], {})


def test_phys_base_may_be_negative() -> None:
    program = FirmwareProgram()
    # Without KASLR _text is at 16 MiB of the mapping; the image was placed below that.
    program.symbols = {"_text": 0xFFFFFFFF81000000, "_end": 0xFFFFFFFF82000000}
    program.vmcoreinfo = "OSRELEASE=6.12.0\nNUMBER(phys_base)=-8388608\n"
    assert read(program) == ([("kernel image", 0x800000, 0x1800000)], {})


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


def test_no_symbols() -> None:
    program = FirmwareProgram()
    program.symbols = {}
    set_initrd(program, 0x1000000, 0x1000)
    ranges, missing = read(program)
    assert ranges == [("initrd", 0x1000000, 0x1001000)]
    assert list(missing) == ["kernel_memory.image"]


def test_boot_params_not_captured() -> None:
    program = FirmwareProgram()
    del program.memory[program.boot_params_at]
    ranges, missing = read(program)
    assert ranges == [IMAGE]
    assert list(missing) == ["kernel_memory.boot_params"]


def test_a_broken_chain_keeps_what_came_before() -> None:
    program = FirmwareProgram()
    program.set_setup_data([(0x11000000, SETUP_RNG_SEED, bytes(32)), (0x11001000, 9, bytes(32))])
    del program.memory[0x11001000]
    ranges, missing = read(program)
    assert ranges == [IMAGE, ("setup_data SETUP_RNG_SEED", 0x11000000, 0x11000030)]
    assert missing == {"kernel_memory.setup_data": "setup_data 0x11001000: not in this dump"}


def test_nothing() -> None:
    program = FirmwareProgram()
    program.vmcoreinfo = "OSRELEASE=6.12.0\n"
    program.memory.clear()
    with pytest.raises(Unavailable, match=r"VMCOREINFO has no NUMBER\(phys_base\); "):
        read(program)


@pytest.mark.parametrize(
    ("text", "end"),
    [
        (0xFFFFFFFF81000000, 0xFFFFFFFF81000000),
        (0xFFFFFFFF81000000, 0xFFFFFFFFF0000000),
        (0xFFFFFFFF81000000, 0xFFFFFFFF80000000),
        (0x1000, 0x2000),
    ],
)
def test_an_image_that_cannot_be(text: int, end: int) -> None:
    program = FirmwareProgram()
    program.symbols = {"_text": text, "_end": end}
    with pytest.raises(Unavailable, match="not credible"):
        read(program)


def test_an_initrd_and_a_map_that_cannot_be() -> None:
    program = FirmwareProgram()
    set_initrd(program, 0x1000000, (1 << 64) - 1)
    assert "initrd of 18446744073709551615 bytes" in read(program)[1]["kernel_memory.boot_params"]
    program = FirmwareProgram()
    program.set_efi_info((1 << 64) - 4096, 8192)
    assert "EFI memory map of 8192 bytes" in read(program)[1]["kernel_memory.boot_params"]


@pytest.mark.parametrize(("length", "start"), [(0, 0x1000), (1 << 60, 0x1000), (4096, (1 << 64) - 1)])
def test_an_indirect_target_that_cannot_be(length: int, start: int) -> None:
    program = FirmwareProgram()
    program.set_setup_data([(0x11000000, SETUP_INDIRECT, struct.pack("<IIQQ", 6, 0, length, start))])
    ranges, missing = read(program)
    assert len(ranges) == 2
    assert "not credible" in missing["kernel_memory.setup_data"]


# At the limit, and one beyond it


def test_as_large_an_image_as_there_can_be() -> None:
    program = FirmwareProgram()
    program.vmcoreinfo = "NUMBER(phys_base)=0\n"
    text, end = 0xFFFFFFFF80001000, 0xFFFFFFFF80001000 + limits.KERNEL_IMAGE_BYTES
    program.symbols = {"_text": text, "_end": end}
    assert read(program) == ([("kernel image", 0x1000, 0x40001000)], {})
    program.symbols = {"_text": text, "_end": end + 1}
    with pytest.raises(Unavailable, match="kernel image at 0x1000-0x40001001: not credible"):
        read(program)


def test_as_large_an_initrd_as_there_can_be() -> None:
    program = FirmwareProgram()
    set_initrd(program, 0x1000000, limits.INITRD_BYTES)
    assert read(program) == ([IMAGE, ("initrd", 0x1000000, 0x1000000 + (1 << 40))], {})
    set_initrd(program, 0x1000000, limits.INITRD_BYTES + 1)
    reason = "initrd of 1099511627777 bytes at 0x1000000: not credible"
    assert read(program) == ([IMAGE], {"kernel_memory.boot_params": reason})


def test_as_large_an_efi_map_as_there_can_be() -> None:
    program = FirmwareProgram()
    size = limits.EFI_DESCRIPTORS * limits.EFI_DESCRIPTOR_BYTES
    program.set_efi_info(0x7F000000, size)
    assert read(program) == ([IMAGE, ("EFI memory map", 0x7F000000, 0x80000000)], {})
    program.set_efi_info(0x7F000000, size + 1)
    reason = "EFI memory map of 16777217 bytes at 0x7f000000: not credible"
    assert read(program) == ([IMAGE], {"kernel_memory.boot_params": reason})


def test_as_many_setup_data_as_there_can_be() -> None:
    program = FirmwareProgram()
    entries = [(0x11000000 + 0x1000 * n, SETUP_RNG_SEED, b"seed") for n in range(limits.SETUP_DATA_ENTRIES + 1)]
    program.set_setup_data(entries[:-1])
    ranges, missing = read(program)
    assert (len(ranges), missing) == (1 + 64, {})
    program.set_setup_data(entries)
    ranges, missing = read(program)
    assert len(ranges) == 1 + 64
    assert missing == {"kernel_memory.setup_data": "setup_data 0x11040000: more than 64 entries"}


def test_as_large_a_setup_data_as_there_can_be() -> None:
    """Its data are not read."""
    program = FirmwareProgram()
    program.set_boot_params(0x250, "Q", 0x11000000)
    program.place(struct.pack("<QII", 0, SETUP_RNG_SEED, limits.SETUP_DATA_BYTES), 0x11000000)
    assert read(program) == ([IMAGE, ("setup_data SETUP_RNG_SEED", 0x11000000, 0x21000010)], {})
    program.place(struct.pack("<QII", 0, SETUP_RNG_SEED, limits.SETUP_DATA_BYTES + 1), 0x11000000)
    reason = "setup_data 0x11000000: 268435457 bytes of data are not credible"
    assert read(program) == ([IMAGE], {"kernel_memory.setup_data": reason})


def test_as_large_an_indirect_target_as_there_can_be() -> None:
    program = FirmwareProgram()
    target = "setup_data SETUP_INDIRECT target"
    for length, name in ((limits.SETUP_DATA_BYTES, target), (limits.SETUP_DATA_BYTES + 1, None)):
        program.set_setup_data([(0x11000000, SETUP_INDIRECT, struct.pack("<IIQQ", 6, 0, length, 0x22000000))])
        ranges, missing = read(program)
        assert [entry for entry in ranges if entry[0] == target] == ([(name, 0x22000000, 0x32000000)] if name else [])
        reason = f"setup_data 0x11000000: {length} bytes at 0x22000000 are not credible"
        assert missing == ({} if name else {"kernel_memory.setup_data": reason})
