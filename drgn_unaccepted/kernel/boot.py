# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the kernel was given at boot, and what kexec will give to the next one.

``struct boot_params`` and its setup_data chain, e820 tables, memory of the kernel itself, segments for kexec.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple, Optional

from drgn import FaultError, Object, Program, ProgramFlags, sizeof

from drgn_unaccepted import limits
from drgn_unaccepted.errors import one_line
from drgn_unaccepted.model.addresses import START_KERNEL_MAP
from drgn_unaccepted.model.e820 import E820Entry, decode_e820_entries
from drgn_unaccepted.snapshot import E820Tables, KexecSegment, NamedRange
from drgn_unaccepted.targets.errors import UNREADABLE, Unavailable
from drgn_unaccepted.targets.vmcoreinfo import vmcoreinfo_of

# enum in arch/x86/include/uapi/asm/setup_data.h
_SETUP_E820_EXT, SETUP_EFI, _SETUP_INDIRECT = 1, 4, 1 << 31
_SETUP_NAMES = "E820_EXT DTB PCI EFI APPLE_PROPERTIES JAILHOUSE CC_BLOB IMA RNG_SEED KEXEC_KHO".split()
# struct setup_data: u64 next, u32 type, u32 len, u8 data[len]. It is ABI between boot loader and kernel.
_SETUP_DATA = struct.Struct("<QII")
# struct setup_indirect: u32 type, u32 reserved, u64 len, u64 addr.
_INDIRECT = struct.Struct("<8xQQ")
# struct e820_entry and struct boot_e820_entry, packed: u64 addr, u64 size, u32 type.
_E820_ENTRY = 20


class SetupData(NamedTuple):
    """One entry of the setup_data chain: ``SETUP_*``, and where its data are, physical."""

    address: int
    type: int
    data: int
    length: int

    @property
    def name(self) -> str:
        known = {_SETUP_INDIRECT: "INDIRECT", **dict(enumerate(_SETUP_NAMES, 1))}.get(self.type)
        return f"setup_data SETUP_{known}" if known else f"setup_data type {self.type}"


def read_boot_params(prog: Program) -> Object:
    """A copy of ``struct boot_params boot_params``, in every capture (.bss). Unavailable: it reads as zeros."""
    params = prog["boot_params"].read_()
    if not any(params.to_bytes_()):
        raise Unavailable("boot_params reads as zeros: not captured")
    return params


def read_setup_data(prog: Program, params: Object) -> tuple[list[SetupData], Optional[str]]:
    """Follow ``boot_params.hdr.setup_data``, physical addresses of ``struct setup_data``, 0 at the end.

    :return: the entries, and why the chain was not followed to its end
    """
    entries: dict[int, SetupData] = {}
    address = params.hdr.setup_data.value_()
    try:
        while address:
            name = f"setup_data {address:#x}"
            if address in entries:
                raise Unavailable(f"{name}: the chain comes back to it")
            if len(entries) == limits.SETUP_DATA_ENTRIES:
                raise Unavailable(f"{name}: more than {limits.SETUP_DATA_ENTRIES} entries")
            header = read_physical(prog, address, _SETUP_DATA.size, name)
            if not any(header):
                raise Unavailable(f"{name}: reads as zeros, not captured")
            following, type_, length = _SETUP_DATA.unpack(header)
            if length > limits.SETUP_DATA_BYTES:
                raise Unavailable(f"{name}: {length} bytes of data are not credible")
            entries[address] = SetupData(address, type_, address + _SETUP_DATA.size, length)
            address = following
    except Unavailable as error:
        return list(entries.values()), str(error)
    return list(entries.values()), None


def read_physical(prog: Program, address: int, size: int, name: str) -> bytes:
    """Read physical memory that may not be in the target: then Unavailable names it."""
    if not 0 <= address <= limits.PHYSICAL_END - size:
        raise Unavailable(f"{name}: no physical address")
    try:
        return bytes(prog.read(address, size, physical=True))
    except (FaultError, OSError) as error:
        # A read of /proc/kcore that the kernel refuses is an OSError.
        where = "/proc/kcore" if prog.flags & ProgramFlags.IS_LIVE else "this dump"
        raise Unavailable(f"{name}: not in {where}") from error


