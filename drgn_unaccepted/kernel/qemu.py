# SPDX-License-Identifier: LGPL-2.1-or-later
"""CPU registers in a dump by QEMU, and what they tell about a kernel that has no VMCOREINFO yet.

A guest that dies in its first second has no VMCOREINFO, because an initcall writes it. (A kernel that cannot accept
memory panics with the first allocation.) But its page tables and its interrupt table are there, and QEMU notes the
registers that lead to them (``struct QEMUCPUState``, target/i386/arch_dump.c in QEMU). With a vmlinux, the address of
an exception handler tells by how much KASLR moved the kernel; crash does the same.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Callable, NamedTuple, Optional

from drgn import FaultError

from drgn_unaccepted import limits
from drgn_unaccepted.files import open_dump
from drgn_unaccepted.kernel.elf import ElfSections, ElfSymbol, build_id, parse_notes
from drgn_unaccepted.kernel.elf_core import ElfCore, ElfMemory
from drgn_unaccepted.kernel.errors import Unavailable
from drgn_unaccepted.kernel.page_tables import START_KERNEL_MAP, PageTables

#: version, idt.base, cr[3] and cr[4] of ``struct QEMUCPUState``.
_STATE = struct.Struct("<I4x376xQ24xQQ")

_CR3_ADDRESS = (1 << 52) - 4096
#: PTI_USER_PGTABLE_BIT: under page table isolation the user's page tables follow right after the kernel's.
_PTI_USER_TABLES = 1 << 12
_CR4_LA57 = 1 << 12

#: ``struct idt_entry``: offset 0-15, selector, flags, offset 16-31, offset 32-63, reserved.
_GATE = struct.Struct("<HHHHII")
#: The handler of vector 0 after trap_init(), and before.
_VECTOR_0 = ("asm_exc_divide_error", "early_idt_handler_array")

#: KASLR moves the kernel by a multiple of CONFIG_PHYSICAL_ALIGN, which is at least this, within KERNEL_IMAGE_SIZE.
_KASLR_ALIGN = 2 << 20
_KASLR_END = 1 << 30

#: Symbols whose addresses VMCOREINFO has under the same names.
_PLAIN_SYMBOLS = (
    *("_stext", "init_uts_ns", "kallsyms_names", "kallsyms_num_syms", "kallsyms_offsets", "kallsyms_relative_base"),
    *("kallsyms_token_index", "kallsyms_token_table", "node_data"),
)
_SYMBOLS = (*_PLAIN_SYMBOLS, *_VECTOR_0, "__start_notes", "__stop_notes", "init_top_pgt", "linux_banner")


class CpuState(NamedTuple):
    """Registers of one CPU."""

    number: int
    idt: int
    cr3: int
    cr4: int

    @property
    def levels(self) -> int:
        """Levels of its page tables."""
        return 5 if self.cr4 & _CR4_LA57 else 4

    def page_tables(self, read: Callable[[int, int], bytes]) -> Iterator[PageTables]:
        """Its page tables, and the kernel's if it was in user mode under page table isolation."""
        root = self.cr3 & _CR3_ADDRESS
        yield PageTables(read, root, self.levels)
        if root & _PTI_USER_TABLES:
            yield PageTables(read, root - _PTI_USER_TABLES, self.levels)

    def maps(self, read: Callable[[int, int], bytes], virtual: int, physical: int) -> bool:
        """Whether its page tables lead from ``virtual`` to ``physical``."""
        for tables in self.page_tables(read):
            try:
                if tables.translate(virtual).start == physical:
                    return True
            except FaultError:
                continue
        return False


def cpu_states(core: ElfCore) -> list[CpuState]:
    """The CPUs that QEMU noted, at most :data:`limits.GLOBAL_ARRAY_LENGTH`; none in a dump by another program."""
    notes = (_STATE.unpack_from(n.data) for n in core.notes() if n.name == b"QEMU" and len(n.data) >= _STATE.size)
    states = ((idt, cr3, cr4) for version, idt, cr3, cr4 in notes if version == 1)
    return [CpuState(number, *state) for number, state in enumerate(islice(states, limits.GLOBAL_ARRAY_LENGTH))]


