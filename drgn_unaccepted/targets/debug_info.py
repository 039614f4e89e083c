# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where types, symbols and variables come from: DWARF that the user gives, or BTF, and the target's own kallsyms.

drgn 0.3.0 reads no BTF, and kallsyms only on request. The finders here have the names of the BTF support that is
pending in drgn, so that they can go once drgn has it. The kernel's BTF describes functions and per-CPU variables, but
no other variables; :data:`GLOBALS` declares those that we use.

Answers differ from DWARF's in three ways: an array has one dimension (pahole multiplies them), ``x[0]`` at the end of a
structure is taken for ``x[]``, which BTF writes alike, and a lookup with a file name finds nothing, because BTF knows
no files.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple, Optional

import drgn
from drgn import FaultError, FindObjectFlags, Object, Program, Symbol, SymbolBinding, SymbolIndex, Type, TypeKindSet

from drgn_unaccepted import limits
from drgn_unaccepted.errors import one_line
from drgn_unaccepted.targets.btf import Btf, Kind
from drgn_unaccepted.targets.errors import TargetError, Unavailable
from drgn_unaccepted.targets.kallsyms import Kallsyms
from drgn_unaccepted.targets.vmcoreinfo import vmcoreinfo_of

GIVE_VMLINUX = "; give a vmlinux with -s"

#: C types, and the variables with this type that can be looked up by name. An array's length may be the name of an
#: enumeration constant, or ``*``: the length in VMCOREINFO, else as many elements as fit before the next symbol.
#:
#: drgn's helpers probe for variables, and a variable that is missing here looks absent from the kernel: declare all
#: that a helper needs or tries, but nothing that DWARF does not have.
_DECLARATIONS = {
    "atomic_long_t": ("_totalram_pages",),
    "atomic_long_t [NR_VM_NODE_STAT_ITEMS]": ("vm_node_stat",),
    "atomic_long_t [NR_VM_ZONE_STAT_ITEMS]": ("vm_zone_stat",),
    "atomic_t": ("panic_cpu",),
    "bool": ("lazy_accept",),
    "char *": ("saved_command_line",),
    "enum cc_vendor": ("cc_vendor",),
    "enum system_states": ("system_state",),
    "int": ("crashing_cpu",),
    "nodemask_t [NR_NODE_STATES]": ("node_states",),
    "note_buf_t *": ("crash_notes",),
    "struct boot_params": ("boot_params",),
    "struct cpuinfo_x86": ("boot_cpu_data",),
    "struct cpumask": ("__cpu_online_mask", "__cpu_possible_mask", "__cpu_present_mask"),
    "struct e820_table *": ("e820_table", "e820_table_firmware", "e820_table_kexec"),
    "struct efi": ("efi",),
    "struct kimage *": ("kexec_crash_image", "kexec_image"),
    "struct list_head": ("accepting_list", "slab_caches"),
    "struct mem_section **": ("mem_section",),
    "struct mm_struct": ("init_mm",),
    "struct pglist_data": ("contig_page_data",),
    "struct pglist_data *[*]": ("node_data",),
    "struct pid_namespace": ("init_pid_ns",),
    "struct printk_ringbuffer *": ("prb",),
    "struct resource": ("iomem_resource",),
    "struct static_key_false": ("zones_with_unaccepted_pages",),
    "struct task_struct": ("init_task",),
    "struct uts_namespace": ("init_uts_ns",),
    "u64": ("efi_setup", "sev_status", "sme_me_mask"),
    "unsigned int": ("nr_online_nodes", "nr_cpu_ids"),
    "unsigned long": (
        *("page_offset_base", "vmalloc_base", "vmemmap_base", "__highest_present_section_nr"),
        *("max_low_pfn", "max_pfn", "min_low_pfn", "tainted_mask"),
    ),
    "unsigned long [*]": ("__per_cpu_offset", "avenrun"),
}
GLOBALS = {name: declaration for declaration, names in _DECLARATIONS.items() for name in names}  #: C types by variable.

#: Symbols that are looked up in one pass with :data:`GLOBALS`.
SYMBOLS = (
    *("__end_init_stack", "__end_init_task", "__start_BTF", "__start_init_stack"),
    *("__start_init_task", "__stop_BTF", "_end", "_text", "accept_memory", "current_task", "hardirq_stack_ptr"),
    *("cma_areas", "crashk_res"),
    *("linux_banner", "sanity_check_segment_list", "touch_softlockup_watchdog", "unaccepted_memory_vmcore_pfn_is_ram"),
    *("idle_threads", "init_top_pgt", "pcpu_hot", "sysctl_bootid", "unaccept_hotplug_memory", "unaccept_memory"),
    "vmemmap_populate",  # drgn looks for it to know that there is a vmemmap
)


