# SPDX-License-Identifier: LGPL-2.1-or-later
"""The model against the kernel's own functions, compiled here from Debian's linux-source packages.

Nothing of the kernel is in the repository: the archives are read where they are at test time, and what is
cut out of them lives in a temporary directory. Without an archive or a compiler the tests are skipped.
"""

from __future__ import annotations

import ctypes
import os
import random
import re
import shutil
import struct
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from drgn_unaccepted.model import bitmap as bits
from drgn_unaccepted.model import e820, efi, stub
from drgn_unaccepted.model.bitmap import Geometry
from drgn_unaccepted.model.efi import UNACCEPTED, EfiDescriptor
from drgn_unaccepted.model.ranges import merge
from tests.model.test_efi import encode

HARNESS = Path(__file__).parent / "harness"
#: What scripts/lab keeps: $DRGN_UNACCEPTED_LAB, or under ~/.cache.
LAB = Path(os.environ.get("DRGN_UNACCEPTED_LAB") or Path.home() / ".cache/drgn-unaccepted-lab")
#: One archive a series, installed or fetched by the lab. Linux 6.1 has no unaccepted memory.
_FOUND = (*LAB.glob("sources/*/*/usr/src/linux-source-*.tar.xz"), *Path("/usr/src").glob("linux-source-*.tar.xz"))
ARCHIVES = sorted({path.name: path for path in _FOUND if path.name != "linux-source-6.1.tar.xz"}.values())

STUB = "drivers/firmware/efi/libstub/unaccepted_memory.c"
RUNTIME = "drivers/firmware/efi/unaccepted_memory.c"
FORMAT = "drivers/firmware/efi/efi.c"
MAP = "arch/x86/platform/efi/efi.c"
E820 = "arch/x86/kernel/e820.c"
E820_TYPES = "arch/x86/include/asm/e820/types.h"
EFI_H = "include/linux/efi.h"

#: Headers that the compiled files include; all of them are harness/kernel.h here.
INCLUDED = """
    asm/efi.h asm/unaccepted_memory.h efistub.h linux/crash_dump.h linux/efi.h linux/memblock.h linux/nmi.h
    linux/numa.h linux/spinlock.h uapi/asm/bootparam.h
""".split()
GCC = ("gcc", "-std=gnu11", "-O1", "-w", "-fwrapv", "-fno-strict-aliasing", "-fPIC", "-shared")

STRIDE = 48
ALL_COLUMNS = 0x800000000000001F | 0x1FF000  #: The attributes that the log shows as words.
UNITS = (4096, 4 * 4096, 2 << 20)

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(not ARCHIVES, reason="no /usr/src/linux-source-*.tar.xz (apt install linux-source)"),
    pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc (apt install gcc)"),
]


class Kernel(NamedTuple):
    """The three libraries made from one kernel source."""

    stub: ctypes.CDLL
    runtime: ctypes.CDLL
    maps: ctypes.CDLL
    whole_pages: bool


def cut(text: str, pattern: str) -> str:
    """What one regular expression matches, from the start of a line."""
    match = re.search(pattern, text, re.DOTALL | re.MULTILINE)
    assert match, f"the kernel source has nothing like {pattern}"
    return match.group(0) + "\n"


def compile_library(directory: Path, name: str, *arguments: str) -> ctypes.CDLL:
    library = directory / f"{name}.so"
    subprocess.run(
        [*GCC, f"-I{directory}", f"-I{HARNESS}", *arguments, "-o", str(library), str(HARNESS / f"{name}.c")], check=True
    )
    return ctypes.CDLL(str(library))


