# SPDX-License-Identifier: LGPL-2.1-or-later
"""CPU registers in a dump by QEMU, and what they tell of a kernel that has no VMCOREINFO yet.

A guest that dies in its first second (a kernel that cannot accept memory does: it panics with the first allocation)
has no VMCOREINFO, which an initcall writes. Its page tables and its interrupt table are there, and QEMU notes the
registers that lead to them (``struct QEMUCPUState``, target/i386/arch_dump.c in QEMU). With a vmlinux, the address of
an exception handler tells by how much KASLR moved the kernel, as crash does it.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Callable, NamedTuple, Optional

from drgn import FaultError

from drgn_unaccepted import limits
from drgn_unaccepted.kernel.elf import ElfCore, ElfMemory, parse_notes
from drgn_unaccepted.kernel.errors import Unavailable
from drgn_unaccepted.kernel.page_tables import START_KERNEL_MAP, PageTables
from drgn_unaccepted.kernel.vmlinux import VmlinuxSymbol, read_vmlinux_symbols

_NOTE = b"QEMU"
#: version, size; idt.base; cr[0] to cr[4]. Between them: general registers and segments.
_STATE = struct.Struct("<II376xQ5Q")
_VERSION = 1

_CR3_ADDRESS = (1 << 52) - 4096
#: PTI_USER_PGTABLE_BIT: under page table isolation the user's page tables stand right behind the kernel's.
_PTI_USER_TABLES = 1 << 12
_CR4_LA57 = 1 << 12

#: ``struct idt_entry``: offset 0-15, selector, flags, offset 16-31, offset 32-63, reserved.
_GATE = struct.Struct("<HHHHII")
#: What vector 0 leads to, from trap_init() on and before.
_VECTOR_0 = ("asm_exc_divide_error", "early_idt_handler_array")

#: KASLR moves the kernel by a multiple of CONFIG_PHYSICAL_ALIGN, which is no less, within KERNEL_IMAGE_SIZE.
_KASLR_ALIGN = 2 << 20
_KASLR_END = 1 << 30

_PLAIN_SYMBOLS = (
    "_stext",
    "init_uts_ns",
    "kallsyms_names",
    "kallsyms_num_syms",
    "kallsyms_offsets",
    "kallsyms_relative_base",
    "kallsyms_token_index",
    "kallsyms_token_table",
    "node_data",
)
_SYMBOLS = (
    *_PLAIN_SYMBOLS,
    *_VECTOR_0,
    "__start_notes",
    "__stop_notes",
    "init_top_pgt",
    "linux_banner",
)


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
    """The CPUs that QEMU noted, the first :data:`limits.GLOBAL_ARRAY_LENGTH`; none in a dump by something else."""
    states: list[CpuState] = []
    for note in core.notes():
        if len(states) == limits.GLOBAL_ARRAY_LENGTH:
            break
        if note.name == _NOTE and len(note.data) >= _STATE.size:
            version, _, idt, _, _, _, cr3, cr4 = _STATE.unpack_from(note.data)
            if version == _VERSION:
                states.append(CpuState(len(states), idt, cr3, cr4))
    return states


class Worked(NamedTuple):
    """VMCOREINFO as the kernel would have written it, as far as drgn and we read it."""

    text: bytes
    #: The CPU whose registers led there.
    cpu: int
    vmlinux: str


def work_out_vmcoreinfo(core: ElfCore, vmlinux: Sequence[str]) -> Worked:
    """VMCOREINFO from the registers of a CPU and the symbols of ``vmlinux``, checked against the memory.

    :param vmlinux: files, of which the first one with these symbols is taken
    :raises Unavailable: no CPU was in this kernel, or the files are of another one
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


def _first_with_symbols(vmlinux: Sequence[str]) -> tuple[str, Mapping[str, VmlinuxSymbol]]:
    for path in vmlinux:
        symbols = read_vmlinux_symbols(path, _SYMBOLS)
        if {"linux_banner", "init_top_pgt", _VECTOR_0[0]} <= symbols.keys():
            return path, symbols
    raise Unavailable(f"{', '.join(vmlinux)}: not the symbol table of an x86-64 kernel")


def _by_cpu(
    memory: ElfMemory, cpu: CpuState, tables: PageTables, symbols: Mapping[str, VmlinuxSymbol]
) -> Optional[bytes]:
    low, _, _, middle, high, _ = _GATE.unpack(tables.read(cpu.idt, _GATE.size))
    handler = low | middle << 16 | high << 32
    for name in _VECTOR_0:
        offset = handler - symbols[name].address if name in symbols else -1
        if 0 <= offset < _KASLR_END and offset % _KASLR_ALIGN == 0:
            phys_base = tables.translate(handler).start - (handler - START_KERNEL_MAP)
            return _Kernel(memory, symbols, offset, phys_base).vmcoreinfo(cpu.levels)
    return None


class _Kernel:
    """A kernel image in memory, with the symbols of its vmlinux."""

    def __init__(
        self, memory: ElfMemory, symbols: Mapping[str, VmlinuxSymbol], kaslr_offset: int, phys_base: int
    ) -> None:
        self._memory = memory
        self._symbols = symbols
        self._kaslr_offset = kaslr_offset
        self._phys_base = phys_base

    def address(self, name: str) -> int:
        return self._symbols[name].address + self._kaslr_offset

    def read(self, name: str, size: int) -> bytes:
        return self._memory.read(self.address(name) - START_KERNEL_MAP + self._phys_base, size)

    def vmcoreinfo(self, levels: int) -> Optional[bytes]:
        """None if no Linux kernel is there."""
        banner = re.match(rb"Linux version (\S+) ", self.read("linux_banner", limits.BANNER_BYTES))
        if banner is None:
            return None
        lines = [
            f"OSRELEASE={banner[1].decode('latin-1')}",
            *self._build_id(),
            "PAGESIZE=4096",
            f"SYMBOL(swapper_pg_dir)={self.address('init_top_pgt'):x}",
            f"NUMBER(phys_base)={self._phys_base}",
            f"NUMBER(pgtable_l5_enabled)={int(levels == 5)}",
            f"KERNELOFFSET={self._kaslr_offset:x}",
            *(f"SYMBOL({name})={self.address(name):x}" for name in _PLAIN_SYMBOLS if name in self._symbols),
        ]
        if "node_data" in self._symbols:
            lines.append(f"LENGTH(node_data)={self._symbols['node_data'].size // 8}")
        return ("\n".join(lines) + "\n").encode("latin-1")

    def _build_id(self) -> list[str]:
        """From the image in memory, so that a vmlinux of another build is found out."""
        if not {"__start_notes", "__stop_notes"} <= self._symbols.keys():
            return []
        size = self.address("__stop_notes") - self.address("__start_notes")
        data = self.read("__start_notes", max(0, min(size, limits.ELF_NOTE_BYTES)))
        return [f"BUILD-ID={note.data.hex()}" for note in parse_notes(data) if (note.name, note.type) == (b"GNU", 3)]
