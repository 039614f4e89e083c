# SPDX-License-Identifier: LGPL-2.1-or-later
"""Types, variables and symbols without debuginfo: drgn finders over the target's own BTF and kallsyms.

drgn 0.3.0 reads no BTF, and kallsyms only on request. The finders have the names of the BTF support that is pending in
drgn, so that this module can go once drgn has it. The kernel's BTF describes functions and per-CPU variables, but no
other variables; :data:`GLOBALS` declares those that we use.

Answers differ from DWARF's in three ways: an array has one dimension (pahole multiplies them), ``x[0]`` at the end of a
structure is taken for ``x[]``, which BTF writes alike, and a lookup with a file name finds nothing, because BTF knows
no files.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Optional

from drgn import FaultError, FindObjectFlags, Object, Program, Symbol, SymbolBinding, SymbolIndex, Type, TypeKindSet

from drgn_unaccepted import limits
from drgn_unaccepted.errors import one_line
from drgn_unaccepted.kernel.btf import Btf, Kind
from drgn_unaccepted.kernel.errors import Unavailable
from drgn_unaccepted.kernel.kallsyms import Kallsyms
from drgn_unaccepted.kernel.vmcoreinfo import vmcoreinfo_of

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
#: C types by variable.
GLOBALS = {name: declaration for declaration, names in _DECLARATIONS.items() for name in names}

#: Symbols that are looked up in one pass with :data:`GLOBALS`.
SYMBOLS = (
    *("__end_init_stack", "__end_init_task", "__start_BTF", "__start_init_stack"),
    *("__start_init_task", "__stop_BTF", "_end", "_text", "accept_memory", "current_task", "hardirq_stack_ptr"),
    *("cma_areas", "crashk_res"),
    *("linux_banner", "sanity_check_segment_list", "touch_softlockup_watchdog", "unaccepted_memory_vmcore_pfn_is_ram"),
    *("idle_threads", "init_top_pgt", "pcpu_hot", "sysctl_bootid", "unaccept_hotplug_memory", "unaccept_memory"),
    "vmemmap_populate",  # drgn looks for it to know that there is a vmemmap
)


def load_btf(prog: Program, data: Optional[bytes] = None) -> None:
    """Make types, variables and symbols resolve.

    :param data: BTF of the program's kernel; None for the BTF in the target
    :raises Unavailable: this target does not describe itself, with the reason
    :raises ValueError: the data is not BTF of a known form
    """
    attach_kallsyms(prog)
    attach(prog, find_btf(prog) if data is None else data)


def attach(prog: Program, data: bytes) -> None:
    """Register the finders of types, constants, and variables and functions, after all others.

    :raises ValueError: the data is not BTF of a known form, or the program has finders with these names
    """
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

    :raises Unavailable: no table, or it cannot be read
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
    """The BTF of the program's kernel: in its memory, from ``__start_BTF`` to ``__stop_BTF``.

    /sys/kernel/btf/vmlinux is not used: a container or a chroot may show another kernel's there.

    :raises Unavailable: a kernel without BTF (CONFIG_DEBUG_INFO_BTF=n), or it cannot be read
    """
    try:
        start, stop = prog.symbol("__start_BTF").address, prog.symbol("__stop_BTF").address
    except LookupError:
        raise Unavailable("no symbol __start_BTF: the kernel has no BTF (CONFIG_DEBUG_INFO_BTF)") from None
    if not 0 < stop - start <= limits.BTF_BYTES:
        raise Unavailable(f"BTF from {start:#x} to {stop:#x}: no size between 1 and {limits.BTF_BYTES}")
    try:
        data: bytes = prog.read(start, stop - start)
    except FaultError as error:
        raise Unavailable(f"BTF from {start:#x} to {stop:#x}: {error}") from error
    return data