def read_e820(prog: Program) -> tuple[E820Tables, dict[str, str]]:
    """Return ``e820_table``, ``e820_table_kexec``, ``e820_table_firmware`` and the table of ``boot_params``.

    The first three are copies in slab memory since ``e820__reallocate_tables()``, so a filtered dump may lack them.

    :return: the tables, and why one is None, for example by ``e820.kexec``
    :raises Unavailable: none of them can be read
    """
    missing: dict[str, str] = {}
    tables: list[Optional[tuple[E820Entry, ...]]] = []
    for key, name in zip(E820Tables.__annotations__, ("e820_table", "e820_table_kexec", "e820_table_firmware", "")):
        try:
            tables.append(_e820_table(prog, name) if name else _boot_params_e820(prog))
        except UNREADABLE as error:
            tables.append(None)
            missing[f"e820.{key}"] = one_line(error)
    if len(missing) == len(tables):
        raise Unavailable("; ".join(dict.fromkeys(missing.values())))
    return E820Tables(*tables), missing


def _e820_table(prog: Program, name: str) -> tuple[E820Entry, ...]:
    """``struct e820_table *name``: ``u32 nr_entries``, then the entries, of which only those in use are allocated."""
    pointer = prog[name].read_()
    if not pointer:
        raise Unavailable(f"{name} is NULL")
    entries, what = pointer.entries, f"{name} {pointer.value_():#x}"
    length = entries.type_.length
    if length is None or sizeof(entries) != length * _E820_ENTRY:
        raise Unavailable(f"{name}: its entries are not of {_E820_ENTRY} bytes")
    try:
        number = pointer.nr_entries.value_()
        if not number:
            raise Unavailable(f"{what}: reads as zeros, not captured")
        if number > min(length, limits.E820_ENTRIES):
            raise Unavailable(f"{what}: {number} entries in an array of {length}")
        data = prog.read(entries.address_, number * _E820_ENTRY)
    except (FaultError, OSError) as error:
        raise Unavailable(f"{what}: not in this target") from error
    return _whole(decode_e820_entries(data, number), what)


