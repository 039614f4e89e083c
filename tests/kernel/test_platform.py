# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the kernel's variables and its image say of its build and its platform."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Optional

import drgn
import pytest
from drgn import Program, Symbol, SymbolBinding, SymbolIndex, SymbolKind

from drgn_unaccepted import limits
from drgn_unaccepted.kernel.platform import read_image, read_kernel_build, read_platform
from drgn_unaccepted.snapshot import KernelBuild, Platform
from drgn_unaccepted.targets.vmcore import open_vmcore
from tests.kernel.allocator_program import PAGE, UNACCEPTED, ZONE_ID_SHIFT, AllocatorProgram, said
from tests.targets.elf_dump import SAMPLES

# SEV, SEV-ES, SEV-SNP
SNP, SEV_ES = 0b111, 0b011


def make(
    *,
    words: Optional[dict[int, int]] = None,
    sev_status: Optional[int] = 0,
    cc_vendor: Optional[int] = 0,
    lazy: Optional[bool] = True,
) -> AllocatorProgram:
    guest = AllocatorProgram()
    if words is not None:
        capability = [words.get(n, 0) for n in range(22)]
        guest.set_global("boot_cpu_data", "cpuinfo_x86", struct.pack("<23I", 6, *capability))
    if sev_status is not None:
        guest.set_global("sev_status", "unsigned long", struct.pack("<Q", sev_status))
    if cc_vendor is not None:
        guest.set_global("cc_vendor", "enum cc_vendor", struct.pack("<I", cc_vendor))
    if lazy is not None:
        guest.set_global("lazy_accept", "bool", bytes([lazy]))
    return guest


@pytest.mark.parametrize(
    ("guest", "platform"),
    [
        (make(words={8: 1 << 22}, cc_vendor=2), Platform("tdx", "INTEL", 0, True)),
        (make(words={}, sev_status=SNP, cc_vendor=1, lazy=False), Platform("snp", "AMD", SNP, False)),
        # SEV-ES does not accept memory.
        (make(words={}, sev_status=SEV_ES, cc_vendor=1), Platform("none", "AMD", SEV_ES, True)),
        (make(words={}), Platform("none", "NONE", 0, True)),
        # The same bit in another word, other bits in this one.
        (make(words={7: 1 << 22, 9: 1 << 22, 8: ~(1 << 22) & 0xFFFFFFFF}), Platform("none", "NONE", 0, True)),
        # Without CONFIG_AMD_MEM_ENCRYPT.
        (make(words={}, sev_status=None, cc_vendor=None), Platform("none", None, None, True)),
        (make(words=None, sev_status=SNP), Platform("snp", "NONE", SNP, True)),
        (make(words=None, sev_status=0), Platform(None, "NONE", 0, True)),
        (make(words={}, cc_vendor=9), Platform("none", "9", 0, True)),
    ],
)
def test_platform(guest: AllocatorProgram, platform: Platform) -> None:
    assert read_platform(guest.prog) == platform


def test_build() -> None:
    guest = AllocatorProgram()
    guest.add_cpus([0, 1, 2, 3])
    guest.set_global("efi_setup", "unsigned long", bytes(8))
    guest.set_global("system_state", "enum system_states", struct.pack("<I", 2))
    guest.symbols["accept_memory"] = 0xFFFFFFFF81000000
    assert read_kernel_build(guest.prog) == KernelBuild(
        unaccepted_memory=True,
        unaccepted_page_type=UNACCEPTED,
        chunk_pages=1024,
        static_key=None,
        vmcoreinfo_unaccepted=False,
        kexec_booted=False,
        unaccepts=False,
        system_state="freeing-initmem",
        reserved_flag=1 << 13,
        cpus=4,
        zone_id_shift=ZONE_ID_SHIFT,
    )