@pytest.fixture(scope="module", params=ARCHIVES, ids=lambda path: path.name.split(".tar")[0])
def kernel(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Kernel:
    archive: Path = request.param
    directory = tmp_path_factory.mktemp("kernel")
    root = archive.name.split(".tar")[0]
    wanted = [STUB, RUNTIME, FORMAT, MAP, E820, E820_TYPES, EFI_H]
    subprocess.run(
        ["tar", "-xJf", str(archive), "-C", str(directory), "--strip-components=1", "--occurrence=1"]
        + [f"{root}/{path}" for path in wanted],
        check=True,
    )
    for empty in INCLUDED:
        (directory / empty).parent.mkdir(parents=True, exist_ok=True)
        (directory / empty).write_text('#include "kernel.h"\n')
    source = {path: (directory / path).read_text() for path in wanted}
    attributes = re.findall(r"^#define EFI_MEMORY_\w+(?:[^\n]*\\\n)?[^\n]*ULL[^\n]*$", source[EFI_H], re.MULTILINE)
    (directory / "attributes.inc").write_text("\n".join(attributes) + "\n")
    (directory / "efi.inc").write_text(
        cut(source[FORMAT], r"^static [^\n]*memory_type_name\[\].*?^};$")
        + cut(source[FORMAT], r"^char \* __init efi_md_typeattr_format\(.*?^}$")
        + cut(source[MAP], r"^void __init efi_print_memmap\(.*?^}$")
        + cut(source[MAP], r"^static void __init efi_merge_regions\(.*?^}$")
    )
    (directory / "e820.inc").write_text(
        source[E820_TYPES]
        + cut(source[E820], r"^struct change_member \{.*?^(?:int __init|__init int) e820__update_table\(.*?^}$")
    )
    return Kernel(
        compile_library(directory, "stub", f'-DKERNEL_FILE="{directory / STUB}"'),
        compile_library(directory, "runtime", f'-DKERNEL_FILE="{directory / RUNTIME}"'),
        compile_library(directory, "maps"),
        "PAGE_ALIGN(" in source[RUNTIME],
    )


def random_map(rng: random.Random, unit: int) -> list[EfiDescriptor]:
    """Descriptors around unit boundaries, in any order, some overlapping, some of other types."""
    descriptors = []
    for _ in range(rng.randrange(1, 7)):
        start = rng.randrange(0, 60) * unit + rng.choice([0, 0, 4096, unit - 4096, unit // 8192 * 4096])
        size = rng.randrange(0, 9) * unit + rng.choice([0, 0, 4096, unit - 4096, unit // 8192 * 4096])
        type_ = rng.choice([UNACCEPTED, UNACCEPTED, UNACCEPTED, efi.CONVENTIONAL, efi.RESERVED])
        descriptors.append(EfiDescriptor(type_, start, start + size, 0xF))
    return descriptors


@pytest.mark.parametrize("reused", [False, True], ids=["own-table", "reused-table"])
def test_stub(kernel: Kernel, reused: bool) -> None:
    """allocate_unaccepted_bitmap() and process_unaccepted_memory() on 6,000 maps."""
    library = kernel.stub
    library.boot.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.c_int, ctypes.c_uint64]
    library.boot.restype = ctypes.c_void_p
    library.install.argtypes = [ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint32]
    calls = ((ctypes.c_uint64 * 2) * 4096).in_dll(library, "accepted")
    rng = random.Random(f"stub {reused}")
    tables = bits_set = overruns = 0
    for _ in range(6000):
        unit = rng.choice(UNITS)
        descriptors = random_map(rng, unit)
        library.forget()
        if reused:
            geometry = Geometry(rng.randrange(0, 40) * unit, rng.randrange(1, 6), unit)
            library.install(geometry.phys_base, geometry.bitmap_bytes, unit)
        else:
            own = stub.allocate_unaccepted_bitmap(descriptors, unit)
            if own is None:
                assert library.boot(encode(descriptors, STRIDE), len(descriptors), STRIDE, unit) is None
                continue
            geometry = own
        address = library.boot(encode(descriptors, STRIDE), len(descriptors), STRIDE, unit)
        header = struct.unpack("<IIQQ", ctypes.string_at(address, 24))
        assert header == (1, unit, geometry.phys_base, geometry.bitmap_bytes)
        bitmap = ctypes.string_at(address + 24, geometry.bitmap_bytes)
        unaccepted, accepted = stub.process_unaccepted_memory(descriptors, geometry)
        assert unaccepted == list(bits.unaccepted_ranges(geometry, bitmap))
        number = ctypes.c_int.in_dll(library, "number_accepted").value
        assert accepted == merge((start, end) for start, end in calls[:number])
        beyond = stub.beyond_bitmap(descriptors, geometry)
        assert bool(beyond) == bool(ctypes.c_int.in_dll(library, "overran").value)
        tables += 1
        bits_set += bits.count(bitmap)
        overruns += bool(beyond)
    # The maps were of use.
    assert tables > 5000
    assert bits_set > 10_000
    assert bool(overruns) == reused


def test_range_contains_unaccepted_memory(kernel: Kernel) -> None:
    """2,000 tables, 40 ranges each: aligned and not, around phys_base and the end, and with a wrap.

    Linux 6.12 takes the range as it is; 948a013a54c4 (7.0) rounds it to pages, which the source shows.
    """
    ask = kernel.runtime.ask
    ask.argtypes = [ctypes.c_char_p, ctypes.c_uint64, ctypes.c_ulong]
    ask.restype = ctypes.c_bool
    rng = random.Random("runtime")
    answers = [0, 0]
    for _ in range(2000):
        unit = rng.choice(UNITS)
        geometry = Geometry(rng.randrange(0, 20) * unit, rng.randrange(1, 9), unit)
        bitmap = bytes(rng.choice([0, 0, 1, 0x80, 0xFF, rng.randrange(256)]) for _ in range(geometry.bitmap_bytes))
        table = struct.pack("<IIQQ", 1, unit, geometry.phys_base, geometry.bitmap_bytes) + bitmap + bytes(8)
        for _ in range(40):
            start = rng.randrange(0, geometry.end // unit + 3) * unit
            start += rng.choice([0, 4096, unit - 4096, rng.randrange(unit)])
            size = rng.choice([0, 4096, unit, rng.randrange(4 * unit), rng.randrange(4) * unit, (1 << 64) - start])
            size = min(size, (1 << 64) - 1)
            expected = ask(table, start, size)
            answers[expected] += 1
            answer = bits.range_contains_unaccepted_memory(
                geometry, bitmap, start, size, whole_pages=kernel.whole_pages
            )
            assert answer is expected
            page = start // 4096
            answer = bits.range_contains_unaccepted_memory(geometry, bitmap, page * 4096, 4096)
            assert answer is ask(table, page * 4096, 4096)
    assert min(answers) > 10_000


def random_boot_map(rng: random.Random) -> list[EfiDescriptor]:
    """Disjoint entries, as firmware gives them: many touch, many are equal."""
    descriptors, position = [], rng.randrange(1 << 36) << 12
    kinds = [(15, 0xF), (7, 0xF), (0, 0), (4, 1 << 63 | 0xF), (20, 0xF), (15, 1 << 40), (15, rng.getrandbits(64))]
    for _ in range(rng.randrange(1, 120)):
        position += rng.choice([0, 0, 0, 1]) << 12
        end = position + (rng.randrange(1, 1 << 20) << 12)
        type_, attribute = rng.choice(kinds)
        if rng.random() < 0.3:
            attribute = rng.getrandbits(64) & ALL_COLUMNS
        descriptors.append(EfiDescriptor(type_, position, end, attribute))
        position = end
    return descriptors


def test_merge_regions_is_undone(kernel: Kernel) -> None:
    rng = random.Random("merge")
    changed = 0
    for _ in range(1500):
        descriptors = random_boot_map(rng)
        data = ctypes.create_string_buffer(encode(descriptors, STRIDE), len(descriptors) * STRIDE)
        kernel.maps.merge(data, len(descriptors), STRIDE)
        edited = efi.decode_memory_map(data.raw, STRIDE)
        changed += edited != descriptors
        assert efi.undo_merge_regions(edited) == descriptors
    assert changed > 1000


def test_log_lines_are_read(kernel: Kernel) -> None:
    rng = random.Random("print")
    for _ in range(500):
        descriptors = random_boot_map(rng)
        text = ctypes.create_string_buffer(256 * len(descriptors))
        data = encode(descriptors, STRIDE)
        kernel.maps.print(data, len(descriptors), STRIDE, text, ctypes.c_size_t(len(text)))
        lines = text.value.decode().splitlines()
        assert len(lines) == len(descriptors)
        assert efi.parse_log_lines(lines) == (descriptors, None)


def test_overlapping_e820_entries(kernel: Kernel) -> None:
    """e820__update_table(), which keeps neighbours of types 12 and 0xefffffff apart."""
    rng = random.Random("e820")
    size = 4 + 20 * (128 + 3 * 64)
    for _ in range(4000):
        entries = []
        for _ in range(rng.randrange(2, 12)):
            start = rng.randrange(50) << 12
            kind = rng.choice([1, 1, 1, 2, 3, 4, 7, 12, 0xEFFFFFFF])
            entries.append(e820.E820Entry(start, start + (rng.randrange(12) << 12), kind))
        packed = b"".join(struct.pack("<QQI", start, end - start, kind) for start, end, kind in entries)
        table = ctypes.create_string_buffer(struct.pack("<I", len(entries)) + packed, size)
        assert kernel.maps.update(table) == 0
        (number,) = struct.unpack_from("<I", table.raw)
        updated = e820.decode_e820_entries(table.raw[4:], number)
        flat = e820.flatten(entries)
        assert e820.flatten(updated) == flat
        apart = (12, 0xEFFFFFFF)
        assert [item for item in updated if item.type not in apart] == [item for item in flat if item.type not in apart]
        assert e820.differences(entries, updated) == []
