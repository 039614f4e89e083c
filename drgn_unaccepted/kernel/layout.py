# SPDX-License-Identifier: LGPL-2.1-or-later
"""Memory that the kernel is known to use from its first instruction on: none of it can be unaccepted."""

from __future__ import annotations

from drgn import FaultError, Object, Program

from drgn_unaccepted import limits
from drgn_unaccepted.kernel.boot_params import (
    SETUP_INDIRECT,
    SETUP_NAMES,
    read_boot_params,
    read_physical,
    read_setup_data,
)
from drgn_unaccepted.kernel.errors import Unavailable
from drgn_unaccepted.kernel.page_tables import START_KERNEL_MAP
from drgn_unaccepted.kernel.vmcoreinfo import vmcoreinfo_of
from drgn_unaccepted.snapshot import NamedRange


def read_kernel_memory(prog: Program) -> tuple[tuple[NamedRange, ...], dict[str, str]]:
    """Return the kernel image, the initrd, the setup_data entries and the EFI memory map's buffer, physical.

    The ranges are as the kernel was given them at boot; memory of them that was freed since (init sections,
    initrd) was accepted all the same. What there is none of (no initrd, no EFI) is not listed.

    :return: the ranges, and what could not be told with the reason, by ``kernel_memory.image``,
        ``kernel_memory.boot_params`` and ``kernel_memory.setup_data``
    :raises Unavailable: nothing could be told
    """
    ranges: list[NamedRange] = []
    missing: dict[str, str] = {}
    try:
        ranges.append(_image(prog))
    except (Unavailable, LookupError, ValueError) as error:
        missing["kernel_memory.image"] = _text(error)
    try:
        params = read_boot_params(prog)
        ranges.extend(_initrd(params))
        ranges.extend(_efi_map(params))
    except (Unavailable, LookupError, AttributeError, FaultError) as error:
        missing["kernel_memory.boot_params"] = _text(error)
    else:
        found, problem = _setup_data(prog, params)
        ranges.extend(found)
        if problem is not None:
            missing["kernel_memory.setup_data"] = problem
    if not ranges:
        raise Unavailable("; ".join(missing.values()))
    return tuple(ranges), missing


def _text(error: Exception) -> str:
    # str() of a KeyError is the repr of its argument.
    return str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)


def _image(prog: Program) -> NamedRange:
    """``_text`` to ``_end``, through ``phys_base`` as VMCOREINFO has it (it may be negative)."""
    phys_base = vmcoreinfo_of(prog).number("phys_base")
    if phys_base is None:
        raise Unavailable("VMCOREINFO has no NUMBER(phys_base)")
    offset = phys_base - START_KERNEL_MAP
    start = prog.symbol("_text").address + offset
    end = prog.symbol("_end").address + offset
    if not 0 <= start < end <= limits.PHYSICAL_END or end - start > limits.KERNEL_IMAGE_BYTES:
        raise Unavailable(f"kernel image at {start:#x}-{end:#x}: not credible")
    return NamedRange("kernel image", start, end)


def _initrd(params: Object) -> list[NamedRange]:
    start = params.hdr.ramdisk_image.value_() | params.ext_ramdisk_image.value_() << 32
    size = params.hdr.ramdisk_size.value_() | params.ext_ramdisk_size.value_() << 32
    if not start or not size:
        return []
    if size > limits.INITRD_BYTES or start + size > limits.PHYSICAL_END:
        raise Unavailable(f"initrd of {size} bytes at {start:#x}: not credible")
    return [NamedRange("initrd", start, start + size)]


def _efi_map(params: Object) -> list[NamedRange]:
    info = params.efi_info
    start = info.efi_memmap.value_() | info.efi_memmap_hi.value_() << 32
    size = info.efi_memmap_size.value_()
    if not start or not size:
        return []
    if size > limits.EFI_DESCRIPTORS * limits.EFI_DESCRIPTOR_BYTES or start + size > limits.PHYSICAL_END:
        raise Unavailable(f"EFI memory map of {size} bytes at {start:#x}: not credible")
    return [NamedRange("EFI memory map", start, start + size)]


def _setup_data(prog: Program, params: Object) -> tuple[list[NamedRange], str | None]:
    chain = read_setup_data(prog, params)
    ranges = []
    problem = chain.problem
    for entry in chain.entries:
        name = SETUP_NAMES.get(entry.type, f"type {entry.type}")
        ranges.append(NamedRange(f"setup_data {name}", entry.address, entry.end))
        if entry.type == SETUP_INDIRECT and entry.length >= 24:
            # struct setup_indirect: u32 type, u32 reserved, u64 len, u64 addr
            try:
                data = read_physical(prog, entry.data, 24, f"setup_data {entry.address:#x}")
            except Unavailable as error:
                problem = str(error)
                continue
            length = int.from_bytes(data[8:16], "little")
            start = int.from_bytes(data[16:24], "little")
            if 0 < length <= limits.SETUP_DATA_BYTES and start + length <= limits.PHYSICAL_END:
                ranges.append(NamedRange(f"setup_data {name} target", start, start + length))
            else:
                problem = f"setup_data {entry.address:#x}: {length} bytes at {start:#x} are not credible"
    return ranges, problem
