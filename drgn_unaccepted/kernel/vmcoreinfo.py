# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find VMCOREINFO in the memory of a dump that has no note of it.

QEMU writes the note only with ``-device vmcoreinfo`` and if the guest's fw_cfg driver was loaded; drgn refuses a dump
without it. But the kernel keeps the text in a page of its own (``vmcoreinfo_data``, kernel/vmcore_info.c), which is in
a dump of the whole RAM. What looks like it may be a copy in a file, what an earlier kernel left before a kexec, or the
format strings ``OSRELEASE=%s`` and ``SYMBOL(%s)=%lx`` that are in every kernel, so each finding is checked against the
memory that it describes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Optional

from drgn import FaultError

from drgn_unaccepted import limits
from drgn_unaccepted.kernel.elf import ElfCore, ElfMemory
from drgn_unaccepted.kernel.errors import Unavailable
from drgn_unaccepted.kernel.page_tables import START_KERNEL_MAP, kernel_page_tables
from drgn_unaccepted.kernel.qemu import cpu_states

_PAGE_SIZE = 4096
#: ``utsname.release`` comes after two others of __NEW_UTS_LEN + 1 bytes.
_UTS_LENGTH = 65
_NEEDED = ("OSRELEASE", "SYMBOL(init_uts_ns)", "SYMBOL(swapper_pg_dir)", "NUMBER(phys_base)", "KERNELOFFSET")


class FoundVmcoreinfo(NamedTuple):
    text: bytes
    #: Physical address of ``vmcoreinfo_data``.
    address: int
    #: What the text says of its kernel, ``NUMBER(phys_base)`` and the like.
    entries: Mapping[str, str]


def find_vmcoreinfo(core: ElfCore) -> FoundVmcoreinfo:
    """The VMCOREINFO of the kernel that ran when the dump was taken.

    The first one whose kernel a CPU's own page tables map; if none of them maps any (all CPUs in user mode under page
    table isolation, or a dump without registers), the only one whose kernel is in the memory.

    :raises Unavailable: none, or several and nothing to tell which
    :raises OSError: the file cannot be read
    """
    plausible: dict[tuple[str, ...], FoundVmcoreinfo] = {}
    cpus = cpu_states(core)
    with ElfMemory(core) as memory:
        for address in memory.find(b"OSRELEASE=", limits.VMCOREINFO_SEARCH_BYTES):
            if address % _PAGE_SIZE:
                continue
            found = _parse(memory, address)
            where = None if found is None else _kernel_of(memory, found)
            if found is None or where is None:
                continue
            virtual, physical = where
            kernel = tuple(found.entries[name] for name in _NEEDED)
            if kernel in plausible:
                continue  # a copy, of which the CPUs say the same
            if any(cpu.maps(memory.read, virtual, physical) for cpu in cpus):
                return found
            plausible[kernel] = found
            if len(plausible) > limits.VMCOREINFO_COPIES:
                raise Unavailable(f"more than {limits.VMCOREINFO_COPIES} different VMCOREINFO are in its memory")
    if len(plausible) > 1:
        places = ", ".join(f"{found.entries['OSRELEASE']} at {found.address:#x}" for found in plausible.values())
        raise Unavailable(f"several are in its memory, and nothing tells which kernel ran last: {places}")
    if not plausible:
        raise Unavailable("none is in its memory")
    return next(iter(plausible.values()))


def _parse(memory: ElfMemory, address: int) -> Optional[FoundVmcoreinfo]:
    """The text at ``address`` if it is built like VMCOREINFO."""
    try:
        text = memory.read(address, _PAGE_SIZE).partition(b"\0")[0]
    except FaultError:
        return None
    lines = [line.partition("=") for line in text.decode("latin-1").splitlines()]
    entries = {name: value for name, equals, value in lines if equals}
    if entries.get("PAGESIZE") != str(_PAGE_SIZE) or any(name not in entries for name in _NEEDED):
        return None
    return FoundVmcoreinfo(text, address, entries)


def _kernel_of(memory: ElfMemory, found: FoundVmcoreinfo) -> Optional[tuple[int, int]]:
    """Virtual and physical address of ``init_uts_ns``, if the kernel that ``found`` describes is in the memory."""
    entries = found.entries
    try:
        virtual = int(entries["SYMBOL(init_uts_ns)"], 16)
        physical = virtual - START_KERNEL_MAP + int(entries["NUMBER(phys_base)"])
        release_at = int(entries.get("OFFSET(uts_namespace.name)", "0")) + 2 * _UTS_LENGTH
        release = memory.read(physical + release_at, _UTS_LENGTH).partition(b"\0")[0]
        tables = kernel_page_tables(memory.read, found.text)
        if tables is None or tables.translate(virtual).start != physical:
            return None
    except (ValueError, FaultError):
        return None
    return (virtual, physical) if release.decode("latin-1") == entries["OSRELEASE"] else None