def test_another_build() -> None:
    guest = AllocatorProgram()
    guest.structs["zone"] = [
        (name, "free_area[9]" if name == "free_area" else type_name)
        for name, type_name in guest.structs["zone"]
        if name != "unaccepted_pages"
    ]
    guest.enums["pagetype"].pop("PGTY_unaccepted")
    guest.enums["pageflags"]["PG_reserved"] = 14
    guest.vmcoreinfo["NUMBER(PAGE_UNACCEPTED_MAPCOUNT_VALUE)"] = "-150994944"
    guest.set_global("efi_setup", "unsigned long", struct.pack("<Q", 0x1234000))
    guest.set_global("zones_with_unaccepted_pages", "static_key_false", struct.pack("<i", 3))
    guest.symbols["accept_memory"] = guest.symbols["unaccept_memory"] = 0xFFFFFFFF81000000
    assert read_kernel_build(guest.prog) == KernelBuild(
        unaccepted_memory=False,
        unaccepted_page_type=None,
        chunk_pages=256,
        static_key=3,
        vmcoreinfo_unaccepted=True,
        kexec_booted=True,
        unaccepts=True,
        reserved_flag=1 << 14,
        cpus=1,  # no CONFIG_SMP
        zone_id_shift=ZONE_ID_SHIFT,
    )


def test_what_cannot_be_told_is_none() -> None:
    guest = AllocatorProgram()
    guest.add_cpus([0])
    guest.drop(guest.symbols["__cpu_present_mask"])
    build = read_kernel_build(guest.prog)
    assert (build.kexec_booted, build.unaccepts, build.system_state, build.cpus) == (None, None, None, None)
    # "booting" is 0, as a page of zeros that is no page of the kernel's.
    guest.globals["system_state"] = "enum system_states", guest.place(2 * PAGE, PAGE)
    for first, state in ((0, None), (1, "booting")):
        guest.write(guest.globals["system_state"][1], bytes(64) + bytes([first]) + bytes(PAGE - 65))
        assert read_kernel_build(guest.prog).system_state == state


def test_structures_that_cannot_be() -> None:
    guest = AllocatorProgram()
    guest.structs["zone"] = [member for member in guest.structs["zone"] if member[0] != "free_area"]
    guest.structs["zone"].append(("free_area", "free_area[21]"))
    assert "zone->free_area has 21 elements" in said(lambda: read_kernel_build(guest.prog))
    guest = AllocatorProgram()
    guest.structs["page"][4:4] = [("odd", "unsigned char[3]")]
    guest.structs["page"][5] = ("private", "unsigned char[8]")
    assert "not aligned" in said(lambda: read_kernel_build(guest.prog))


@pytest.mark.parametrize(
    ("enum", "constant", "value", "reason"),
    [
        ("pageflags", "PG_reserved", 4_000_000_000, "PG_reserved is 4000000000"),
        ("zone_type", "__MAX_NR_ZONES", 4_000_000_000, "__MAX_NR_ZONES is 4000000000"),
        ("zone_type", "__MAX_NR_ZONES", 0, "__MAX_NR_ZONES is 0"),
    ],
)
def test_constants_that_cannot_be(enum: str, constant: str, value: int, reason: str) -> None:
    guest = AllocatorProgram()
    guest.enums[enum][constant] = value
    assert reason in said(lambda: read_kernel_build(guest.prog))


@pytest.mark.parametrize("sample", ("6.12-fill", "7.3-fill-kdump"))
@pytest.mark.parametrize("bit", (12, 21, 30, 34, 39, 46))
def test_a_direct_map_that_the_page_tables_contradict(sample: str, bit: int) -> None:
    """All that an oops names would be other memory."""
    prog = open_vmcore(str(SAMPLES / sample / "vmcore")).prog
    base = prog["page_offset_base"]
    assert read_kernel_build(prog).page_offset_base == base.value_()
    wrong = (base.value_() ^ 1 << bit).to_bytes(8, "little")
    prog.add_memory_segment(base.address_, 8, lambda at, count, offset, _: wrong[offset : offset + count], False)
    assert read_kernel_build(prog).page_offset_base is None