class Worked(NamedTuple):
    """VMCOREINFO as the kernel would have written it, with the entries that drgn and this program read."""

    text: bytes
    #: The CPU whose registers led there.
    cpu: int
    vmlinux: str


def work_out_vmcoreinfo(core: ElfCore, vmlinux: Sequence[str]) -> Worked:
    """VMCOREINFO from the registers of a CPU and the symbols of ``vmlinux``, checked against the memory.

    :param vmlinux: files; the first one with these symbols is used
    :raises Unavailable: no CPU was in this kernel, or the files belong to another one
    :raises OSError: a file cannot be read
    """
    path, symbols = _first_with_symbols(vmlinux)
    cpus = cpu_states(core)
    if not cpus:
        raise Unavailable("the dump has no registers of a CPU (QEMU's notes)")
    with ElfMemory(core) as memory:
        for cpu in cpus:
            for tables in cpu.page_tables(memory.read):
                try:
                    text = _by_cpu(memory, cpu, tables, symbols)
                except FaultError:
                    continue
                if text is not None:
                    return Worked(text, cpu.number, path)
    raise Unavailable(f"no CPU of it was in the kernel of {path}")


def _first_with_symbols(vmlinux: Sequence[str]) -> tuple[str, Mapping[str, ElfSymbol]]:
    for path in vmlinux:
        try:
            with open_dump(path) as file:
                symbols = ElfSections(file).symbols(_SYMBOLS)
        except Unavailable as error:
            raise Unavailable(f"{path}: {error}") from None
        if {"linux_banner", "init_top_pgt", _VECTOR_0[0]} <= symbols.keys():
            return path, symbols
    raise Unavailable(f"{', '.join(vmlinux)}: not the symbol table of an x86-64 kernel")


def _by_cpu(memory: ElfMemory, cpu: CpuState, tables: PageTables, symbols: Mapping[str, ElfSymbol]) -> Optional[bytes]:
    """VMCOREINFO of the kernel whose interrupt table the CPU uses; None if it is not the kernel of these symbols."""
    low, _, _, middle, high, _ = _GATE.unpack(tables.read(cpu.idt, _GATE.size))
    handler = low | middle << 16 | high << 32
    for name in _VECTOR_0:
        offset = handler - symbols[name].address if name in symbols else -1
        if 0 <= offset < _KASLR_END and offset % _KASLR_ALIGN == 0:
            phys_base = tables.translate(handler).start - (handler - START_KERNEL_MAP)
            addresses = {name: symbol.address + offset for name, symbol in symbols.items()}
            lines = _entries(memory, addresses, phys_base)
            if lines is None:
                return None
            lines += [f"KERNELOFFSET={offset:x}", f"NUMBER(pgtable_l5_enabled)={int(cpu.levels == 5)}"]
            if "node_data" in symbols:
                lines.append(f"LENGTH(node_data)={symbols['node_data'].size // 8}")
            return ("\n".join(lines) + "\n").encode("latin-1")
    return None


def _entries(memory: ElfMemory, addresses: Mapping[str, int], phys_base: int) -> Optional[list[str]]:
    """The entries for a kernel image in memory; None if no Linux kernel is there."""

    def read(name: str, size: int) -> bytes:
        return memory.read(addresses[name] - START_KERNEL_MAP + phys_base, size)

    banner = re.match(rb"Linux version (\S+) ", read("linux_banner", limits.BANNER_BYTES))
    if banner is None:
        return None
    lines = [
        f"OSRELEASE={banner[1].decode('latin-1')}",
        "PAGESIZE=4096",
        f"SYMBOL(swapper_pg_dir)={addresses['init_top_pgt']:x}",
        f"NUMBER(phys_base)={phys_base}",
        *(f"SYMBOL({name})={addresses[name]:x}" for name in _PLAIN_SYMBOLS if name in addresses),
    ]
    if {"__start_notes", "__stop_notes"} <= addresses.keys():
        # From the image in memory, so that a vmlinux of another build is noticed.
        size = addresses["__stop_notes"] - addresses["__start_notes"]
        found = build_id(parse_notes(read("__start_notes", max(0, min(size, limits.ELF_NOTE_BYTES)))))
        lines += [] if found is None else [f"BUILD-ID={found}"]
    return lines
