# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find VMCOREINFO in the memory of a dump that has no VMCOREINFO note.

QEMU writes the note only with ``-device vmcoreinfo`` and if the guest's fw_cfg driver was loaded; drgn refuses a dump
without it. But the kernel keeps the text in a page of its own (``vmcoreinfo_data``, kernel/vmcore_info.c), which every
whole-RAM dump contains. A match may also be a copy in a file, a leftover of the kernel before a kexec, or the format
strings ``OSRELEASE=%s`` and ``SYMBOL(%s)=%lx`` of any kernel, so each match is checked against the memory that it
describes.
"""

from __future__ import annotations

from typing import NamedTuple, Optional

from drgn import FaultError

from drgn_unaccepted import limits
from drgn_unaccepted.kernel.elf_core import ElfCore, ElfMemory
from drgn_unaccepted.kernel.errors import Unavailable
from drgn_unaccepted.kernel.page_tables import START_KERNEL_MAP, kernel_page_tables
from drgn_unaccepted.kernel.qemu import cpu_states
from drgn_unaccepted.kernel.vmcoreinfo import Vmcoreinfo, parse_vmcoreinfo

_PAGE_SIZE = 4096
#: Two members of __NEW_UTS_LEN + 1 bytes precede ``utsname.release``.
_UTS_LENGTH = 65
#: What tells one kernel from another.
_IDENTITY = ("OSRELEASE", "SYMBOL(init_uts_ns)", "SYMBOL(swapper_pg_dir)", "NUMBER(phys_base)", "KERNELOFFSET")


class FoundVmcoreinfo(NamedTuple):
    vmcoreinfo: Vmcoreinfo
    #: Physical address of ``vmcoreinfo_data``.
    address: int


def find_vmcoreinfo(core: ElfCore) -> FoundVmcoreinfo:
    """The VMCOREINFO of the kernel that ran when the dump was taken.

    This is the first one whose kernel is mapped by a CPU's own page tables. If none is (all CPUs in user mode under
    page table isolation, or a dump without registers), it is the only one whose kernel is in the memory.

    :raises Unavailable: none, or several and nothing to tell which
    :raises OSError: the file cannot be read
    """
    plausible: dict[tuple[str, ...], FoundVmcoreinfo] = {}
    cpus = cpu_states(core)
    with ElfMemory(core) as memory:
        for address in memory.find(b"OSRELEASE=", limits.VMCOREINFO_SEARCH_BYTES):
            vmcoreinfo = _parse(memory, address)
            where = None if vmcoreinfo is None else _kernel_of(memory, vmcoreinfo)
            if vmcoreinfo is None or where is None:
                continue
            kernel = tuple(vmcoreinfo.entries[key] for key in _IDENTITY)
            if kernel in plausible:
                continue  # a copy: the CPUs say the same about it
            found = FoundVmcoreinfo(vmcoreinfo, address)
            if any(cpu.maps(memory.read, *where) for cpu in cpus):
                return found
            plausible[kernel] = found
            if len(plausible) > limits.VMCOREINFO_COPIES:
                raise Unavailable(f"more than {limits.VMCOREINFO_COPIES} different VMCOREINFO are in its memory")
    if len(plausible) > 1:
        places = ", ".join(f"{f.vmcoreinfo.get('OSRELEASE')} at {f.address:#x}" for f in plausible.values())
        raise Unavailable(f"several are in its memory, and nothing tells which kernel ran last: {places}")
    if not plausible:
        raise Unavailable("none is in its memory")
    return next(iter(plausible.values()))


def _parse(memory: ElfMemory, address: int) -> Optional[Vmcoreinfo]:
    """The text at ``address`` if it fills a page of its own and is built like VMCOREINFO."""
    if address % _PAGE_SIZE:
        return None
    try:
        found = parse_vmcoreinfo(memory.read(address, _PAGE_SIZE).partition(b"\0")[0])
    except FaultError:
        return None
    whole = found.get("PAGESIZE") == str(_PAGE_SIZE) and all(key in found.entries for key in _IDENTITY)
    return found if whole else None


def _kernel_of(memory: ElfMemory, vmcoreinfo: Vmcoreinfo) -> Optional[tuple[int, int]]:
    """Virtual and physical address of ``init_uts_ns``, if the kernel that the text describes is in the memory."""
    virtual, phys_base = vmcoreinfo.symbol("init_uts_ns"), vmcoreinfo.number("phys_base")
    tables = kernel_page_tables(memory.read, vmcoreinfo)
    if virtual is None or phys_base is None or tables is None:
        return None
    physical = virtual - START_KERNEL_MAP + phys_base
    try:
        release_at = int(vmcoreinfo.get("OFFSET(uts_namespace.name)") or "0") + 2 * _UTS_LENGTH
        release = memory.read(physical + release_at, _UTS_LENGTH).partition(b"\0")[0]
        if tables.translate(virtual).start != physical:
            return None
    except (ValueError, FaultError):
        return None
    return (virtual, physical) if release.decode("latin-1") == vmcoreinfo.get("OSRELEASE") else None
