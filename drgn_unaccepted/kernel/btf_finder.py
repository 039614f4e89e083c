# SPDX-License-Identifier: LGPL-2.1-or-later
"""Types, variables and symbols without debuginfo: drgn finders over the target's own BTF and kallsyms.

drgn 0.3.0 reads no BTF, and kallsyms only on request. After :func:`load_btf`, ``prog.type("struct zone")``,
``prog["efi"]`` and ``prog.symbol("_text")`` work on a vmcore or a live kernel for which no debuginfo is at
hand. The finders have the names of the BTF support that is pending in drgn, so that this module can go once
drgn has it:

``btf``
    Types. As an object finder: enumeration constants.
``btf_symbol``
    Variables and functions: the address from the symbol finders, the type from BTF. The kernel's BTF
    describes functions and per-CPU variables, but no others; those that we use are declared here, in
    :data:`GLOBALS`.
``kallsyms``
    Symbols. Those that we use come through :mod:`drgn_unaccepted.kernel.kallsyms`, any other one through
    drgn's own reader, which is loaded when the first is asked for.

Where the answer differs from DWARF's for the same kernel: an array has one dimension (pahole multiplies
them), ``x[0]`` at the end of a structure is taken for ``x[]``, which BTF writes alike, and a lookup with a
file name finds nothing, as BTF knows of no files.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from drgn import (
    FaultError,
    FindObjectFlags,
    Object,
    Program,
    ProgramFlags,
    Symbol,
    SymbolBinding,
    SymbolIndex,
    SymbolKind,
    Type,
    TypeKindSet,
    sizeof,
)

from drgn_unaccepted import limits
from drgn_unaccepted.files import open_dump
from drgn_unaccepted.kernel import kallsyms
from drgn_unaccepted.kernel.btf import Btf, BtfError, Kind
from drgn_unaccepted.kernel.btf_types import BtfTypes
from drgn_unaccepted.kernel.errors import Unavailable

#: The variables that can be looked up by name, with their C types. An array's length may be the name of an
#: enumeration constant, or ``*``: what VMCOREINFO says, else as much as fits before the next symbol.
#:
#: drgn's helpers probe for variables as we do, and take one that is not declared here for one that the kernel does not
#: have: what a helper needs belongs here, what it only tries as well. What DWARF does not have, does not.
GLOBALS = {
    # arch/x86
    "boot_cpu_data": "struct cpuinfo_x86",
    "boot_params": "struct boot_params",
    "cc_vendor": "enum cc_vendor",
    "e820_table": "struct e820_table *",
    "e820_table_firmware": "struct e820_table *",
    "e820_table_kexec": "struct e820_table *",
    "efi_setup": "u64",
    "page_offset_base": "unsigned long",
    "sev_status": "u64",
    "sme_me_mask": "u64",
    "vmalloc_base": "unsigned long",
    "vmemmap_base": "unsigned long",
    # drivers/firmware/efi
    "accepting_list": "struct list_head",
    "efi": "struct efi",
    # mm
    "__highest_present_section_nr": "unsigned long",
    "_totalram_pages": "atomic_long_t",
    "contig_page_data": "struct pglist_data",
    "lazy_accept": "bool",
    "max_low_pfn": "unsigned long",
    "max_pfn": "unsigned long",
    "mem_section": "struct mem_section **",
    "min_low_pfn": "unsigned long",
    "node_data": "struct pglist_data *[*]",
    "node_states": "nodemask_t [NR_NODE_STATES]",
    "nr_online_nodes": "unsigned int",
    "slab_caches": "struct list_head",
    "vm_node_stat": "atomic_long_t [NR_VM_NODE_STAT_ITEMS]",
    "vm_zone_stat": "atomic_long_t [NR_VM_ZONE_STAT_ITEMS]",
    "zones_with_unaccepted_pages": "struct static_key_false",
    # kernel, lib, init
    "__cpu_online_mask": "struct cpumask",
    "__cpu_possible_mask": "struct cpumask",
    "__per_cpu_offset": "unsigned long [*]",
    "crash_notes": "note_buf_t *",
    "crashing_cpu": "int",
    "init_mm": "struct mm_struct",
    "init_pid_ns": "struct pid_namespace",
    "init_task": "struct task_struct",
    "init_uts_ns": "struct uts_namespace",
    "iomem_resource": "struct resource",
    "kexec_crash_image": "struct kimage *",
    "kexec_image": "struct kimage *",
    "nr_cpu_ids": "unsigned int",
    "panic_cpu": "atomic_t",
    "prb": "struct printk_ringbuffer *",
    "saved_command_line": "char *",
    "system_state": "enum system_states",
}

#: Symbols that are looked up in one go with :data:`GLOBALS`.
SYMBOLS = (
    "__cpu_present_mask",
    "__end_init_stack",
    "__end_init_task",
    "__start_BTF",
    "__start_init_stack",
    "__start_init_task",
    "__stop_BTF",
    "_end",
    "_text",
    "accept_memory",
    "current_task",
    "hardirq_stack_ptr",
    "idle_threads",
    "init_top_pgt",
    "pcpu_hot",
    "sysctl_bootid",
    "unaccept_hotplug_memory",
    "unaccept_memory",
    "vmemmap_populate",  # drgn looks for it to know that there is a vmemmap
)

#: BTF of the running kernel.
SYSFS_BTF = Path("/sys/kernel/btf/vmlinux")


def attach(prog: Program, data: bytes, *, enable_index: int = -1) -> None:
    """Register the type finder ``btf`` and the object finders ``btf_symbol`` and ``btf``.

    :param data: BTF of the program's kernel, from :func:`find_btf` or :func:`read_btf_file`
    :param enable_index: place among the enabled finders, as in ``Program.register_type_finder()``. Last unless
        given, so that DWARF that is loaded goes first; 0 prefers BTF.
    :raises BtfError: the data is not BTF that we can read
    :raises ValueError: the program has finders with these names
    """
    types = BtfTypes(prog, Btf(data))

    def find_type(prog: Program, kinds: TypeKindSet, name: str, filename: Optional[str]) -> Optional[Type]:
        return types.find(kinds, name) if filename is None else None

    def find_symbol(prog: Program, name: str, flags: FindObjectFlags, filename: Optional[str]) -> Optional[Object]:
        if filename is not None:
            return None
        declared = None
        if name in GLOBALS:
            symbol = _only_symbol(prog, name) if flags & FindObjectFlags.VARIABLE else None
            if symbol is not None:
                declared = _declared_type(prog, GLOBALS[name], symbol)
        else:
            if flags & FindObjectFlags.VARIABLE:
                declared = types.find_declared(Kind.VAR, name)
            if declared is None and flags & FindObjectFlags.FUNCTION:
                declared = types.find_declared(Kind.FUNC, name)
            symbol = _only_symbol(prog, name) if declared is not None else None
        if declared is None or symbol is None:
            return None
        return Object(prog, declared, address=symbol.address)

    def find_constant(prog: Program, name: str, flags: FindObjectFlags, filename: Optional[str]) -> Optional[Object]:
        if filename is not None or not flags & FindObjectFlags.CONSTANT or name in GLOBALS:
            return None
        return types.find_constant(name)

    prog.register_type_finder("btf", find_type, enable_index=enable_index)
    prog.register_object_finder("btf_symbol", find_symbol, enable_index=enable_index)
    prog.register_object_finder("btf", find_constant, enable_index=enable_index)


def _only_symbol(prog: Program, name: str) -> Optional[Symbol]:
    """The symbol that is meant by a name: a global one before static ones; of several we cannot know which."""
    symbols = prog.symbols(name)
    symbols = [symbol for symbol in symbols if symbol.binding == SymbolBinding.GLOBAL] or symbols
    return symbols[0] if len(symbols) == 1 else None


def _declared_type(prog: Program, declaration: str, symbol: Symbol) -> Optional[Type]:
    """The type that a declaration in :data:`GLOBALS` names; None if this kernel does not have it."""
    base, bracket, length = declaration.rstrip("]").partition("[")
    try:
        element = prog.type(base.rstrip())
        if not bracket:
            return element
        if length == "*":
            count = _array_length(prog, element, symbol)
        else:
            count = int(length) if length.isdigit() else prog.constant(length).value_()
    except LookupError:
        return None
    return prog.array_type(element, min(count, limits.GLOBAL_ARRAY_LENGTH))


def _array_length(prog: Program, element: Type, symbol: Symbol) -> int:
    known = re.search(rb"^LENGTH\(%s\)=(\d{1,9})$" % symbol.name.encode(), _vmcoreinfo(prog), re.M)
    return int(known[1]) if known else symbol.size // sizeof(element)


def _vmcoreinfo(prog: Program) -> bytes:
    text: bytes = prog["VMCOREINFO"].string_()
    return text


class _KallsymsFinder:
    """The symbols that we use, read at once; behind them all symbols, read when another is asked for."""

    def __init__(self, prog: Program) -> None:
        names = frozenset((*GLOBALS, *SYMBOLS))
        known = kallsyms.vmcoreinfo_symbols(_vmcoreinfo(prog))
        self._names = names
        self._found = {
            name: [_symbol(symbol) for symbol in symbols]
            for name, symbols in kallsyms.find_symbols(prog.read, known, names).items()
        }
        self._all: Optional[SymbolIndex] = None

    def __call__(self, prog: Program, name: Optional[str], address: Optional[int], one: bool) -> Sequence[Symbol]:
        if name in self._names and address is None:
            return self._found.get(name, [])[: 1 if one else None]
        if self._all is None:
            self._all = _load_all_symbols(prog)
        symbols: Sequence[Symbol] = self._all(prog, name, address, one)
        return symbols


def _symbol(of: kallsyms.Kallsym) -> Symbol:
    if of.letter in "vVwW":
        binding = SymbolBinding.WEAK
    else:
        binding = SymbolBinding.GLOBAL if of.letter.isupper() else SymbolBinding.LOCAL
    kind = SymbolKind.FUNC if of.letter in "tT" else SymbolKind.OBJECT
    return Symbol(of.name, of.address, of.size, binding, kind)


def _load_all_symbols(prog: Program) -> SymbolIndex:
    # The import takes as long as everything else here together.
    from drgn.helpers.linux.kallsyms import load_vmlinux_kallsyms

    index = load_vmlinux_kallsyms(prog)
    if not all(symbol.address for symbol in index(prog, "_stext", None, False)):
        raise LookupError("/proc/kallsyms shows no addresses (kernel.kptr_restrict)")
    return index


def attach_kallsyms(prog: Program) -> None:
    """Register the symbol finder ``kallsyms``: the kernel's own symbol table, in the target's memory.

    Not from ``/proc/kallsyms`` on a live kernel either: the kernel takes longer to print it than we to
    search its table, and with ``kernel.kptr_restrict`` it prints zeros.

    :raises Unavailable: no table, or it cannot be read
    """
    try:
        finder = _KallsymsFinder(prog)
    except (kallsyms.KallsymsError, FaultError, LookupError) as error:
        raise Unavailable(f"kallsyms: {error}") from error
    prog.register_symbol_finder("kallsyms", finder, enable_index=-1)


def find_btf(prog: Program) -> bytes:
    """The BTF of the program's kernel.

    For the running kernel ``/sys/kernel/btf/vmlinux``; else, and where sysfs does not show it, its memory from
    ``__start_BTF`` to ``__stop_BTF``, for which a symbol finder has to be there.

    :raises Unavailable: a kernel without BTF (CONFIG_DEBUG_INFO_BTF=n), or it cannot be read
    """
    live = ProgramFlags.IS_LIVE | ProgramFlags.IS_LOCAL
    if prog.flags & live == live and os.access(SYSFS_BTF, os.R_OK):
        return _read_bounded(SYSFS_BTF)
    try:
        start, stop = prog.symbol("__start_BTF").address, prog.symbol("__stop_BTF").address
    except LookupError:
        raise Unavailable("no symbol __start_BTF: the kernel has no BTF (CONFIG_DEBUG_INFO_BTF)") from None
    if not 0 < stop - start <= limits.BTF_BYTES:
        raise Unavailable(f"BTF from {start:#x} to {stop:#x}: no size between 1 and {limits.BTF_BYTES}")
    try:
        data: bytes = prog.read(start, stop - start)
        return data
    except FaultError as error:
        raise Unavailable(f"BTF from {start:#x} to {stop:#x}: {error}") from error


def read_btf_file(path: Path) -> bytes:
    """BTF out of a file: the ``.BTF`` section of an ELF file (vmlinux), or bare, as a copy of sysfs's.

    :raises Unavailable: neither, or it cannot be read
    """
    try:
        with open_dump(str(path)) as file:
            if file.read(4) != b"\x7fELF":
                return _read_bounded(path)
            from drgn_unaccepted.kernel.elf_sections import ElfSections

            try:
                sections = ElfSections(file)
                section = sections.named(".BTF")
                if section is None:
                    raise Unavailable("no .BTF section")
                return sections.data(section, limits.BTF_BYTES)
            except Unavailable as error:
                raise Unavailable(f"{path}: {error}") from None
    except OSError as error:
        raise Unavailable(f"{path}: {error.strerror}") from error


def _read_bounded(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(limits.BTF_BYTES + 1)  # one more than Btf takes


def load_btf(prog: Program) -> None:
    """Everything in one call: symbols out of kallsyms, types out of BTF, both of the program's own kernel.

    :raises Unavailable: this target does not describe itself, with the reason
    """
    attach_kallsyms(prog)
    try:
        attach(prog, find_btf(prog))
    except BtfError as error:
        raise Unavailable(f"BTF: {error}") from error