def test_no_vmemmap() -> None:
    guest = AllocatorProgram()
    del guest.globals["vmemmap_base"]
    assert "not SPARSEMEM_VMEMMAP" in said(lambda: read_kernel_build(guest.prog))
    # Without CONFIG_DYNAMIC_MEMORY_LAYOUT.
    guest.vmcoreinfo["SYMBOL(vmemmap)"] = "ffffea0000000000"
    assert read_kernel_build(guest.prog).chunk_pages == 1024


# The image: a memory with a few functions and texts

TEXT, ACCEPT, BANNER = 0xFFFFFFFF81000F00, 0xFFFFFFFF81200000, 0xFFFFFFFF82000000


def image_program(code: bytes, banner: bytes = b"", size: Optional[int] = None, names: Sequence[str] = ()) -> Program:
    """``sanity_check_segment_list()`` of this code, at the end of a page."""
    prog = drgn.Program(drgn.Platform(drgn.Architecture.X86_64))
    for address, data in ((TEXT, code), (BANNER, banner.ljust(limits.BANNER_BYTES, b"\0"))):
        prog.add_memory_segment(address, len(data), lambda at, n, offset, _, data=data: data[offset : offset + n])
    found = {"sanity_check_segment_list": (TEXT, len(code) if size is None else size), "accept_memory": (ACCEPT, 600)}
    found |= {"linux_banner": (BANNER, 64), **dict.fromkeys(names, (BANNER, 8))}
    symbols = [Symbol(name, *at, SymbolBinding.GLOBAL, SymbolKind.UNKNOWN) for name, at in found.items()]
    prog.register_symbol_finder("test", SymbolIndex(symbols), enable_index=0)
    return prog


def call(at: int, target: int) -> bytes:
    return b"\xe8" + (target - (TEXT + at + 5)).to_bytes(4, "little", signed=True)


NOPS = b"\x90" * 240


@pytest.mark.parametrize(
    ("code", "size", "known"),
    [
        (NOPS + call(240, ACCEPT) + NOPS, None, True),
        (NOPS + call(240, ACCEPT + 16) + NOPS, None, False),
        # A jump, and a call whose last bytes belong to the next function.
        (NOPS + b"\xe9" + call(240, ACCEPT)[1:] + NOPS, None, False),
        (NOPS + call(240, ACCEPT)[:3], None, False),
        # Its second page was left out of the dump; a symbol without a size; one that is no function.
        (NOPS + bytes(200), None, None),
        (NOPS, 0, None),
        (NOPS, limits.FUNCTION_BYTES + 1, None),
        (NOPS, 4096, None),
    ],
)
def test_a_fix_that_added_a_call(code: bytes, size: Optional[int], known: Optional[bool]) -> None:
    image = read_image(image_program(code, size=size))
    assert ("caeb8ba598f0" in image.fixes, "caeb8ba598f0" in image.lacks) == (known is True, known is False)


def test_fixes_that_added_a_symbol() -> None:
    """accepting_list is there since 50e782a86c98; the other one needs CONFIG_PROC_VMCORE, too."""
    image = read_image(image_program(NOPS))
    assert "50e782a86c98" in image.lacks and "7cd34dd3c9bf" not in image.lacks
    names = ("accepting_list", "unaccepted_memory_vmcore_pfn_is_ram")
    assert {"50e782a86c98", "7cd34dd3c9bf"} <= {*read_image(image_program(NOPS, names=names)).fixes}


@pytest.mark.parametrize(
    ("text", "release"),
    [
        (b"Linux version 6.12.117+deb12-amd64 (debian-kernel@", "6.12.117+deb12-amd64"),
        (b"", None),
        (b"Linux version \x1b[31m6.1 (", None),
        (b"Linux version " + b"6" * 65 + b" (", None),
    ],
)
def test_the_release_in_the_banner(text: bytes, release: Optional[str]) -> None:
    assert read_image(image_program(NOPS, text)).banner == release