class SymbolFile(NamedTuple):
    """A file given with ``-s``."""

    path: str
    build_id: Optional[str]  #: None: it has none, for example bare BTF.
    has_dwarf: bool
    btf: Optional[bytes]  #: None: it has none, or its DWARF is used.


def attach_debug_info(prog: Program, files: Sequence[SymbolFile], wanted: str) -> tuple[str, Optional[str]]:
    """Make types and symbols of ``prog`` resolve; returns ``dwarf`` or ``btf``, and the file that has the types.

    ``auto`` takes DWARF if a given file has it, else BTF if a given file has it, else what the target holds. ``dwarf``
    without a file searches where drgn does; ``btf`` prefers a file's BTF to the target's own.

    :param wanted: ``auto``, ``dwarf`` or ``btf``
    :raises TargetError: nothing was found, or a file belongs to another kernel
    """
    # Before Linux 5.9 VMCOREINFO has no build-id.
    expected = vmcoreinfo_of(prog).entries.get("BUILD-ID") if files else None
    for file in files:
        if file.build_id is None and file.btf is None:
            raise TargetError(f"{file.path}: no build-id: not a vmlinux or its debug file")
        if None not in (file.build_id, expected) and file.build_id != expected:
            raise TargetError(f"{file.path}: of another kernel: build-id {file.build_id}, the target's is {expected}")
    if wanted == "dwarf" or (wanted == "auto" and any(file.has_dwarf for file in files)):
        _load_dwarf(prog, [file.path for file in files])
        return "dwarf", next((file.path for file in files if file.has_dwarf), None)
    return "btf", _load_btf(prog, files)


def _load_dwarf(prog: Program, symbols: Sequence[str]) -> None:
    release = vmcoreinfo_of(prog).entries.get("OSRELEASE") or ""
    if not symbols and not re.fullmatch(r"[\w+~-][\w.+~-]*", release, re.ASCII):
        # drgn makes paths of it.
        raise TargetError(f"DWARF is searched by the kernel's release, and {release!r} is none: give a vmlinux with -s")
    try:
        prog.load_debug_info(symbols, main=not symbols)
        prog.type("struct page")
    except drgn.MissingDebugInfoError as error:
        why = f"no DWARF for this kernel: {str(error).splitlines()[0]}; give a vmlinux with -s, or use"
        raise TargetError(f"{why} --debug-info btf") from None
    except (ValueError, OSError) as error:
        raise TargetError(one_line(error, ", ".join(symbols))) from None
    except LookupError:
        raise TargetError(f"{', '.join(symbols)}: no DWARF in it; try --debug-info btf") from None


def _load_btf(prog: Program, files: Sequence[SymbolFile]) -> Optional[str]:
    """Returns the file that it is from; None for the target itself."""
    file = next((file for file in files if file.btf is not None), None)
    if files and file is None:
        raise TargetError(f"{', '.join(file.path for file in files)}: neither DWARF nor BTF in it")
    try:
        load_btf(prog, None if file is None else file.btf)
    except (ValueError, Unavailable) as error:
        if file is not None and isinstance(error, ValueError):
            raise TargetError(f"{file.path}: BTF: {error}") from None
        raise TargetError(f"no types: {error}{GIVE_VMLINUX}") from None
    if file is not None and file.build_id is None:
        _check_layout(prog, file.path)
    return None if file is None else file.path


def _check_layout(prog: Program, path: str) -> None:
    """Compare types without a build-id with the sizes and offsets in VMCOREINFO."""
    agreed = False
    for key, value in vmcoreinfo_of(prog).entries.items():
        entry = re.fullmatch(r"(?:SIZE|OFFSET)\((\w+)(?:\.(\w+))?\)", key)
        if entry is None or not re.fullmatch("[0-9]{1,9}", value):
            continue
        name, member = entry.groups()
        try:
            type_ = prog.type(f"struct {name}")
            found = drgn.offsetof(type_, member) if member else drgn.sizeof(type_)
        except LookupError:
            continue
        if found != int(value):
            what = f"offset of {member} in struct {name}" if member else f"size of struct {name}"
            raise TargetError(f"{path}: of another kernel: {what} is {found}, the target's is {value}")
        agreed = True
    if not agreed:
        raise TargetError(f"{path}: no build-id, and nothing else to tell whether it is of this kernel")


def load_btf(prog: Program, data: Optional[bytes] = None) -> None:
    """Make types, variables and symbols resolve, by BTF of the program's kernel; None for the BTF in the target.

    :raises Unavailable: this target does not describe itself, with the reason
    :raises ValueError: the data is not BTF of a known form
    """
    attach_kallsyms(prog)
    attach(prog, find_btf(prog) if data is None else data)