def _boot_params_e820(prog: Program) -> tuple[E820Entry, ...]:
    """``boot_params.e820_table``, which may be continued in the setup_data chain (SETUP_E820_EXT)."""
    params = read_boot_params(prog)
    table = params.e820_table
    number = params.e820_entries.value_()
    if not 0 < number <= len(table):
        raise Unavailable(f"boot_params.e820_entries is {number}: the array has {len(table)}")
    entries = decode_e820_entries(table.to_bytes_(), number)
    chain, problem = read_setup_data(prog, params)
    if problem is not None and number == len(table):
        raise Unavailable(f"boot_params.e820_table is full, and its extension is unknown: {problem}")
    for extension in chain:
        if extension.type == _SETUP_E820_EXT:
            what = f"setup_data {extension.address:#x} (SETUP_E820_EXT)"
            if extension.length > limits.E820_ENTRIES * _E820_ENTRY:
                raise Unavailable(f"{what}: {extension.length} bytes are not credible")
            # As many as e820__memory_setup_extended() takes.
            data = read_physical(prog, extension.data, extension.length, what)
            entries.extend(decode_e820_entries(data, extension.length // _E820_ENTRY))
    return _whole(entries, "boot_params.e820_table")


def _whole(entries: list[E820Entry], what: str) -> tuple[E820Entry, ...]:
    """The entries, if none reads as zeros: a table may cross into a page that is not captured."""
    if (0, 0, 0) in entries:
        raise Unavailable(f"{what}: reads as zeros from entry {entries.index(E820Entry(0, 0, 0))} on, not captured")
    return tuple(entries)


def read_kernel_memory(prog: Program) -> tuple[tuple[NamedRange, ...], dict[str, str]]:
    """Return the memory that the kernel uses from its first instruction on, which cannot be unaccepted.

    Physical, as it was at boot: what was freed since (init sections, initrd) stays accepted.

    :return: the ranges, and the reasons for what cannot be told, for example by ``kernel_memory.image``
    :raises Unavailable: nothing can be told
    """
    ranges: list[NamedRange] = []
    missing: dict[str, str] = {}
    for read in (_image, _crash_kernel, _boot_params, _setup_data):
        try:
            for found in read(prog):  # what comes before an error is kept
                ranges.append(found)
        except UNREADABLE as error:
            missing[f"kernel_memory.{read.__name__[1:]}"] = one_line(error)
            if read is _boot_params:
                break  # it has the head of the chain, too
    if not ranges:
        raise Unavailable("; ".join(missing.values()))
    return tuple(ranges), missing


def _image(prog: Program) -> Iterator[NamedRange]:
    """``_text`` to ``_end``, through ``phys_base`` as VMCOREINFO has it (it may be negative)."""
    phys_base = vmcoreinfo_of(prog).number("phys_base")
    if phys_base is None:
        raise Unavailable("VMCOREINFO has no NUMBER(phys_base)")
    # KASLR moves the image within its mapping and in physical memory, each by its own amount.
    text, end = prog.symbol("_text").address, prog.symbol("_end").address
    yield _credible("kernel image", text - START_KERNEL_MAP + phys_base, end - text, limits.KERNEL_IMAGE_BYTES)


def _crash_kernel(prog: Program) -> Iterator[NamedRange]:
    """``crashk_res``, which memblock allocated and so accepted. It starts with ``resource_size_t start, end``."""
    try:
        start, last = struct.unpack("<QQ", prog.read(prog.symbol("crashk_res").address, 16))
    except LookupError:  # no CONFIG_KEXEC_CORE
        return
    except FaultError:
        raise Unavailable("crashk_res: not in this target") from None
    if last:
        yield _credible("crash kernel", start, last + 1 - start, limits.PHYSICAL_END)


def _boot_params(prog: Program) -> Iterator[NamedRange]:
    params = read_boot_params(prog)
    hdr, efi = params.hdr, params.efi_info
    start = hdr.ramdisk_image.value_() | params.ext_ramdisk_image.value_() << 32
    size = hdr.ramdisk_size.value_() | params.ext_ramdisk_size.value_() << 32
    if start and size:
        yield _credible("initrd", start, size, limits.INITRD_BYTES)
    start, size = efi.efi_memmap.value_() | efi.efi_memmap_hi.value_() << 32, efi.efi_memmap_size.value_()
    if start and size:
        yield _credible("EFI memory map", start, size, limits.EFI_DESCRIPTORS * limits.EFI_DESCRIPTOR_BYTES)


def _setup_data(prog: Program) -> Iterator[NamedRange]:
    entries, problem = read_setup_data(prog, read_boot_params(prog))
    for entry in entries:
        yield NamedRange(entry.name, entry.address, entry.data + entry.length)
        if entry.type != _SETUP_INDIRECT or entry.length < _INDIRECT.size:
            continue
        try:
            data = read_physical(prog, entry.data, _INDIRECT.size, f"setup_data {entry.address:#x}")
            length, start = _INDIRECT.unpack(data)
            yield _credible(f"{entry.name} target", start, length, limits.SETUP_DATA_BYTES)
        except Unavailable as error:
            problem = str(error)
    if problem is not None:
        raise Unavailable(problem)


def _credible(name: str, start: int, size: int, most: int) -> NamedRange:
    if not 0 < size <= most or not 0 <= start <= limits.PHYSICAL_END - size:
        raise Unavailable(f"{name} of {size} bytes at {start:#x}: not credible")
    return NamedRange(name, start, start + size)


def read_kexec_segments(prog: Program) -> tuple[KexecSegment, ...]:
    """Return the destinations of ``struct kimage *kexec_image`` and ``kexec_crash_image``; empty if none is loaded.

    Before Linux kernel commit caeb8ba598f0 ("kexec_core: accept unaccepted kexec segments' destination addresses") (in
    v6.15) kexec could copy a segment into unaccepted memory.

    :raises Unavailable: an image is not in the target, or a count or an address in it is out of bounds
    :raises LookupError: the kernel was built without CONFIG_KEXEC_CORE
    """
    segments: list[KexecSegment] = []
    for name in ("kexec_image", "kexec_crash_image"):
        pointer = prog[name].read_()
        if not pointer:
            continue
        try:
            # In slab memory: makedumpfile 1.7.2 leaves such pages of a 7.x kernel out.
            image = pointer[0].read_()
        except FaultError as error:
            raise Unavailable(f"{name} {pointer.value_():#x}: not in this target") from error
        count = image.nr_segments.value_()
        if count > min(limits.KEXEC_SEGMENTS, len(image.segment)):
            raise Unavailable(f"{name}->nr_segments is {count}: at most {limits.KEXEC_SEGMENTS} are possible")
        for index, segment in enumerate(islice(image.segment, count)):
            start, size = segment.mem.value_(), segment.memsz.value_()
            if start + size > limits.PHYSICAL_END:
                raise Unavailable(f"{name}->segment[{index}] {start:#x}-{start + size:#x}: no physical range")
            segments.append(KexecSegment(name, start, start + size))
    return tuple(segments)