def attach(prog: Program, data: bytes) -> None:
    """Register the finders of types, constants, variables and functions, after all others."""
    btf = Btf(prog, data)
    type_named = cache(btf.find_type)

    def find_type(prog: Program, kinds: TypeKindSet, name: str, filename: Optional[str]) -> Optional[Type]:
        return type_named(frozenset(kinds), name) if filename is None else None

    def find_symbol(prog: Program, name: str, flags: FindObjectFlags, filename: Optional[str]) -> Optional[Object]:
        if filename is not None:
            return None
        declared = symbol = None
        if name in GLOBALS:
            symbol = _only_symbol(prog, name) if flags & FindObjectFlags.VARIABLE else None
            declared = None if symbol is None else _declared_type(prog, GLOBALS[name], symbol)
        else:
            for kind, flag in (Kind.VAR, FindObjectFlags.VARIABLE), (Kind.FUNC, FindObjectFlags.FUNCTION):
                if declared is None and flags & flag:
                    declared = btf.find_declared(kind, name)
            symbol = None if declared is None else _only_symbol(prog, name)
        return None if declared is None or symbol is None else Object(prog, declared, address=symbol.address)

    def find_constant(prog: Program, name: str, flags: FindObjectFlags, filename: Optional[str]) -> Optional[Object]:
        is_wanted = filename is None and flags & FindObjectFlags.CONSTANT and name not in GLOBALS
        return btf.find_constant(name) if is_wanted else None

    prog.register_type_finder("btf", find_type, enable_index=-1)
    prog.register_object_finder("btf_symbol", find_symbol, enable_index=-1)
    prog.register_object_finder("btf", find_constant, enable_index=-1)


def _only_symbol(prog: Program, name: str) -> Optional[Symbol]:
    """The symbol that a name means: a global one before static ones. None if there are several: it could be any."""
    symbols = prog.symbols(name)
    symbols = [symbol for symbol in symbols if symbol.binding == SymbolBinding.GLOBAL] or symbols
    return symbols[0] if len(symbols) == 1 else None


def _declared_type(prog: Program, declaration: str, symbol: Symbol) -> Optional[Type]:
    """The type that a declaration in :data:`GLOBALS` names; None if this kernel does not have it."""
    base, _, length = declaration.rstrip("]").partition("[")
    try:
        element = prog.type(base.rstrip())
        if not length:
            return element
        count = vmcoreinfo_of(prog).length(symbol.name) if length == "*" else int(prog.constant(length).value_())
    except LookupError:
        return None
    if count is None:
        count = symbol.size // element.size
    return prog.array_type(element, max(0, min(count, limits.GLOBAL_ARRAY_LENGTH)))


def attach_kallsyms(prog: Program) -> None:
    """Register a finder of symbols: the kernel's own table, in the target's memory.

    The symbols that we use are read at once, all symbols when another one is asked for. ``/proc/kallsyms`` takes the
    kernel longer to print than we need to search its table, and has zeros with ``kernel.kptr_restrict``.
    """
    names = frozenset((*GLOBALS, *SYMBOLS))
    try:
        table = Kallsyms(prog.read, vmcoreinfo_of(prog).symbol)
        ours = SymbolIndex(table.find(names))
    except (ValueError, FaultError, LookupError) as error:
        raise Unavailable(f"kallsyms: {one_line(error)}") from error
    all_symbols = cache(lambda: SymbolIndex(table.all()))

    def find(prog: Program, name: Optional[str], address: Optional[int], one: bool) -> Sequence[Symbol]:
        return [*(ours if name in names and address is None else all_symbols())(prog, name, address, one)]

    prog.register_symbol_finder("kallsyms", find, enable_index=-1)


def find_btf(prog: Program) -> bytes:
    """The BTF in the memory of the program's kernel, from ``__start_BTF`` to ``__stop_BTF``.

    /sys/kernel/btf/vmlinux is not used: a container or a chroot may show another kernel's there.
    """
    try:
        start, stop = prog.symbol("__start_BTF").address, prog.symbol("__stop_BTF").address
    except LookupError:
        raise Unavailable("no symbol __start_BTF: the kernel has no BTF (CONFIG_DEBUG_INFO_BTF)") from None
    if not 0 < stop - start <= limits.BTF_BYTES:
        raise Unavailable(f"BTF from {start:#x} to {stop:#x}: no size between 1 and {limits.BTF_BYTES}")
    try:
        return bytes(prog.read(start, stop - start))
    except FaultError as error:
        raise Unavailable(f"BTF from {start:#x} to {stop:#x}: {error}") from error
